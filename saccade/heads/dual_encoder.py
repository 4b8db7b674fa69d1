"""Retrieval: image and text as unit vectors in one space."""

import keras
from keras import ops

from saccade.layers.pooling import AttentionPooling


class DualEncoderHead(keras.layers.Layer):
    """Pool each side, project it, scale it to unit length; one learned temperature for both directions.

    Args:
        dim: width of the features.  embedding_dim: width of the shared space.
    Call:
        features: float (B, N, D).  padding_mask: bool (B, N) or None.  side: "image" or "text".
    Returns: float32 (B, E), unit length.
    Source: CLIP, section 2.3, arXiv:2103.00020; exp(logit_scale) clamped at 100.
    """

    def __init__(self, dim: int, embedding_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.embedding_dim = embedding_dim
        policy = self.dtype_policy
        sides = ("image", "text")
        self.pools = {s: AttentionPooling(dim, dtype=policy, name=f"{s}_pool") for s in sides}
        self.projections = {
            s: keras.layers.Dense(embedding_dim, use_bias=False, dtype="float32", name=f"{s}_projection")
            for s in sides
        }

    def build(self, input_shape=None):
        for side in self.pools:
            self.pools[side].build()
            self.projections[side].build((None, self.dim))
        initial = keras.initializers.Constant(2.659)  # log(1 / 0.07)
        # Not read in float16, where its gradient, a sum over all pairs, overflows under loss scaling.
        self.logit_scale = self.add_weight(
            shape=(), initializer=initial, dtype="float32", autocast=False, name="logit_scale"
        )

    def call(self, features, padding_mask=None, side="image"):
        return unit(self.projections[side](self.pools[side](features, padding_mask)))

    def similarity(self, images, texts):
        """float32 (B, C): scaled cosine of every image (B, E) with every text (C, E)."""
        return clamped_scale(self.logit_scale) * ops.matmul(images, ops.transpose(texts))


def unit(vector):
    """Float (..., E) at unit length, float32; a zero vector stays zero."""
    vector = ops.cast(vector, "float32")
    return vector * ops.rsqrt(ops.sum(ops.square(vector), axis=-1, keepdims=True) + 1e-12)


def clamped_scale(logit_scale):
    """exp(logit_scale), at most 100: what multiplies a cosine. Source: CLIP, section 2.5."""
    return ops.minimum(ops.exp(ops.convert_to_tensor(logit_scale)), 100.0)
