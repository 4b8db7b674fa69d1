"""Optimisers that Keras lacks: AdamATan2, sign SGD for embedding rows, two kinds of Muon."""

from collections import defaultdict

import keras
from keras import ops


class AdamATan2(keras.optimizers.Optimizer):
    """Adam with atan2 in place of the division: no epsilon, and a step that cannot exceed pi/2 * rate.

        p <- p - rate / (1 - b1^t) * atan2(m, sqrt(v) / sqrt(1 - b2^t))

    Weight decay is decoupled: p <- (1 - rate * decay) p first.
    Source: Scaling Exponents Across Parameterizations and Optimizers, arXiv:2407.05872, section 5.
    """

    def __init__(self, learning_rate=1e-4, beta_1=0.9, beta_2=0.95, weight_decay=None, **kwargs):
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2

    def build(self, var_list):
        if self.built:
            return
        super().build(var_list)
        self._momentums = self.add_optimizer_variables(var_list, "momentum")
        self._velocities = self.add_optimizer_variables(var_list, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        step = ops.cast(self.iterations + 1, variable.dtype)
        rate, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        self.assign(m, self.beta_1 * m + (1 - self.beta_1) * gradient)
        self.assign(v, self.beta_2 * v + (1 - self.beta_2) * ops.square(gradient))
        spread = ops.sqrt(v) / ops.sqrt(1 - self.beta_2**step)
        self.assign_sub(variable, rate / (1 - self.beta_1**step) * ops.arctan2(m, spread))

    def get_config(self):
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2}


class SignSGD(keras.optimizers.Optimizer):
    """p <- (1 - rate * decay) p - rate * sign(gradient), in the rows that have a gradient only.

    Rows of a table that no example of the batch used stay as they are, decay included. Whether a row was used
    shows in its gradient, which is not all zero.
    Source: HRM, arXiv:2506.21734, puzzle embeddings.
    """

    def __init__(self, learning_rate=1e-4, row_decay: float = 0.0, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.row_decay = row_decay

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        used = ops.any(ops.not_equal(gradient, 0), axis=tuple(range(1, len(variable.shape))), keepdims=True)
        step = rate * (ops.sign(gradient) + self.row_decay * variable)
        self.assign_sub(variable, ops.where(used, step, ops.zeros_like(step)))

    def get_config(self):
        return {**super().get_config(), "row_decay": self.row_decay}


class Muon(keras.optimizers.Muon):
    """Keras's Muon, for the kernels of 2-D convolutions too, as matrices (height * width * inputs, outputs).

    Keras leaves those to Adam, with which a convolutional stem learns many times slower (docs/log.md).
    Source: Jordan and others, Muon, 2024, which flattens convolutions; step size of arXiv:2502.16982.
    """

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4 and super()._should_use_adamw(variable)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Matrices of one shape turn orthogonal together: products of a stack, for many small ones."""
        alike = defaultdict(list)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            if self._should_use_adamw(variable):
                self.update_step(gradient, variable, learning_rate)
            else:
                matrix = _matrix(self._direction(gradient, variable))
                alike[tuple(sorted(matrix.shape))].append((variable, matrix))
        for several in alike.values():
            stack = ops.stack([_wide(matrix) for _, matrix in several])
            steps = ops.unstack(self.zeropower_via_newtonschulz5(stack, self.ns_steps))
            for (variable, matrix), step in zip(several, steps, strict=True):
                if step.shape != matrix.shape:
                    step = ops.transpose(step)
                step = self.lr_adjust(ops.cast(learning_rate, step.dtype) * step)
                self.assign_sub(variable, ops.reshape(step, variable.shape))

    def _direction(self, gradient, variable):
        """Moves the variable's momentum on. Returns: what its step is made of, its shape."""
        momentum = self.momentums[self._get_variable_index(variable)]
        self.assign(momentum, self.momentum * momentum + gradient)
        return gradient + self.momentum * momentum if self.nesterov else momentum.value


class ShapeMuon(Muon):
    """Muon with its first step size: rate * sqrt(max(1, outputs / inputs)), for rates near 0.02.

    Keras scales by 0.2 * sqrt(max(inputs, outputs)) instead, for rates that suit Adam.
    Source: Jordan and others, Muon, 2024; as in Speed is Confidence, arXiv:2601.19085.
    """

    def lr_adjust(self, x):
        inputs, outputs = x.shape
        return x * max(1.0, outputs / inputs) ** 0.5


def _matrix(kernel):
    """(..., outputs) -> (inputs, outputs): what a kernel multiplies."""
    return ops.reshape(kernel, (-1, kernel.shape[-1]))


def _wide(matrix):
    """The matrix, or turned, with no more rows than columns."""
    return ops.transpose(matrix) if matrix.shape[0] > matrix.shape[1] else matrix
