"""The mixer of mlp_t in one kernel for Hopper GPUs: x + SwiGLU along the sequence, and its RMS norm.

A group of warps takes 64 columns of x with their whole sequence; both kernels stay in shared memory. What
lies between is never written: the gradient computes it again, in a first pass for that by x, and in a second
one that sums those by both kernels in registers.

Shapes: x (S, C), sequence first, S a multiple of 8 and at most 96; kernel (S, 2 F), gate first and up after;
down (F, S), F a multiple of 64. All bfloat16, sums in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import (
    COMPUTING,
    COPYING,
    ROWS,
    bank_tiles,
    launch,
    multiprocessors,
    products,
    sigmoid,
    silu_gradients,
)

LENGTH = 96  # of the sequence in shared memory: what is beyond S is zero
GROUPS = 2  # of warps that compute
CHANNELS = 64  # of F at once
AT_ONCE = 32  # columns in one product of the gradients by the kernels; 64 were slower (decision 0017)
COLUMNS = GROUPS * ROWS
PARTS = bank_tiles(32)  # of shared memory: 96 is a multiple of 32, not of 64
TURNED = plgpu.Layout.WGMMA_TRANSPOSED, plgpu.Layout.WGMMA


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def mixed(x, kernel, down, epsilon: float):
    """rms(x + down^T (silu(gate^T x) * (up^T x))), each column's norm over the sequence."""
    return _mix(x, kernel, down, epsilon)[0]


def _mixed_keep(x, kernel, down, epsilon):
    y, scale = _mix(x, kernel, down, epsilon)
    return y, (x, kernel, down, y, scale)


def _mixed_gradient(epsilon, kept, given):
    x, kernel, down, y, scale = kept
    given = (given * scale).astype(x.dtype)  # here, since whatever computes `given` does it on the way
    by_x, by_sum = _input_gradients(x, kernel, down, y, given)
    return by_x, *_kernel_gradients(x, kernel, down, by_sum)


mixed.defvjp(_mixed_keep, _mixed_gradient)


def _padded(kernel, down, multiple: int = 1):
    """Both with zeros beyond S, and F up to a multiple; of the kernel, gate and up of CHANNELS channels by
    turns."""
    seq, inner = kernel.shape[0], down.shape[0]
    beyond, more = (0, LENGTH - seq), (0, -inner % multiple)
    kernel = jnp.pad(kernel.reshape(seq, 2, inner), (beyond, (0, 0), more))
    kernel = kernel.reshape(LENGTH, 2, -1, CHANNELS).transpose(0, 2, 1, 3).reshape(LENGTH, -1)
    return kernel, jnp.pad(down, (more, beyond))


@partial(jax.jit, static_argnames="epsilon")
def _mix(x, kernel, down, epsilon: float):
    """y (S, C), and float32 (C,) what each column's norm multiplied by."""
    seq, columns = x.shape
    inner = down.shape[0]
    blocks, tiles = multiprocessors(), columns // COLUMNS
    stages = 2

    def body(x_ref, kernel_ref, down_ref, y_ref, scale_ref, *scratch):
        xs, ys, scales, kernels, downs, ready, free, weights = scratch
        group, block = lax.axis_index("group"), lax.axis_index("grid")
        count = (tiles - block + blocks - 1) // blocks

        @pl.when(group == GROUPS)
        def _():
            plgpu.set_max_registers(COPYING, action="decrease")
            plgpu.copy_gmem_to_smem(kernel_ref, kernels, weights)
            plgpu.copy_gmem_to_smem(down_ref, downs, weights)

            def fill(i, slot):
                part = _whole(), pl.ds((block + i * blocks) * COLUMNS, COLUMNS)
                plgpu.copy_gmem_to_smem(x_ref.at[part], xs.at[slot], ready.at[slot])

            _copy_ahead(count, stages, free, fill)

        @pl.when(group < GROUPS)
        def _():
            plgpu.set_max_registers(COMPUTING, action="increase")
            plgpu.barrier_wait(weights)

            @pl.loop(0, count)
            def _(i):
                slot = lax.rem(i, stages)
                start = (block + i * blocks) * COLUMNS + group * ROWS
                plgpu.barrier_wait(ready.at[slot])
                own = xs.at[slot, :, pl.ds(group * ROWS, ROWS)].transpose((1, 0))

                @partial(pl.run_scoped, result=plgpu.ACC((ROWS, LENGTH), jnp.float32))
                def total(result):
                    for chunk in range(inner // CHANNELS):
                        gate, up = _pairs(own, kernels, chunk)
                        hidden = (gate * sigmoid(gate) * up).astype(x.dtype)
                        plgpu.wgmma(result, hidden, downs.at[pl.ds(chunk * CHANNELS, CHANNELS), :])
                        plgpu.wgmma_wait(0)
                    return result[...]

                total = _turned(own) + total
                scale = lax.rsqrt(jnp.sum(total * total, axis=1) / seq + epsilon)
                y = total * lax.broadcast_in_dim(scale, total.shape, (0,))
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                _turn_into(ys.at[group], y.astype(x.dtype))
                scales[group] = scale
                plgpu.commit_smem()  # also fences the reads of x from the copy that takes its place
                plgpu.barrier_arrive(free.at[slot])
                plgpu.copy_smem_to_gmem(ys.at[group], y_ref.at[_whole(), pl.ds(start, ROWS)])
                plgpu.copy_smem_to_gmem(scales.at[group], scale_ref.at[pl.ds(start, ROWS)])

            plgpu.wait_smem_to_gmem(0)

    scratch = [
        plgpu.SMEM((stages, LENGTH, COLUMNS), x.dtype, transforms=PARTS),
        plgpu.SMEM((GROUPS, LENGTH, ROWS), x.dtype, transforms=PARTS),
        plgpu.SMEM((GROUPS, ROWS), jnp.float32),
        plgpu.SMEM((LENGTH, 2 * inner), x.dtype, transforms=PARTS),
        plgpu.SMEM((inner, LENGTH), x.dtype, transforms=PARTS),
        plgpu.Barrier(num_barriers=stages),
        plgpu.Barrier(num_arrivals=GROUPS, num_barriers=stages),
        plgpu.Barrier(num_arrivals=2),
    ]
    out_type = (
        jax.ShapeDtypeStruct((seq, columns), x.dtype),
        jax.ShapeDtypeStruct((columns,), jnp.float32),
    )
    return launch("mixed", body, out_type, GROUPS + 1, blocks, scratch)(x, *_padded(kernel, down))


@jax.jit
def _input_gradients(x, kernel, down, y, given):
    """The gradient's first pass: by x (S, C), and by the sum before the norm (S, C).

    Args: given: (S, C), the gradient by y, each column times what its norm multiplied by.
    """
    seq, columns = x.shape
    inner = down.shape[0]
    blocks, tiles = multiprocessors(), columns // COLUMNS

    def body(x_ref, y_ref, given_ref, kernel_ref, down_ref, by_x_ref, by_sum_ref, *scratch):
        sums, ys, xs, kernels, downs, first, second, weights = scratch
        group, block = lax.axis_index("group"), lax.axis_index("grid")
        # `own` comes as x and leaves as the gradient by it; `by_sum` comes as `given`.
        own, normed, by_sum = (ref.at[group] for ref in (xs, ys, sums))
        own_turned, normed_turned, by_sum_turned = (ref.transpose((1, 0)) for ref in (own, normed, by_sum))
        count = (tiles - block + blocks - 1) // blocks

        def part_of(i):
            return _whole(), pl.ds((block + i * blocks) * COLUMNS + group * ROWS, ROWS)

        @pl.when(group == 0)
        def _():
            plgpu.copy_gmem_to_smem(kernel_ref, kernels, weights)
            plgpu.copy_gmem_to_smem(down_ref, downs, weights)

        @pl.when(count > 0)
        def _():
            plgpu.copy_gmem_to_smem(y_ref.at[part_of(0)], normed, first.at[group])

        plgpu.barrier_wait(weights)

        @pl.loop(0, count)
        def _(i):
            part = part_of(i)
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            plgpu.copy_gmem_to_smem(given_ref.at[part], by_sum, first.at[group])
            plgpu.copy_gmem_to_smem(x_ref.at[part], own, second.at[group])
            plgpu.barrier_wait(first.at[group])
            by_y, unit = _turned(by_sum_turned), _turned(normed_turned)
            shared = lax.broadcast_in_dim(jnp.sum(by_y * unit, axis=1) / seq, unit.shape, (0,))
            _turn_into(by_sum, (by_y - unit * shared).astype(x.dtype))
            plgpu.commit_smem()

            @pl.when(i + 1 < count)
            def _():
                plgpu.copy_gmem_to_smem(y_ref.at[part_of(i + 1)], normed, first.at[group])

            plgpu.copy_smem_to_gmem(by_sum, by_sum_ref.at[part])
            plgpu.barrier_wait(second.at[group])

            @partial(pl.run_scoped, result=plgpu.ACC((ROWS, LENGTH), jnp.float32))
            def by_x(result):
                for chunk in range(inner // CHANNELS):
                    gate, up = _pairs(own_turned, kernels, chunk)
                    rows = downs.at[pl.ds(chunk * CHANNELS, CHANNELS), :]
                    (by_hidden,) = products([(by_sum_turned, rows.transpose((1, 0)))])
                    by_gate, by_up, _ = silu_gradients(gate, up, by_hidden)
                    for half, by_half in enumerate((by_gate, by_up)):
                        columns_of = kernels.at[:, pl.ds((2 * chunk + half) * CHANNELS, CHANNELS)]
                        plgpu.wgmma(result, by_half.astype(x.dtype), columns_of.transpose((1, 0)))
                    plgpu.wgmma_wait(0)
                return result[...]

            _turn_into(own, (_turned(by_sum_turned) + by_x).astype(x.dtype))
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(own, by_x_ref.at[part])

        plgpu.wait_smem_to_gmem(0)

    scratch = [
        *(plgpu.SMEM((GROUPS, LENGTH, ROWS), x.dtype, transforms=PARTS) for _ in range(3)),
        plgpu.SMEM((LENGTH, 2 * inner), x.dtype, transforms=PARTS),
        plgpu.SMEM((inner, LENGTH), x.dtype, transforms=PARTS),
        plgpu.Barrier(num_arrivals=2, num_barriers=GROUPS),
        plgpu.Barrier(num_barriers=GROUPS),
        plgpu.Barrier(num_arrivals=2),
    ]
    out_type = (jax.ShapeDtypeStruct(x.shape, x.dtype),) * 2
    return launch("mixed_gradient_by_x", body, out_type, GROUPS, blocks, scratch)(
        x, y, given, *_padded(kernel, down)
    )


@jax.jit
def _kernel_gradients(x, kernel, down, by_sum):
    """The gradient's second pass: by kernel (S, 2 F) and down (F, S), given that by the sum (S, C)."""
    seq, inner = x.shape[0], down.shape[0]
    # Each group of warps has channels: those beyond F are zero, and so are their sums.
    sums = _kernel_sums(x, by_sum, *_padded(kernel, down, GROUPS * CHANNELS))
    by_kernel, by_down = (jnp.sum(t, axis=0)[:, :seq].astype(x.dtype) for t in sums)
    by_kernel = by_kernel.reshape(-1, 2, CHANNELS, seq).transpose(3, 1, 0, 2).reshape(seq, 2, -1)
    return by_kernel[..., :inner].reshape(kernel.shape), by_down[:inner]


def _kernel_sums(x, by_sum, kernel, down):
    """Gradients by a padded kernel (shares, 2 F, LENGTH) and down (shares, F, LENGTH), float32, of each
    share of the columns.

    A block takes CHANNELS of F for each of its groups, and all columns of its share; blocks that take other
    channels read the same columns at the same time.
    """
    inner = down.shape[0]
    parts = inner // (GROUPS * CHANNELS)  # of F, one a block
    shares = multiprocessors() // parts
    tiles = x.shape[1] // ROWS
    stages = 4

    def body(x_ref, by_sum_ref, kernel_ref, down_ref, by_kernel_ref, by_down_ref, *scratch):
        xs, sums, kernels, downs, leaving, ready, free, weights = scratch
        group, block = lax.axis_index("group"), lax.axis_index("grid")
        part, share = lax.rem(block, parts), lax.div(block, parts)
        count = (tiles - share + shares - 1) // shares

        @pl.when(group == GROUPS)
        def _():
            plgpu.set_max_registers(COPYING, action="decrease")
            pairs = pl.ds(part * GROUPS * 2 * CHANNELS, GROUPS * 2 * CHANNELS)
            plgpu.copy_gmem_to_smem(kernel_ref.at[:, pairs], kernels, weights)
            mine = pl.ds(part * GROUPS * CHANNELS, GROUPS * CHANNELS)
            plgpu.copy_gmem_to_smem(down_ref.at[mine], downs, weights)

            def fill(i, slot):
                place = _whole(), pl.ds((share + i * shares) * ROWS, ROWS)
                plgpu.copy_gmem_to_smem(x_ref.at[place], xs.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(by_sum_ref.at[place], sums.at[slot], ready.at[slot])

            _copy_ahead(count, stages, free, fill)

        @pl.when(group < GROUPS)
        def _():
            plgpu.set_max_registers(COMPUTING, action="increase")
            plgpu.barrier_wait(weights)
            gate_kernel, up_kernel = (
                kernels.at[:, pl.ds((2 * group + half) * CHANNELS, CHANNELS)].transpose((1, 0))
                for half in range(2)
            )
            down_kernel = downs.at[pl.ds(group * CHANNELS, CHANNELS), :]

            def sums_of(*totals):
                @pl.loop(0, count)
                def _(i):
                    slot = lax.rem(i, stages)
                    plgpu.barrier_wait(ready.at[slot])
                    for start in range(0, ROWS, AT_ONCE):
                        own, by_own = (ref.at[slot, :, pl.ds(start, AT_ONCE)] for ref in (xs, sums))
                        gate, up, by_hidden = products(
                            [(gate_kernel, own)], [(up_kernel, own)], [(down_kernel, by_own)]
                        )
                        lefts = silu_gradients(gate, up, by_hidden)
                        for total, left, right in zip(totals, lefts, (own, own, by_own), strict=True):
                            plgpu.wgmma(total, left.astype(x.dtype), right.transpose((1, 0)))
                        plgpu.wgmma_wait(0)
                    plgpu.barrier_arrive(free.at[slot])

                return tuple(total[...] for total in totals)

            totals = pl.run_scoped(sums_of, *[plgpu.ACC((CHANNELS, LENGTH), jnp.float32)] * 3)
            channel = (part * GROUPS + group) * CHANNELS
            pair = 2 * channel
            places = (by_kernel_ref, pair), (by_kernel_ref, pair + CHANNELS), (by_down_ref, channel)
            for total, (ref, row) in zip(totals, places, strict=True):
                leaving[group] = total
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(leaving.at[group], ref.at[share, pl.ds(row, CHANNELS), :])
                plgpu.wait_smem_to_gmem(0)

    scratch = [
        *(plgpu.SMEM((stages, LENGTH, ROWS), x.dtype, transforms=PARTS) for _ in range(2)),
        plgpu.SMEM((LENGTH, GROUPS * 2 * CHANNELS), x.dtype, transforms=PARTS),
        plgpu.SMEM((GROUPS * CHANNELS, LENGTH), x.dtype, transforms=PARTS),
        plgpu.SMEM((GROUPS, CHANNELS, LENGTH), jnp.float32),
        plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        plgpu.Barrier(num_arrivals=GROUPS, num_barriers=stages),
        plgpu.Barrier(num_arrivals=2),
    ]
    out_type = tuple(jax.ShapeDtypeStruct((shares, rows, LENGTH), jnp.float32) for rows in (2 * inner, inner))
    return launch("mixed_gradient_by_kernels", body, out_type, GROUPS + 1, shares * parts, scratch)(
        x, by_sum, kernel, down
    )


def _copy_ahead(count, stages: int, free, fill) -> None:
    """What the group that copies does: fill(i, slot) for each of `count` tiles, once the groups that compute
    have arrived at free[slot] for the tile that was there."""

    @pl.loop(0, count)
    def _(i):
        slot = lax.rem(i, stages)
        pl.when(i >= stages)(lambda: plgpu.barrier_wait(free.at[slot]))
        fill(i, slot)

    # No arrival may be left that nobody waited for.
    pl.loop(0, jnp.minimum(count, stages))(lambda slot: plgpu.barrier_wait(free.at[slot]))


def _pairs(own, kernels, chunk: int):
    """Gate and up of CHANNELS channels, float32 (ROWS, CHANNELS) each."""
    (both,) = products([(own, kernels.at[:, pl.ds(chunk * 2 * CHANNELS, 2 * CHANNELS)])])
    return both[:, :CHANNELS], both[:, CHANNELS:]


def _whole():
    """LENGTH rows: what lies beyond S is zero where it is read, and dropped where it is written.

    The start is a zero that tracing does not see: from 0.12 on, JAX refuses a slice known to be too long.
    """
    return pl.ds(lax.axis_index("grid") * 0, LENGTH)


def _turned(ref):
    """float32 (ROWS, LENGTH) of a turned (LENGTH, ROWS) in shared memory."""
    read, wanted = TURNED
    return plgpu.layout_cast(plgpu.layout_cast(ref[...], read), wanted).astype(jnp.float32)


def _turn_into(ref, value) -> None:
    """Store (ROWS, LENGTH) as (LENGTH, ROWS)."""
    ref.transpose((1, 0))[...] = plgpu.layout_cast(value, TURNED[0])
