"""Normalisation, in float32 whatever the compute dtype."""

import keras
from keras import ops

from saccade import kernels


def rms(x, epsilon: float = 1e-5, axis: int = -1):
    """x / sqrt(mean(x^2)) over one axis, no scale.

    Its gradient is written out, r (dy - y mean(dy y)) with r = 1 / sqrt(mean(x^2) + epsilon), so that the
    backward pass keeps y, which the next layer keeps anyway, and not x in float32.

    Args:
        x: float (..., D).
        epsilon: added to the mean square.
        axis: which; the last unless said.
    Returns: float (..., D), dtype of x; computed in float32.
    Source: RMSNorm, arXiv:1910.07467, equation 4 without gain; TRM, arXiv:2510.04871.
    """

    @ops.custom_gradient
    def normalize(x):
        wide = ops.cast(x, "float32")
        scale = ops.rsqrt(ops.mean(ops.square(wide), axis=axis, keepdims=True) + epsilon)
        y = ops.cast(wide * scale, x.dtype)

        def gradient(*args, upstream=None):
            given = ops.cast(args[0] if upstream is None else upstream, "float32")
            unit = ops.cast(y, "float32")
            shared = ops.mean(given * unit, axis=axis, keepdims=True)
            return ops.cast(scale * (given - unit * shared), x.dtype)

        return y, gradient

    return normalize(x)


def standardize(x, epsilon: float = 1e-5, axis: int = -1):
    """(x - mean) / sqrt(variance + epsilon) along an axis: LayerNorm (arXiv:1607.06450), no gain, no bias.

    Returns: shape and dtype of x; computed in float32.
    """
    wide = ops.cast(x, "float32")
    return ops.cast(rms(wide - ops.mean(wide, axis=axis, keepdims=True), epsilon, axis), x.dtype)


def softmax(x, axis: int = -1):
    """Softmax along an axis, of which one entry is fine too: it is 1 (Keras warns about it)."""
    return ops.ones_like(x) if x.shape[axis] == 1 else ops.softmax(x, axis=axis)


class RMSNorm(keras.layers.Layer):
    """`rms` with a learned gain (ones at the start).

    Args:
        dim: width of x.
        epsilon: added to the mean square.
    Call: x: float (..., D).
    Returns: float (..., D), dtype of x.
    """

    def __init__(self, dim: int, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.epsilon = epsilon

    def build(self, input_shape=None):
        # A block reads it within its own autocast too, and wants float32.
        self.scale = self.add_weight(shape=(self.dim,), initializer="ones", name="scale", autocast=False)

    def call(self, x):
        return rms(x, self.epsilon) * ops.cast(self.scale, x.dtype)


def normalized(norm, x):
    """(norm(x), x), for a pre-norm block's branch and its residual; by a kernel where one takes them.

    Args: norm: a layer, built.  x: float (..., D).
    """
    scale, shift = _gain_and_bias(norm)
    if scale is None or not kernels.norm_fits(x) or x.dtype != norm.compute_dtype:
        return norm(x), x
    return kernels.normalized(x, scale, shift, norm.epsilon)


def _gain_and_bias(norm) -> tuple:
    """Of an RMSNorm, which has no bias, or a LayerNorm with both; of other layers (None, None)."""
    if isinstance(norm, RMSNorm):
        return norm.scale, None
    if isinstance(norm, keras.layers.LayerNormalization) and norm.axis == [-1] and norm.beta is not None:
        return norm.gamma, norm.beta
    return None, None
