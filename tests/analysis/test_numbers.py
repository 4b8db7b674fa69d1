"""Intervals, bins, curves and choices, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.analysis import choose
from saccade.analysis.boards import settling
from saccade.analysis.collect import kind_of_sentence
from saccade.analysis.numbers import breakdown, buckets, common, halting_curve, reliability, wilson
from saccade.analysis.record import Card
from saccade.metrics.reasoning import calibration_error, halting_row


def test_wilson():
    # Values of Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 0) == (0, 1)
    assert wilson(5, 5)[1] == pytest.approx(1)
    assert wilson(0, 5)[0] == 0


def test_bins_are_those_of_the_calibration_error():
    rng = np.random.default_rng(0)
    confidence = np.append(rng.random(300), [0.0, 1.0, 1 / 15])
    correct = rng.random(303) < 0.6
    bins = reliability(confidence, correct)
    assert sum(b.num for b in bins) == 303
    assert all(b.low < b.confidence <= b.high or b.low == 0 for b in bins)
    error = sum(b.num * abs(b.accuracy - b.confidence) for b in bins) / 303
    assert error == pytest.approx(calibration_error(confidence, correct))


def test_the_curve_keeps_what_changes():
    q = np.array([[-2.0, 1.0], [0.5, 3.0]])
    correct = np.array([[False, True], [True, True]])
    rows = halting_curve(q, correct, [2, 1], 0.1)
    assert [row["mean_steps"] for row in rows] == [1.0, 1.5, 1.5, 2.0]
    assert [row["accuracy"] for row in rows] == [0.5, 1.0, 1.0, 1.0]
    assert [row["threshold"] for row in rows] == [-6, -2, 0.1, 1]
    assert rows[2] == halting_row(q, correct, [2, 1], 0.1)


def test_counts_by_step_and_difficulty():
    q = np.array([[1.0, -1, -1, -1], [1, 1, -1, 1], [1, 1, -1, 1]])
    correct = np.array([[True] * 4, [True, False, False, True], [True] * 3 + [False]])
    found = common(q, correct, correct * 0.5, np.array([1, 10, 10, 2]), str, 0.0)
    assert found["levels"] == ("1", "2", "10")
    assert found["histogram"].tolist() == [[0, 1, 0], [1, 1, 1]]
    assert found["effort"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert found["num"] == 4
    assert found["operating"]["accuracy"] == 0.75


def test_groups():
    correct, steps = np.array([True, False, True]), np.array([1, 4, 2])
    groups = breakdown("x", "By x", ["b", "a", "b"], correct, steps, lambda label: label).groups
    assert [(g.label, g.num, g.accuracy, g.mean_steps) for g in groups] == [("a", 1, 0, 4), ("b", 2, 1, 1.5)]


def test_ranges():
    name = buckets((8, 11, 12), " words")
    assert [name(n) for n in (7, 8, 10, 11, 12, 40)] == [
        *("under 8 words", "8 to 10 words", "8 to 10 words"),
        *("11 words", "12 or more words", "12 or more words"),
    ]


def test_a_cell_settles_when_it_stops_changing():
    cells = np.array([[1, 2, 3, 5], [1, 9, 4, 6], [1, 2, 4, 5], [1, 2, 4, 7]])
    assert settling(cells).tolist() == [1, 3, 2, 4]
    assert settling(cells[:1]).tolist() == [1] * 4


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("There is a tower with four blocks.", "tower"),
        ("Each grey box contains atleast one yellow object touching the edge", "edge"),
        ("there is a circle closely above a black one", "place"),
        ("all of the items are blue", "universal"),
        ("There are at least 2 black items", "count"),
        ("There is a yellow circle.", "existence"),
        ("a bigotherword", "existence"),
    ],
)
def test_sentences(sentence, kind):
    assert kind_of_sentence(sentence) == kind


def card(row):
    return Card(str(row), "", "", "", 1, 0.5)


def test_corners_hold_no_row_twice_and_vary_in_kind():
    correct = np.array([True] * 10 + [False] * 2)
    steps = np.array([1, 1, 1, 1, 2, 2, 3, 4, 5, 5, 1, 6])
    kinds = list("aaabcdefgghh")
    found = choose.corners(correct, steps, kinds)
    rows = [row for row, _ in found]
    assert len(set(rows)) == len(rows)
    assert [row for row, why in found if why == "right, early"] == [0, 3, 4]
    assert [row for row, why in found if why == "right, late"] == [8, 7, 6]
    assert {row for row, why in found if why.startswith("wrong")} == {10, 11}


def test_nothing_is_late_where_all_took_the_same():
    found = choose.corners(np.ones(9, bool), np.ones(9, int), "abcdefghi")
    assert found == [(row, "right, early") for row in range(6)]
    steps = np.array([1, 8, 8, 8, 8])
    found = choose.corners(np.zeros(5, bool), steps, "abcde")
    assert found == [(0, "wrong, early"), *((row, "wrong, late") for row in (1, 2, 3))]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 8), st.sampled_from("abc")), min_size=1, max_size=40))
def test_corners_say_the_truth(rows):
    correct, steps = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    found = choose.corners(correct, steps, [row[2] for row in rows])
    assert len({row for row, _ in found}) == len(found)
    for word, right in (("right", True), ("wrong", False)):
        early, late = ([steps[row] for row, why in found if why == f"{word}, {w}"] for w in ("early", "late"))
        assert len(early) + len(late) <= 6
        assert bool(early) == bool((correct == right).any())
        assert not late or max(early) < min(late)


def test_mistakes_are_grouped():
    correct = np.array([True, False, False, False, True])
    kinds = ["a", "a", "b", "b", "b"]
    groups = choose.by_kind(correct, kinds, card)
    assert [(g.title, g.wrong, g.num) for g in groups] == [("b", 2, 3), ("a", 1, 2)]
    assert [c.id for c in groups[0].cards] == ["2", "3"]
    pairs = choose.confusions(correct, list("rrsss"), list("rbtts"), card)
    assert [(p.truth, p.answer, p.count) for p in pairs] == [("s", "t", 2), ("r", "b", 1)]
    sure = choose.surest(correct, np.array([1, 0.2, 0.9, 0.4, 1]), card)
    assert [c.id for c in sure[0].cards] == ["2", "3", "1"]
    assert choose.surest(np.ones(3, bool), np.ones(3), card) == ()
