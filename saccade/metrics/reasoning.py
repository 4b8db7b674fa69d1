"""How well halting, confidence and effort agree with the truth."""

import numpy as np


def average_ranks(values) -> np.ndarray:
    """Ranks from 1, float (N,); equal values share the mean of their ranks."""
    _, group, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def spearman(x, y) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where x or y is constant.

    Args:
        x, y: numbers (N,).
    Raises: ValueError: lengths differ (states both).
    """
    if len(x) != len(y):
        raise ValueError(f"spearman needs pairs: x has {len(x)} values, y has {len(y)}")
    if not len(x):
        return None
    a, b = (ranks - ranks.mean() for ranks in (average_ranks(x), average_ranks(y)))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / scale, -1, 1)) if scale > 0 else None


def calibration_error(confidence, correct, bins: int = 15) -> float:
    """Expected calibration error: |accuracy - mean confidence| of each bin, weighted by its size.

    Args:
        confidence: float (N,) in [0, 1].  correct: bool (N,).
        bins: of equal width, closed on the right; 0 belongs to the first.
    Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if not len(confidence):
        return 0.0
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, correct - confidence, bins)
    return float(np.abs(gaps).sum() / len(confidence))


def at_step(values: np.ndarray, steps) -> np.ndarray:
    """What stood there when each row halted: values (K, N), steps int (N,) from 1 -> (N,)."""
    return values[np.asarray(steps) - 1, np.arange(values.shape[1])]


def halting_steps(q_halt: np.ndarray, threshold: float, max_steps: int | None = None) -> np.ndarray:
    """int (N,): the step, from 1, at which each row halts, given the logits of all steps (K, N).

    A row halts at the first step whose logit exceeds the threshold, at the latest after max_steps (None = K).
    """
    confident = np.asarray(q_halt)[:max_steps] > threshold
    confident[-1] = True
    return np.argmax(confident, axis=0) + 1


def halting_row(q_halt: np.ndarray, correct: np.ndarray, depth, threshold: float) -> dict:
    """What one threshold gives.

    Args:
        q_halt: float (K, N), halting logits.  correct: bool (K, N), of each step's answer.
        depth: int (N,), program depth.
    Returns: threshold, accuracy, mean_steps, spearman (of steps with depth, None if constant).
    """
    steps = halting_steps(q_halt, threshold)
    return {
        "threshold": float(threshold),
        "accuracy": float(at_step(correct, steps).mean()),
        "mean_steps": float(steps.mean()),
        "spearman": spearman(steps, depth),
    }


def by_group(groups, **values) -> dict[str, dict]:
    """Means of each named array (N,), group by group in sorted order, and `num`, the group's size."""
    groups = np.asarray(groups)
    return {
        str(group): {
            "num": int((groups == group).sum()),
            **{name: float(np.mean(array[groups == group])) for name, array in values.items()},
        }
        for group in np.unique(groups)
    }


def consistency(groups, correct) -> float:
    """Share of groups all of whose members are right (NLVR: all images of a sentence).

    Source: Goldman et al. 2018, arXiv:1711.05240, section 5.
    """
    return float(np.mean([row["correct"] == 1.0 for row in by_group(groups, correct=correct).values()]))
