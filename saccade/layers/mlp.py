"""The plain feed-forward net, and its activations by the names that published configurations use."""

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
