"""Boxes against boxes."""

import numpy as np


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
