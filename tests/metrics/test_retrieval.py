import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.metrics.retrieval import rank_scores, top_candidates, true_ranks

SCORES = np.array([[9.0, 1.0, 2.0], [5.0, 5.0, 1.0], [3.0, 2.0, 1.0]])


def test_ranks_by_hand():
    # Row 1 ties with another: that counts as being behind it.
    assert true_ranks(SCORES).tolist() == [1, 2, 3]


def test_a_tie_break_decides_equal_scores_only():
    second = np.array([[0.0, 9.0, 9.0], [1.0, 2.0, 9.0], [0.0, 0.0, 9.0]])
    assert true_ranks(SCORES, second).tolist() == [1, 1, 3]
    assert true_ranks(SCORES, np.zeros((3, 3))).tolist() == [1, 2, 3]


def test_constant_and_nan_scores_earn_nothing():
    assert true_ranks(np.zeros((4, 4))).tolist() == [4, 4, 4, 4]
    assert true_ranks(np.full((3, 3), np.nan)).tolist() == [3, 3, 3]


def test_scores_by_hand():
    found = rank_scores(np.array([1, 1, 6, 20]))
    assert found == {"r@1": 0.5, "r@5": 0.5, "r@10": 0.75, "median_rank": 3.5, "mean_rank": 7.0}


def test_top_candidates():
    assert top_candidates(SCORES, 2).tolist() == [[0, 2], [0, 1], [0, 1]]
    assert top_candidates(SCORES, 5).shape == (3, 3)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 10**6))
def test_ranks_follow_a_shuffled_gallery(size, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (size, size)).astype(float)
    order = rng.permutation(size)
    assert (true_ranks(scores)[order] == true_ranks(scores[np.ix_(order, order)])).all()
    assert ((true_ranks(scores) >= 1) & (true_ranks(scores) <= size)).all()


def test_perfect_and_random():
    perfect = np.eye(50)
    assert rank_scores(true_ranks(perfect))["r@1"] == 1
    noise = np.random.default_rng(0).normal(size=(400, 400))
    assert rank_scores(true_ranks(noise))["mean_rank"] == pytest.approx(200.5, abs=20)
