"""When to stop: the rule, the exploration that trains it, and its losses."""

import math

import keras
from keras import ops

from saccade.errors import SaccadeError
from saccade.losses import binary_cross_entropy

_MOST = 1e6


def halting_threshold(config, given: float | None) -> float:
    """The halting logit to exceed: the given one, or that of a model's config.

    Infinity (at once, or not before the last step) becomes +-1e6, which no logit reaches and JSON can hold.

    Raises: SaccadeError: it is NaN, which no logit exceeds: every row would silently take all steps.
    """
    threshold = float(config.halt_threshold if given is None else given)
    if math.isnan(threshold):
        raise SaccadeError("the halting threshold is nan; give a number, or leave it out for the model's")
    return min(max(threshold, -_MOST), _MOST)


def should_halt(q_halt, steps, max_steps: int, threshold: float = 0.0, min_steps=None):
    """Stop when the model believes its answer is right, or time is up.

    Args:
        q_halt: float (B,), logit of "the answer is right".
        steps: int32 (B,), steps taken, this one included.
        max_steps: hard limit.
        threshold: halt when q_halt exceeds it; 0 is the rule of TRM, higher is more careful.
        min_steps: int32 (B,), no halting before; None = 1.
    Returns: bool (B,).
    Source: TRM, arXiv:2510.04871, section 2.
    """
    confident = ops.cast(q_halt, "float32") > threshold
    if min_steps is not None:
        confident = ops.logical_and(confident, steps >= min_steps)
    return ops.logical_or(confident, steps >= max_steps)


def explore_min_steps(batch_size: int, max_steps: int, probability: float, seed):
    """With `probability` a row must take U{2..max_steps} steps, else 1.

    Returns: int32 (B,).
    Source: HRM, arXiv:2506.21734, section 2 (halt_exploration_prob).
    """
    chosen = keras.random.uniform((batch_size,), seed=seed) < probability
    draw = keras.random.randint((batch_size,), 2, max(max_steps, 2) + 1, dtype="int32", seed=seed)
    return ops.where(chosen, ops.minimum(draw, max_steps), ops.ones_like(draw))


def halting_loss(q_halt, correct):
    """BCE(q_halt, correct) per row.

    Args:
        q_halt: float (B,), logits.
        correct: float (B,), 1 when the answer of this step is right (a share in [0, 1] is allowed).
    Returns: float32 (B,).
    """
    return binary_cross_entropy(q_halt, ops.stop_gradient(ops.cast(correct, "float32")))


def q_continue_target(next_q_halt, next_q_continue, last_step):
    """Bootstrapped value of going on: sigmoid(max(next q_halt, next q_continue)); at the end of q_halt alone.

    Args:
        next_q_halt, next_q_continue: float (B,), logits one step later.
        last_step: bool (B,), True where the next step is the last allowed.
    Returns: float32 (B,), no gradient.
    Source: HRM, arXiv:2506.21734, equation for the Q-learning targets.
    """
    best = ops.maximum(next_q_halt, next_q_continue)
    return ops.stop_gradient(ops.sigmoid(ops.cast(ops.where(last_step, next_q_halt, best), "float32")))
