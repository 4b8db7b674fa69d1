"""Attention over short sequences in one pass, for Hopper GPUs: all keys of a head lie in shared memory.

Queries, keys and values come as one product leaves them, (B, T, (A + 2 G) E): A heads of queries, then G of
keys, then G of values. They turn by their positions, meet and mix without leaving the chip; the gradient does
it again from what the forward pass keeps, the result and one number for each query.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.attention_gradient import by_packed
from saccade.kernels.common import LOWEST, ROWS, launch, products
from saccade.kernels.head import (
    Heads,
    angles,
    by_position,
    copy_in,
    copy_out,
    memory,
    pieces,
    put,
    tile_at,
    turn,
)


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
    return by_packed(packed, table, mixed, totals, given, heads), jax.tree.map(jnp.zeros_like, table)


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
        block = lax.axis_index("grid")
        row, head = lax.div(block, heads.queries), lax.rem(block, heads.queries)
        shared = heads.queries + lax.div(head, heads.group)
        copy_in(packed_ref, row, head * width, queries, first)
        copy_in(packed_ref, row, shared * width, keys, first)
        copy_in(packed_ref, row, (shared + heads.shared) * width, values, second)
        turns = [list(angles(table_refs, tile)) for tile in range(heads.tiles)]
        plgpu.barrier_wait(first)
        for tile, by in enumerate(turns if table else ()):
            turn(queries, tile, by)
            turn(keys, tile, by)
        plgpu.commit_smem()
        plgpu.barrier_wait(second)
        for tile in range(heads.tiles):
            own, read = tile_at(tile), pl.ds(0, heads.read(tile))
            raised, total, highest = _raised(queries, keys, tile, heads)
            weights = raised.astype(packed.dtype)
            parts = products(*([(weights, piece.seen.at[read])] for piece in values))
            share = lax.broadcast_in_dim(1 / total, parts[0].shape, (0,))
            put(queries, tile, [part * share for part in parts])
            if keep:
                totals[own] = highest + jnp.log(total) * math.log2(math.e)
            plgpu.commit_smem()
            copy_out(queries, tile, out_ref, row, head * width)
            for ref in totals_ref:
                plgpu.copy_smem_to_gmem(totals.at[own], ref.at[row, head, own])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

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
    scores = _hidden(products(pairs)[0], tile, heads)
    highest = jnp.max(scores, axis=1) * heads.unit
    raised = jnp.exp2(scores * heads.unit - lax.broadcast_in_dim(highest, scores.shape, (0,)))
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
