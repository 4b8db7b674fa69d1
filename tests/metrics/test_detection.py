import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.metrics.dense import Described, dense_caption_map, merge_truth
from saccade.metrics.detection import Detections, Truth, box_ap
from saccade.metrics.region import grounding_accuracy, interpolated_precision, pairwise_iou

A, B, C = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [0.0, 20.0, 10.0, 30.0]
relaxed = settings(deadline=None, max_examples=40)  # the machine may be busy


def test_grounding_accuracy_by_hand():
    # IoU 1, exactly 1/2 (half of the box), and 1/3.
    predicted = [A, [0.0, 0.0, 5.0, 10.0], [5.0, 0.0, 15.0, 10.0]]
    assert grounding_accuracy(predicted, [A, A, A]) == pytest.approx(2 / 3)
    assert grounding_accuracy(predicted, [A, A, A], 0.6) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(2, 4\)"):
        grounding_accuracy([A], [A, B])


def test_average_precision_by_hand():
    # Precision 1 up to recall 1/2 (51 of 101 points), 2/3 up to recall 1 (50 points).
    assert interpolated_precision([True, False, True], 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert interpolated_precision([], 2) == 0
    assert interpolated_precision([False, True], 1) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="0 boxes to find"):
        interpolated_precision([True], 0)


def test_box_ap_by_hand():
    truth = [Truth([A, B], ["cat", "cat"])]
    perfect = Detections([A, B], [0.9, 0.8], ["cat", "cat"])
    assert box_ap([perfect], truth) == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0}
    # IoU .8 counts up to threshold .8: 7 of 10; the second detection of the same box is wrong.
    near = Detections([[0.0, 0.0, 10.0, 8.0], A], [0.9, 0.5], ["cat", "cat"])
    found = box_ap([near], [Truth([A], ["cat"])])
    assert found["ap50"] == found["ap75"] == 1
    assert found["ap"] == pytest.approx((7 + 3 * 0.5) / 10)  # above .8 the second is the first right one
    # Another category, or nothing at all, finds nothing.
    assert box_ap([Detections([A, B], [1, 1], ["dog", "dog"])], truth)["ap"] == 0
    assert box_ap([Detections([], [], [])], truth)["ap"] == 0


def test_a_crowd_neither_helps_nor_harms():
    truth = [Truth([A, [0.0, 0.0, 40.0, 40.0]], [1, 1], [False, True])]
    inside = [[20.0, 20.0, 30.0, 30.0], [22.0, 20.0, 30.0, 30.0]]
    assert box_ap([Detections([*inside, A], [0.9, 0.8, 0.1], [1, 1, 1])], truth)["ap"] == 1
    with pytest.raises(ValueError, match="no boxes to find"):
        box_ap([Detections([A], [1.0], [1])], [Truth([A], [1], [True])])


def test_box_ap_errors():
    with pytest.raises(ValueError, match="of 0 images, truth of 1"):
        box_ap([], [Truth([A], [1])])
    with pytest.raises(ValueError, match=r"image 0 has \{'boxes': 1, 'scores': 2"):
        box_ap([Detections([A], [1, 2], [1])], [Truth([A], [1])])


images = st.integers(0, 10**6).map(lambda seed: _images(np.random.default_rng(seed)))


def _images(rng):
    found = []
    for _ in range(3):
        corner = rng.integers(0, 30, (4, 2))
        truth = np.concatenate([corner, corner + rng.integers(5, 30, (4, 2))], 1).astype(float)
        boxes = truth + rng.integers(-2, 3, truth.shape)
        found.append(
            (Detections(boxes, rng.permutation(12)[:4] / 12, [0, 0, 1, 1]), Truth(truth, [0, 0, 1, 1]))
        )
    return tuple(zip(*found, strict=True))


@relaxed
@given(images)
def test_box_ap_properties(pair):
    detections, truths = pair
    found = box_ap(detections, truths)
    assert 0 <= found["ap"] <= found["ap50"] <= 1
    # Scores matter by their order only, and the order in which detections are listed not at all.
    moved = [Detections(d.boxes[::-1], d.scores[::-1] * 3 - 1, d.categories[::-1]) for d in detections]
    assert box_ap(moved, truths)["ap50"] == pytest.approx(_by_images(moved, truths), abs=1e-12)
    # Saying everything twice never helps.
    twice = [Detections(*(np.concatenate([part, part]) for part in d)) for d in detections]
    assert box_ap(twice, truths)["ap"] <= found["ap"] + 1e-12


def _by_images(detections, truths):
    """The plain definition at IoU .5, one category at a time, without any of the module's matching."""
    scores = []
    for kind in (0, 1):
        rows = [
            (d.scores[i], n, i) for n, d in enumerate(detections) for i in range(4) if d.categories[i] == kind
        ]
        free, hits = {(n, g) for n, t in enumerate(truths) for g in range(4) if t.categories[g] == kind}, []
        positives = len(free)
        for _, n, i in sorted(rows, key=lambda row: -row[0]):
            fits = pairwise_iou(detections[n].boxes[i], truths[n].boxes)[0]
            best = max(((fits[g], g) for m, g in free if m == n), default=(0, None))
            hits.append(best[0] >= 0.5)
            if hits[-1]:
                free.discard((n, best[1]))
        scores.append(interpolated_precision(hits, positives))
    return np.mean(scores)


def test_annotations_of_one_thing_are_merged():
    near_a = [0.0, 0.0, 10.0, 9.0]  # IoU .9 with A
    boxes, captions = merge_truth(Described([B, A, near_a], ["a cat", "a dog", "one dog"]))
    assert captions == [["a dog", "one dog"], ["a cat"]]
    assert boxes.tolist() == [[0.0, 0.0, 10.0, 9.5], B]
    assert merge_truth(Described([], []))[0].shape == (0, 4)


def test_dense_captions_by_hand():
    truth = [Described([A, B], ["a red dog", "a blue cat"])]
    perfect = [Described([A, B], ["a red dog", "a blue cat"], [0.9, 0.8])]
    assert dense_caption_map(perfect, truth)["map"] == 1
    # No word in common: METEOR is 0, which does not exceed the lowest threshold; boxes alone are right.
    mute = [Described([A, B], ["one", "two"], [0.9, 0.8])]
    found = dense_caption_map(mute, truth)
    assert found["map"] == 0
    assert found["box_map"] == 1
    # One of two regions, at IoU exactly .5: right for t = .3, .4 and .5, up to recall 1/2.
    half = [Described([[0.0, 0.0, 5.0, 10.0]], ["a red dog"], [0.9])]
    found = dense_caption_map(half, truth)
    assert found["ap"][0.5, 0.25] == pytest.approx(51 / 101)
    assert found["ap"][0.6, 0.0] == 0
    assert found["map"] == pytest.approx(3 / 5 * 51 / 101)


def test_a_region_is_found_once_by_the_surest():
    truth = [Described([A], ["a red dog"])]
    both = [Described([A, A], ["one", "a red dog"], [0.9, 0.8])]
    assert dense_caption_map(both, truth)["map"] == 0  # the first took the region, and said something else
    assert dense_caption_map([Described([C], ["a red dog"], [0.9])], truth)["box_map"] == 0
    assert dense_caption_map([Described([], [], [])], truth)["map"] == 0


@relaxed
@given(st.integers(0, 10**6))
def test_dense_caption_properties(seed):
    rng = np.random.default_rng(seed)
    found, truths = _images(rng)
    words = ["a red dog", "a blue cat", "dogs", "the cat is red"]
    theirs = [Described(truth.boxes, list(rng.permutation(words))) for truth in truths]
    ours = [Described(d.boxes, list(rng.permutation(words)), d.scores) for d in found]
    scores = dense_caption_map(ours, theirs)
    assert 0 <= scores["map"] <= scores["box_map"] + 1e-12 <= 1 + 2e-12
    for t, s in scores["ap"]:
        assert scores["ap"][t, s] <= min(scores["ap"][0.3, s], scores["ap"][t, 0.0]) + 1e-12


def test_dense_caption_errors():
    truth = [Described([A], ["a dog"])]
    with pytest.raises(ValueError, match="of 0 images, truth of 1"):
        dense_caption_map([], truth)
    with pytest.raises(ValueError, match="image 0 have no scores"):
        dense_caption_map(truth, truth)
    with pytest.raises(ValueError, match=r"image 0 has \[1, 2, 1\]"):
        dense_caption_map([Described([A], ["a", "b"], [1.0])], truth)
    with pytest.raises(ValueError, match="0 boxes to find"):
        dense_caption_map([Described([A], ["a"], [1.0])], [Described([], [])])
