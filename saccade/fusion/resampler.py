"""A few learned tokens that gather what matters from many."""

import keras
from keras import ops

from saccade.layers.attention import Attention
from saccade.layers.attention_kinds import make_attention
from saccade.layers.mlp import MLP, SwiGLU
from saccade.layers.normalization import rms


class FusionTokens(keras.layers.Layer):
    """Learned tokens that read the image, then the text.

    f = rms(f + Attention(f, vision)); f = rms(f + Attention(f, text)).

    Args:
        num_tokens: F.  dim: D.  num_heads: must divide dim.
    Call:
        vision: float (B, N, D).  text: float (B, T, D).
        text_mask: bool (B, T), True = keep; a row without text reads nothing.
    Returns: float (B, F, D).
    """

    def __init__(self, num_tokens: int, dim: int, num_heads: int, **kwargs):
        super().__init__(**kwargs)
        self.num_tokens = num_tokens
        self.dim = dim
        self.num_heads = num_heads
        self.read_vision = Attention(dim, num_heads, dtype=self.dtype_policy, name="read_vision")
        self.read_text = Attention(dim, num_heads, dtype=self.dtype_policy, name="read_text")

    def build(self, input_shape=None):
        self.read_vision.build()
        self.read_text.build()
        self.tokens = self.add_weight(
            shape=(self.num_tokens, self.dim),
            initializer=keras.initializers.TruncatedNormal(stddev=1.0),
            name="tokens",
        )

    def call(self, vision, text, text_mask):
        tokens = for_each_row(self.tokens, vision)
        tokens = rms(tokens + self.read_vision(tokens, vision))
        return rms(tokens + self.read_text(tokens, text, ops.expand_dims(text_mask, 1)))


class QueryFusion(keras.layers.Layer):
    """Learned queries that talk with the text and read the image.

    Each of `depth` blocks, over z = [queries; text]: z = rms(z + SelfAttention(z)); the queries only:
    q = rms(q + Attention(q, vision)); z = rms(z + SwiGLU(z)).

    Args:
        num_queries: Q.  dim: D.  num_heads: must divide dim.  depth: number of blocks.
        attention: kind of all attentions; see make_attention.
    Call:
        vision: float (B, N, D).  text: float (B, T, D).
        vision_mask: bool (B, N).  text_mask: bool (B, T). True = keep; None = all.
    Returns: float (B, Q, D).
    Source: BLIP-2, section 3.1, arXiv:2301.12597. Differs: reads the image in every block, not in every
        second; queries and text share one feed-forward net (gated, not GELU); RMS norms. The published one is
        `saccade.models.qformer.QFormer` (docs/decisions/0015).
    """

    def __init__(
        self, num_queries: int, dim: int, num_heads: int, depth: int = 2, attention="multi_head", **kwargs
    ):
        super().__init__(**kwargs)
        self.num_queries = num_queries
        self.dim = dim
        policy = self.dtype_policy
        self.self_attention = attentions(attention, dim, num_heads, depth, "self_attention", policy)
        self.read_vision = attentions(attention, dim, num_heads, depth, "read_vision", policy)
        self.mlp = [SwiGLU(dim, 2 * dim, dtype=policy, name=f"mlp_{i}") for i in range(depth)]

    def build(self, input_shape=None):
        for part in (*self.self_attention, *self.read_vision, *self.mlp):
            part.build()
        self.queries = _learned(self, self.num_queries, self.dim)

    def call(self, vision, text, vision_mask=None, text_mask=None):
        queries = for_each_row(self.queries, vision)
        count = self.num_queries
        z = ops.concatenate([queries, text], axis=1)
        vision_mask = None if vision_mask is None else ops.expand_dims(vision_mask, 1)
        z_mask = None
        if text_mask is not None:
            z_mask = ops.concatenate([all_true(queries), text_mask], axis=1)
            z_mask = ops.expand_dims(z_mask, 1)
        for self_attention, read_vision, mlp in zip(
            self.self_attention, self.read_vision, self.mlp, strict=True
        ):
            z = rms(z + self_attention(z, attention_mask=z_mask))
            queries, text = z[:, :count], z[:, count:]
            queries = rms(queries + read_vision(queries, vision, attention_mask=vision_mask))
            z = ops.concatenate([queries, text], axis=1)
            z = rms(z + mlp(z))
        return z[:, :count]


class PerceiverResampler(keras.layers.Layer):
    """Learned latents that read a memory and themselves.

    Each of `depth` blocks: z = z + Attention(norm(z), [norm(memory); norm(z)]); z = z + FFN(norm(z)).
    The result is norm(z).

    Args:
        num_queries: Q.  dim: D.  num_heads: must divide dim.  depth: number of blocks.
        attention: kind of all attentions; see make_attention.
        published: every norm is a LayerNorm of its own and FFN an MLP with ReLU, of width 4 dim, without
            biases, as published; otherwise RMS norms without gain and a SwiGLU of width 2 dim.
    Call:
        memory: float (B, M, D).
        padding_mask: bool (B, M), True = keep; None = all.
    Returns: float (B, Q, D).
    Source: Flamingo, section 2.1 (Perceiver Resampler), arXiv:2204.14198; published=True equals
        IdeficsPerceiverResampler in transformers (tests/oracle), whose ReLU is squared in the paper.
    """

    def __init__(
        self,
        num_queries: int,
        dim: int,
        num_heads: int,
        depth: int = 2,
        attention="multi_head",
        published: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_queries = num_queries
        self.dim = dim
        policy = self.dtype_policy
        self.read = attentions(attention, dim, num_heads, depth, "read", policy)
        if published:
            options = {"activation": "relu", "use_bias": False, "dtype": policy}
            self.mlp = [MLP(dim, 4 * dim, name=f"mlp_{i}", **options) for i in range(depth)]
        else:
            self.mlp = [SwiGLU(dim, 2 * dim, dtype=policy, name=f"mlp_{i}") for i in range(depth)]
        places = [f"{part}_norm_{i}" for i in range(depth) for part in ("memory", "latents", "mlp")]
        self.norms = {
            name: keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=name)
            for name in (*places, "norm")
            if published
        }

    def build(self, input_shape=None):
        for part in (*self.read, *self.mlp):
            part.build()
        for norm in self.norms.values():
            norm.build((None, None, self.dim))
        self.queries = _learned(self, self.num_queries, self.dim)

    def call(self, memory, padding_mask=None):
        z = for_each_row(self.queries, memory)
        if padding_mask is not None:
            padding_mask = ops.concatenate([padding_mask, all_true(z)], axis=1)
            padding_mask = ops.expand_dims(padding_mask, 1)
        for i, (read, mlp) in enumerate(zip(self.read, self.mlp, strict=True)):
            own = self._norm(f"latents_norm_{i}", z)
            both = ops.concatenate([self._norm(f"memory_norm_{i}", memory), own], axis=1)
            z = z + read(own, both, attention_mask=padding_mask)
            z = z + mlp(self._norm(f"mlp_norm_{i}", z))
        return self._norm("norm", z)

    def _norm(self, name: str, x):
        return self.norms[name](x) if self.norms else rms(x)


def attentions(kind: str, dim: int, num_heads: int, depth: int, name: str, policy) -> list[Attention]:
    """One attention layer for each of `depth` blocks, each knowing its depth where its kind asks for it."""
    options = [{"layer_index": i} if kind == "differential" else {} for i in range(depth)]
    return [
        make_attention(kind, dim, num_heads, dtype=policy, name=f"{name}_{i}", **options[i])
        for i in range(depth)
    ]


def _learned(layer, count: int, dim: int):
    spread = keras.initializers.TruncatedNormal(stddev=1.0)
    return layer.add_weight(shape=(count, dim), initializer=spread, name="queries")


def for_each_row(tokens, x):
    """Learned tokens (F, D) -> (B, F, D), as many rows as x has, its dtype."""
    tokens = ops.expand_dims(ops.cast(tokens, x.dtype), 0)
    return ops.broadcast_to(tokens, (ops.shape(x)[0], *tokens.shape[1:]))


def all_true(x):
    """bool (B, T) for x (B, T, D)."""
    return ops.ones(ops.shape(x)[:2], dtype="bool")
