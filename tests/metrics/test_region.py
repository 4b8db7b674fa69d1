import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.metrics.region import iou, pairwise_iou, suppress

coordinate = st.floats(0, 1)
box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def test_by_hand():
    a = [0.0, 0.0, 0.5, 0.5]
    assert iou(a, a) == 1
    assert iou(a, [0.25, 0.0, 0.75, 0.5]) == pytest.approx(1 / 3)
    assert iou(a, [0.5, 0.0, 1.0, 0.5]) == 0  # they touch
    assert iou(a, [0.0, 0.0, 1.0, 1.0]) == pytest.approx(0.25)


def test_empty_and_reversed_boxes():
    assert iou([0.3, 0.3, 0.3, 0.3], [0.3, 0.3, 0.3, 0.3]) == 0
    assert iou([0.5, 0.5, 0.1, 0.1], [0.0, 0.0, 1.0, 1.0]) == 0


def test_broadcasts():
    assert iou(np.zeros((3, 5, 4)), np.ones((5, 4))).shape == (3, 5)


@settings(deadline=None)
@given(box, box)
def test_symmetric_and_bounded(a, b):
    value = float(iou(a, b))
    assert 0 <= value <= 1 + 1e-12
    assert value == float(iou(b, a))


def test_suppression_is_greedy():
    # a overlaps b, b overlaps c, a does not overlap c: once b falls to a, c stays
    boxes = [[0, 0, 10, 10], [0, 4, 10, 14], [0, 8, 10, 18], [50, 50, 60, 60]]
    assert pairwise_iou(boxes, boxes)[0, 1] > 0.4
    assert suppress(boxes, [0.9, 0.8, 0.7, 0.1], 0.4).tolist() == [0, 2, 3]
    assert suppress(boxes, [0.7, 0.8, 0.7, 0.9], 0.4).tolist() == [3, 1]
    assert suppress(boxes, [0.5] * 4, 0.5).tolist() == [0, 1, 2, 3]
    assert suppress(boxes * 2, [1] * 8).tolist() == [0, 1, 2, 3]
    assert suppress(np.zeros((0, 4)), []).tolist() == []
