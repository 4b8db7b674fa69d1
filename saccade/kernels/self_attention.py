"""Attention over short sequences in one pass: all keys of a head fit into a multiprocessor.

Queries, keys and values come as one product leaves them, (B, T, (A + 2 G) E): A heads of queries, then G of
keys, then G of values. They turn by their positions, meet and mix without leaving the chip; the gradient does
all of it again, so that nothing else is kept. Written in Pallas for Triton.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

LOWEST = -1e30  # a score that may not be: exp2 of it is 0, and of its difference to another such no NaN


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
    def tile(self) -> int:
        """Rows that hold all keys: T, up to a power of two, as Triton has its tiles."""
        return pl.next_power_of_2(self.length)

    # What follows was fastest of some (docs/log.md, 2026-11-28).
    def at_once(self, back: bool) -> int:
        """Queries that meet the keys at once; fewer back, where sums by keys and values lie in registers."""
        most = 128 if self.tile <= 128 else 64
        return min(self.tile, most // 2 if back else most)

    def warps(self, back: bool) -> int:
        return 8 if back or self.tile <= 128 else 4


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def attention(packed, table, heads: Heads):
    """softmax(Q K^T / sqrt(E)) V per head, scores and sums in float32.

    Args: packed: (B, T, (A + 2 G) E).  table: cosines and sines that queries and keys turn by, each float32
        (T, E / 2); () = they do not.
    Returns: (B, T, A E).
    Source: FlashAttention, arXiv:2205.14135, with all keys as one tile.
    """
    return _mixed(packed, table, heads)[0]


def _attention_keep(packed, table, heads):
    mixed, totals = _mixed(packed, table, heads)
    return mixed, (packed, table, mixed, totals)


def _attention_gradient(heads, kept, given):
    packed, table, mixed, totals = kept
    return _by_packed(packed, table, mixed, totals, given, heads), jax.tree.map(jnp.zeros_like, table)


attention.defvjp(_attention_keep, _attention_gradient)


@partial(jax.jit, static_argnames="heads")
def _mixed(packed, table, heads: Heads) -> list:
    """The result, and float32 (B, A, T), each query's log2 of the sum of its weights, for the gradient."""
    rows = heads.at_once(back=False)

    def body(q_ref, k_ref, v_ref, *refs):
        *table, out_ref, total_ref = refs
        start = pl.program_id(2) * rows
        keys, values = _head(k_ref, table, 0, heads.tile, 0, heads), _load(v_ref, 0, heads.tile, 0, heads)
        queries = _head(q_ref, table, start, rows, 0, heads)
        scores = _scores(queries, keys, start, heads)
        highest = jnp.max(scores, axis=1)
        raised = jnp.exp2(scores - highest[:, None])
        total = jnp.sum(raised, axis=1)
        _store(out_ref, start, 0, [_product(raised.astype(values.dtype), values) / total[:, None]], heads)
        triton.store(
            total_ref.at[pl.ds(start, rows)], highest + jnp.log2(total), mask=_exist(start, (rows,), heads)
        )

    def part(place):
        return pl.BlockSpec((None, heads.tile, heads.width), place)

    values_at = heads.queries + heads.shared
    return pl.pallas_call(
        body,
        out_shape=[
            jax.ShapeDtypeStruct((*packed.shape[:2], heads.queries * heads.width), packed.dtype),
            jax.ShapeDtypeStruct((len(packed), heads.queries, heads.length), jnp.float32),
        ],
        grid=(len(packed), heads.queries, pl.cdiv(heads.length, rows)),
        in_specs=[
            part(lambda b, h, i: (b, 0, h)),
            part(lambda b, h, i: (b, 0, heads.queries + h // heads.group)),
            part(lambda b, h, i: (b, 0, values_at + h // heads.group)),
            *_table_parts(table, heads),
        ],
        out_specs=[
            part(lambda b, h, i: (b, 0, h)),
            pl.BlockSpec((None, None, heads.tile), lambda b, h, i: (b, h, 0)),
        ],
        compiler_params=triton.CompilerParams(num_warps=heads.warps(back=False), num_stages=2),
        name="attention",
    )(packed, packed, packed, *table)


@partial(jax.jit, static_argnames="heads")
def _by_packed(packed, table, mixed, totals, given, heads: Heads):
    """Gradient by `packed`, given that by the result. A block has a head of keys, and sums what the queries
    that read it say of its keys and values. Weights stand here as (keys, queries): so those sums take them as
    they lie in registers."""
    rows, width = heads.at_once(back=True), heads.width

    def body(q_ref, k_ref, v_ref, mixed_ref, totals_ref, given_ref, *refs):
        *table, out_ref = refs
        own = pl.program_id(1)
        keys, values = _head(k_ref, table, 0, heads.tile, 0, heads), _load(v_ref, 0, heads.tile, 0, heads)

        def add(i, sums):
            by_keys, by_values = sums
            head, start = lax.rem(i, heads.group), lax.div(i, heads.group) * rows
            column, exist = head * width, _exist(start, (rows,), heads)
            queries = _head(q_ref, table, start, rows, column, heads)
            by_mixed, mixed = (_load(ref, start, rows, column, heads) for ref in (given_ref, mixed_ref))
            shared = jnp.sum(mixed.astype(jnp.float32) * by_mixed.astype(jnp.float32), axis=1)
            total = triton.load(totals_ref.at[head, pl.ds(start, rows)], mask=exist, other=_other(exist))
            weights = jnp.exp2(_scores(queries, keys, start, heads, turned=True) - total[None])
            by_weights = _product(values, by_mixed.T)
            by_scores = (weights * (by_weights - shared[None]) * width**-0.5).astype(packed.dtype)
            by_queries = [_product(by_scores.T, part) for part in keys]
            by_queries = _turned(by_queries, table, start, heads, back=True)
            _store(out_ref, start, own * heads.group * width + column, by_queries, heads)
            by_keys = [s + _product(by_scores, part) for s, part in zip(by_keys, queries, strict=True)]
            return by_keys, by_values + _product(weights.astype(packed.dtype), by_mixed)

        nothing = [jnp.zeros(part.shape, jnp.float32) for part in keys], jnp.zeros(values.shape, jnp.float32)
        by_keys, by_values = lax.fori_loop(0, heads.group * pl.cdiv(heads.length, rows), add, nothing)
        by_keys = _turned(by_keys, table, 0, heads, back=True)
        _store(out_ref, 0, (heads.queries + own) * width, by_keys, heads)
        _store(out_ref, 0, (values_at + own) * width, [by_values], heads)

    def part(count, place):
        return pl.BlockSpec((None, heads.tile, count * width), place)

    values_at = heads.queries + heads.shared
    return pl.pallas_call(
        body,
        out_shape=jax.ShapeDtypeStruct(packed.shape, packed.dtype),
        grid=(len(packed), heads.shared),
        in_specs=[
            part(heads.group, lambda b, g: (b, 0, g)),
            part(1, lambda b, g: (b, 0, heads.queries + g)),
            part(1, lambda b, g: (b, 0, values_at + g)),
            part(heads.group, lambda b, g: (b, 0, g)),
            pl.BlockSpec((None, heads.group, heads.tile), lambda b, g: (b, g, 0)),
            part(heads.group, lambda b, g: (b, 0, g)),
            *_table_parts(table, heads),
        ],
        out_specs=part(values_at + heads.shared, lambda b, g: (b, 0, 0)),
        compiler_params=triton.CompilerParams(num_warps=heads.warps(back=True), num_stages=2),
        name="attention_gradient",
    )(packed, packed, packed, mixed, totals, given, *table)


def _table_parts(table, heads: Heads) -> list:
    return [pl.BlockSpec((heads.tile, part.shape[1]), lambda *_: (0, 0)) for part in table]


def _scores(queries: list, keys: list, start, heads: Heads, turned: bool = False):
    """float32 (rows, tile), or turned (tile, rows), times log2(e); LOWEST where a query may not look.

    start: the first query's place.
    """
    pairs = zip(keys, queries, strict=True) if turned else zip(queries, keys, strict=True)
    scores = sum(_product(left, right.T) for left, right in pairs) * (math.log2(math.e) * heads.width**-0.5)
    key = lax.broadcasted_iota(jnp.int32, scores.shape, 1 - turned)
    if heads.causal:
        query = start + lax.broadcasted_iota(jnp.int32, scores.shape, int(turned))
        scores = jnp.where(key <= query, scores, LOWEST)
    return scores if heads.length == heads.tile else jnp.where(key < heads.length, scores, LOWEST)


def _head(ref, table, start, rows: int, column, heads: Heads) -> list:
    """Queries or keys: two halves, turned, which never need lie side by side; without a table, one whole."""
    if not table:
        return [_load(ref, start, rows, column, heads)]
    half = heads.width // 2
    halves = [_load(ref, start, rows, column + i * half, heads, half) for i in range(2)]
    return [part.astype(ref.dtype) for part in _turned(halves, table, start, heads)]


def _turned(parts: list, table, start, heads: Heads, back: bool = False) -> list:
    """Halves (rows, E / 2), turned by their positions, or back; float32."""
    if not table:
        return parts
    first, second = (part.astype(jnp.float32) for part in parts)
    cos, sin = (_load(t, start, len(first), 0, heads, first.shape[1]) for t in table)
    sin = -sin if back else sin
    return [first * cos - second * sin, second * cos + first * sin]


def _product(a, b):
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _load(ref, start, rows: int, column, heads: Heads, columns: int | None = None):
    """(rows, columns or E) of a block; zeros below its sequence's end."""
    columns = columns or heads.width
    exist = _exist(start, (rows, columns), heads)
    return triton.load(ref.at[pl.ds(start, rows), pl.ds(column, columns)], mask=exist, other=_other(exist))


def _store(ref, start, column, parts: list, heads: Heads) -> None:
    for i, part in enumerate(parts):
        rows, columns = part.shape
        place = pl.ds(start, rows), pl.ds(column + i * columns, columns)
        triton.store(ref.at[place], part.astype(ref.dtype), mask=_exist(start, part.shape, heads))


def _exist(start, shape: tuple, heads: Heads):
    """Which of a tile lies within the sequence, by its rows; None = all, wherever it starts."""
    if heads.length % shape[0] == 0:
        return None
    return start + lax.broadcasted_iota(jnp.int32, shape, 0) < heads.length


def _other(exist):
    return None if exist is None else 0.0
