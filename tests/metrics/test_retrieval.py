import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.metrics.retrieval import caption_ranks, rank_scores, top_candidates, true_ranks

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


def test_caption_ranks_by_hand():
    # Captions 0 and 1 describe image 0, caption 2 image 1.
    similarity = np.array([[0.2, 0.9, 0.9], [0.3, 0.1, 0.8]])
    to_text, to_image = caption_ranks(similarity, [0, 0, 1])
    # Image 0: its best has .9, and so has a stranger. Its other caption is not in its way.
    assert to_text.tolist() == [2, 1]
    assert to_image.tolist() == [2, 1, 2]
    assert caption_ranks(np.full((2, 3), np.nan), [0, 0, 1])[0].tolist() == [2, 3]


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(0, 10**6))
def test_one_caption_an_image_is_plain_retrieval(size, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (size, size)).astype(float)
    to_text, to_image = caption_ranks(scores, np.arange(size))
    assert (to_text == true_ranks(scores)).all()
    assert (to_image == true_ranks(scores.T)).all()
    order = rng.permutation(size)  # captions in another order
    assert (caption_ranks(scores[:, order], order)[0] == to_text).all()


def test_one_more_caption_of_an_image_never_worsens_its_rank():
    rng = np.random.default_rng(1)
    scores, image_of = rng.random((20, 30)), np.arange(30) % 20
    for image in range(20):
        column = rng.random((20, 1))
        before = caption_ranks(scores, image_of)[0]
        after = caption_ranks(np.concatenate([scores, column], axis=1), [*image_of, image])[0]
        assert after[image] <= before[image]
        others = np.arange(20) != image
        assert ((after - before)[others] == (column[others, 0] > _best(scores, image_of)[others])).all()


def _best(scores, image_of):
    return np.array([row[image_of == image].max() for image, row in enumerate(scores)])


def test_caption_rank_errors():
    with pytest.raises(ValueError, match="image 1 of 2 has no caption"):
        caption_ranks(np.zeros((2, 2)), [0, 0])
    with pytest.raises(ValueError, match=r"\(2, 2\), image_of \(1,\)"):
        caption_ranks(np.zeros((2, 2)), [0])
