"""One modality reading another: through a gate that starts closed."""

import keras
from keras import ops

from saccade.layers.attention import Attention
from saccade.layers.blocks import SwiGLU
from saccade.layers.normalization import RMSNorm


class GatedCrossAttention(keras.layers.Layer):
    """Let text read image tokens through gates that start closed.

    y = x + tanh(a) Attention(norm(x), memory); y = y + tanh(b) SwiGLU(norm(y)). At the start a = b = 0, so
    that the result is x, exactly.

    Args:
        dim: D.  num_heads: must divide dim.  mlp_dim: SwiGLU's inner width.  memory_dim: C of the memory.
        epsilon: of both norms.
    Call:
        x: float (B, T, D).
        memory: float (B, M, C), or the pair (keys, values) that `project_memory` made of it; None = there is
            none, and nothing is read.
        attention_mask: bool, broadcastable to (B, T, M), True = may attend; what may attend nothing reads
            zeros. None = all.
    Returns: float (B, T, D), dtype of x.
    Source: Flamingo, section 2.2 (GATED XATTN-DENSE), arXiv:2204.14198; equal to Idefics' layer in
        transformers (tests/oracle), whose norms and feed-forward net are Llama's.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, memory_dim: int, epsilon: float = 1e-5, **kwargs
    ):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.memory_dim = memory_dim
        self.attention_norm = RMSNorm(dim, epsilon, dtype=policy, name="attention_norm")
        self.attention = Attention(dim, num_heads, dtype=policy, name="attention")
        self.mlp_norm = RMSNorm(dim, epsilon, dtype=policy, name="mlp_norm")
        self.mlp = SwiGLU(dim, mlp_dim, dtype=policy, name="mlp")

    def build(self, input_shape=None):
        for part in (self.attention_norm, self.mlp_norm, self.mlp):
            part.build()
        self.attention.build(memory_dim=self.memory_dim)
        gates = ("attention_gate", "mlp_gate")
        self.attention_gate, self.mlp_gate = (
            self.add_weight(shape=(), initializer="zeros", name=name) for name in gates
        )

    def project_memory(self, memory):
        """Keys and values of float (B, M, C), to read it many times."""
        return self.attention.project_memory(memory)

    def call(self, x, memory=None, attention_mask=None):
        if memory is not None:
            read = self.attention(self.attention_norm(x), memory, attention_mask)
            x = x + _opening(self.attention_gate, x) * read
        return x + _opening(self.mlp_gate, x) * self.mlp(self.mlp_norm(x))


def _opening(gate, x):
    return ops.cast(ops.tanh(ops.convert_to_tensor(gate)), x.dtype)
