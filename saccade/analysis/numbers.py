"""Arrays of all steps -> what the charts show. The same for images and boards."""

from collections.abc import Callable, Sequence

import numpy as np

from saccade.analysis.record import Bin, Breakdown, Group
from saccade.metrics.reasoning import at_step, halting_row, halting_steps

CURVE = tuple(step / 4 for step in range(-24, 49))
BINS = 15  # as calibration_error
_Z = 1.959964  # of a 95 % interval


def wilson(hits: int, num: int) -> tuple[float, float]:
    """The 95 % interval of a share. Source: Wilson 1927."""
    if not num:
        return 0.0, 1.0
    share, z = hits / num, _Z * _Z / num
    middle = (share + z / 2) / (1 + z)
    half = _Z * np.sqrt(share * (1 - share) / num + z / (4 * num)) / (1 + z)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def breakdown(
    name: str, title: str, labels: Sequence[str], correct: np.ndarray, steps: np.ndarray, order: Callable
) -> Breakdown:
    """Accuracy and steps of the examples that share a label. order: key of labels, as `sorted` takes it."""
    groups = []
    for label in sorted(set(labels), key=order):
        here = np.array([other == label for other in labels])
        hits, num = int(correct[here].sum()), int(here.sum())
        groups.append(Group(label, num, hits / num, *wilson(hits, num), float(steps[here].mean())))
    return Breakdown(name, title, tuple(groups))


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> tuple[Bin, ...]:
    """The bins of `calibration_error` that hold an answer."""
    index = np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for i in np.unique(index):
        here = index == i
        means = float(confidence[here].mean()), float(correct[here].mean())
        found.append(Bin(float(i) / bins, float(i + 1) / bins, int(here.sum()), *means))
    return tuple(found)


def halting_curve(q: np.ndarray, correct: np.ndarray, difficulty, in_use: float) -> tuple[dict, ...]:
    """`halting_row` for each threshold of CURVE that changes something, and for the one `in_use`."""
    rows, before = [], None
    for threshold in sorted({*CURVE, in_use}):
        steps = halting_steps(q, threshold)
        if before is None or (steps != before).any() or threshold == in_use:
            rows.append(halting_row(q, correct, difficulty, threshold))
        before = steps
    return tuple(rows)


def common(q, correct, confidence, difficulty, levels: Callable, threshold: float) -> dict:
    """The fields of a Part that need no more than arrays.

    Args:
        q: float (K, N), what halts a row when it exceeds `threshold`.
        correct: bool (K, N).  confidence: float (K, N).
        difficulty: int (N,).  levels: a difficulty -> the name of its level, a range of difficulties.
    """
    most, steps = len(q), halting_steps(q, threshold)
    right = at_step(correct, steps)
    names = [levels(value) for value in np.asarray(difficulty).tolist()]
    kept = tuple(dict.fromkeys(name for _, name in sorted(zip(difficulty, names, strict=True))))
    rows = np.array([kept.index(name) for name in names])
    histogram, effort = np.zeros((2, most), int), np.zeros((len(kept), most), int)
    np.add.at(histogram, (right.astype(int), steps - 1), 1)
    np.add.at(effort, (rows, steps - 1), 1)
    return {
        "num": len(steps),
        "curve": halting_curve(q, correct, difficulty, threshold),
        "operating": halting_row(q, correct, difficulty, threshold),
        "accuracy_by_step": tuple(float(row.mean()) for row in correct),
        "histogram": histogram,
        "levels": kept,
        "effort": effort,
        "bins": reliability(at_step(confidence, steps), right),
    }


def buckets(edges: Sequence[int], unit: str = "") -> Callable[[int], str]:
    """A number -> the name of its range; `edges` are the first numbers of the ranges after the first."""

    def name(value: int) -> str:
        at = sum(value >= edge for edge in edges)
        if at == 0:
            text = f"under {edges[0]}"
        elif at == len(edges):
            text = f"{edges[-1]} or more"
        else:
            low, high = edges[at - 1], edges[at] - 1
            text = str(low) if low == high else f"{low} to {high}"
        return f"{text}{unit}"

    return name
