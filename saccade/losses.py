"""Losses, one value per example in float32. Models compute none; objectives call these."""

from keras import ops


def cross_entropy(logits, targets, smoothing: float = 0.0, stablemax: bool = False):
    """-log p[target] with label smoothing; p is softmax(logits), or stablemax(logits).

    Args:
        logits: float (..., K).  targets: int32 (...).  smoothing: mass spread evenly over the K classes.
    Returns: float32 (...).
    """
    log_p = log_stablemax(logits) if stablemax else ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    # Not a gather: its gradient would be a scatter, many times slower on a GPU than this fused sum.
    chosen = ops.equal(ops.expand_dims(targets, -1), ops.arange(log_p.shape[-1], dtype="int32"))
    picked = ops.sum(ops.where(chosen, log_p, 0.0), axis=-1)
    if not smoothing:
        return -picked
    return -(1 - smoothing) * picked - smoothing * ops.mean(log_p, axis=-1)


def log_stablemax(logits):
    """log(s(x) / sum s(x)), s(x) = x + 1 for x >= 0, else 1 / (1 - x): no exponential that saturates.

    Args: logits: float (..., K).
    Returns: float32 (..., K).
    Source: Grokking at the Edge of Numerical Stability, arXiv:2501.04697, equation 5.
    """
    x = ops.cast(logits, "float32")
    positive = x >= 0
    # log s(x) = sign(x) log(1 + |x|), written so that its slope at 0 is 1.
    above, below = ops.where(positive, x, 0.0), ops.where(positive, 0.0, -x)
    log_s = ops.where(positive, ops.log1p(above), -ops.log1p(below))
    return log_s - ops.logsumexp(log_s, axis=-1, keepdims=True)


def binary_cross_entropy(logits, target):
    """-target * log(sigmoid) - (1 - target) * log(1 - sigmoid), stable; target in [0, 1].

    Args: logits, target: float (...).
    Returns: float32 (...).
    """
    logits, target = ops.cast(logits, "float32"), ops.cast(target, "float32")
    # Not softplus(x) - target * x: for a sure and right answer that is the difference of two large numbers.
    return (1 - target) * ops.softplus(logits) + target * ops.softplus(-logits)


def masked_mean(values, mask):
    """Mean over the last axis where mask is True; 0 for a row without any."""
    weights = ops.cast(mask, "float32")
    return ops.sum(values * weights, axis=-1) / ops.maximum(ops.sum(weights, axis=-1), 1.0)


def to_xyxy(boxes):
    """cxcywh (..., 4) -> xyxy (..., 4)."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return ops.concatenate([center - size / 2, center + size / 2], axis=-1)


def box_iou(a, b):
    """Intersection over union and its generalised form, of xyxy boxes (..., 4).

    Returns: iou, giou, each float32 (...); 0 area gives iou 0.
    Source: Generalized IoU, arXiv:1902.09630, algorithm 1.
    """
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
    corners = to_xyxy(predicted)
    iou, giou = box_iou(corners, target)
    l1 = ops.mean(ops.abs(corners - target), axis=-1)
    return l1_weight * l1 + giou_weight * (1 - giou), iou


def info_nce(similarity):
    """Symmetric InfoNCE over similarities of B images with C >= B texts; pair i is (i, i).

    Texts from B on are hard negatives: each image must also reject them, and none has an image of its own.

    Args: similarity: float (B, C), scaled.
    Returns: float32 (B,): mean of the two directions.
    Source: CLIP, figure 3, arXiv:2103.00020; negatives beyond the batch as in NegCLIP, arXiv:2210.01936.
    """
    rows = similarity.shape[0]
    targets = ops.arange(rows, dtype="int32")
    forward = cross_entropy(similarity, targets)
    backward = cross_entropy(ops.transpose(similarity[:, :rows]), targets)
    return (forward + backward) / 2
