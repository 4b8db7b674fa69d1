"""The Q-Former as published: learned queries and a text in one BERT, of which the queries see the image."""

from dataclasses import dataclass

import keras
from keras import ops

from saccade.fusion.resampler import for_each_row
from saccade.hub.convert import Rule
from saccade.layers.attention import Attention, causal_mask
from saccade.layers.embeddings import TokenEmbedding
from saccade.layers.mlp import MLP


@dataclass(frozen=True, slots=True)
class QFormerConfig:
    """`num_queries`: Q.  `cross_every`: blocks 0, n, 2n, ... read the image.  `max_length`: of texts.
    `text`: it reads texts too; without, there are no embeddings and no feed-forward nets for them."""

    vocab_size: int = 30522
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    num_queries: int = 32
    cross_every: int = 2
    max_length: int = 512
    epsilon: float = 1e-12
    text: bool = True


def _dense(ours: str, *theirs: str) -> tuple[Rule, Rule]:
    names = [tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias")]
    return Rule(f"{ours}/kernel", names[0], "linear"), Rule(f"{ours}/bias", names[1])


def _norm(ours: str, theirs: str) -> tuple[Rule, Rule]:
    return Rule(f"{ours}/gamma", f"{theirs}.weight"), Rule(f"{ours}/beta", f"{theirs}.bias")


def _attention(ours: str, theirs: str) -> tuple[Rule, ...]:
    inner = f"{theirs}.attention"
    return (
        *_dense(f"{ours}/query", f"{inner}.query"),
        *_dense(f"{ours}/key_value", f"{inner}.key", f"{inner}.value"),
        *_dense(f"{ours}/output", f"{theirs}.output.dense"),
        *_norm(f"{ours}_norm", f"{theirs}.output.LayerNorm"),
    )


def _mlp(ours: str, kind: str) -> tuple[Rule, ...]:
    there = "encoder.layer.{}"
    return (
        *_dense(f"{ours}/up", f"{there}.intermediate{kind}.dense"),
        *_dense(f"{ours}/down", f"{there}.output{kind}.dense"),
        *_norm(f"{ours}_norm", f"{there}.output{kind}.LayerNorm"),
    )


# Names of Blip2QFormerModel in transformers: of every block, of those that read the image, and for texts.
EVERY_BLOCK = (
    *_attention("block_{}/self_attention", "encoder.layer.{}.attention"),
    *_mlp("block_{}/query_mlp", "_query"),
)
CROSS_BLOCK = _attention("block_{}/cross_attention", "encoder.layer.{}.crossattention")
TEXT_BLOCK = _mlp("block_{}/text_mlp", "")
FIRST_NORM = _norm("norm", "layernorm")


class QFormerBlock(keras.layers.Layer):
    """Post-norm: z = LN(z + SelfAttention(z)); queries q = LN(q + Attention(q, vision)) where it reads the
    image; then a feed-forward net of the queries' own and one of the text's.

    Call:
        z: float (B, count + T, D), queries before text.  count: int, of queries; 0 = text alone.
        attention_mask: bool, broadcastable to (B, count + T, count + T), True = may attend; None = all.
        vision: float (B, N, C), where there are queries.  readable: bool (B, 1, N), of it; None = all.
    Returns: float (B, count + T, D).
    """

    def __init__(self, config: QFormerConfig, vision_dim: int, cross: bool, **kwargs):
        super().__init__(**kwargs)
        c, policy = config, self.dtype_policy
        self.dim, self.vision_dim = c.dim, vision_dim

        def attention(name):
            return Attention(c.dim, c.num_heads, use_bias=True, dtype=policy, name=name)

        def mlp(name):
            return MLP(c.dim, c.mlp_dim, activation="gelu", dtype=policy, name=name)

        self.parts = {"self_attention": attention("self_attention"), "query_mlp": mlp("query_mlp")}
        if cross:
            self.parts["cross_attention"] = attention("cross_attention")
        if c.text:
            self.parts["text_mlp"] = mlp("text_mlp")
        self.norms = {
            name: keras.layers.LayerNormalization(epsilon=c.epsilon, dtype=policy, name=f"{name}_norm")
            for name in self.parts
        }

    def build(self, input_shape=None):
        for name, part in self.parts.items():
            if name == "cross_attention":
                part.build(memory_dim=self.vision_dim)
            else:
                part.build()
            self.norms[name].build((None, None, self.dim))

    def call(self, z, count, attention_mask=None, vision=None, readable=None):
        z = self._add("self_attention", z, attention_mask=attention_mask)
        queries, text = z[:, :count], z[:, count:]
        parts = []
        if count:
            if "cross_attention" in self.parts:
                queries = self._add("cross_attention", queries, vision, attention_mask=readable)
            parts.append(self._add("query_mlp", queries))
        if z.shape[1] > count:
            parts.append(self._add("text_mlp", text))
        return ops.concatenate(parts, axis=1)

    def _add(self, name, x, *args, **options):
        return self.norms[name](x + self.parts[name](x, *args, **options))


class QFormer(keras.layers.Layer):
    """A BERT over [queries; text] in three ways: queries alone, text alone, both.

    Args: config.  vision_dim: C of the image features.
    Source: BLIP-2, section 3.1, arXiv:2301.12597; equal to Blip2QFormerModel in transformers (tests/oracle).
        No dropout. `saccade.fusion.resampler.QueryFusion` is the fusion layer in the same spirit.
    """

    def __init__(self, config: QFormerConfig, vision_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        c, policy = config, self.dtype_policy
        if c.text:
            self.embedding = TokenEmbedding(
                c.vocab_size, c.dim, c.max_length, scaled=False, dtype=policy, name="embedding"
            )
        self.norm = keras.layers.LayerNormalization(epsilon=c.epsilon, dtype=policy, name="norm")
        self.blocks = [
            QFormerBlock(c, vision_dim, i % c.cross_every == 0, dtype=policy, name=f"block_{i}")
            for i in range(c.depth)
        ]

    def build(self, input_shape=None):
        for part in (*([self.embedding] if self.config.text else []), *self.blocks):
            part.build()
        self.norm.build((None, None, self.config.dim))
        normal = keras.initializers.TruncatedNormal(stddev=0.02)
        shape = (self.config.num_queries, self.config.dim)
        self.queries = self.add_weight(shape=shape, initializer=normal, name="queries")

    def look(self, vision, vision_mask=None):
        """What the queries make of the image alone.

        Args: vision: float (B, N, C).  vision_mask: bool (B, N), True = keep; None = all.
        Returns: float (B, Q, D).
        """
        return self._run(vision, vision_mask, None, None, True)[0]

    def read(self, tokens, padding_mask=None):
        """What the text makes of itself, both ways: tokens int32 (B, T) -> float (B, T, D)."""
        mask = None if padding_mask is None else ops.expand_dims(padding_mask, 1)
        return self._run(None, None, tokens, mask, False)[1]

    def both(self, vision, tokens, padding_mask=None, causal=False, vision_mask=None):
        """Queries and text together.

        Args:
            vision: float (B, N, C).  tokens: int32 (B, T).  padding_mask: bool (B, T), True = keep.
            causal: queries see queries only, a token the queries and the text up to itself (ITG); otherwise
                all see all (ITM).
        Returns: queries float (B, Q, D); text float (B, T, D).
        """
        kept = ops.ones(tokens.shape, "bool") if padding_mask is None else padding_mask
        count, length = self.config.num_queries, tokens.shape[1]
        row = ops.concatenate([ops.ones((tokens.shape[0], count), "bool"), kept], axis=1)
        mask = ops.expand_dims(row, 1)
        if causal:
            above = ops.concatenate(
                [ops.ones((count, count), "bool"), ops.zeros((count, length), "bool")], axis=1
            )
            below = ops.concatenate([ops.ones((length, count), "bool"), causal_mask(length)[0]], axis=1)
            mask = ops.logical_and(mask, ops.expand_dims(ops.concatenate([above, below], axis=0), 0))
        return self._run(vision, vision_mask, tokens, mask, True)

    def _run(self, vision, vision_mask, tokens, mask, with_queries):
        parts = [self.norm(for_each_row(self.queries, vision))] if with_queries else []
        parts += [] if tokens is None else [self.norm(self.embedding(tokens))]
        z, count = ops.concatenate(parts, axis=1), self.config.num_queries if with_queries else 0
        readable = None if vision_mask is None else ops.expand_dims(vision_mask, 1)
        for block in self.blocks:
            z = block(z, count=count, attention_mask=mask, vision=vision, readable=readable)
        return z[:, :count], z[:, count:]
