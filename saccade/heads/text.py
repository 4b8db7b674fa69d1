"""Writing: a small causal decoder that reads the reasoning state."""

import keras
from keras import ops

from saccade.data.text import BOS
from saccade.layers.attention import causal_mask
from saccade.layers.blocks import DecoderBlock
from saccade.layers.cache import place, readable
from saccade.layers.embeddings import TokenEmbedding
from saccade.layers.normalization import RMSNorm


class TextDecoder(keras.layers.Layer):
    """Causal transformer over the text written so far, cross-attending a memory.

    `call` scores a whole text at once (training); `prefill` and `step` write with a cache and give the same
    logits.

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
        for i, block in enumerate(self.blocks):
            reads = block.self_keys_values(x), block.cross_keys_values(memory), causal, readable
            if return_scores and i == len(self.blocks) - 1:
                x, scores = block(x, *reads, return_scores=True)
            else:
                x = block(x, *reads)
        logits = self.embedding.unembed(self.norm(x))
        return (logits, scores) if return_scores else logits

    @property
    def max_new_tokens(self) -> int:
        return self.embedding.max_length

    def prefill(self, memory, memory_mask, room: int):
        """Read BOS over `memory`; see `saccade.generate` for what prefill and step are.

        Args: memory, memory_mask: as in a call.  room: tokens that `step` may read.
        Returns: logits float32 (B, V) of the first token; the cache.
        """
        batch = memory.shape[0]
        empty = ops.zeros(
            (batch, 1 + room, self.num_heads, self.dim // self.num_heads), dtype=self.compute_dtype
        )
        cache = {
            "position": ops.zeros((), "int32"),
            "memories": [(empty, empty) for _ in self.blocks],
            "cross": [block.cross_keys_values(memory) for block in self.blocks],
            "memory_mask": memory_mask,
        }
        logits, cache = self.step(ops.full((batch, 1), BOS, "int32"), cache)
        return logits[:, 0], cache

    def step(self, tokens, cache):
        """Read tokens int32 (B, T); returns logits float32 (B, T, V) and the cache."""
        position, length = cache["position"], tokens.shape[1]
        x = self.embedding(tokens, start=position)
        readable_text = readable(position, length, cache["memories"][0][0].shape[1])
        readable_memory = ops.expand_dims(cache["memory_mask"], 1)
        memories = []
        for block, memory, cross in zip(self.blocks, cache["memories"], cache["cross"], strict=True):
            memory = tuple(
                place(old, new, position) for old, new in zip(memory, block.self_keys_values(x), strict=True)
            )
            memories.append(memory)
            x = block(x, memory, cross, readable_text, readable_memory)
        logits = self.embedding.unembed(self.norm(x))
        return logits, {**cache, "position": position + length, "memories": memories}
