"""Boxes: overlap and the loss of one predicted box against one true box."""

from keras import ops


def to_xyxy(boxes):
    """cxcywh (..., 4) -> xyxy float32 (..., 4)."""
    boxes = ops.cast(boxes, "float32")
    center, size = boxes[..., :2], boxes[..., 2:]
    return ops.concatenate([center - size / 2, center + size / 2], axis=-1)


def box_iou(a, b):
    """Intersection over union and its generalised form, of xyxy boxes (..., 4).

    Returns: iou, giou, each float32 (...); 0 area gives iou 0.
    Source: Generalized IoU, arXiv:1902.09630, algorithm 1.
    """
    a, b = ops.cast(a, "float32"), ops.cast(b, "float32")
    low = ops.maximum(a[..., :2], b[..., :2])
    high = ops.minimum(a[..., 2:], b[..., 2:])
    overlap = ops.prod(ops.maximum(high - low, 0.0), axis=-1)
    union = _area(a) + _area(b) - overlap
    iou = overlap / ops.maximum(union, 1e-9)
    hull = ops.maximum(a[..., 2:], b[..., 2:]) - ops.minimum(a[..., :2], b[..., :2])
    hull_area = ops.maximum(ops.prod(hull, axis=-1), 1e-9)
    return iou, iou - (hull_area - union) / hull_area


def _area(boxes):
    return ops.prod(ops.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1)


def box_loss(predicted, target, l1_weight: float = 5.0, giou_weight: float = 2.0):
    """Weighted L1 + (1 - GIoU).

    Args:
        predicted: cxcywh float32 (B, 4).  target: xyxy float32 (B, 4).
    Returns: loss float32 (B,), iou float32 (B,).
    Source: DETR, section 3.1, arXiv:2005.12872 (weights 5 and 2).
    """
    corners, target = to_xyxy(predicted), ops.cast(target, "float32")
    iou, giou = box_iou(corners, target)
    l1 = ops.mean(ops.abs(corners - target), axis=-1)
    return l1_weight * l1 + giou_weight * (1 - giou), iou
