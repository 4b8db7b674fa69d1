"""A causal language model of Llama's kind: SmolLM2 and the decoder of nanoVLM."""

from dataclasses import dataclass

import keras
from keras import ops

from saccade.hub.convert import Rule
from saccade.layers.attention import segment_mask
from saccade.layers.blocks import CausalBlock, again
from saccade.layers.cache import readable, slots_of
from saccade.layers.embeddings import lookup
from saccade.layers.normalization import RMSNorm


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """`num_kv_heads`: heads of keys and values.  `max_length`: positions seen in training, a limit of the
    processor, not of the layer.  `tie`: the embedding is the output matrix too."""

    vocab_size: int = 49152
    dim: int = 576
    depth: int = 30
    num_heads: int = 9
    num_kv_heads: int = 3
    mlp_dim: int = 1536
    max_length: int = 8192
    rope_theta: float = 100_000.0
    epsilon: float = 1e-5
    tie: bool = True


# Names of LlamaForCausalLM in transformers, under "model." there.
LLAMA_BLOCK = (
    Rule("block_{}/attention_norm/scale", "layers.{}.input_layernorm.weight"),
    Rule("block_{}/attention/query/kernel", "layers.{}.self_attn.q_proj.weight", "linear"),
    Rule(
        "block_{}/attention/key_value/kernel",
        ("layers.{}.self_attn.k_proj.weight", "layers.{}.self_attn.v_proj.weight"),
        "linear",
    ),
    Rule("block_{}/attention/output/kernel", "layers.{}.self_attn.o_proj.weight", "linear"),
    Rule("block_{}/mlp_norm/scale", "layers.{}.post_attention_layernorm.weight"),
    Rule(
        "block_{}/mlp/gate_up/kernel",
        ("layers.{}.mlp.gate_proj.weight", "layers.{}.mlp.up_proj.weight"),
        "linear",
    ),
    Rule("block_{}/mlp/down/kernel", "layers.{}.mlp.down_proj.weight", "linear"),
)
WEIGHT_MAP = (Rule("table", "embed_tokens.weight"), *LLAMA_BLOCK, Rule("norm/scale", "norm.weight"))


class Llama(keras.layers.Layer):
    """Causal transformer over vectors: pre-norm blocks, grouped-query attention, RoPE, SwiGLU.

    `call` reads whole sequences; `prefill` and `step` read a prompt, then a token at a time, with a static
    cache, and give the same.

    Args: config.  remat: recompute each block's activations in the backward pass.
    Call:
        x: float (B, S, D), from `embed` or elsewhere.
        padding_mask: bool (B, S), True = keep. Positions count kept tokens only, so padding on either side
            changes nothing. None = nothing is padding or it stands last, which is faster: no token sees what
            follows it.
        segments: int32 (B, S), in place of a padding_mask, for sequences packed in one row: 1, 2, ..., 0 =
            padding. Tokens attend their own segment only and positions restart in each.
        before: what comes between the blocks: before(i, x) -> x is called ahead of block i; None = nothing.
            `prefill` and `step` take it too.
    Returns: hidden float (B, S, D), normalised; `unembed` makes logits of it.
    Source: Llama, arXiv:2302.13971; equal to LlamaForCausalLM in transformers (tests/oracle).
    """

    def __init__(self, config: LlamaConfig, remat: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.remat = remat
        self.blocks = [self._block(f"block_{i}") for i in range(config.depth)]
        self.norm = self._last_norm("norm")

    def _block(self, name: str) -> CausalBlock:
        c = self.config
        widths = c.dim, c.num_heads, c.num_kv_heads, c.mlp_dim
        return CausalBlock(*widths, c.rope_theta, c.epsilon, dtype=self.dtype_policy, name=name)

    def _last_norm(self, name: str):
        return RMSNorm(self.config.dim, self.config.epsilon, dtype=self.dtype_policy, name=name)

    def _place(self, x, positions):
        """Vectors with what says where they stand, for decoders whose attention does not: here, as they are.

        positions: int32 (B, S), None = 0, 1, ...
        """
        return x

    def build(self, input_shape=None):
        c = self.config

        def table(name):
            normal = keras.initializers.RandomNormal(stddev=0.02)
            return self.add_weight(shape=(c.vocab_size, c.dim), initializer=normal, name=name)

        self.table = table("table")
        self.head = self.table if c.tie else table("head")
        for block in self.blocks:
            block.build()
        self.norm.build((None, None, c.dim))

    def embed(self, tokens):
        """int32 (B, S) -> float (B, S, D)."""
        return lookup(self.table, tokens, self.compute_dtype)

    def unembed(self, hidden):
        """float (..., D) -> logits float32 (..., V)."""
        return ops.cast(ops.matmul(hidden, ops.cast(ops.transpose(self.head), hidden.dtype)), "float32")

    def call(self, x, padding_mask=None, segments=None, before=None):
        if segments is None and padding_mask is not None:
            segments = ops.cast(padding_mask, "int32")
        return self._read(x, segments, before)[0]

    def _read(self, x, segments, before=None):
        mask, positions, memories = None, None, []
        if segments is not None:
            mask = segment_mask(segments)
            positions = positions_of(mask)
        x = self._place(x, positions)
        for i, block in enumerate(self.blocks):
            x = before(i, x) if before else x
            x, memory = (again(block) if self.remat else block)(x, mask, positions)
            memories.append(memory)
        return self.norm(x), memories

    def prefill(self, x, padding_mask, room: int, before=None):
        """Read a prompt; see `saccade.generate` for what prefill and step are.

        Args:
            x: float (B, S, D).  padding_mask: bool (B, S), padding first, so that every row ends at S.
            room: tokens that `step` may read.  before: see call.
        Returns: logits float32 (B, V) of what follows the prompt; the cache.
        """
        hidden, memories = self._read(x, ops.cast(padding_mask, "int32"), before)
        room += -(x.shape[1] + room) % 8  # else every step would pad a copy of the cache for the matrix units
        more = [[0, 0], [0, room], [0, 0], [0, 0]]
        cache = {
            "position": ops.convert_to_tensor(x.shape[1], "int32"),
            "memories": [tuple(ops.pad(part, more) for part in memory) for memory in memories],
            "kept": ops.pad(padding_mask, more[:2], constant_values=True),
            "padding": ops.sum(ops.cast(ops.logical_not(padding_mask), "int32"), axis=1),
        }
        return self.unembed(hidden[:, -1]), cache

    def step(self, tokens, cache, before=None):
        """Read tokens int32 (B, T); returns logits float32 (B, T, V) and the cache."""
        position, length = cache["position"], tokens.shape[1]
        mask = readable(position, length, cache["kept"].shape[1])
        mask = ops.logical_and(mask, ops.expand_dims(cache["kept"], 1))
        positions = slots_of(position, length) - ops.expand_dims(cache["padding"], 1)
        x, memories = self._place(self.embed(tokens), positions), []
        for i, (block, memory) in enumerate(zip(self.blocks, cache["memories"], strict=True)):
            x = before(i, x) if before else x
            x, memory = block(x, mask, positions, cache=memory, slot=position)
            memories.append(memory)
        logits = self.unembed(self.norm(x))
        return logits, {**cache, "position": position + length, "memories": memories}


def positions_of(mask):
    """bool (B, S, S), what each token may attend -> int32 (B, S): how many of that come before it."""
    return ops.maximum(ops.sum(ops.cast(mask, "int32"), axis=-1) - 1, 0)
