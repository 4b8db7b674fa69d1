"""One vector in, one decision out: answers, truth, match, halting, marks."""

import keras


class Classifier(keras.layers.Layer):
    """Logits over a fixed set, in float32 whatever the compute dtype.

    Args:
        dim: width of the vector.  num_classes: K.
        bias: initial bias; with `zero_kernel` it is the initial logit of every input.
        zero_kernel: start from zeros (the halting head of TRM: kernel 0, bias -5).
    Call: x: float (..., D).
    Returns: float32 (..., K).
    """

    def __init__(self, dim: int, num_classes: int, bias: float = 0.0, zero_kernel: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.num_classes = num_classes
        self.bias = bias
        self.zero_kernel = zero_kernel
        self.linear = keras.layers.Dense(
            num_classes,
            kernel_initializer="zeros" if zero_kernel else "lecun_normal",
            bias_initializer=keras.initializers.Constant(bias),
            dtype="float32",
            name="linear",
        )

    def build(self, input_shape=None):
        self.linear.build((None, self.dim))

    def call(self, x):
        return self.linear(x)
