"""Boxes against boxes."""

import numpy as np

MIN_IOU = 0.5  # from which a box counts as found (RefCOCO)


def iou(a, b) -> np.ndarray:
    """Intersection over union of boxes xyxy: a, b float (..., 4) -> float64 (...).

    Boxes that are empty or turned inside out have no area; two of them have an IoU of 0.
    """
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    area_a, area_b = (np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), axis=-1) for box in (a, b))
    union = area_a + area_b - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def pairwise_iou(a, b) -> np.ndarray:
    """IoU of each box with each: a (N, 4), b (M, 4), both xyxy -> float64 (N, M)."""
    a, b = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (a, b))
    return iou(a[:, None], b[None])


def suppress(boxes, scores, overlap: float = 0.5) -> np.ndarray:
    """Greedy non-maximum suppression: of boxes that overlap, the surest stays.

    Args: boxes: float (N, 4) xyxy.  scores: float (N,); of equal ones the first is the surer.
        overlap: IoU above which a box is dropped for a surer one that stays.
    Returns: int64 (K,): what stays, surest first.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    near = pairwise_iou(boxes, boxes) > overlap
    stays: list[int] = []
    for index in order:
        if not near[index, stays].any():
            stays.append(int(index))
    return np.array(stays, np.int64)


def grounding_accuracy(predicted, truth, threshold: float = MIN_IOU) -> float:
    """Share of expressions, in [0, 1], whose box has an IoU of at least `threshold` with the true one.

    Args:
        predicted, truth: float (N, 4), xyxy in the same units, one box an expression.
    Raises: ValueError: shapes differ (states both) or there is no expression.
    Source: Yu et al. 2016, arXiv:1608.00272.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if predicted.shape != truth.shape or predicted.ndim != 2 or not len(truth):
        raise ValueError(f"boxes are {predicted.shape} and {truth.shape}: give (N, 4) twice, N at least 1")
    return float(np.mean(iou(predicted, truth) >= threshold))


def interpolated_precision(hits, positives: int, points: int = 101) -> float:
    """AP, in [0, 1]: mean over `points` recalls from 0 to 1 of the best precision there or later.

    Args:
        hits: bool (N,), for each detection, surest first, whether it is a true positive.
        positives: how many there are to find.
    Raises: ValueError: nothing to find.
    """
    if positives < 1:
        raise ValueError(f"{positives} boxes to find: average precision needs at least 1")
    found = np.cumsum(np.asarray(hits, bool))
    if not len(found):
        return 0.0
    recall = found / positives
    precision = found / np.arange(1, len(found) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(recall, np.linspace(0, 1, points), side="left")
    return float(np.append(best, 0.0)[index].mean())
