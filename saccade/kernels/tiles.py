"""Products whose tiles go through a function of their own before they are written, forward and back.

For Hopper GPUs. A block takes TILE rows and WIDTH columns at a time; two groups of warps multiply, ROWS rows
each, and a third copies ahead of them. Blocks of a cluster, one below the other, share copies of the right
factor.
"""

import itertools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import ROWS, bank_tiles, launch, multiprocessors

WIDTH = 128  # columns of a tile
DEPTH = 64  # of the summed axis in one stage of the pipeline
PIECE = 64  # columns that leave a tile at once
GROUPS = 2  # of warps that compute, each ROWS rows of a tile; a third one copies
TILE = GROUPS * ROWS
CLUSTER = 2  # blocks, one below the other, that share the copies of the right factor


def pairs_of_tiles(x_ref, kernel_ref, step: int, apart: int, finish, ahead=None) -> None:
    """x kernel, two tiles at once: a pair's first begins at a multiple of `step`, its second `apart` from it.

    Args: finish: gets the sums of both, (ROWS, WIDTH) each, what stores results, the row, and the column that
        the first begins at.  ahead: gets that column before the products run; None = nothing.
    """
    rows, depth = x_ref.shape
    tiles = pl.cdiv(rows, TILE * CLUSTER), kernel_ref.shape[1] // (2 * WIDTH)

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
            column = along * step
            leave = _leave_through(leaving.at[group])

            def around(run):
                if ahead is not None:
                    ahead(column)
                total = plgpu.ACC((ROWS, WIDTH), jnp.float32)

                @partial(pl.run_scoped, first=total, second=total)
                def _(first, second):
                    run((first, second))
                    finish(first, second, leave, row + group * ROWS, column)

            def add(_, x_part, first_part, second_part, sums):
                mine = x_part.at[pl.ds(group * ROWS, ROWS)]
                plgpu.wgmma(sums[0], mine, first_part)
                plgpu.wgmma(sums[1], mine, second_part)
                plgpu.wgmma_wait(0)
                return sums

            pipeline(add, around)(
                x_ref.at[pl.ds(row, TILE), :],
                kernel_ref.at[:, pl.ds(column, WIDTH)],
                kernel_ref.at[:, pl.ds(column + apart, WIDTH)],
                allocations=stages,
            )

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _leave_through(slots):
    """What stores a result, piece by piece: each waits until its slot of two has left."""
    count = itertools.count()

    def leave(value, ref, row, column):
        slot = next(count) % 2
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        slots[slot] = value.astype(slots.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(slots.at[slot], ref.at[pl.ds(row, ROWS), pl.ds(column, PIECE)])

    return leave


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


@partial(jax.jit, static_argnames="function")
def gradients(given, down, kept, function: Callable):
    """What `function` makes of `kept` and of given down^T, in one pass over `kept`.

    Args: given: (M, D).  down: (F, D).  kept: (M, P F), P parts side by side.
        function: float32 tiles of the P parts, and one of the product -> P tiles.
    Returns: (M, P F).
    """
    rows, depth = given.shape
    inner = down.shape[0]
    parts = kept.shape[1] // inner
    tiles = pl.cdiv(rows, TILE * CLUSTER), inner // WIDTH

    def body(given_ref, down_ref, kept_ref, out):
        right = _part((WIDTH, DEPTH), lambda i: (0, i), shared=True)
        pipeline = _pipeline([_part((TILE, DEPTH), lambda i: (0, i)), right], depth, stages=3)

        @partial(
            pl.run_scoped,
            stages=pipeline(_nothing, _nothing).get_allocations(given_ref, down_ref),
            kept=plgpu.SMEM((2, GROUPS, parts, ROWS, WIDTH), given.dtype, transforms=bank_tiles(PIECE)),
            here=plgpu.Barrier(num_arrivals=parts, num_barriers=2 * GROUPS),
            collective_axes="group",
        )
        def _(stages, kept, here):
            group = lax.axis_index("group")

            @plgpu.nd_loop((tiles[0] * tiles[1],), collective_axes="grid")
            def _(loop):
                across, along = plgpu.planar_snake(loop.index[0], tiles, 1, 8)
                row = (across * CLUSTER + lax.axis_index("cluster")) * TILE
                slot = lax.rem(loop.local_index, 2)
                mine, arrived = kept.at[slot, group], here.at[slot * GROUPS + group]
                places = [
                    (pl.ds(row + group * ROWS, ROWS), pl.ds(part * inner + along * WIDTH, WIDTH))
                    for part in range(parts)
                ]

                def around(run):
                    # The slot's last tenants left a tile ago; the new ones come while the product runs.
                    plgpu.wait_smem_to_gmem(parts, wait_read_only=True)
                    for part, place in enumerate(places):
                        plgpu.copy_gmem_to_smem(kept_ref.at[place], mine.at[part], arrived)

                    @partial(pl.run_scoped, total=plgpu.ACC((ROWS, WIDTH), jnp.float32))
                    def _(total):
                        run(total)
                        product = total[...]
                        plgpu.barrier_wait(arrived)
                        _replace(mine, function, product)
                        plgpu.commit_smem()
                        for part, place in enumerate(places):
                            plgpu.copy_smem_to_gmem(mine.at[part], out.at[place])

                def add(_, given_part, down_part, total):
                    left = given_part.at[pl.ds(group * ROWS, ROWS)]
                    plgpu.wgmma(total, left, down_part.transpose((1, 0)))
                    plgpu.wgmma_wait(0)
                    return total

                pipeline(add, around)(
                    given_ref.at[pl.ds(row, TILE), :],
                    down_ref.at[pl.ds(along * WIDTH, WIDTH), :],
                    allocations=stages,
                )

        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    out_type = jax.ShapeDtypeStruct(kept.shape, given.dtype)
    return launch("net_gradient", body, out_type, GROUPS + 1, multiprocessors(), cluster=CLUSTER)(
        given, down, kept
    )


def _replace(tiles, function: Callable, product) -> None:
    """Parts of a tile in shared memory, by what `function` makes of them and of the product."""
    for start in range(0, WIDTH, PIECE):
        piece = slice(start, start + PIECE)
        held = [tiles[part, :, piece].astype(jnp.float32) for part in range(tiles.shape[0])]
        for part, tile in enumerate(function(*held, product[:, piece])):
            tiles[part, :, piece] = tile.astype(tiles.dtype)
