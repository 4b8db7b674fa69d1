"""SwiGLU whose gate never goes to memory: products for Hopper GPUs with silu(gate) * up as their last stage.

Shapes: x (M, D), kernel (D, 2 F), gate first and up after, down (F, D); all bfloat16, sums in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import ROWS, bank_tiles, launch, multiprocessors, sigmoid, silu_gradients

WIDTH = 128  # channels of F in a tile
DEPTH = 64  # of the summed axis in one stage of the pipeline
PIECE = 64  # channels that leave a tile at once
GROUPS = 2  # of warps that compute, each ROWS rows of a tile; a third one copies
TILE = GROUPS * ROWS
CLUSTER = 2  # blocks, one below the other, that share the copies of the kernel


@jax.custom_vjp
def swiglu(x, kernel, down):
    """(silu(x gate) * (x up)) down, gate and up the halves of kernel.

    Args: x: (M, D).  kernel: (D, 2 F).  down: (F, D).
    Returns: (M, D).
    """
    return _gated(x, kernel, keep=False)[0] @ down


def _swiglu_keep(x, kernel, down):
    hidden, pairs = _gated(x, kernel, keep=True)
    return hidden @ down, (x, kernel, down, hidden, pairs)


def _swiglu_gradient(kept, given):
    x, kernel, down, hidden, pairs = kept
    by_pairs = _gated_gradient(given, down, pairs)
    return by_pairs @ kernel.T, x.T @ by_pairs, hidden.T @ given


swiglu.defvjp(_swiglu_keep, _swiglu_gradient)


@partial(jax.jit, static_argnames="keep")
def _gated(x, kernel, keep: bool) -> tuple:
    """hidden (M, F), and with `keep` gate and up, (M, 2 F)."""
    rows, inner = x.shape[0], kernel.shape[1] // 2
    out_type = [jax.ShapeDtypeStruct((rows, inner), x.dtype)]
    if keep:
        out_type.append(jax.ShapeDtypeStruct((rows, 2 * inner), x.dtype))

    def body(x_ref, kernel_ref, *outs):
        def finish(gate_sum, up_sum, leave, row, column):
            gates, ups = gate_sum[...], up_sum[...]
            for start in range(0, WIDTH, PIECE):
                gate, up = gates[:, start : start + PIECE], ups[:, start : start + PIECE]
                leave(gate * sigmoid(gate) * up, outs[0], row, column + start)
                if keep:
                    leave(gate, outs[1], row, column + start)
                    leave(up, outs[1], row, inner + column + start)

        _products(x_ref, kernel_ref, inner, finish)

    return launch(body, tuple(out_type), GROUPS + 1, multiprocessors(), cluster=CLUSTER)(x, kernel)


def _products(x_ref, kernel_ref, inner: int, finish) -> None:
    """All tiles of x gate and x up; `finish` gets a tile's sums, what stores its results, and its place."""
    rows, depth = x_ref.shape
    tiles = pl.cdiv(rows, TILE * CLUSTER), inner // WIDTH

    half = _part((DEPTH, WIDTH), lambda i: (i, 0), shared=True)
    pipeline = _pipeline([_part((TILE, DEPTH), lambda i: (0, i)), half, half], depth, stages=4)

    @partial(
        pl.run_scoped,
        stages=pipeline(_nothing, _nothing).get_allocations(x_ref, kernel_ref, kernel_ref),
        leaving=plgpu.SMEM((GROUPS, 2, ROWS, PIECE), x_ref.dtype, transforms=bank_tiles(PIECE)),
        collective_axes="group",
    )
    def _(stages, leaving):
        group = lax.axis_index("group")

        @plgpu.nd_loop((tiles[0] * tiles[1],), collective_axes="grid")
        def _(loop):
            across, along = plgpu.planar_snake(loop.index[0], tiles, 1, 8)
            row = (across * CLUSTER + lax.axis_index("cluster")) * TILE
            column = along * WIDTH
            count = iter(range(1_000))

            def leave(value, ref, row, column):
                slot = next(count) % 2
                plgpu.wait_smem_to_gmem(1, wait_read_only=True)
                leaving[group, slot] = value.astype(x_ref.dtype)
                plgpu.commit_smem()
                place = pl.ds(row, ROWS), pl.ds(column, PIECE)
                plgpu.copy_smem_to_gmem(leaving.at[group, slot], ref.at[place])

            def around(run):
                sums = [plgpu.ACC((ROWS, WIDTH), jnp.float32)] * 2

                @partial(pl.run_scoped, gate=sums[0], up=sums[1])
                def _(gate, up):
                    run((gate, up))
                    finish(gate, up, leave, row + group * ROWS, column)

            def step(_, x_part, gate_part, up_part, sums):
                mine = x_part.at[pl.ds(group * ROWS, ROWS)]
                plgpu.wgmma(sums[0], mine, gate_part)
                plgpu.wgmma(sums[1], mine, up_part)
                plgpu.wgmma_wait(0)
                return sums

            gate_at, up_at = pl.ds(column, WIDTH), pl.ds(inner + column, WIDTH)
            pipeline(step, around)(
                x_ref.at[pl.ds(row, TILE), :],
                kernel_ref.at[:, gate_at],
                kernel_ref.at[:, up_at],
                allocations=stages,
            )

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _part(shape: tuple[int, int], place, shared: bool = False):
    """What one stage of the pipeline holds of an operand; `shared` by the blocks of a cluster."""
    return plgpu.BlockSpec(
        shape,
        place,
        transforms=bank_tiles(shape[1]),
        memory_space=plgpu.SMEM,
        collective_axes=("cluster",) if shared else (),
    )


def _pipeline(parts: list, depth: int, stages: int):
    """(step, around) -> a loop over the summed axis, DEPTH at a time; a third group copies `stages` ahead."""

    def pipeline(step, around):
        return plgpu.emit_pipeline_warp_specialized(
            step,
            grid=(depth // DEPTH,),
            in_specs=parts,
            memory_registers=40,
            wg_axis="group",
            num_compute_wgs=GROUPS,
            max_concurrent_steps=stages,
            compute_context=around,
        )

    return pipeline


def _nothing(*_) -> None:
    """In place of a step where only a pipeline's memory is asked for."""


@jax.jit
def _gated_gradient(given, down, pairs):
    """Gradient by gate and up, (M, 2 F), given that by the result, (M, D): the product with `down` and what
    follows it in one pass over the pairs."""
    rows, depth = given.shape
    inner = down.shape[0]
    tiles = pl.cdiv(rows, TILE * CLUSTER), inner // WIDTH

    def body(given_ref, down_ref, pairs_ref, out):
        right = _part((WIDTH, DEPTH), lambda i: (0, i), shared=True)
        pipeline = _pipeline([_part((TILE, DEPTH), lambda i: (0, i)), right], depth, stages=3)

        @partial(
            pl.run_scoped,
            stages=pipeline(_nothing, _nothing).get_allocations(given_ref, down_ref),
            both=plgpu.SMEM((2, GROUPS, 2, ROWS, WIDTH), given.dtype, transforms=bank_tiles(PIECE)),
            here=plgpu.Barrier(num_arrivals=2, num_barriers=2 * GROUPS),
            collective_axes="group",
        )
        def _(stages, both, here):
            group = lax.axis_index("group")

            @plgpu.nd_loop((tiles[0] * tiles[1],), collective_axes="grid")
            def _(loop):
                across, along = plgpu.planar_snake(loop.index[0], tiles, 1, 8)
                row = (across * CLUSTER + lax.axis_index("cluster")) * TILE
                slot = lax.rem(loop.local_index, 2)
                mine, arrived = both.at[slot, group], here.at[slot * GROUPS + group]
                places = [
                    (pl.ds(row + group * ROWS, ROWS), pl.ds(half * inner + along * WIDTH, WIDTH))
                    for half in range(2)
                ]

                def around(run):
                    # The slot's last tenants left a tile ago; the new ones come while the product runs.
                    plgpu.wait_smem_to_gmem(2, wait_read_only=True)
                    for half in range(2):
                        plgpu.copy_gmem_to_smem(pairs_ref.at[places[half]], mine.at[half], arrived)

                    @partial(pl.run_scoped, total=plgpu.ACC((ROWS, WIDTH), jnp.float32))
                    def _(total):
                        run(total)
                        by_hidden = total[...]
                        plgpu.barrier_wait(arrived)
                        for start in range(0, WIDTH, PIECE):
                            part = slice(start, start + PIECE)
                            gate, up = (mine[half, :, part].astype(jnp.float32) for half in range(2))
                            by_gate, by_up, _ = silu_gradients(gate, up, by_hidden[:, part])
                            mine[0, :, part] = by_gate.astype(given.dtype)
                            mine[1, :, part] = by_up.astype(given.dtype)
                        plgpu.commit_smem()
                        for half in range(2):
                            plgpu.copy_smem_to_gmem(mine.at[half], out.at[places[half]])

                def step(_, given_part, down_part, total):
                    left = given_part.at[pl.ds(group * ROWS, ROWS)]
                    plgpu.wgmma(total, left, down_part.transpose((1, 0)))
                    plgpu.wgmma_wait(0)
                    return total

                pipeline(step, around)(
                    given_ref.at[pl.ds(row, TILE), :],
                    down_ref.at[pl.ds(along * WIDTH, WIDTH), :],
                    allocations=stages,
                )

        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    out_type = jax.ShapeDtypeStruct((rows, 2 * inner), given.dtype)
    return launch(body, out_type, GROUPS + 1, multiprocessors(), cluster=CLUSTER)(given, down, pairs)
