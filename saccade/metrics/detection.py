"""Box average precision as COCO counts it, for boxes of many images and categories."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from saccade.metrics.region import interpolated_precision, pairwise_iou

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_MOST = 100  # detections of a category that count in one image


class Detections(NamedTuple):
    """What was found in one image: boxes float (D, 4) xyxy, scores float (D,), categories (D,)."""

    boxes: np.ndarray
    scores: np.ndarray
    categories: np.ndarray


class Truth(NamedTuple):
    """What is in one image: boxes float (G, 4) xyxy, categories (G,); crowd bool (G,) or None.

    A crowd box may be found any number of times; finding it neither helps nor harms.
    """

    boxes: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray | None = None


def box_ap(detections: Sequence[Detections], truths: Sequence[Truth]) -> dict[str, float]:
    """COCO's box AP, in [0, 1]: `ap` (mean over IoU .5, .55 ... .95), `ap50`, `ap75`; means over categories.

    Categories without a box to find do not count. At most 100 detections of a category count in each image;
    equal scores keep their order. No area ranges.

    Args:
        detections, truths: one an image, in the same order.
    Raises: ValueError: numbers of images differ (states both); an image's arrays differ in length; nothing
        to find.
    Source: Lin et al. 2014; pycocotools' COCOeval with iouType "bbox", area "all", maxDets 100.
    """
    _check(detections, truths)
    categories = {
        name
        for truth in truths
        for name, crowd in zip(truth.categories, _crowd(truth), strict=True)
        if not crowd
    }
    if not categories:
        raise ValueError("no boxes to find in any image: average precision needs at least 1")
    table = np.array([_of_category(name, detections, truths) for name in sorted(categories)])
    return {"ap": float(table.mean()), "ap50": float(table[:, 0].mean()), "ap75": float(table[:, 5].mean())}


def _check(detections: Sequence[Detections], truths: Sequence[Truth]) -> None:
    if len(detections) != len(truths):
        raise ValueError(
            f"detections of {len(detections)} images, truth of {len(truths)}: give one of each an image"
        )
    for index, parts in enumerate(zip(detections, truths, strict=True)):
        for part in parts:
            lengths = {name: len(value) for name, value in part._asdict().items() if value is not None}
            if len(set(lengths.values())) > 1:
                raise ValueError(f"image {index} has {lengths}: give one of each a box")


def _crowd(truth: Truth) -> np.ndarray:
    return np.zeros(len(truth.boxes), bool) if truth.crowd is None else np.asarray(truth.crowd, bool)


def _of_category(name, detections: Sequence[Detections], truths: Sequence[Truth]) -> list[float]:
    """AP of one category at each threshold."""
    scores, hits, ignored, positives = [], [], [], 0
    for found, truth in zip(detections, truths, strict=True):
        ours = np.flatnonzero(np.asarray(found.categories) == name)
        ours = ours[np.argsort(-np.asarray(found.scores)[ours], kind="stable")][:_MOST]
        theirs = np.flatnonzero(np.asarray(truth.categories) == name)
        boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4)[ours]
        goal = np.asarray(truth.boxes, np.float64).reshape(-1, 4)[theirs]
        crowd = _crowd(truth)[theirs]
        hit, ignore = _match(boxes, goal, crowd)
        scores.append(np.asarray(found.scores, np.float64)[ours])
        hits.append(hit)
        ignored.append(ignore)
        positives += int((~crowd).sum())
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit, ignore = (np.concatenate(parts, axis=1)[:, order] for parts in (hits, ignored))
    return [interpolated_precision(row[~skip], positives) for row, skip in zip(hit, ignore, strict=True)]


def _match(boxes: np.ndarray, goal: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes (D, 4), surest first, find a box of `goal`, and which a crowd: bool (thresholds, D)."""
    overlap = pairwise_iou(boxes, goal)
    overlap[:, crowd] = _inside(boxes, goal[crowd])
    hit, ignored = (np.zeros((len(THRESHOLDS), len(boxes)), bool) for _ in range(2))
    for level, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(goal), bool)
        for row in range(len(boxes)):
            # What is no crowd comes first, however well a crowd fits; of equal overlaps the last counts, as
            # in COCO.
            for kind, marked in ((free & ~crowd, hit), (crowd, ignored)):
                fits = np.where(kind, overlap[row], -1.0)
                if len(fits) and fits.max() >= min(threshold, 1 - 1e-10):
                    best = len(fits) - 1 - int(np.argmax(fits[::-1]))
                    free[best] = crowd[best]
                    marked[level, row] = True
                    break
    return hit, ignored


def _inside(boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Share of each box (D, 4) that lies in each crowd (C, 4): (D, C), what COCO takes for their IoU."""
    sides = np.minimum(boxes[:, None, 2:], crowd[None, :, 2:]) - np.maximum(
        boxes[:, None, :2], crowd[None, :, :2]
    )
    common = np.prod(np.maximum(sides, 0), axis=-1)
    area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=-1)[:, None]
    return np.divide(common, area, out=np.zeros_like(common), where=area > 0)
