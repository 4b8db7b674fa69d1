"""OPT: Llama's decoder with learned positions, LayerNorms and a ReLU net."""

from dataclasses import dataclass

import keras
from keras import ops

from saccade.errors import SaccadeError
from saccade.hub.convert import Rule
from saccade.layers.blocks import CausalBlock
from saccade.layers.embeddings import lookup
from saccade.models.llama import Llama

OFFSET = 2  # rows of the position table before the first position


@dataclass(frozen=True, slots=True)
class OPTConfig:
    """`max_length`: longest sequence that has positions."""

    vocab_size: int = 50272
    dim: int = 2560
    depth: int = 32
    num_heads: int = 32
    mlp_dim: int = 10240
    max_length: int = 2048
    epsilon: float = 1e-5
    tie: bool = True


# Names of OPTForCausalLM in transformers, under "model.decoder." there.
WEIGHT_MAP = (
    Rule("table", "embed_tokens.weight"),
    Rule("positions", "embed_positions.weight"),
    *(
        Rule(f"block_{{}}/{ours}/{a}", f"layers.{{}}.{theirs}.{b}")
        for ours, theirs in (("attention_norm", "self_attn_layer_norm"), ("mlp_norm", "final_layer_norm"))
        for a, b in (("gamma", "weight"), ("beta", "bias"))
    ),
    *(
        Rule(f"block_{{}}/{ours}/{a}", tuple(f"layers.{{}}.{t}.{b}" for t in theirs), layout)
        for ours, theirs in (
            ("attention/query", ("self_attn.q_proj",)),
            ("attention/key_value", ("self_attn.k_proj", "self_attn.v_proj")),
            ("attention/output", ("self_attn.out_proj",)),
            ("mlp/up", ("fc1",)),
            ("mlp/down", ("fc2",)),
        )
        for a, b, layout in (("kernel", "weight", "linear"), ("bias", "bias", "same"))
    ),
    Rule("norm/gamma", "final_layer_norm.weight"),
    Rule("norm/beta", "final_layer_norm.bias"),
)


class OPT(Llama):
    """Causal transformer over vectors, called as Llama is.

    Raises: SaccadeError: more tokens than max_length (states both).
    Source: OPT, arXiv:2205.01068; equal to OPTForCausalLM in transformers where that norms before its
        sublayers, as all sizes but 350M do (tests/oracle).
    """

    def _block(self, name: str) -> CausalBlock:
        c = self.config
        widths = c.dim, c.num_heads, c.num_heads, c.mlp_dim
        return CausalBlock(*widths, None, c.epsilon, "relu", dtype=self.dtype_policy, name=name)

    def _last_norm(self, name: str):
        return keras.layers.LayerNormalization(
            epsilon=self.config.epsilon, dtype=self.dtype_policy, name=name
        )

    def build(self, input_shape=None):
        super().build()
        self.positions = self.add_weight(
            shape=(self.config.max_length + OFFSET, self.config.dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )

    def _place(self, x, positions):
        self._check(x.shape[1])
        if positions is None:
            positions = ops.expand_dims(ops.arange(x.shape[1], dtype="int32"), 0)
        # Behind the table stand guesses of prompt lookup that nobody keeps.
        rows = ops.minimum(positions, self.config.max_length - 1) + OFFSET
        return x + lookup(self.positions, rows, x.dtype)

    def prefill(self, x, padding_mask, room: int, before=None):
        self._check(x.shape[1] + room)
        return super().prefill(x, padding_mask, room, before)

    def _check(self, tokens: int) -> None:
        if tokens > self.config.max_length:
            raise SaccadeError(
                f"{tokens} tokens, but the decoder has positions for {self.config.max_length}; shorten the "
                "prompt or ask for fewer new tokens"
            )
