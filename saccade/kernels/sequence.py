"""The mixer of mlp_t in one kernel for Hopper GPUs: x + SwiGLU along the sequence, and its RMS norm.

A group of warps takes 64 columns of x with their whole sequence; both kernels stay in shared memory. What
lies between is never written, and the gradient computes it again.

Shapes: x (S, C), sequence first, S a multiple of 8 and at most 96; kernel (S, 2 F), gate first and up after;
down (F, S), F a multiple of 64. All bfloat16, sums in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import ROWS, bank_tiles, launch, multiprocessors, sigmoid, silu_gradients

LENGTH = 96  # of the sequence in shared memory: what is beyond S is zero
GROUPS = 2  # of warps that compute
CHANNELS = 64  # of F at once
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
    by_x, by_sum, hidden, by_pairs = _mix_gradient(x, kernel, down, y, given)
    by_kernel = x @ by_pairs
    shape = (x.shape[0], -1, 2, CHANNELS)
    by_kernel = by_kernel.reshape(shape).transpose(0, 2, 1, 3).reshape(kernel.shape)
    return by_x, by_kernel, (by_sum @ hidden).T


mixed.defvjp(_mixed_keep, _mixed_gradient)


def _padded(kernel, down):
    """Both with zeros beyond S; of the kernel, gate and up of CHANNELS channels by turns."""
    seq, pairs = kernel.shape
    beyond = (0, LENGTH - seq)
    kernel = kernel.reshape(seq, 2, -1, CHANNELS).transpose(0, 2, 1, 3).reshape(seq, pairs)
    return jnp.pad(kernel, (beyond, (0, 0))), jnp.pad(down, ((0, 0), beyond))


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
            plgpu.set_max_registers(40, action="decrease")
            plgpu.copy_gmem_to_smem(kernel_ref, kernels, weights)
            plgpu.copy_gmem_to_smem(down_ref, downs, weights)

            @pl.loop(0, count)
            def _(i):
                slot = lax.rem(i, stages)
                pl.when(i >= stages)(lambda: plgpu.barrier_wait(free.at[slot]))
                part = _whole(), pl.ds((block + i * blocks) * COLUMNS, COLUMNS)
                plgpu.copy_gmem_to_smem(x_ref.at[part], xs.at[slot], ready.at[slot])

            # No arrival may be left that nobody waited for.
            pl.loop(0, jnp.minimum(count, stages))(lambda slot: plgpu.barrier_wait(free.at[slot]))

        @pl.when(group < GROUPS)
        def _():
            plgpu.set_max_registers(232, action="increase")
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
    return launch(body, out_type, GROUPS + 1, blocks, scratch)(x, *_padded(kernel, down))


@jax.jit
def _mix_gradient(x, kernel, down, y, given):
    """What the kernels' gradients are made of, and that by x.

    Args: given: (S, C), the gradient by y, each column times what its norm multiplied by.
    Returns: gradient by x (S, C); by the sum before the norm (S, C); hidden (C, F); gradient by gate and up,
        CHANNELS channels of each by turns (C, 2 F).
    """
    seq, columns = x.shape
    inner = down.shape[0]
    blocks, tiles = multiprocessors(), columns // COLUMNS

    def body(x_ref, y_ref, given_ref, kernel_ref, down_ref, *refs):
        by_x_ref, by_sum_ref, hidden_ref, by_pairs_ref, *scratch = refs
        ones, others, leaving, kernels, downs, first, second, weights = scratch
        group, block = lax.axis_index("group"), lax.axis_index("grid")
        one, other = ones.at[group], others.at[group]
        one_turned, other_turned = (ref.transpose((1, 0)) for ref in (one, other))

        @pl.when(group == 0)
        def _():
            plgpu.copy_gmem_to_smem(kernel_ref, kernels, weights)
            plgpu.copy_gmem_to_smem(down_ref, downs, weights)

        plgpu.barrier_wait(weights)

        @pl.loop(0, (tiles - block + blocks - 1) // blocks)
        def _(i):
            start = (block + i * blocks) * COLUMNS + group * ROWS
            part_of = _whole(), pl.ds(start, ROWS)
            count = iter(range(1_000))
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            plgpu.copy_gmem_to_smem(given_ref.at[part_of], one, first.at[group])
            plgpu.copy_gmem_to_smem(y_ref.at[part_of], other, first.at[group])
            plgpu.barrier_wait(first.at[group])
            by_y, unit = _turned(one_turned), _turned(other_turned)
            shared = lax.broadcast_in_dim(jnp.sum(by_y * unit, axis=1) / seq, unit.shape, (0,))
            # From here on `one` holds the gradient by the sum, and `other` x.
            _turn_into(one, (by_y - unit * shared).astype(x.dtype))
            plgpu.commit_smem()
            plgpu.copy_gmem_to_smem(x_ref.at[part_of], other, second.at[group])
            plgpu.copy_smem_to_gmem(one, by_sum_ref.at[part_of])
            plgpu.barrier_wait(second.at[group])

            @partial(pl.run_scoped, result=plgpu.ACC((ROWS, LENGTH), jnp.float32))
            def by_x(result):
                for chunk in range(inner // CHANNELS):
                    gate, up = _pairs(other_turned, kernels, chunk)
                    rows = downs.at[pl.ds(chunk * CHANNELS, CHANNELS), :]
                    by_hidden = _product(one_turned, rows.transpose((1, 0)))
                    by_gate, by_up, hidden = silu_gradients(gate, up, by_hidden)
                    column = chunk * 2 * CHANNELS
                    for part, ref, to in (
                        (by_gate, by_pairs_ref, column),
                        (by_up, by_pairs_ref, column + CHANNELS),
                        (hidden, hidden_ref, chunk * CHANNELS),
                    ):
                        part = part.astype(x.dtype)
                        if ref is by_pairs_ref:
                            columns_of = kernels.at[:, pl.ds(to, CHANNELS)]
                            plgpu.wgmma(result, part, columns_of.transpose((1, 0)))
                        slot = next(count) % 2
                        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
                        leaving[group, slot] = part
                        plgpu.commit_smem()
                        plgpu.copy_smem_to_gmem(
                            leaving.at[group, slot], ref.at[pl.ds(start, ROWS), pl.ds(to, CHANNELS)]
                        )
                    plgpu.wgmma_wait(0)
                return result[...]

            _turn_into(other, (_turned(one_turned) + by_x).astype(x.dtype))
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(other, by_x_ref.at[part_of])

        plgpu.wait_smem_to_gmem(0)

    scratch = [
        *(plgpu.SMEM((GROUPS, LENGTH, ROWS), x.dtype, transforms=PARTS) for _ in range(2)),
        plgpu.SMEM((GROUPS, 2, ROWS, CHANNELS), x.dtype, transforms=bank_tiles(CHANNELS)),
        plgpu.SMEM((LENGTH, 2 * inner), x.dtype, transforms=PARTS),
        plgpu.SMEM((inner, LENGTH), x.dtype, transforms=PARTS),
        plgpu.Barrier(num_arrivals=2, num_barriers=GROUPS),
        plgpu.Barrier(num_barriers=GROUPS),
        plgpu.Barrier(num_arrivals=2),
    ]
    out_type = tuple(
        jax.ShapeDtypeStruct(shape, x.dtype)
        for shape in (x.shape, x.shape, (columns, inner), (columns, 2 * inner))
    )
    arguments = x, y, given, *_padded(kernel, down)
    return launch(body, out_type, GROUPS, blocks, scratch)(*arguments)


def _pairs(own, kernels, chunk: int):
    """Gate and up of CHANNELS channels, float32 (ROWS, CHANNELS) each."""
    both = _product(own, kernels.at[:, pl.ds(chunk * 2 * CHANNELS, 2 * CHANNELS)])
    return both[:, :CHANNELS], both[:, CHANNELS:]


def _product(left, right):
    """float32 left @ right, both in shared memory."""

    def multiply(total):
        plgpu.wgmma(total, left, right)
        return total[...]

    return pl.run_scoped(multiply, plgpu.ACC((left.shape[0], right.shape[1]), jnp.float32))


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
