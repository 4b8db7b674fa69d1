"""Kinds of attention: the projections, masks and positions of the one Attention, another way to mix."""

import math

import keras
import numpy as np
from keras import ops

from saccade.layers.attention import Attention, masked_softmax, repeat_heads
from saccade.layers.normalization import RMSNorm


class DifferentialAttention(Attention):
    """The difference of two softmax maps, so that what both attend by habit cancels.

    Queries and keys of a head are two halves of width d = E / 2. A head reads
    (1 - l0) RMSNorm((softmax(Q1 K1^T / sqrt(d)) - l softmax(Q2 K2^T / sqrt(d))) V), with the norm head by
    head (one gain for all), l = exp(q1 . k1) - exp(q2 . k2) + l0 of four learned vectors, shared by the
    heads of a layer, and l0 = 0.8 - 0.6 exp(-0.3 layer_index).

    Args:
        layer_index: depth of the layer, from 0 (the paper counts from 1 and subtracts it).
        Others: of Attention; num_heads heads of dim / num_heads, which must be even (with RoPE a multiple
            of 4). A table of positions has half the pairs: (T, E / 4).
    Call: as Attention. The weights are the difference: signed, each row sums to 1 - l.
    Raises: ValueError: a head is odd (states its width).
    Source: Differential Transformer, sections 2.1 and 2.2, arXiv:2410.05258.
    """

    def __init__(self, dim: int, num_heads: int, layer_index: int = 0, **kwargs):
        super().__init__(dim, num_heads, **kwargs)
        parts = 2 if self.rope_theta is None else 4
        if self.head_dim % parts:
            raise ValueError(f"a differential head is {self.head_dim} wide; choose a multiple of {parts}")
        self.layer_index = layer_index
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer_index)
        self.head_norm = RMSNorm(self.head_dim, dtype=self.dtype_policy, name="head_norm")

    def build(self, input_shape=None, memory_dim: int | None = None):
        super().build(input_shape, memory_dim)
        self.head_norm.build()
        self.lambdas = self.add_weight(  # rows q1, k1, q2, k2
            shape=(4, self.head_dim // 2),
            initializer=keras.initializers.RandomNormal(stddev=0.1),
            name="lambdas",
        )

    def _place(self, x, positions):
        """(B, T, A, E) -> (B, T, 2A, E / 2): the first halves of all heads, then the second."""
        return super()._place(ops.concatenate(ops.split(x, 2, axis=-1), axis=2), positions)

    def _mix(self, queries, keys, values, mask, causal, return_scores, never_empty):
        # Kernels want keys as wide as values: zeros fill them, and sqrt(2) undoes the scale of the width.
        queries, keys = (ops.concatenate([t, ops.zeros_like(t)], axis=-1) for t in (queries * 2**0.5, keys))
        twice = ops.concatenate([values, values], axis=2)
        mixed, scores = super()._mix(queries, keys, twice, mask, causal, return_scores, never_empty)
        first, second = ops.split(ops.cast(mixed, "float32"), 2, axis=2)
        weight = self._lambda()
        mixed = self.head_norm(ops.cast(first - weight * second, values.dtype)) * (1 - self.lambda_init)
        if return_scores:
            first, second = ops.split(scores, 2, axis=1)
            scores = first - weight * second
        return mixed, scores

    def _lambda(self):
        q1, k1, q2, k2 = ops.unstack(ops.cast(self.lambdas, "float32"), 4, axis=0)
        return ops.exp(ops.sum(q1 * k1)) - ops.exp(ops.sum(q2 * k2)) + self.lambda_init


class LocalSparseAttention(Attention):
    """Softmax attention to near tokens, and between a few global tokens and all.

    Query t attends keys t - window..t + window (causal: up to t) and keys 0..num_global - 1; queries
    0..num_global - 1 attend all. Computed by blocks of `window` queries, each with the 3 blocks around it:
    O(T (3 window + num_global)) time and memory instead of O(T^2). Short sequences, and `return_scores`,
    whose result has T^2 entries anyway, are computed densely; an attention_mask of its own for every query
    has T^2 entries too, a padding mask (B, 1, T) has T.

    Args:
        window: how far a token sees to each side, in tokens; at least 1.
        num_global: how many tokens, from the first, see and are seen by all.
        Others: of Attention.
    Call: as Attention, of x to itself: as many keys as queries.
    Raises: ValueError: window < 1 or num_global < 0; or, in the call, other numbers of keys and queries.
    Source: Longformer, sections 3.1 and 3.2, arXiv:2004.05150, whose window is 2 * window wide. Differs:
        global tokens share the projections of the others.
    """

    def __init__(self, dim: int, num_heads: int, window: int = 64, num_global: int = 0, **kwargs):
        super().__init__(dim, num_heads, **kwargs)
        if window < 1 or num_global < 0:
            raise ValueError(f"window={window}, num_global={num_global}; choose at least 1 and at least 0")
        self.window = window
        self.num_global = num_global

    def _mix(self, queries, keys, values, mask, causal, return_scores, never_empty):
        length = queries.shape[1]
        if keys.shape[1] != length:
            raise ValueError(f"local attention of {length} queries to {keys.shape[1]} keys; give as many")
        if return_scores or 3 * self.window + self.num_global >= length:
            pattern = self._allowed(*np.indices((length, length)), length, causal)[None, None]
            mask = pattern if mask is None else ops.logical_and(mask, pattern)
            return super()._mix(queries, keys, values, mask, False, return_scores, False)
        mixed = self._near(queries, keys, values, mask, causal)
        if self.num_global:
            first = self._allowed(*np.indices((self.num_global, length)), length, causal)[None, None]
            if mask is not None:
                rows = mask if mask.shape[2] == 1 else mask[:, :, : self.num_global]
                first = ops.logical_and(rows, first)
            whole, _ = super()._mix(queries[:, : self.num_global], keys, values, first, False, False, False)
            mixed = ops.concatenate([whole, mixed[:, self.num_global :]], axis=1)
        return mixed, None

    def _allowed(self, query, key, length, causal):
        """Which places `query` may attend which places `key`: integer arrays -> bool array."""
        near = abs(query - key) <= self.window
        seen = near | (key < self.num_global) | (query < self.num_global)
        return seen & (key >= 0) & (key < length) & ((key <= query) | (not causal))

    def _near(self, queries, keys, values, mask, causal):
        """Windows and global keys of all queries, block by block: (B, T, A, E)."""
        length, window = queries.shape[1], self.window
        blocks = -(-length // window)
        around = np.arange(-window, window if causal else 2 * window) + window * np.arange(blocks)[:, None]
        # A global key is read once: as a global key, not as a near one.
        around = np.where(around < self.num_global, length, around)
        shared = np.broadcast_to(np.arange(self.num_global), (blocks, self.num_global))
        places = np.concatenate([shared, around], axis=1)  # (blocks, K)
        rows = np.arange(blocks * window).reshape(blocks, window)
        allowed = self._allowed(rows[:, :, None], places[:, None], length, causal)
        places = np.minimum(places, length - 1)
        if mask is not None:
            mask = ops.logical_and(mask, np.ones((1, 1, 1, length), bool))  # a last axis of 1 is broadcast
            allowed = ops.logical_and(allowed, _gather(mask[:, 0], np.minimum(rows, length - 1), places))
        queries = ops.pad(queries, ((0, 0), (0, blocks * window - length), (0, 0), (0, 0)))
        queries = ops.reshape(queries, (-1, blocks, window, *queries.shape[2:]))
        keys, values = (repeat_heads(t, self.num_heads) for t in (keys, values))
        keys, values = (ops.take(t, places, axis=1) for t in (keys, values))
        logits = ops.einsum("bniae,bnkae->banik", *(ops.cast(t, "float32") for t in (queries, keys)))
        allowed = ops.expand_dims(allowed, -4)  # ([B,] 1, blocks, window, K)
        scores = masked_softmax(logits * self.head_dim**-0.5, allowed)
        mixed = ops.einsum("banik,bnkae->bniae", ops.cast(scores, values.dtype), values)
        return ops.reshape(mixed, (-1, blocks * window, *mixed.shape[3:]))[:, :length]


def _gather(mask, rows, places):
    """mask (B, T or 1, M), rows (blocks, window), places (blocks, K) -> bool (B, blocks, window or 1, K)."""
    if mask.shape[1] == 1:
        return ops.expand_dims(ops.take(mask[:, 0], places, axis=1), 2)
    cells = rows[:, :, None] * mask.shape[2] + places[:, None]
    return ops.take(ops.reshape(mask, (-1, mask.shape[1] * mask.shape[2])), cells, axis=1)


class LinearAttention(Attention):
    """Attention without softmax, linear in the length: phi(q) . phi(k) / sum_k phi(q) . phi(k).

    phi(x) = elu(x) + 1, in float32. sum_m phi(k_m) v_m^T is computed once and read by every query: O(T E^2)
    for each head. Causal: the same by chunks of 64 queries, O(T E (E + 64)). An attention_mask of its own for
    every query, and `return_scores`, need the T M weights and cost as much as softmax attention.

    Args: of Attention; `flash` does nothing.
    Call: as Attention. The weights are those above: positive, each row sums to 1.
    Source: Transformers are RNNs, equations 4 to 7 and 9, arXiv:2006.16236.
    """

    chunk = 64

    def _mix(self, queries, keys, values, mask, causal, return_scores, never_empty):
        keys, wide = (ops.cast(repeat_heads(t, self.num_heads), "float32") for t in (keys, values))
        queries, keys = (_positive(ops.cast(t, "float32")) for t in (queries, keys))
        # A last value of 1 sums the weights of a row.
        wide = ops.concatenate([wide, ops.ones_like(wide[..., :1])], axis=-1)
        weights = None
        if return_scores or (mask is not None and mask.shape[2] != 1):
            weights = ops.einsum("btae,bmae->batm", queries, keys)
            weights = weights if mask is None else ops.where(mask, weights, 0.0)
            weights = ops.tril(weights) if causal else weights
            sums = ops.einsum("batm,bmaf->btaf", weights, wide)
            total = ops.sum(weights, axis=-1, keepdims=True)
            weights = _divide(weights, total) if return_scores else None
        else:
            if mask is not None:  # (B, 1, 1, M) -> (B, M, 1, 1)
                keys = ops.where(ops.transpose(mask, (0, 3, 1, 2)), keys, 0.0)
            if causal:
                sums = self._earlier(queries, keys, wide)
            else:
                state = ops.einsum("bmae,bmaf->baef", keys, wide)
                sums = ops.einsum("btae,baef->btaf", queries, state)
        return ops.cast(_divide(sums[..., :-1], sums[..., -1:]), values.dtype), weights

    def _earlier(self, queries, keys, wide):
        """sum_{m <= t} (phi(q_t) . phi(k_m)) v_m: chunks before by their state, the own chunk by weights."""
        length = queries.shape[1]
        chunks = -(-length // self.chunk)
        around = ((0, 0), (0, chunks * self.chunk - length), (0, 0), (0, 0))
        queries, keys, wide = (
            ops.reshape(ops.pad(t, around), (-1, chunks, self.chunk, *t.shape[2:]))
            for t in (queries, keys, wide)
        )
        own = ops.einsum("bncae,bncaf->bnaef", keys, wide)
        state = ops.cumsum(own, axis=1) - own
        weights = ops.tril(ops.einsum("bniae,bnjae->bnaij", queries, keys))
        sums = ops.einsum("bnaij,bnjaf->bniaf", weights, wide)
        sums = sums + ops.einsum("bniae,bnaef->bniaf", queries, state)
        return ops.reshape(sums, (-1, chunks * self.chunk, *sums.shape[3:]))[:, :length]


def _positive(x):
    """elu(x) + 1, exact for very negative x too: exp(x) there."""
    return ops.exp(ops.minimum(x, 0.0)) + ops.relu(x)


def _divide(x, total):
    """x / total; zeros where total is 0, in the gradient too."""
    some = total > 0
    return ops.where(some, x / ops.where(some, total, 1.0), 0.0)


def _grouped(dim: int, num_heads: int, num_kv_heads: int = 1, **options) -> Attention:
    return Attention(dim, num_heads, num_kv_heads=num_kv_heads, **options)


_KINDS = {
    "multi_head": Attention,
    "grouped": _grouped,
    "differential": DifferentialAttention,
    "local_sparse": LocalSparseAttention,
    "linear": LinearAttention,
}
ATTENTION_KINDS = tuple(_KINDS)


def make_attention(kind: str, dim: int, num_heads: int, **options) -> Attention:
    """An attention layer by name; all are called like Attention and return their weights on request.

    Args:
        kind: of ATTENTION_KINDS: multi_head (Attention), grouped (the same with fewer heads of keys and
            values: num_kv_heads, 1 unless said), differential, local_sparse, linear.
        dim, num_heads: of Attention.
        options: of the kind: those of Attention, and num_kv_heads (all), layer_index (differential), window
            and num_global (local_sparse).
    Returns: the layer, not built: call its `build`, with memory_dim where a memory has another width.
    Raises: ValueError: no such kind (names them).
    """
    if kind not in _KINDS:
        raise ValueError(f"no attention kind {kind!r}; choose one of {', '.join(ATTENTION_KINDS)}")
    return _KINDS[kind](dim, num_heads, **options)
