"""Is the mixer's gradient faster in two passes? `python experiments/mixer_gradient.py`, on a Hopper GPU.

`saccade.kernels.sequence` writes, for the gradients of its two matrices, hidden and the gradients by gate and
up (0.6 GB of 512 channels and 768 rows), and products that follow read them. Here a first kernel computes the
gradient by x and by the sum before the norm, and a second one computes the same hidden once more and sums its
products in registers: less than 0.1 GB is written besides the result. Values are right and free of races in
JAX's interpreter (tests/test_kernels.py), and the kernels lower for a GPU; their time is not known yet. If it
is less, they take the place of `_mix_gradient` (64 and 192 channels are missing); if not, this file goes.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade import backend
from saccade.errors import SaccadeError
from saccade.kernels import sequence
from saccade.kernels.common import ROWS, silu_gradients
from saccade.kernels.sequence import (
    CHANNELS,
    COLUMNS,
    GROUPS,
    LENGTH,
    PARTS,
    _mix,
    _padded,
    _pairs,
    _product,
    _turn_into,
    _turned,
    _whole,
)

AT_ONCE = 32  # columns of a tile in one product: 64 would want more registers than a group of warps has


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def mixed(x, kernel, down, epsilon: float):
    """`sequence.mixed`, with the gradient in question."""
    return _mix(x, kernel, down, epsilon)[0]


def _keep(x, kernel, down, epsilon):
    y, scale = _mix(x, kernel, down, epsilon)
    return y, (x, kernel, down, y, scale)


def _back(epsilon, kept, given):
    x, kernel, down, y, scale = kept
    given = (given * scale).astype(x.dtype)
    by_x, by_sum = input_gradients(x, kernel, down, y, given)
    by_kernel, by_down = kernel_gradients(x, kernel, down, by_sum)
    return by_x, by_kernel, by_down


mixed.defvjp(_keep, _back)


@jax.jit
def input_gradients(x, kernel, down, y, given):
    """Gradient by x (S, C), and by the sum before the norm (S, C)."""
    seq, columns = x.shape
    inner = down.shape[0]
    blocks, tiles = sequence.multiprocessors(), columns // COLUMNS

    def body(x_ref, y_ref, given_ref, kernel_ref, down_ref, *refs):
        by_x_ref, by_sum_ref, ones, others, thirds, kernels, downs, first, second, weights = refs
        group, block = lax.axis_index("group"), lax.axis_index("grid")
        one, other, third = ones.at[group], others.at[group], thirds.at[group]
        one_turned, other_turned, third_turned = (ref.transpose((1, 0)) for ref in (one, other, third))
        count = (tiles - block + blocks - 1) // blocks

        @pl.when(group == 0)
        def _():
            plgpu.copy_gmem_to_smem(kernel_ref, kernels, weights)
            plgpu.copy_gmem_to_smem(down_ref, downs, weights)

        def part_of(i):
            return _whole(), pl.ds((block + i * blocks) * COLUMNS + group * ROWS, ROWS)

        @pl.when(count > 0)
        def _():
            plgpu.copy_gmem_to_smem(y_ref.at[part_of(0)], other, first.at[group])

        plgpu.barrier_wait(weights)

        @pl.loop(0, count)
        def _(i):
            place = part_of(i)
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            plgpu.copy_gmem_to_smem(given_ref.at[place], one, first.at[group])
            plgpu.copy_gmem_to_smem(x_ref.at[place], third, second.at[group])
            plgpu.barrier_wait(first.at[group])
            by_y, unit = _turned(one_turned), _turned(other_turned)
            shared = lax.broadcast_in_dim(jnp.sum(by_y * unit, axis=1) / seq, unit.shape, (0,))
            _turn_into(one, (by_y - unit * shared).astype(x.dtype))
            plgpu.commit_smem()

            @pl.when(i + 1 < count)
            def _():
                plgpu.copy_gmem_to_smem(y_ref.at[part_of(i + 1)], other, first.at[group])

            plgpu.copy_smem_to_gmem(one, by_sum_ref.at[place])
            plgpu.barrier_wait(second.at[group])

            @partial(pl.run_scoped, result=plgpu.ACC((ROWS, LENGTH), jnp.float32))
            def by_x(result):
                for chunk in range(inner // CHANNELS):
                    gate, up = _pairs(third_turned, kernels, chunk)
                    rows = downs.at[pl.ds(chunk * CHANNELS, CHANNELS), :]
                    by_hidden = _product(one_turned, rows.transpose((1, 0)))
                    by_gate, by_up, _ = silu_gradients(gate, up, by_hidden)
                    for half, part in enumerate((by_gate, by_up)):
                        column = (2 * chunk + half) * CHANNELS
                        columns_of = kernels.at[:, pl.ds(column, CHANNELS)]
                        plgpu.wgmma(result, part.astype(x.dtype), columns_of.transpose((1, 0)))
                    plgpu.wgmma_wait(0)
                return result[...]

            _turn_into(third, (_turned(one_turned) + by_x).astype(x.dtype))
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(third, by_x_ref.at[place])

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
    arguments = x, y, given, *_padded(kernel, down)
    return sequence.launch(body, out_type, GROUPS, blocks, scratch)(*arguments)


@jax.jit
def kernel_gradients(x, kernel, down, by_sum):
    """Gradients by kernel (S, 2 F) and down (F, S), summed in registers.

    A block takes CHANNELS of F for each of its groups, and all columns of its share; blocks that take other
    channels read the same columns at the same time.
    """
    seq, columns = x.shape
    inner = down.shape[0]
    if inner % (GROUPS * CHANNELS):
        raise SaccadeError(
            f"two passes: {inner} inner channels; take a multiple of {GROUPS * CHANNELS}, or `sequence.mixed`"
        )
    parts = inner // (GROUPS * CHANNELS)  # of F, one a block
    shares = sequence.multiprocessors() // parts
    tiles = columns // ROWS
    stages = 4

    def body(x_ref, by_sum_ref, kernel_ref, down_ref, by_kernel_ref, by_down_ref, *scratch):
        xs, sums, kernels, downs, leaving, ready, free, weights = scratch
        group, block = lax.axis_index("group"), lax.axis_index("grid")
        part, share = lax.rem(block, parts), lax.div(block, parts)
        count = (tiles - share + shares - 1) // shares

        @pl.when(group == GROUPS)
        def _():
            plgpu.set_max_registers(40, action="decrease")
            mine = pl.ds(part * GROUPS * 2 * CHANNELS, GROUPS * 2 * CHANNELS)
            plgpu.copy_gmem_to_smem(kernel_ref.at[:, mine], kernels, weights)
            mine = pl.ds(part * GROUPS * CHANNELS, GROUPS * CHANNELS)
            plgpu.copy_gmem_to_smem(down_ref.at[mine], downs, weights)

            @pl.loop(0, count)
            def _(i):
                slot = lax.rem(i, stages)
                pl.when(i >= stages)(lambda: plgpu.barrier_wait(free.at[slot]))
                place = _whole(), pl.ds((share + i * shares) * ROWS, ROWS)
                plgpu.copy_gmem_to_smem(x_ref.at[place], xs.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(by_sum_ref.at[place], sums.at[slot], ready.at[slot])

            # No arrival may be left that nobody waited for.
            pl.loop(0, jnp.minimum(count, stages))(lambda slot: plgpu.barrier_wait(free.at[slot]))

        @pl.when(group < GROUPS)
        def _():
            plgpu.set_max_registers(232, action="increase")
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
                        x_part = xs.at[slot, :, pl.ds(start, AT_ONCE)]
                        sum_part = sums.at[slot, :, pl.ds(start, AT_ONCE)]
                        gate, up, by_hidden = _products(
                            (gate_kernel, x_part), (up_kernel, x_part), (down_kernel, sum_part)
                        )
                        by_gate, by_up, hidden = silu_gradients(gate, up, by_hidden)
                        for total, left, right in zip(
                            totals, (by_gate, by_up, hidden), (x_part, x_part, sum_part), strict=True
                        ):
                            plgpu.wgmma(total, left.astype(x.dtype), right.transpose((1, 0)))
                        plgpu.wgmma_wait(0)
                    plgpu.barrier_arrive(free.at[slot])

                return tuple(total[...] for total in totals)

            acc = plgpu.ACC((CHANNELS, LENGTH), jnp.float32)
            totals = pl.run_scoped(sums_of, acc, acc, acc)
            channel = (part * GROUPS + group) * CHANNELS
            places = [
                by_kernel_ref.at[share, pl.ds(2 * channel, CHANNELS), :],
                by_kernel_ref.at[share, pl.ds(2 * channel + CHANNELS, CHANNELS), :],
                by_down_ref.at[share, pl.ds(channel, CHANNELS), :],
            ]
            for total, place in zip(totals, places, strict=True):
                leaving[group] = total
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(leaving.at[group], place)
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
    out_type = (
        jax.ShapeDtypeStruct((shares, 2 * inner, LENGTH), jnp.float32),
        jax.ShapeDtypeStruct((shares, inner, LENGTH), jnp.float32),
    )
    padded = _padded(kernel, down)
    run = sequence.launch(body, out_type, GROUPS + 1, shares * parts, scratch)
    by_kernel, by_down = (jnp.sum(t, 0)[:, :seq].astype(x.dtype) for t in run(x, by_sum, *padded))
    by_kernel = by_kernel.reshape(-1, 2, CHANNELS, seq).transpose(3, 1, 0, 2).reshape(kernel.shape)
    return by_kernel, by_down


def _products(*pairs) -> list:
    """float32 left @ right of each pair, all started before the first is waited for."""

    def multiply(*totals):
        for total, (left, right) in zip(totals, pairs, strict=True):
            plgpu.wgmma(total, left, right)
        return tuple(total[...] for total in totals)

    return pl.run_scoped(
        multiply, *(plgpu.ACC((left.shape[0], right.shape[1]), jnp.float32) for left, right in pairs)
    )


def milliseconds(function, *args, times: int = 30) -> float:
    for _ in range(3):
        jax.block_until_ready(function(*args))
    begin = time.perf_counter()
    for _ in range(times):
        found = function(*args)
    jax.block_until_ready(found)
    return 1000 * (time.perf_counter() - begin) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=768, help="of 88 tokens and 512 channels")
    options = parser.parse_args()
    if backend.compute_capability() != (9, 0):
        print(f"{backend.device_name()}: no Hopper GPU, nothing to measure")
        return
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (88, 512 * options.rows), (88, 512), (256, 88), (88, 512 * options.rows)
    scales = 1, 88**-0.5, 256**-0.5, 1
    x, kernel, down, given = (
        (scale * jax.random.normal(key, shape)).astype("bfloat16")
        for key, shape, scale in zip(keys, shapes, scales, strict=True)
    )

    def gradients(function, *args):
        result, back = jax.vjp(lambda *args: function(*args, 1e-5), *args)
        return (result, *back(given))

    ways = {
        "shipped": jax.jit(partial(gradients, sequence.mixed)),
        "two passes": jax.jit(partial(gradients, mixed)),
    }
    results = {name: way(x, kernel, down) for name, way in ways.items()}
    far = [
        float(jnp.linalg.norm((a - b).astype("float32")) / jnp.linalg.norm(a.astype("float32")))
        for a, b in zip(*results.values(), strict=True)
    ]
    print(f"apart (result, gradients by x, kernel, down): {', '.join(f'{value:.1e}' for value in far)}")
    y = results["shipped"][0]
    passes = {
        "shipped, first": lambda: sequence._mix_gradient(x, kernel, down, y, given),
        "by x": lambda: input_gradients(x, kernel, down, y, given),
        "by the matrices": lambda: kernel_gradients(x, kernel, down, given),
    }
    for name, way in passes.items():
        print(f"{name:16} {milliseconds(way):6.3f} ms", flush=True)
    for name, way in ways.items():
        print(f"{name:16} {milliseconds(way, x, kernel, down):6.3f} ms with all of it", flush=True)


if __name__ == "__main__":
    main()
