import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # JAX brings it

from saccade.metrics.reasoning import (
    at_step,
    average_ranks,
    by_group,
    calibration_error,
    consistency,
    halting_row,
    halting_steps,
    spearman,
)

relaxed = settings(deadline=None)  # the machine may be busy
numbers = st.lists(st.integers(-5, 5), min_size=2, max_size=40)


def test_equal_values_share_a_rank():
    assert average_ranks([30, 10, 20, 20]).tolist() == [4, 1, 2.5, 2.5]


def test_spearman_by_hand():
    assert spearman([1, 2, 3], [10, 40, 50]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: Pearson of those is 4.5 / sqrt(4.5 * 5)
    assert spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_spearman_of_a_constant_is_none():
    assert spearman([2, 2, 2], [1, 2, 3]) is None
    assert spearman([], []) is None
    with pytest.raises(ValueError, match="x has 1 values, y has 2"):
        spearman([1], [1, 2])


@relaxed
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=50))
def test_spearman_equals_scipy(pairs):
    x, y = zip(*pairs, strict=True)
    value = spearman(x, y)
    if value is None:
        assert len(set(x)) == 1 or len(set(y)) == 1
    else:
        assert value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


@relaxed
@given(numbers)
def test_spearman_sees_order_only(x):
    stretched = [value**3 + 7 for value in x]
    assert spearman(x, stretched) in (None, pytest.approx(1))


def test_calibration_by_hand():
    # Bins of a tenth: 0.25, 0.3 -> one bin, one right of two: |1 - 0.55| ; 0.95 -> wrong: 0.95.
    assert calibration_error([0.25, 0.3, 0.95], [True, False, False], bins=10) == pytest.approx(1.4 / 3)
    assert calibration_error([1.0, 1.0, 0.0], [True, True, False]) == 0
    assert calibration_error([], []) == 0


@relaxed
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_lies_between_the_total_gap_and_one(pairs):
    confidence, correct = (np.array(column, float) for column in zip(*pairs, strict=True))
    error = calibration_error(confidence, correct)
    assert abs(correct.mean() - confidence.mean()) - 1e-9 <= error <= 1 + 1e-9


def test_halting_by_hand():
    q_halt = np.array([[-1.0, 0.5, -1.0], [0.5, -9.0, -1.0], [2.0, 2.0, -1.0], [9.0, 9.0, -1.0]])
    assert halting_steps(q_halt, 0.0).tolist() == [2, 1, 4]
    assert halting_steps(q_halt, 0.5).tolist() == [3, 3, 4]  # exceeds, not reaches
    assert halting_steps(q_halt, 0.0, 2).tolist() == [2, 1, 2]
    assert halting_steps(q_halt, 0.0, 9).tolist() == [2, 1, 4]
    assert q_halt[1].tolist() == [0.5, -9.0, -1.0]  # the trace is not changed
    correct = np.array([[0, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]], bool)
    assert at_step(correct, [2, 1, 4]).tolist() == [True, False, True]
    row = halting_row(q_halt, correct, [2, 1, 3], 0.0)
    assert row == {
        "threshold": 0.0,
        "accuracy": pytest.approx(2 / 3),
        "mean_steps": pytest.approx(7 / 3),
        "spearman": pytest.approx(1),
    }


@relaxed
@given(st.lists(st.lists(st.floats(-3, 3), min_size=5, max_size=5), min_size=1, max_size=6))
def test_a_higher_threshold_never_takes_fewer_steps(logits):
    q_halt = np.array(logits)
    steps = [halting_steps(q_halt, threshold) for threshold in (-4, -1, 0, 1, 4)]
    assert (np.diff(steps, axis=0) >= 0).all()
    assert (steps[0] == 1).all()
    assert (steps[-1] == len(q_halt)).all()


def test_groups():
    found = by_group([3, 1, 3], accuracy=np.array([1.0, 0.0, 0.0]))
    assert found == {"1": {"num": 1, "accuracy": 0.0}, "3": {"num": 2, "accuracy": 0.5}}
    assert list(found) == ["1", "3"]


def test_consistency_wants_all():
    groups = ["a", "a", "b", "b", "c"]
    assert consistency(groups, np.array([1, 1, 1, 0, 1], bool)) == pytest.approx(2 / 3)
