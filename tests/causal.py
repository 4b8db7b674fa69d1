"""The smallest causal language model that keeps the decoder contract: embedding, GQA with RoPE, SwiGLU."""

import keras
import numpy as np
import reference
from keras import ops

from saccade.layers.attention import Attention, causal_mask
from saccade.layers.cache import place, readable, slots_of
from saccade.layers.mlp import SwiGLU
from saccade.layers.normalization import RMSNorm

D, HEADS, KV_HEADS, MLP_DIM, DEPTH, VOCABULARY, EPSILON, THETA = 24, 4, 2, 40, 2, 29, 1e-5, 1e4


class Causal(keras.layers.Layer):
    """Left-padded tokens int32 (B, S) and their padding_mask in, logits of what follows out."""

    def __init__(self, vocab_size: int = VOCABULARY, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.attentions = [
            Attention(D, HEADS, num_kv_heads=KV_HEADS, rope_theta=THETA, name=f"attention_{i}")
            for i in range(DEPTH)
        ]
        self.mlps = [SwiGLU(D, MLP_DIM, name=f"mlp_{i}") for i in range(DEPTH)]
        self.attention_norms = [RMSNorm(D, EPSILON, name=f"attention_norm_{i}") for i in range(DEPTH)]
        self.mlp_norms = [RMSNorm(D, EPSILON, name=f"mlp_norm_{i}") for i in range(DEPTH)]
        self.norm = RMSNorm(D, EPSILON, name="norm")

    def build(self, input_shape=None):
        self.table = self.add_weight(shape=(self.vocab_size, D), name="table")
        self.head = self.add_weight(shape=(D, self.vocab_size), name="head")
        for part in (*self.attentions, *self.mlps, *self.attention_norms, *self.mlp_norms, self.norm):
            part.build()
        self.built = True

    def _read(self, tokens, mask, places, memories, position):
        """`mask` bool (B, T, M) of the slots, `places` int32 (B, T) of the tokens within their rows."""
        x = ops.take(self.table, tokens, axis=0)
        written = []
        parts = zip(self.attention_norms, self.attentions, self.mlp_norms, self.mlps, memories, strict=True)
        for attention_norm, attention, mlp_norm, mlp, memory in parts:
            y = attention_norm(x)
            new = attention.project_memory(y, places)
            memory = tuple(place(old, part, position) for old, part in zip(memory, new, strict=True))
            written.append(memory)
            x = x + attention(y, memory, mask, positions=places)
            x = x + mlp(mlp_norm(x))
        return ops.matmul(self.norm(x), self.head), written

    def _blank(self, rows, slots):
        empty = ops.zeros((rows, slots, KV_HEADS, D // HEADS))
        return [(empty, empty)] * DEPTH

    def call(self, tokens, padding_mask):
        """Logits of every place, without a cache that outlives the call."""
        rows, length = tokens.shape
        mask = ops.logical_and(causal_mask(length), ops.expand_dims(padding_mask, 1))
        places = ops.cumsum(ops.cast(padding_mask, "int32"), axis=1) - 1
        start = ops.zeros((), "int32")
        return self._read(tokens, mask, places, self._blank(rows, length), start)[0]

    def prefill(self, tokens, padding_mask, room):
        rows, length = tokens.shape
        kept = ops.concatenate([padding_mask, ops.ones((rows, room), "bool")], axis=1)
        cache = {
            "position": ops.zeros((), "int32"),
            "memories": self._blank(rows, length + room),
            "kept": kept,
            "padding": ops.sum(ops.cast(ops.logical_not(padding_mask), "int32"), axis=1),
        }
        logits, cache = self.step(tokens, cache)
        return logits[:, -1], cache

    def step(self, tokens, cache):
        position, length = cache["position"], tokens.shape[1]
        slots = cache["kept"].shape[1]
        mask = ops.logical_and(readable(position, length, slots), ops.expand_dims(cache["kept"], 1))
        places = slots_of(position, length) - ops.expand_dims(cache["padding"], 1)
        logits, memories = self._read(tokens, mask, places, cache["memories"], position)
        return logits, {**cache, "position": position + length, "memories": memories}


def causal(seed: int = 0, vocab_size: int = VOCABULARY) -> Causal:
    """With every weight random."""
    model = Causal(vocab_size, name="causal")
    model.build()
    reference.randomize(model, seed)
    rng = np.random.default_rng(seed)  # words differ enough that the model does not say one for ever
    model.table.assign(rng.normal(size=(vocab_size, D)))
    return model


def prompts(rows: int, length: int, seed: int = 0, vocab_size: int = VOCABULARY):
    """Left-padded prompts of unequal length: tokens int32 (B, S), padding_mask bool (B, S)."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(length - 2 * np.arange(rows), 1)
    mask = np.arange(length) >= length - lengths[:, None]
    return rng.integers(3, vocab_size, size=(rows, length)).astype(np.int32) * mask, mask
