"""Products whose tiles go through a function of their own before they are written, forward and back.

For Hopper GPUs. A block takes TILE rows and WIDTH columns at a time; two groups of warps multiply, ROWS rows
each, and a third copies ahead of them, from one tile to the next without a pause. Blocks of a cluster, one
below the other, share copies of the right factor.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import COMPUTING, COPYING, ROWS, bank_tiles, launch, multiprocessors

WIDTH = 128  # columns of a tile
DEPTH = 64  # of the summed axis in one stage of a stream
PIECE = 64  # columns that leave a tile at once
GROUPS = 2  # of warps that compute, each ROWS rows of a tile; a third one copies
TILE = GROUPS * ROWS
CLUSTER = 2  # blocks, one below the other, that share the copies of the right factor
STAGES, STAGES_BACK = 4, 5  # of a stream, as many as shared memory holds
SLOTS = 2  # that a group's results leave through


class Factor(NamedTuple):
    """Of a product: the shape of its part in a stage, (row, column, step) -> that part, and whether the
    blocks of a cluster share it."""

    shape: tuple[int, int]
    part: Callable
    shared: bool = False


class Held(NamedTuple):
    """Tiles that come ahead of the product they belong to, and leave as what they become; for each group."""

    tiles: jax.Array  # (GROUPS, parts, ROWS, columns)
    came: jax.Array
    left: jax.Array

    @classmethod
    def memory(cls, parts: int, columns: int, dtype) -> "Held":
        """What to ask for."""
        tiles = plgpu.SMEM((GROUPS, parts, ROWS, columns), dtype, transforms=bank_tiles(PIECE))
        came = plgpu.Barrier(num_arrivals=parts, num_barriers=GROUPS)
        return cls(tiles, came, plgpu.Barrier(num_barriers=GROUPS))

    def bring(self, ref, places: Callable) -> None:
        """The group that copies: once the last has left, what lies at places(group), one for each part."""
        for group in range(GROUPS):
            plgpu.barrier_wait(self.left.at[group])
            for part, place in enumerate(places(group)):
                plgpu.copy_gmem_to_smem(ref.at[place], self.tiles.at[group, part], self.came.at[group])

    def arrived(self):
        """(parts, ROWS, columns) of a group that computes, when they are there."""
        group = lax.axis_index("group")
        plgpu.barrier_wait(self.came.at[group])
        return self.tiles.at[group]

    def tell_left(self) -> None:
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        plgpu.barrier_arrive(self.left.at[lax.axis_index("group")])


def pairs_of_tiles(x_ref, kernel_ref, step: int, apart: int, finish, ahead=None) -> None:
    """x kernel, two tiles at once: a pair's first begins at a multiple of `step`, its second `apart` from it.

    Args: finish: gets the sums of both, (ROWS, WIDTH) each, what stores results, the row, and the column that
        the first begins at.  ahead: gets that column before the products run; None = nothing.
    """
    rows, depth = x_ref.shape
    tiles = pl.cdiv(rows, TILE * CLUSTER), kernel_ref.shape[1] // (2 * WIDTH)

    def half(place):
        def part(_, along, i):
            return kernel_ref.at[stage_at(i), pl.ds(along * step + place, WIDTH)]

        return Factor((DEPTH, WIDTH), part, shared=True)

    factors = [rows_of(x_ref), half(0), half(apart)]

    @partial(
        pl.run_scoped,
        leaving=plgpu.SMEM((GROUPS, SLOTS, ROWS, PIECE), x_ref.dtype, transforms=bank_tiles(PIECE)),
        memory=stream_memory(factors, STAGES, depth // DEPTH),
        collective_axes="group",
    )
    def _(leaving, memory):
        group = lax.axis_index("group")

        def tile(row, along, products):
            column = along * step
            leave = _leave_through(leaving.at[group])
            if ahead is not None:
                ahead(column)
            total = plgpu.ACC((ROWS, WIDTH), jnp.float32)

            @partial(pl.run_scoped, first=total, second=total)
            def _(first, second):
                def multiply(x_part, first_part, second_part):
                    plgpu.wgmma(first, own_rows(x_part), first_part)
                    plgpu.wgmma(second, own_rows(x_part), second_part)

                products(multiply)
                finish(first, second, leave, row + group * ROWS, column)

        stream(factors, memory, tiles, depth // DEPTH, tile)

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _leave_through(slots):
    """What stores a result, piece by piece: each waits until its slot has left."""
    count = itertools.count()

    def leave(value, ref, row, column):
        slot = next(count) % SLOTS
        plgpu.wait_smem_to_gmem(SLOTS - 1, wait_read_only=True)
        slots[slot] = value.astype(slots.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(slots.at[slot], ref.at[pl.ds(row, ROWS), pl.ds(column, PIECE)])

    return leave


def rows_of(ref, shared: bool = False) -> Factor:
    """What a tile takes of the left factor."""
    return Factor((TILE, DEPTH), lambda row, _, i: ref.at[pl.ds(row, TILE), stage_at(i)], shared)


def stage_at(step):
    """Of the summed axis."""
    return pl.ds(step * DEPTH, DEPTH)


def own_rows(part):
    """A group's rows of a tile."""
    return part.at[pl.ds(lax.axis_index("group") * ROWS, ROWS)]


def stream_memory(factors: list[Factor], stages: int, steps: int) -> dict:
    """Of a stream of so many stages, no more than a tile sums, and what its groups tell each other."""
    stages = min(stages, steps)
    return {
        "parts": [
            plgpu.SMEM((stages, *f.shape), jnp.bfloat16, transforms=bank_tiles(f.shape[1])) for f in factors
        ],
        "here": plgpu.Barrier(num_arrivals=len(factors), num_barriers=stages),
        "free": plgpu.ClusterBarrier(collective_axes=("cluster",), num_arrivals=GROUPS, num_barriers=stages),
    }


def stream(
    factors: list[Factor],
    memory: dict,
    tiles: tuple,
    steps: int,
    tile: Callable,
    beside: Callable | None = None,
    side_by_side: bool = False,
    after: Callable | None = None,
) -> None:
    """Every tile of a product, its factors copied ahead.

    Args:
        tiles: how many clusters have, down and across.  steps: stages that a tile sums.
        tile: what a group does with one; gets its row, which column of tiles, and what runs the products,
            which takes what multiplies the parts of a stage, and what to do once the first are done.
        beside: copies more for a tile, given its row and column, when the groups have begun it.
        side_by_side: so lie the blocks of a cluster, one tile wide each, instead of one below the other.
        after: what a group that computes does when it has done its last tile.
    """
    parts, here, free = (memory[name] for name in ("parts", "here", "free"))
    stages = parts[0].shape[0]

    def every_tile(do):
        """do(row, column, stages gone by) for each. Returns: all stages."""

        @plgpu.nd_loop((tiles[0] * tiles[1],), collective_axes="grid", init_carry=jnp.int32(0))
        def gone(loop, carry):
            down, along = plgpu.planar_snake(loop.index[0], tiles, 1, 8)
            if side_by_side:
                do(down * TILE, lax.axis_index("cluster"), carry)
            else:
                do((down * CLUSTER + lax.axis_index("cluster")) * TILE, along, carry)
            return carry + steps

        return gone

    def copy(row, along, gone):
        @pl.loop(0, steps)
        def _(step):
            slot = lax.rem(gone + step, stages)
            pl.when(gone + step >= stages)(lambda: plgpu.barrier_wait(free.at[slot]))
            for factor, part in zip(factors, parts, strict=True):
                source, shared = factor.part(row, along, step), ("cluster",) if factor.shared else None
                plgpu.copy_gmem_to_smem(source, part.at[slot], here.at[slot], collective_axes=shared)
            if beside is not None:
                pl.when(step == min(stages + 1, steps - 1))(lambda: beside(row, along))

    def compute(row, along, gone):
        def products(multiply, begun=None):
            @pl.loop(0, steps)
            def _(step):
                slot = lax.rem(gone + step, stages)
                plgpu.barrier_wait(here.at[slot])
                multiply(*(part.at[slot] for part in parts))
                plgpu.wgmma_wait(0)
                plgpu.barrier_arrive(free.at[slot])
                if begun is not None:
                    pl.when(step == min(1, steps - 1))(begun)

        tile(row, along, products)

    def copy_all():
        plgpu.set_max_registers(COPYING, action="decrease")
        gone = every_tile(copy)
        for slot in range(stages):  # nobody leaves while others of the cluster still tell it something
            pl.when(slot < gone)(lambda slot=slot: plgpu.barrier_wait(free.at[slot]))

    def compute_all():
        plgpu.set_max_registers(COMPUTING, action="increase")
        every_tile(compute)
        if after is not None:
            after()

    lax.cond(lax.axis_index("group") == GROUPS, copy_all, compute_all)


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
        def right(_, along, i):
            return down_ref.at[pl.ds(along * WIDTH, WIDTH), stage_at(i)]

        factors = [rows_of(given_ref), Factor((WIDTH, DEPTH), right, shared=True)]

        @partial(
            pl.run_scoped,
            memory=stream_memory(factors, STAGES_BACK, depth // DEPTH),
            held=Held.memory(parts, WIDTH, given.dtype),
            collective_axes="group",
        )
        def _(memory, held):
            def places(row, along, group):
                down = pl.ds(row + group * ROWS, ROWS)
                return [(down, pl.ds(part * inner + along * WIDTH, WIDTH)) for part in range(parts)]

            def bring(row, along):
                held.bring(kept_ref, partial(places, row, along))

            def tile(row, along, products):
                @partial(pl.run_scoped, total=plgpu.ACC((ROWS, WIDTH), jnp.float32))
                def _(total):
                    def multiply(given_part, down_part):
                        plgpu.wgmma(total, own_rows(given_part), down_part.transpose((1, 0)))

                    products(multiply, held.tell_left)
                    product, tiles = total[...], held.arrived()
                    _replace(tiles, function, product)
                    plgpu.commit_smem()
                    for part, place in enumerate(places(row, along, lax.axis_index("group"))):
                        plgpu.copy_smem_to_gmem(tiles.at[part], out.at[place])

            stream(factors, memory, tiles, depth // DEPTH, tile, bring)

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
