"""Dense captioning: regions count as found if both the box and its description fit."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from saccade.metrics.meteor import meteor_exact_stem
from saccade.metrics.ptb import tokenize
from saccade.metrics.region import interpolated_precision, pairwise_iou

OVERLAPS = (0.3, 0.4, 0.5, 0.6, 0.7)
METEORS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
_MERGE = 0.7


class Described(NamedTuple):
    """Regions of one image: boxes float (R, 4) xyxy, R captions; scores float (R,), of predictions only."""

    boxes: np.ndarray
    captions: Sequence[str]
    scores: np.ndarray | None = None


def merge_truth(truth: Described) -> tuple[np.ndarray, list[list[str]]]:
    """Annotations of the same thing become one: boxes (M, 4) and the captions of each.

    The box with the most others at an IoU of at least 0.7 and these become their mean box; so on with the
    rest.
    """
    boxes = np.asarray(truth.boxes, np.float64).reshape(-1, 4)
    near = pairwise_iou(boxes, boxes) >= _MERGE
    np.fill_diagonal(near, True)  # a box without area is near to itself too
    merged, captions = [], []
    while near.any():
        group = np.flatnonzero(near[np.argmax(near.sum(1))])
        merged.append(boxes[group].mean(0))
        captions.append([truth.captions[index] for index in group])
        near[group], near[:, group] = False, False
    return np.array(merged).reshape(-1, 4), captions


def dense_caption_map(predictions: Sequence[Described], truths: Sequence[Described]) -> dict:
    """Mean average precision of dense captioning, in [0, 1].

    Each prediction, surest first, is assigned to the merged true region with which it overlaps most, if that
    is still free. It is right if the IoU is at least t and METEOR of its caption exceeds s; AP of 101
    recalls, averaged over t in .3 to .7 and s in 0 to .25. Two things differ from the published numbers:
    METEOR has exact and stem matches only (saccade.metrics.meteor), which lowers the score, and boxes are
    continuous (the source adds 1 pixel to each side).

    Args:
        predictions: one an image, with scores.  truths: one an image, in the same order; scores are not read.
    Returns: `map`; `ap`: {(t, s): AP}; `box_map`: the same without regard to captions.
    Raises: ValueError: numbers of images or of an image's boxes, captions and scores differ; nothing to find.
    Source: Johnson et al. 2016, arXiv:1511.07571, section 5.2, and its evaluation code.
    """
    _check(predictions, truths)
    records, positives = [], 0
    for found, truth in zip(predictions, truths, strict=True):
        boxes, captions = merge_truth(truth)
        positives += len(boxes)
        records += _assign(found, boxes, captions)
    records.sort(key=lambda record: -record.score)  # a stable sort
    overlap = np.array([record.overlap for record in records])
    meteor = np.array([record.meteor for record in records])
    ap = {
        (t, s): interpolated_precision((overlap >= t) & (meteor > s), positives)
        for t in OVERLAPS
        for s in METEORS
    }
    box_ap = [interpolated_precision(overlap >= t, positives) for t in OVERLAPS]
    return {"map": float(np.mean(list(ap.values()))), "ap": ap, "box_map": float(np.mean(box_ap))}


class _Record(NamedTuple):
    score: float
    overlap: float  # -1: no region, or one that was taken
    meteor: float


def _assign(found: Described, boxes: np.ndarray, captions: list[list[str]]) -> list[_Record]:
    """A record for each prediction of an image, surest first."""
    assert found.scores is not None  # by _check
    overlaps = pairwise_iou(found.boxes, boxes)
    taken = np.zeros(len(boxes), bool)
    records = []
    for row in np.argsort(-np.asarray(found.scores, np.float64), kind="stable"):
        best = int(np.argmax(overlaps[row])) if len(boxes) else -1
        if best < 0 or overlaps[row, best] == 0 or taken[best]:
            records.append(_Record(float(found.scores[row]), -1.0, 0.0))
            continue
        taken[best] = True
        references = [tokenize(text) for text in captions[best]]
        meteor = float(meteor_exact_stem([tokenize(found.captions[row])], [references]).corpus)
        records.append(_Record(float(found.scores[row]), float(overlaps[row, best]), meteor))
    return records


def _check(predictions: Sequence[Described], truths: Sequence[Described]) -> None:
    if len(predictions) != len(truths):
        raise ValueError(
            f"regions of {len(predictions)} images, truth of {len(truths)}: give one of each an image"
        )
    for index, (found, truth) in enumerate(zip(predictions, truths, strict=True)):
        if found.scores is None:
            raise ValueError(f"predictions of image {index} have no scores: average precision needs them")
        counts = [len(found.boxes), len(found.captions), len(found.scores)]
        if len(set(counts)) > 1 or len(truth.boxes) != len(truth.captions):
            raise ValueError(
                f"image {index} has {counts} predicted boxes, captions and scores, and "
                f"{len(truth.boxes)} true boxes with {len(truth.captions)} captions: give one of each"
            )
