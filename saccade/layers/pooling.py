"""Pooling a set of vectors into one."""

import keras
from keras import ops

from saccade.layers.attention import Attention, masked_softmax
from saccade.layers.mlp import MLP


class AttentionPooling(keras.layers.Layer):
    """A weighted mean whose weights are learned, several to a vector.

    Head a of the result is sum_n softmax_n(x W)_na x_na: each head picks its own tokens.

    Args:
        dim: width.  num_heads: A; must divide dim.
    Call:
        x: float (B, N, D).
        padding_mask: bool (B, N), True = keep; None = all. A row without any gives zeros.
    Returns: float (B, D), dtype of x.
    Raises: ValueError: num_heads does not divide dim (states both).
    Source: self-attentive sentence embedding, arXiv:1703.03130, section 2 (one linear layer instead of two).
    """

    def __init__(self, dim: int, num_heads: int = 8, **kwargs):
        super().__init__(**kwargs)
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide dim={dim}; choose a divisor")
        self.dim = dim
        self.num_heads = num_heads
        self.score = keras.layers.Dense(num_heads, dtype="float32", name="score")

    def build(self, input_shape=None):
        self.score.build((None, None, self.dim))

    def call(self, x, padding_mask=None):
        mask = None if padding_mask is None else ops.expand_dims(padding_mask, 1)
        weights = masked_softmax(ops.transpose(self.score(x), (0, 2, 1)), mask)
        parts = ops.reshape(x, (-1, x.shape[1], self.num_heads, self.dim // self.num_heads))
        pooled = ops.einsum("ban,bnae->bae", ops.cast(weights, x.dtype), parts)
        return ops.reshape(pooled, (-1, self.dim))


class ProbePooling(keras.layers.Layer):
    """A learned query reads the set, then an MLP with a residual: SigLIP's "MAP" head.

        h = Attention(probe, x);  h + MLP(LayerNorm(h))

    Args: dim, num_heads, mlp_dim: widths.  epsilon: of the norm.  activation: of the MLP.
    Call:
        x: float (B, N, D).
        padding_mask: bool (B, N), True = keep; None = all.
    Returns: float (B, D), dtype of x.
    Source: Scaling Vision Transformers, section 3.2, arXiv:2106.04560; SigLIP, arXiv:2303.15343.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        epsilon: float = 1e-6,
        activation: str = "gelu_pytorch_tanh",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.dim = dim
        policy = self.dtype_policy
        self.attention = Attention(dim, num_heads, use_bias=True, dtype=policy, name="attention")
        self.norm = keras.layers.LayerNormalization(epsilon=epsilon, dtype=policy, name="norm")
        self.mlp = MLP(dim, mlp_dim, activation=activation, dtype=policy, name="mlp")

    def build(self, input_shape=None):
        normal = keras.initializers.TruncatedNormal(stddev=self.dim**-0.5)
        self.probe = self.add_weight(shape=(1, 1, self.dim), initializer=normal, name="probe")
        self.attention.build()
        self.norm.build((None, None, self.dim))
        self.mlp.build()

    def call(self, x, padding_mask=None):
        probe = ops.broadcast_to(ops.cast(self.probe, x.dtype), (ops.shape(x)[0], 1, self.dim))
        mask = None if padding_mask is None else ops.expand_dims(padding_mask, 1)
        read = self.attention(probe, x, mask)
        return (read + self.mlp(self.norm(read)))[:, 0]
