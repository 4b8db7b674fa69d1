"""Writing: a small causal decoder that reads the reasoning state."""

import keras
from keras import ops

from saccade.layers.attention import causal_mask
from saccade.layers.blocks import DecoderBlock
from saccade.layers.embeddings import TokenEmbedding
from saccade.layers.normalization import RMSNorm


class TextDecoder(keras.layers.Layer):
    """Causal transformer over the text written so far, cross-attending a memory.

    `call` scores a whole text at once (training); `prefill` and `step` write one token at a time with a
    cache and give the same logits.

    Args:
        embedding: of the words, shared with whoever reads them; it bounds the length.
        depth, num_heads, mlp_dim: as everywhere.
    Call:
        tokens: int32 (B, T), starting with BOS.
        memory: float (B, S, D).
        memory_mask: bool (B, S), True = keep.
        return_scores: also return what of the memory the last block looked at.
    Returns: logits float32 (B, T, V); logits[:, t] predicts token t + 1; with `return_scores`, also float32
        (B, A, T, S).
    """

    def __init__(self, embedding: TokenEmbedding, depth: int, num_heads: int, mlp_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding
        self.num_heads = num_heads
        self.dim = embedding.dim
        policy = self.dtype_policy
        self.blocks = [
            DecoderBlock(self.dim, num_heads, mlp_dim, dtype=policy, name=f"block_{i}") for i in range(depth)
        ]
        self.norm = RMSNorm(self.dim, dtype=policy, name="norm")

    def build(self, input_shape=None):
        for block in self.blocks:
            block.build()
        self.norm.build()

    def call(self, tokens, memory, memory_mask, return_scores=False):
        x, scores = self.embedding(tokens), None
        causal = causal_mask(tokens.shape[1])
        readable = ops.expand_dims(memory_mask, 1)
        for block in self.blocks:
            reads = block.self_keys_values(x), block.cross_keys_values(memory)
            x, scores = block(x, *reads, causal, readable, return_scores=True)
        logits = self.embedding.unembed(self.norm(x))
        return (logits, scores) if return_scores else logits

    def prefill(self, memory, memory_mask, max_length: int):
        """An empty cache over `memory` with room for max_length tokens."""
        batch = ops.shape(memory)[0]
        head_dim = self.dim // self.num_heads
        empty = ops.zeros((batch, max_length, self.num_heads, head_dim), dtype=self.compute_dtype)
        return {
            "self": [(empty, empty) for _ in self.blocks],
            "cross": [block.cross_keys_values(memory) for block in self.blocks],
            "memory_mask": memory_mask,
        }

    def step(self, tokens, position, cache):
        """Read one token per row and score the next.

        Args:
            tokens: int32 (B,).  position: int32 scalar, where they stand.
            cache: from `prefill` or the last `step`.
        Returns: logits float32 (B, V), cache.
        """
        x = self.embedding(ops.expand_dims(tokens, 1), start=position)
        length = cache["self"][0][0].shape[1]
        written = ops.reshape(ops.arange(length) <= position, (1, 1, length))
        readable = ops.expand_dims(cache["memory_mask"], 1)
        memories = []
        for block, (keys, values), cross in zip(self.blocks, cache["self"], cache["cross"], strict=True):
            new_keys, new_values = block.self_keys_values(x)
            keys = ops.slice_update(keys, (0, position, 0, 0), ops.cast(new_keys, keys.dtype))
            values = ops.slice_update(values, (0, position, 0, 0), ops.cast(new_values, values.dtype))
            memories.append((keys, values))
            x = block(x, (keys, values), cross, written, readable)
        return self.embedding.unembed(self.norm(x))[:, 0], {**cache, "self": memories}
