"""Several tasks, one loss: how much each one counts. A task that is absent costs and changes nothing."""

import keras
from keras import ops


class FixedWeights(keras.layers.Layer):
    """Sum of weight * loss.

    Args: weights: task -> weight.
    Call: losses: task -> float scalar, of any of the tasks.
    Returns: float32 ().
    Raises: ValueError: a task without a weight.
    """

    def __init__(self, weights: dict, **kwargs):
        super().__init__(**_in_float32(kwargs))
        self.weights_of = dict(weights)
        self.tasks = tuple(self.weights_of)

    def get_config(self):
        return {**super().get_config(), "weights": self.weights_of}

    def call(self, losses):
        _check(losses, self.tasks)
        return _sum(self.weights_of[name] * ops.cast(loss, "float32") for name, loss in losses.items())


class UncertaintyWeights(keras.layers.Layer):
    """Sum of exp(-s) * loss + s / 2, s = log sigma^2 learned for each task, 0 at first.

    Args: tasks: their names.  regression: those whose loss is a squared or absolute error: exp(-s) / 2.
    Call, Returns, Raises: as `FixedWeights`.
    Source: Kendall et al., equations 7 and 10, arXiv:1705.07115.
    """

    def __init__(self, tasks, regression=(), **kwargs):
        super().__init__(**_in_float32(kwargs))
        self.tasks, self.regression = tuple(tasks), tuple(regression)
        _check(self.regression, self.tasks)
        self.log_variance = self.add_weight(
            shape=(len(self.tasks),), initializer="zeros", name="log_variance"
        )

    def get_config(self):
        return {**super().get_config(), "tasks": self.tasks, "regression": self.regression}

    def call(self, losses):
        _check(losses, self.tasks)
        terms = []
        for name, loss in losses.items():
            s = self.log_variance[self.tasks.index(name)]
            half = 0.5 if name in self.regression else 1.0
            terms.append(half * ops.exp(-s) * ops.cast(loss, "float32") + s / 2)
        return _sum(terms)


class GradNorm(keras.layers.Layer):
    """Sum of w * loss; `update` moves w until tasks learn at like rates. w is no weight of the optimiser.

    Args: tasks: their names.  alpha: how strongly rates are made alike.  learning_rate: of w.
    Call, Returns, Raises: as `FixedWeights`.
    Source: GradNorm, algorithm 1, arXiv:1711.02257.
    """

    def __init__(self, tasks, alpha: float = 1.5, learning_rate: float = 0.025, **kwargs):
        super().__init__(**_in_float32(kwargs))
        self.tasks, self.alpha, self.learning_rate = tuple(tasks), alpha, learning_rate
        shape = (len(self.tasks),)
        self.task_weights = self.add_weight(shape, "ones", trainable=False, name="task_weights")
        self.first_losses = self.add_weight(shape, "zeros", trainable=False, name="first_losses")

    def get_config(self):
        own = {"tasks": self.tasks, "alpha": self.alpha, "learning_rate": self.learning_rate}
        return {**super().get_config(), **own}

    def call(self, losses):
        _check(losses, self.tasks)
        weights = ops.stop_gradient(ops.convert_to_tensor(self.task_weights))
        return _sum(weights[self.tasks.index(n)] * ops.cast(x, "float32") for n, x in losses.items())

    def update(self, norms: dict, losses: dict):
        """Move the weights of the tasks in `losses`; a task's first loss is kept the first time it is seen.

        Args: norms: task -> norm of the gradient of its unweighted loss by the last shared weights.
        """
        _check(losses, self.tasks)
        _check(norms, self.tasks)
        present = ops.convert_to_tensor([name in losses for name in self.tasks])
        zero = ops.zeros((), "float32")
        row = ops.stack([ops.cast(losses.get(name, zero), "float32") for name in self.tasks])
        norm = ops.stack([ops.cast(norms.get(name, zero), "float32") for name in self.tasks])
        first = ops.convert_to_tensor(self.first_losses)
        first = ops.where(ops.logical_and(present, first == 0), row, first)
        weights = ops.convert_to_tensor(self.task_weights)
        self.task_weights.assign(
            grad_norm_step(weights, norm, row, first, self.alpha, self.learning_rate, present)
        )
        self.first_losses.assign(first)


def grad_norm_step(
    weights, norms, losses, first_losses, alpha: float = 1.5, learning_rate: float = 0.025, present=None
):
    """One step of sum |w_i n_i - mean(w n) r_i^alpha| by w, r_i = (L_i / L_i(0)) / mean, targets held fixed.

    Args:
        weights: float (K,).  norms: float (K,), of the unweighted gradients by the last shared weights.
        losses, first_losses: float (K,).  present: bool (K,); the others keep their weight.
    Returns: float32 (K,), its sum that of `weights` before (K, if it was K).
    Source: GradNorm, equations 1 and 2, arXiv:1711.02257. Differs: no weight falls below
        1e-3, before all are scaled to the sum.
    """
    weights, norms, losses, first_losses = (
        ops.cast(a, "float32") for a in (weights, norms, losses, first_losses)
    )
    present = ops.ones(weights.shape, "bool") if present is None else present
    shares = ops.cast(present, "float32")
    count = ops.maximum(ops.sum(shares), 1.0)
    progress = ops.where(present, losses / ops.maximum(first_losses, 1e-12), 0.0)
    rate = progress / ops.maximum(ops.sum(progress) / count, 1e-12)
    scaled = weights * norms
    wanted = ops.sum(shares * scaled) / count * rate**alpha
    moved = ops.maximum(weights - learning_rate * ops.sign(scaled - wanted) * norms, 1e-3)
    moved = moved * ops.sum(shares * weights) / ops.maximum(ops.sum(shares * moved), 1e-12)
    return ops.where(present, moved, weights)


def _in_float32(kwargs):
    """Whatever the policy: Keras would cast the losses to float16 on their way in."""
    return {**kwargs, "dtype": "float32"}


def _check(names, tasks):
    unknown = sorted(set(names) - set(tasks))
    if unknown:
        raise ValueError(
            f"losses of {unknown} have no weight, tasks are {list(tasks)}; add them to the tasks"
        )


def _sum(terms):
    return sum(terms, ops.zeros((), "float32"))
