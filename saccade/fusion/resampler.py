"""A few learned tokens that gather what matters from many."""

import keras
from keras import ops

from saccade.layers.attention import Attention
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
        tokens = ops.expand_dims(ops.cast(self.tokens, vision.dtype), 0)
        tokens = ops.broadcast_to(tokens, (ops.shape(vision)[0], self.num_tokens, self.dim))
        tokens = rms(tokens + self.read_vision(tokens, vision))
        return rms(tokens + self.read_text(tokens, text, ops.expand_dims(text_mask, 1)))
