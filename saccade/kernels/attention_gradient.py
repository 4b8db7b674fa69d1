"""The gradient of attention over short sequences (self_attention.py) in one pass, for Hopper GPUs.

Each group of warps has a tile of keys, and as many as a head has tiles have that head, and then the next: as
many blocks as multiprocessors take heads one after the other. Heads of a block do not wait for each other, so
that one computes while another is copied. A group meets the queries PART by PART, with scores turned,
(keys, queries): so sums by keys and values take them from registers. For those by queries, over all groups,
the gradient by scores lies in shared memory, ROUND by ROUND; each group has a tile of queries too.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import LOWEST, ROWS, bank_tiles, launch, multiprocessors, products
from saccade.kernels.head import (
    PART,
    Heads,
    Piece,
    angles,
    by_position,
    copy_in,
    copy_out,
    halves,
    memory,
    pieces,
    put,
    tile_at,
    turn,
    turned,
)

ROUND = 128  # queries whose gradients by scores lie in shared memory at once
GROUPS = 4  # of warps in a block: more would have fewer registers than they need


@partial(jax.jit, static_argnames="heads")
def by_packed(packed, table, mixed, totals, given, heads: Heads):
    """Gradient by `packed`, given that by the result; for the others see `self_attention`."""
    width, tiles, whole = heads.width, heads.tiles, heads.tiles * ROWS
    count, all_heads = max(1, GROUPS // tiles), len(packed) * heads.shared
    blocks = min(multiprocessors(), all_heads)
    table = by_position(table, whole)

    def body(packed_ref, mixed_ref, totals_ref, given_ref, *refs):
        table_refs, (out_ref, *refs) = refs[: len(table)], refs[len(table) :]
        queries, keys, values, givens, (*mixes, by_scores), totals, shares, *barriers = refs
        memories = Memories(packed_ref, given_ref, mixed_ref, totals_ref, table_refs, out_ref)

        def group_of(index):
            slot, own = lax.div(index, tiles), lax.rem(index, tiles)
            return Group(
                heads,
                own,
                memories,
                *(pieces(refs, slot) for refs in (queries, keys, values, givens)),
                [Piece(*(seen.at[slot, half] for seen in mixes)) for half in range(2)],
                by_scores.at[slot],
                totals.at[slot],
                shares.at[slot],
                *(barrier.at[slot] for barrier in barriers),
            )

        _take_heads(group_of, all_heads, blocks, count)
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def head():
        return [memory(count, whole, width // 2)] * 2

    scratch = [
        *(head() for _ in range(4)),
        over(count, whole, width),
        plgpu.SMEM((count, whole), jnp.float32),
        plgpu.SMEM((count, whole), jnp.float32),
        *(plgpu.Barrier(num_arrivals=n, num_barriers=count) for n in (3, 4, 4, tiles)),
    ]
    out_type = jax.ShapeDtypeStruct(packed.shape, packed.dtype)
    return launch("attention_gradient", body, out_type, tiles * count, blocks, scratch)(
        packed, mixed, totals, given, *table
    )


def _take_heads(group_of: Callable, all_heads: int, blocks: int, count: int) -> None:
    """What a group of warps does: every so manieth head of keys, with all heads of queries that read it.

    Args: group_of: number in the block -> Group.  count: heads that a block has at once.
    """
    apart, index = blocks * count, lax.axis_index("group")
    group = group_of(index)
    heads = group.heads
    first = lax.div(index, heads.tiles) * blocks + lax.axis_index("grid")

    @pl.when(first < all_heads)
    def _():
        group.ask_queries(first, 0)
        group.ask_rest(first, 0)

    def following(key, i) -> tuple:
        """The head of keys that comes next, and which of the heads of queries that read it."""
        if heads.group == 1:
            return key + apart, 0
        more = i + 1 < heads.group
        return jnp.where(more, key, key + apart), jnp.where(more, i + 1, 0)

    def by_head(by_keys, by_values, key, i, index):
        group, then = group_of(index), following(key, i)

        def next_head(ask):
            pl.when(then[0] < all_heads)(lambda: ask(group, *then))

        group.by_head(key, i, by_keys, by_values, next_head)
        return _again(index, key + i)

    def each(n, index):
        key, sums = first + n * apart, [plgpu.ACC((ROWS, heads.width // 2), jnp.float32)] * 2

        @partial(pl.run_scoped, by_keys=sums, by_values=sums)
        def _(by_keys, by_values):
            step = partial(by_head, by_keys, by_values, key)
            step(0, index) if heads.group == 1 else lax.fori_loop(0, heads.group, step, index)

        return _again(index, key)

    lax.fori_loop(0, lax.div(all_heads - first + apart - 1, apart), each, index)


def over(count: int, whole: int, width: int) -> plgpu.RefUnion:
    """Memory of the results, two halves of each head, and over it that of the gradients by scores. The former
    are filled up, so that each head's lie below its own: heads of a block do not wait for each other."""
    columns = min(ROUND, whole)
    by_scores = plgpu.SMEM((count, whole, columns), jnp.bfloat16, transforms=bank_tiles(width // 2))
    return plgpu.RefUnion(*memory(count, columns // (width // 2), whole, width // 2).refs, by_scores)


class Memories(NamedTuple):
    """What the kernel reads, and `out`, which it writes."""

    packed: jax.Ref
    given: jax.Ref
    mixed: jax.Ref
    totals: jax.Ref
    table: list[jax.Ref]
    out: jax.Ref


class Group(NamedTuple):
    """A group of warps: tile `own` of its head of keys, that head's shared memory, and when it is there."""

    heads: Heads
    own: jax.Array
    memories: Memories
    queries: list[Piece]
    keys: list[Piece]
    values: list[Piece]
    givens: list[Piece]
    mixes: list[Piece]  # the results; read before the first of
    by_scores: jax.Ref  # which lies over them, (keys, ROUND of queries)
    totals: jax.Ref
    shares: jax.Ref  # each query's sum of weights times what is said of them
    queries_here: jax.Ref  # and totals
    rest_here: jax.Ref  # of what belongs to them
    keys_here: jax.Ref  # and values
    met: jax.Ref  # all groups of the head

    def places(self, key, i) -> tuple:
        """Row of the batch, and places in it of a head of keys, and of the i-th of queries that reads it."""
        row, shared = lax.div(key, self.heads.shared), lax.rem(key, self.heads.shared)
        return row, self.heads.queries + shared, shared * self.heads.group + i

    def ask_queries(self, key, i) -> None:
        """The first group starts the copies of the i-th head of queries that reads a head of keys."""
        row, _, queries = self.places(key, i)

        @pl.when(self.own == 0)
        def _():
            self._copy(self.memories.packed, row, queries, self.queries, self.queries_here)
            plgpu.copy_gmem_to_smem(self.memories.totals.at[row, queries], self.totals, self.queries_here)

    def ask_rest(self, key, i) -> None:
        """The last group starts those of what belongs to it, and before the first, it and the first group
        those of keys and values."""
        row, keys, queries = self.places(key, i)

        def of_keys(place, there):
            _where(i == 0)(lambda: self._copy(self.memories.packed, row, place, there, self.keys_here))

        @pl.when(self.own == 0)
        def _():
            of_keys(keys, self.keys)

        @pl.when(self.own == self.heads.tiles - 1)
        def _():
            self._copy(self.memories.given, row, queries, self.givens, self.rest_here)
            self._copy(self.memories.mixed, row, queries, self.mixes, self.rest_here)
            of_keys(keys + self.heads.shared, self.values)

    def _copy(self, ref, row, place, there: list[Piece], here) -> None:
        copy_in(ref, row, place * self.heads.width, there, here)

    def meet(self) -> None:
        plgpu.barrier_arrive(self.met)
        plgpu.barrier_wait(self.met)

    def turn(self, there: list[Piece]) -> None:
        """Its tile."""
        if self.memories.table:
            turn(there, self.own, angles(self.memories.table, self.own))

    def turned_back(self, parts: list) -> list:
        return turned(parts, angles(self.memories.table, self.own), back=True)

    def leave(self, row, place, there: list[Piece], parts: list) -> None:
        """Copy a result out, by way of its tile `there`."""
        put(there, self.own, parts)
        plgpu.commit_smem()
        copy_out(there, self.own, self.memories.out, row, place * self.heads.width)

    def by_head(self, key, i, by_keys, by_values, next_head: Callable) -> None:
        """The i-th head of queries that reads its tile of keys meets it.

        Args:
            by_keys, by_values: sums over all such heads, in halves; they go out after the last.
            next_head: calls `ask_queries` or `ask_rest` for the head that comes next, if there is one.
        """
        heads, own = self.heads, self.own
        row, keys, queries = self.places(key, i)
        plgpu.barrier_wait(self.queries_here)
        self.turn(self.queries)
        plgpu.barrier_wait(self.rest_here)
        pairs = zip(halves(self.givens, own), halves(self.mixes, own), strict=True)
        self.shares[tile_at(own)] = sum(jnp.sum(a * b, axis=1) for a, b in pairs)

        @_where(i == 0)
        def _():
            plgpu.barrier_wait(self.keys_here)
            self.turn(self.keys)

        plgpu.commit_smem()
        self.meet()
        for start in range(0, heads.reach, ROUND):
            stop = min(start + ROUND, heads.reach)
            for first in range(start, stop, PART):
                self.by_part(first, first - start, by_keys, by_values)
            plgpu.commit_smem()
            self.meet()
            last = stop == heads.reach and i == heads.group - 1
            if stop == heads.reach:  # nobody reads the queries any more, nor others these values
                next_head(Group.ask_queries)

            @_where(last)
            def _():
                values = [total[...] for total in by_values]
                self.leave(row, keys + heads.shared, self.values, values)

            @pl.when((own * ROWS >= start) & (own * ROWS < stop))
            def _(start=start):
                self.leave(row, queries, self.givens, self.by_queries(own * ROWS - start))

            @_where(last)
            def _():
                self.meet()  # nor the keys
                by_own = [total[...] * heads.scale for total in by_keys]
                self.leave(row, keys, self.keys, self.turned_back(by_own))

            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            self.meet()
        next_head(Group.ask_rest)

    def by_part(self, first: int, column: int, by_keys, by_values) -> None:
        """PART queries from `first` on meet a tile of keys: adds what they say of it and of its values, and
        leaves the gradient by scores at a column."""
        rows, here, heads = tile_at(self.own), pl.ds(first, PART), self.heads

        def pairs(left, right):
            both = zip(left, right, strict=True)
            return [(a.seen.at[rows], b.seen.at[here].transpose((1, 0))) for a, b in both]

        scores, by_weights = products(pairs(self.keys, self.queries), pairs(self.values, self.givens))
        total, share = (
            lax.broadcast_in_dim(ref[here], scores.shape, (1,)) for ref in (self.totals, self.shares)
        )
        scores = scores * heads.unit - total
        if heads.causal:
            key = self.own * ROWS + lax.broadcasted_iota(jnp.int32, scores.shape, 0)
            query = first + lax.broadcasted_iota(jnp.int32, scores.shape, 1)
            scores = jnp.where(key <= query, scores, LOWEST)
        weights = jnp.exp2(scores)
        by_scores = (weights * (by_weights - share)).astype(jnp.bfloat16)
        self.by_scores[rows, pl.ds(column, PART)] = by_scores
        for totals, left, there in (
            (by_values, weights.astype(jnp.bfloat16), self.givens),
            (by_keys, by_scores, self.queries),
        ):
            for total, piece in zip(totals, there, strict=True):
                plgpu.wgmma(total, left, piece.seen.at[here])
        plgpu.wgmma_wait(0)

    def by_queries(self, column) -> list:
        """The gradient by its tile of queries, in halves; that by scores begins at a column."""
        total = plgpu.ACC((ROWS, self.heads.width // 2), jnp.float32)

        @partial(pl.run_scoped, totals=[total] * 2)
        def parts(totals):
            for first in range(0, self.heads.reach, ROWS):
                keys = pl.ds(first, min(ROWS, self.heads.reach - first))
                by_scores = self.by_scores.at[keys, pl.ds(column, ROWS)].transpose((1, 0))
                for total, piece in zip(totals, self.keys, strict=True):
                    plgpu.wgmma(total, by_scores, piece.seen.at[keys])
            return [total[...] * self.heads.scale for total in totals]

        return self.turned_back(parts)


def _again(value, index):
    """The same, which the compiler does not see: what follows from it would be kept in registers that there
    are not, loop after loop."""
    return jnp.where(index < 0, 0, value)


def _where(condition):
    """`pl.when`, which decides at once what is known."""
    return pl.when(condition) if isinstance(condition, jax.Array) else lambda do: do() if condition else None
