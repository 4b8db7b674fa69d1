"""The one attention: self or cross, masked, cached, with scores on request."""

import logging
import warnings

import keras
from keras import ops

from saccade import kernels
from saccade.layers.normalization import rms, softmax
from saccade.layers.rotary import rotary_at, rotary_table, rotate


class Attention(keras.layers.Layer):
    """Multi-head scaled dot-product attention.

    softmax(Q K^T / sqrt(E)) V per head, scores in float32. A query whose mask allows no key reads
    zeros, so an all-padding segment adds nothing, whatever its length. Other kinds override `_mix`
    (`saccade.layers.attention_kinds`).

    Args:
        dim: width of the queries and of the result.
        num_heads: A; must divide dim.
        use_bias: biases on all four projections.
        qk_norm: give every query and key unit RMS per head, so that logits stay within sqrt(E) and attention
            cannot saturate early (Scaling Vision Transformers to 22B, section 2.2, arXiv:2302.05442; no
            gain).
        num_kv_heads: G, heads of keys and values, each read by num_heads / G query heads (GQA,
            arXiv:2305.13245); None = num_heads.
        rope_theta: turn queries and keys by their positions (RoPE); None = no positions.
        flash: the fused kernel of the device: True = must, None = where device and shapes allow it and no
            mask is given (a mask would be added to all scores, and get a gradient), False = never. None is
            tried once for each shape: a refusal is logged ("saccade", info) and the plain kernel used from
            then on. It gives no scores. What saccade.kernels allow comes before either, but for False.
        initializer: of the four kernels.
    Call:
        x: float (B, T, D).
        memory: float (B, M, C), what is attended; None = x itself. Or the pair (keys, values) that
            `project_memory` returned, to read one memory many times.
        attention_mask: bool, broadcastable to (B, T, M), True = may attend; None = all.
        return_scores: also return the weights.
        causal: query t attends keys 0..t of as many. Cheaper than a mask that says so; with a mask or scores
            both hold.
        positions: with rope_theta, int32 (T,) or (B, T), of the queries and, where memory is None, of the
            keys; None = 0, 1, ... Or, without, a table to turn both by: the pair (cosines, sines), each
            float32 (T, E / 2).
        never_empty: the mask is known to allow every query a key, as in decoding, where a token sees itself;
            spares the look.
    Returns: float (B, T, D), dtype of x; with `return_scores`, also float32 (B, A, T, M).
    Raises: ValueError: num_heads does not divide dim, num_kv_heads does not divide num_heads, or RoPE meets
        an odd head width (states both).  RuntimeError: flash=True and the device refuses (states why).
    Source: Attention Is All You Need, section 3.2, arXiv:1706.03762.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        use_bias: bool = False,
        qk_norm: bool = False,
        num_kv_heads: int | None = None,
        rope_theta: float | None = None,
        flash: bool | None = False,
        initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide dim={dim}; choose a divisor")
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads % num_kv_heads:
            raise ValueError(
                f"num_kv_heads={num_kv_heads} does not divide num_heads={num_heads}; choose a divisor"
            )
        self.dim = dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.use_bias = use_bias
        self.qk_norm = qk_norm
        self.rope_theta = rope_theta
        self.flash = flash
        self.head_dim = dim // num_heads
        if rope_theta is not None and self.head_dim % 2:
            raise ValueError(f"RoPE turns pairs, but a head is {self.head_dim} wide; choose an even width")

        def dense(width, name):
            return keras.layers.Dense(
                width, use_bias=use_bias, kernel_initializer=initializer, dtype=self.dtype_policy, name=name
            )

        self.query = dense(dim, "query")
        # Keys and values share one product: they always read the same input.
        self.key_value = dense(2 * num_kv_heads * self.head_dim, "key_value")
        self.output_projection = dense(dim, "output")

    def build(self, input_shape=None, memory_dim: int | None = None):
        self.query.build((None, self.dim))
        self.key_value.build((None, memory_dim or self.dim))
        self.output_projection.build((None, self.dim))

    def _split(self, x):
        return ops.reshape(x, (*ops.shape(x)[:-1], -1, self.head_dim))

    def project_memory(self, memory, positions=None):
        """Keys and values of `memory` (B, M, C): two float (B, M, G, E). `positions`: of the keys."""
        keys, values = ops.split(self.key_value(memory), 2, axis=-1)
        return self._place(self._split(keys), positions), self._split(values)

    def _place(self, x, positions):
        x = rms(x) if self.qk_norm else x
        if isinstance(positions, tuple):
            return rotate(x, *positions)
        if self.rope_theta is None:
            return x
        if positions is None:
            return rotate(x, *rotary_table(x.shape[1], x.shape[-1], self.rope_theta))
        return rotate(x, *rotary_at(positions, x.shape[-1], self.rope_theta))

    def fits_kernel(self, x, attention_mask=None, positions=None) -> bool:
        """Whether x, reading itself, does so by a kernel of saccade.kernels, which knows no mask and no
        positions but 0, 1, ..."""
        plain = type(self)._mix is Attention._mix and not self.qk_norm and self.flash is not False
        if not plain or attention_mask is not None or positions is not None:
            return False
        return kernels.attention_fits(x, self.num_kv_heads, self.head_dim)

    def _by_kernel(self, x, causal):
        """What each query reads, (B, T, D). One product makes queries, keys and values, never split."""
        parts = self.query, self.key_value
        packed = ops.matmul(x, ops.concatenate([ops.cast(part.kernel, x.dtype) for part in parts], axis=-1))
        if self.use_bias:
            packed = packed + ops.concatenate([ops.cast(part.bias, x.dtype) for part in parts])
        table = rotary_table(x.shape[1], self.head_dim, self.rope_theta) if self.rope_theta else ()
        return kernels.attention(packed, table, self.num_heads, self.num_kv_heads, causal)

    def norm_fits(self, x) -> bool:
        """Whether `normed` has kernels for x."""
        return not self.use_bias and self.fits_kernel(x) and kernels.product_norm_fits(x, self.dim)

    def normed(self, x, rest, epsilon: float, copies: int, plus=None) -> tuple:
        """rms(rest + self(x)) + plus, see `saccade.kernels.product_norm`."""
        mixed = self._by_kernel(x, causal=False)
        return kernels.product_norm(mixed, self.output_projection.kernel, rest, epsilon, copies, plus)

    def call(
        self,
        x,
        memory=None,
        attention_mask=None,
        return_scores=False,
        positions=None,
        causal=False,
        never_empty=False,
    ):
        if memory is None and not return_scores and self.fits_kernel(x, attention_mask, positions):
            return self.output_projection(self._by_kernel(x, causal))
        queries = self._place(self._split(self.query(x)), positions)
        if memory is None:
            memory = self.project_memory(x, positions)
        elif not isinstance(memory, (tuple, list)):
            memory = self.project_memory(memory)
        mask = None if attention_mask is None else ops.expand_dims(attention_mask, 1)
        mixed, scores = self._mix(queries, *memory, mask, causal, return_scores, never_empty)
        result = self.output_projection(ops.reshape(mixed, (*ops.shape(mixed)[:-2], self.dim)))
        return (result, scores) if return_scores else result

    def _mix(self, queries, keys, values, mask, causal, return_scores, never_empty):
        """What each query reads, (B, T, A, E), and the weights, (B, A, T, M), None unless `return_scores`.

        queries (B, T, A, E); keys, values (B, M, G, E); mask bool, broadcastable to (B, 1, T, M), or None;
        never_empty: it allows every query something.
        """
        if causal and (return_scores or mask is not None):
            earlier = ops.expand_dims(causal_mask(queries.shape[1]), 1)
            mask, causal = earlier if mask is None else ops.logical_and(mask, earlier), False
        if return_scores:
            keys, values = (repeat_heads(t, queries.shape[2]) for t in (keys, values))
            mixed, scores = _attend_with_scores(queries, keys, values, mask)
        else:
            mixed, scores = _attend(queries, keys, values, mask, causal, self.flash), None
        if mask is not None and not never_empty:
            readable = ops.transpose(ops.any(mask, axis=-1, keepdims=True), (0, 2, 1, 3))
            mixed = ops.where(readable, mixed, ops.zeros_like(mixed))
        return mixed, scores


_refused: set = set()  # the shapes that flash=None was refused for


def _attend(queries, keys, values, mask, causal, flash):
    def attend(flash):
        return ops.dot_product_attention(
            queries, keys, values, mask=mask, is_causal=causal, flash_attention=flash
        )

    if not flash and (flash is False or mask is not None):
        return attend(False)
    shape = (*queries.shape[1:], *keys.shape[1:], str(queries.dtype), causal)
    if flash is None and shape in _refused:
        return attend(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says as warnings what it then raises
            return attend(True)
    except Exception as error:  # backends and their versions refuse with types of their own
        what = f"queries {tuple(queries.shape)}, keys {tuple(keys.shape)}, {queries.dtype}"
        why = str(error).strip().splitlines()[:1] or [type(error).__name__]
        if flash:
            fix = "flash=None uses it where it fits"
            raise RuntimeError(f"flash=True, but the device refuses {what}: {why[0]}; {fix}") from error
        _refused.add(shape)
        logging.getLogger("saccade").info("no flash attention for %s: %s", what, why[0])
    return attend(False)


def _attend_with_scores(queries, keys, values, mask):
    scale = queries.shape[-1] ** -0.5
    logits = ops.einsum("btae,bmae->batm", ops.cast(queries, "float32"), ops.cast(keys, "float32")) * scale
    scores = masked_softmax(logits, mask)
    return ops.einsum("batm,bmae->btae", ops.cast(scores, values.dtype), values), scores


def masked_softmax(logits, mask=None):
    """Softmax over the last axis of what `mask` (bool, broadcastable; None = all) keeps; zeros if nothing."""
    if mask is None:
        return softmax(logits)
    scores = softmax(ops.where(mask, logits, -1e30))
    return ops.where(ops.any(mask, axis=-1, keepdims=True), scores, 0.0)


def repeat_heads(x, num_heads: int):
    """(B, M, G, E) -> (B, M, num_heads, E): a head of keys or values for every head of queries."""
    shared = num_heads // x.shape[2]
    return ops.repeat(x, shared, axis=2) if shared > 1 else x


def causal_mask(length: int):
    """bool (1, T, T): position t may attend 0..t."""
    positions = ops.arange(length)
    return ops.expand_dims(ops.expand_dims(positions, 1) >= ops.expand_dims(positions, 0), 0)


def segment_mask(segments):
    """int32 (B, S), 0 = padding -> bool (B, S, S): position t may attend those of its segment up to t."""
    same = ops.equal(ops.expand_dims(segments, 2), ops.expand_dims(segments, 1))
    kept = ops.logical_and(same, ops.expand_dims(segments > 0, 1))
    return ops.logical_and(kept, causal_mask(segments.shape[1]))
