"""Attention over short sequences in one pass, for Hopper GPUs: all keys of a head lie in shared memory.

Queries, keys and values come as one product leaves them, (B, T, (A + 2 G) E): A heads of queries, then G of
keys, then G of values. They turn by their positions, meet and mix without leaving the chip; the gradient does
it again from what the forward pass keeps, the result and one number for each query.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import ROWS, bank_tiles, launch
from saccade.kernels.head import (
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

LOWEST = -1e30  # a score that may not be: exp2 of it is 0, and of its difference to another such no NaN
PART = 32  # queries that meet a tile of keys at once in the gradient, and what products sum over in steps of
ROUND = 128  # queries whose gradients by scores lie in shared memory at once
GROUPS = 4  # of warps in a block of the gradient: more would have fewer registers than it needs
BLOCKS = 96  # of several heads, at least: with fewer, too many multiprocessors have none


class Heads(NamedTuple):
    """What a packed row holds: `length` T, `queries` A, `shared` G, `width` E."""

    length: int
    queries: int
    shared: int
    width: int
    causal: bool

    @property
    def group(self) -> int:
        """Query heads that read one head of keys."""
        return self.queries // self.shared

    @property
    def tiles(self) -> int:
        """Of ROWS tokens, the last filled up with zeros."""
        return pl.cdiv(self.length, ROWS)

    @property
    def reach(self) -> int:
        """Tokens that products take of the tiles: T, up to a multiple of PART."""
        return PART * pl.cdiv(self.length, PART)

    @property
    def scale(self) -> float:
        return self.width**-0.5

    def read(self, tile: int) -> int:
        """Keys from the first on that a tile of queries meets."""
        return min(self.reach, (tile + 1) * ROWS) if self.causal else self.reach


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def attention(packed, table, heads: Heads):
    """softmax(Q K^T / sqrt(E)) V per head, scores and sums in float32.

    Args: packed: bfloat16 (B, T, (A + 2 G) E).  table: cosines and sines that queries and keys turn by, each
        float32 (T, E / 2); () = they do not.
    Returns: (B, T, A E).
    Source: FlashAttention, arXiv:2205.14135, with all keys as one tile.
    """
    return _mixed(packed, table, heads, keep=False)[0]


def _attention_keep(packed, table, heads):
    mixed, totals = _mixed(packed, table, heads, keep=True)
    return mixed, (packed, table, mixed, totals)


def _attention_gradient(heads, kept, given):
    packed, table, mixed, totals = kept
    return _by_packed(packed, table, mixed, totals, given, heads), jax.tree.map(jnp.zeros_like, table)


attention.defvjp(_attention_keep, _attention_gradient)


@partial(jax.jit, static_argnames=("heads", "keep"))
def _mixed(packed, table, heads: Heads, keep: bool) -> list:
    """The result, and with `keep` float32 (B, A, tiles * ROWS), each query's log2 of the sum of its weights.

    A block is one group of warps with one head of queries, which give place to the result, tile by tile.
    """
    width, whole, table = heads.width, heads.tiles * ROWS, by_position(table, heads.tiles * ROWS)

    def body(packed_ref, *refs):
        table_refs, (out_ref, *refs) = refs[: len(table)], refs[len(table) :]
        *totals_ref, queries, keys, values, totals, first, second = refs
        queries, keys, values = map(pieces, (queries, keys, values))
        row, head = _split(lax.axis_index("grid"), heads.queries)
        shared = heads.queries + lax.div(head, heads.group)
        copy_in(packed_ref, row, head * width, queries, first)
        copy_in(packed_ref, row, shared * width, keys, first)
        copy_in(packed_ref, row, (shared + heads.shared) * width, values, second)
        turns = [angles(table_refs, tile) for tile in range(heads.tiles)]
        plgpu.barrier_wait(first)
        for tile, by in enumerate(turns):
            turn([queries, keys], tile, by)
        plgpu.commit_smem()
        plgpu.barrier_wait(second)
        for tile in range(heads.tiles):
            own, read = tile_at(tile), pl.ds(0, heads.read(tile))
            raised, total, highest = _raised(queries, keys, tile, heads)
            weights = raised.astype(packed.dtype)
            parts = _sums(*([(weights, piece.seen.at[read])] for piece in values))
            share = lax.broadcast_in_dim(1 / total, parts[0].shape, (0,))
            put(queries, tile, [part * share for part in parts])
            if keep:
                totals[own] = highest + jnp.log(total) * math.log2(math.e)
            plgpu.commit_smem()
            copy_out(queries, tile, out_ref, row, head * width)
            for ref in totals_ref:
                plgpu.copy_smem_to_gmem(totals.at[own], ref.at[row, head, own])
        plgpu.wait_smem_to_gmem(0)

    out_type = [jax.ShapeDtypeStruct((*packed.shape[:2], heads.queries * width), packed.dtype)]
    if keep:
        out_type.append(jax.ShapeDtypeStruct((len(packed), heads.queries, whole), jnp.float32))
    scratch = [
        [memory(whole, width)],
        [memory(whole, width)],
        [memory(whole, width // 2)] * 2,  # halves: the sum over keys goes in smaller steps
        plgpu.SMEM((whole,), jnp.float32),
        plgpu.Barrier(num_arrivals=2),
        plgpu.Barrier(num_arrivals=2),
    ]
    return launch("attention", body, out_type, 1, len(packed) * heads.queries, scratch)(packed, *table)


def _raised(queries: list, keys: list, tile: int, heads: Heads) -> tuple:
    """exp2 of a tile's scores less each row's highest, (ROWS, keys); sums and highest of rows, (ROWS,)."""
    own, read = tile_at(tile), pl.ds(0, heads.read(tile))
    pairs = [(q.seen.at[own], k.seen.at[read].transpose((1, 0))) for q, k in zip(queries, keys, strict=True)]
    scores = _hidden(_sums(pairs)[0], tile, heads)
    unit = heads.scale * math.log2(math.e)
    highest = jnp.max(scores, axis=1) * unit
    raised = jnp.exp2(scores * unit - lax.broadcast_in_dim(highest, scores.shape, (0,)))
    return raised, jnp.sum(raised, axis=1), highest


def _hidden(scores, tile: int, heads: Heads):
    """LOWEST where a query of the tile may not look: to what follows it, or beyond T."""
    start = tile * ROWS if heads.causal else heads.length // 8 * 8
    if start >= scores.shape[1]:
        return scores
    rest = scores[:, start:]
    key = start + lax.broadcasted_iota(jnp.int32, rest.shape, 1)
    last = tile * ROWS + lax.broadcasted_iota(jnp.int32, rest.shape, 0) if heads.causal else heads.length - 1
    rest = jnp.where(key <= last, rest, LOWEST)
    return jnp.concatenate([scores[:, :start], rest], axis=1) if start else rest


@partial(jax.jit, static_argnames="heads")
def _by_packed(packed, table, mixed, totals, given, heads: Heads):
    """Gradient by `packed`, given that by the result.

    Each group of warps has a tile of keys, and as many as a head has tiles have that head. A group meets the
    queries PART by PART, with scores turned, (keys, queries): so sums by values take weights from registers.
    The gradient by scores lies in shared memory, ROUND by ROUND, for sums by keys and for all groups, each of
    which has a tile of queries too.
    """
    width, tiles, whole = heads.width, heads.tiles, heads.tiles * ROWS
    count = _heads_at_once(len(packed) * heads.shared, tiles)
    table = by_position(table, whole)

    def body(packed_ref, mixed_ref, totals_ref, given_ref, *refs):
        table_refs, (out_ref, *refs) = refs[: len(table)], refs[len(table) :]
        queries, keys, values, givens, over, totals, shares, *barriers = refs
        group = lax.axis_index("group")
        slot, place = lax.div(group, tiles), lax.rem(group, tiles)
        row, shared = _split(lax.axis_index("grid") * count + slot, heads.shared)
        *mixes, by_scores = over
        held = Held(
            *(pieces(refs, slot) for refs in (queries, keys, values, givens)),
            [Piece(*(seen.at[slot, half] for seen in mixes)) for half in range(2)],
            by_scores.at[slot],
            totals.at[slot],
            shares.at[slot],
            *(barrier.at[slot] for barrier in barriers),
        )
        sources = packed_ref, given_ref, mixed_ref, totals_ref
        sums = [plgpu.ACC((ROWS, width // 2), jnp.float32)] * 4
        for own in range(tiles):
            pl.when(place == own)(
                lambda own=own: pl.run_scoped(
                    partial(_by_tile, held, sources, table_refs, out_ref, row, shared, own, heads), *sums
                )
            )

    def head():
        return [memory(count, whole, width // 2)] * 2

    scratch = [
        *(head() for _ in range(4)),
        _over(count, whole, width),
        plgpu.SMEM((count, whole), jnp.float32),
        plgpu.SMEM((count, whole), jnp.float32),
        *(plgpu.Barrier(num_arrivals=n, num_barriers=count) for n in (2, 4, 5, tiles)),
    ]
    out_type = jax.ShapeDtypeStruct(packed.shape, packed.dtype)
    blocks = len(packed) * heads.shared // count
    return launch("attention_gradient", body, out_type, tiles * count, blocks, scratch)(
        packed, mixed, totals, given, *table
    )


def _heads_at_once(heads: int, tiles: int) -> int:
    """Of keys, in a block of the gradient: so many that it has GROUPS groups, for then the compiler leaves a
    thread no more registers than two blocks of half the groups could have."""
    counts = range(GROUPS // tiles, 1, -1)
    return next((count for count in counts if heads % count == 0 and heads // count >= BLOCKS), 1)


def _over(count: int, whole: int, width: int) -> plgpu.RefUnion:
    """Memory of the results, two halves of each head, and over it that of the gradients by scores. The former
    are filled up, so that each head's lie below its own: heads of a block do not wait for each other."""
    columns = min(ROUND, whole)
    by_scores = plgpu.SMEM((count, whole, columns), jnp.bfloat16, transforms=bank_tiles(width // 2))
    return plgpu.RefUnion(*memory(count, columns // (width // 2), whole, width // 2).refs, by_scores)


class Held(NamedTuple):
    """A head's shared memory in the gradient, and when it is there."""

    queries: list[Piece]
    keys: list[Piece]
    values: list[Piece]
    givens: list[Piece]
    mixes: list[Piece]  # the results; read before the first of
    by_scores: jax.Array  # which lies over them, (keys, ROUND of queries)
    totals: jax.Array
    shares: jax.Array  # each query's sum of weights times what is said of them
    queries_here: jax.Array
    keys_here: jax.Array
    rest_here: jax.Array
    met: jax.Array  # all groups of the head

    def meet(self) -> None:
        plgpu.barrier_arrive(self.met)
        plgpu.barrier_wait(self.met)


def _by_tile(held, sources, table, out_ref, row, shared, own: int, heads: Heads, *sums) -> None:
    """What group `own` of a head does: its tile of keys, for all queries that read the head."""
    width, key = heads.width, heads.queries + shared
    by_keys, by_values = sums[:2], sums[2:]
    for i in range(heads.group):
        head = shared * heads.group + i
        if own == 0:
            _ask(held, sources, row, head, None if i else key, heads)
        turns = angles(table, own)
        plgpu.barrier_wait(held.queries_here)
        if i == 0:
            plgpu.barrier_wait(held.keys_here)
        turn([held.queries] if i else [held.queries, held.keys], own, turns)
        plgpu.barrier_wait(held.rest_here)
        pairs = zip(halves(held.givens, own), halves(held.mixes, own), strict=True)
        held.shares[tile_at(own)] = sum(jnp.sum(a * b, axis=1) for a, b in pairs)
        plgpu.commit_smem()
        held.meet()
        for start in range(0, heads.reach, ROUND):
            stop = min(start + ROUND, heads.reach)
            for first in range(start, stop, PART):
                if not heads.causal or first + PART > own * ROWS:
                    _by_part(held, own, first, first - start, by_values, heads)
            plgpu.commit_smem()
            held.meet()
            seen = max(start, own * ROWS) if heads.causal else start
            if seen < stop:
                _add_by_keys(held, own, seen, stop, seen - start, by_keys)
            if start <= own * ROWS < stop:
                _by_queries(held, own, own * ROWS - start, table, heads)
                copy_out(held.givens, own, out_ref, row, head * width)
            if stop < heads.reach or i < heads.group - 1:
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                held.meet()
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    by_own = [total[...] * heads.scale for total in by_keys]
    put(held.givens, own, turned(by_own, angles(table, own), back=True))
    put(held.values, own, [total[...] for total in by_values])
    plgpu.commit_smem()
    copy_out(held.givens, own, out_ref, row, key * width)
    copy_out(held.values, own, out_ref, row, (key + heads.shared) * width)
    plgpu.wait_smem_to_gmem(0)


def _ask(held, sources, row, head, key, heads: Heads) -> None:
    """Start the copies of what belongs to a head of queries, and of keys and values where `key` is a head."""
    packed_ref, given_ref, mixed_ref, totals_ref = sources
    width = heads.width
    copy_in(packed_ref, row, head * width, held.queries, held.queries_here)
    if key is not None:
        copy_in(packed_ref, row, key * width, held.keys, held.keys_here)
        copy_in(packed_ref, row, (key + heads.shared) * width, held.values, held.keys_here)
    copy_in(given_ref, row, head * width, held.givens, held.rest_here)
    copy_in(mixed_ref, row, head * width, held.mixes, held.rest_here)
    plgpu.copy_gmem_to_smem(totals_ref.at[row, head], held.totals, held.rest_here)


def _by_part(held, own: int, first: int, column: int, by_values, heads: Heads) -> None:
    """PART queries from `first` on meet a tile of keys: adds what they say of its values, and leaves the
    gradient by scores at a column."""
    rows, here = tile_at(own), pl.ds(first, PART)

    def pairs(left, right):
        both = zip(left, right, strict=True)
        return [(a.seen.at[rows], b.seen.at[here].transpose((1, 0))) for a, b in both]

    scores, by_weights = _sums(pairs(held.keys, held.queries), pairs(held.values, held.givens))
    total, share = (lax.broadcast_in_dim(ref[here], scores.shape, (1,)) for ref in (held.totals, held.shares))
    scores = scores * (heads.scale * math.log2(math.e)) - total
    if heads.causal and first < (own + 1) * ROWS:
        key = lax.broadcasted_iota(jnp.int32, scores.shape, 0)
        query = first - own * ROWS + lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        scores = jnp.where(key <= query, scores, LOWEST)
    weights = jnp.exp2(scores)
    by_scores = (weights * (by_weights - share)).astype(jnp.bfloat16)
    weights = weights.astype(jnp.bfloat16)
    held.by_scores[rows, pl.ds(column, PART)] = by_scores
    for total, piece in zip(by_values, held.givens, strict=True):
        plgpu.wgmma(total, weights, piece.seen.at[here])
    plgpu.wgmma_wait(0)


def _add_by_keys(held, own: int, first: int, stop: int, column: int, by_keys) -> None:
    """What queries [first, stop), whose gradients by scores begin at a column, say of a tile of keys."""
    count = stop - first
    by_scores = held.by_scores.at[tile_at(own), pl.ds(column, count)]
    for total, piece in zip(by_keys, held.queries, strict=True):
        plgpu.wgmma(total, by_scores, piece.seen.at[pl.ds(first, count)])
    plgpu.wgmma_wait(0)


def _by_queries(held, tile: int, column: int, table: list, heads: Heads) -> None:
    """The gradient by a tile of queries, where what was given by results lay; that by scores begins
    at a column."""
    keys = pl.ds(0, heads.read(tile))
    turns = angles(table, tile)
    by_scores = held.by_scores.at[keys, pl.ds(column, ROWS)].transpose((1, 0))
    parts = _sums(*([(by_scores, piece.seen.at[keys])] for piece in held.keys))
    put(held.givens, tile, turned([part * heads.scale for part in parts], turns, back=True))
    plgpu.commit_smem()


def _sums(*several: list) -> list:
    """For each list of pairs, the sum of left @ right, float32."""

    def multiply(*totals):
        for total, pairs in zip(totals, several, strict=True):
            for left, right in pairs:
                plgpu.wgmma(total, left, right)
        return [total[...] for total in totals]

    shapes = [(pairs[0][0].shape[0], pairs[0][1].shape[1]) for pairs in several]
    return pl.run_scoped(multiply, *(plgpu.ACC(shape, jnp.float32) for shape in shapes))


def _split(block, heads: int) -> tuple:
    """Row of the batch, and head."""
    return lax.div(block, heads), lax.rem(block, heads)
