"""Pooling a set of vectors into one."""

import keras
from keras import ops

from saccade.layers.attention import masked_softmax


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
