"""Feed-forward nets: the plain one, with activations by their published names, and SwiGLU."""

import keras
from keras import ops

from saccade import backend, kernels


def quick_gelu(x):
    """x sigmoid(1.702 x), the approximation in OpenAI's CLIP. Source: arXiv:1606.08415, section 2."""
    return x * ops.sigmoid(1.702 * x)


ACTIVATIONS = {
    "gelu_pytorch_tanh": lambda x: ops.gelu(x, approximate=True),
    "gelu": lambda x: ops.gelu(x, approximate=False),
    "quick_gelu": quick_gelu,
    "relu": lambda x: ops.relu(x),
}


def activation_of(name: str):
    """The function of a name. Raises: ValueError: there is none (lists them)."""
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation is called {name!r}; use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class MLP(keras.layers.Layer):
    """Dense, GELU (tanh form unless said), Dense, with biases: the feed-forward net of SigLIP and CLIP.

    Args:
        axis: which axis is mixed: -1, or 0 for states whose sequence axis comes first.
        activation: a name of ACTIVATIONS.
        use_bias: of both products.
    Call: x: float (B, T, D).
    Returns: float (B, T, D), dtype of x.
    """

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        axis: int = -1,
        initializer="glorot_uniform",
        activation: str = "gelu_pytorch_tanh",
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.dim = dim
        self.mlp_dim = mlp_dim
        self.axis = axis
        self.activation = activation_of(activation)
        self.plain_gelu = axis == -1 and use_bias and activation == "gelu_pytorch_tanh"
        options = {"use_bias": use_bias, "kernel_initializer": initializer, "dtype": self.dtype_policy}
        self.up = keras.layers.Dense(mlp_dim, name="up", **options)
        self.down = keras.layers.Dense(dim, name="down", **options)

    def build(self, input_shape=None):
        self.up.build((None, self.dim))
        self.down.build((None, self.mlp_dim))

    def call(self, x):
        if self.plain_gelu and kernels.gelu_fits(x, self.mlp_dim):
            y = kernels.gelu_net(x, self.up.kernel, self.up.bias, self.down.kernel)
            return y + ops.cast(self.down.bias, x.dtype)
        return contract(self.down, self.activation(contract(self.up, x, self.axis)), self.axis)


class SwiGLU(keras.layers.Layer):
    """down(silu(gate(x)) * up(x)) without biases; gate and up are one product.

    Args:
        gated_norm: down(sigmoid(gate) * rms(gate * up)) instead, which bounds what the gate multiplies, so
            that Muon's large steps stay stable.
        axis: which axis is mixed: -1, or 0 for states whose sequence axis comes first.
        initializer: of the kernels.
    Call: x: float (B, T, D).
    Returns: float (B, T, D), dtype of x.
    Source: GLU Variants Improve Transformer, equation 6, arXiv:2002.05202; gated_norm: Speed is Confidence,
        arXiv:2601.19085.
    """

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        gated_norm: bool = False,
        axis: int = -1,
        initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.dim = dim
        self.mlp_dim = mlp_dim
        self.gated_norm = gated_norm
        self.axis = axis
        options = {"use_bias": False, "kernel_initializer": initializer, "dtype": self.dtype_policy}
        self.gate_up = keras.layers.Dense(2 * mlp_dim, name="gate_up", **options)
        self.down = keras.layers.Dense(dim, name="down", **options)

    def build(self, input_shape=None):
        self.gate_up.build((None, self.dim))
        self.down.build((None, self.mlp_dim))

    def call(self, x):
        if self.axis == -1 and not self.gated_norm and kernels.swiglu_fits(x, self.mlp_dim):
            return kernels.swiglu(x, self.gate_up.kernel, self.down.kernel)
        pairs, axis = self._pairs(x)
        result = contract(self.down, silu_product(pairs, axis), self.axis)
        if not self.gated_norm:
            return result
        # sigmoid(gate) rms(gate up) is silu(gate) up times one number for each position, which may as well
        # multiply the narrower result.
        scale = product_scale(pairs, axis)
        return ops.cast(ops.cast(result, "float32") * scale, result.dtype)

    def norm_fits(self, x) -> bool:
        """Whether `normed` has kernels for x."""
        plain = self.axis == -1 and not self.gated_norm
        return plain and kernels.swiglu_fits(x, self.mlp_dim) and kernels.product_norm_fits(x, self.mlp_dim)

    def normed(self, x, rest, epsilon: float, copies: int, plus=None) -> tuple:
        """rms(rest + self(x)) + plus, see `saccade.kernels.product_norm`."""
        return kernels.swiglu_norm(x, self.gate_up.kernel, self.down.kernel, rest, epsilon, copies, plus)

    def _pairs(self, x):
        """Gate and up along an axis of 2 of their own, and which it is: (..., 2, F), or (F, 2, ...)."""
        if self.axis == -1:
            gate_up = contract(self.gate_up, x, -1)
            return ops.reshape(gate_up, (*ops.shape(gate_up)[:-1], 2, self.mlp_dim)), -2
        # Rows of gate and up by turns: what is multiplied lies near each other, and the gradient by both is
        # written in one pass.
        kernel = ops.reshape(ops.cast(self.gate_up.kernel, x.dtype), (self.dim, 2, self.mlp_dim))
        return backend.tensordot(ops.transpose(kernel, (0, 2, 1)), x, (0, 0)), 1


def silu_product(pairs, axis: int = -2):
    """silu(gate) * up of pairs.

    Its gradient is written out, so that the backward pass keeps the product's inputs and nothing else.

    Args: pairs: float, gate and up along an axis of 2.
    Returns: float, without that axis; computed in float32, dtype of pairs.
    """

    @ops.custom_gradient
    def product(pairs):
        gate, up = _wide_halves(pairs, axis)
        hidden = ops.cast(gate * ops.sigmoid(gate) * up, pairs.dtype)

        def gradient(*args, upstream=None):
            given = ops.cast(args[0] if upstream is None else upstream, "float32")
            gate, up = _wide_halves(pairs, axis)
            share = ops.sigmoid(gate)
            by_gate = given * up * share * (1 + gate * (1 - share))
            by_up = given * gate * share
            return ops.cast(_pair(by_gate, by_up, axis), pairs.dtype)

        return hidden, gradient

    return product(pairs)


def product_scale(pairs, axis: int = -2, epsilon: float = 1e-5):
    """1 / sqrt(mean((gate * up)^2) + epsilon) of pairs, over the axis they lie along; gradient written out.

    Args: pairs: float (..., 2, F), or (F, 2, ...) with axis 1.
    Returns: float32 (..., 1), or (1, ...).
    """
    along = -1 if axis == -2 else 0

    @ops.custom_gradient
    def scale(pairs):
        gate, up = _wide_halves(pairs, axis)
        found = ops.rsqrt(ops.mean(ops.square(gate * up), axis=along, keepdims=True) + epsilon)

        def gradient(*args, upstream=None):
            given = args[0] if upstream is None else upstream
            gate, up = _wide_halves(pairs, axis)
            by_product = -given * found**3 / gate.shape[along] * gate * up
            return ops.cast(_pair(by_product * up, by_product * gate, axis), pairs.dtype)

        return found, gradient

    return scale(pairs)


def _wide_halves(pairs, axis: int):
    return (ops.cast(ops.squeeze(half, axis), "float32") for half in ops.split(pairs, 2, axis=axis))


def _pair(first, second, axis: int):
    """Both along a new axis, by choosing: a concatenation would be a pass of its own."""
    shape = [1] * (len(first.shape) + 1)
    shape[axis] = 2
    is_first = ops.reshape(ops.arange(2) == 0, shape)
    return ops.where(is_first, ops.expand_dims(first, axis), ops.expand_dims(second, axis))


def contract(dense, x, axis: int):
    """Apply a Dense layer along the last axis, or along the first without moving it: one plain product."""
    if axis == -1 and not backend.has_own_product(x.dtype):
        return dense(x)
    kernel = ops.cast(dense.kernel, x.dtype)
    if axis == -1:
        y, bias_shape = backend.tensordot(x, kernel, (-1, 0)), (-1,)
    else:
        y, bias_shape = backend.tensordot(kernel, x, (0, axis)), (-1,) + (1,) * (len(x.shape) - 1)
    return y if dense.bias is None else y + ops.reshape(ops.cast(dense.bias, x.dtype), bias_shape)
