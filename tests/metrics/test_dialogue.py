import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.metrics.dialogue import answer_ranks, dialogue_scores, ndcg

relaxed = settings(deadline=None)  # the machine may be busy
SCORES = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 5.0, 5.0, 1.0]])


def test_ranks_by_hand():
    assert answer_ranks(SCORES, [1, 1]).tolist() == [2, 2]  # an equal score counts as ahead
    found = dialogue_scores(SCORES, [0, 1])
    assert found["mrr"] == 0.75
    assert found["r@1"] == 0.5
    assert found["r@5"] == 1
    assert found["mean_rank"] == 1.5
    assert answer_ranks(np.full((1, 3), np.nan), [0]).tolist() == [3]


def test_ndcg_by_hand():
    # Two candidates are relevant, so k = 2: 0.5 / log2(2) + 0 against 1 / log2(2) + 0.5 / log2(3).
    relevance = [[0.5, 0.0, 1.0, 0.0]]
    assert ndcg(SCORES[:1], relevance) == pytest.approx(0.5 / (1 + 0.5 / np.log2(3)))
    assert ndcg([[1.0, 0.0, 2.0, 0.0]], relevance) == 1
    assert ndcg([[0.0, 2.0, 0.0, 1.0]], relevance) == 0
    # All scores equal: the least relevant first.
    assert ndcg([[0.0] * 4], relevance) == 0
    assert dialogue_scores(SCORES[:1], [0], relevance)["ndcg"] == ndcg(SCORES[:1], relevance)


@relaxed
@given(st.integers(0, 10**6))
def test_properties(seed):
    rng = np.random.default_rng(seed)
    scores, relevance = (
        rng.normal(size=(3, 10)),
        np.round(rng.random((3, 10)) * (rng.random((3, 10)) < 0.4), 1),
    )
    relevance[:, 0] = 0.5
    found = ndcg(scores, relevance)
    assert 0 <= found <= 1
    assert ndcg(relevance, relevance) == pytest.approx(1)
    order = rng.permutation(10)
    assert ndcg(scores[:, order], relevance[:, order]) == pytest.approx(found)
    assert ndcg(np.exp(scores), relevance) == pytest.approx(found)  # order only
    truth = rng.integers(0, 10, 3)
    ranks = answer_ranks(scores, truth)
    assert (answer_ranks(scores[:, order], np.argsort(order)[truth]) == ranks).all()
    assert (ranks == [sorted(-row).index(-row[t]) + 1 for row, t in zip(scores, truth, strict=True)]).all()


def test_errors():
    with pytest.raises(ValueError, match=r"\(2, 4\), truth \(1,\)"):
        answer_ranks(SCORES, [0])
    with pytest.raises(ValueError, match="from 0 to 4: there are 4 candidates"):
        answer_ranks(SCORES, [0, 4])
    with pytest.raises(ValueError, match=r"round 1 has relevance from 0\.0 to 0\.0"):
        ndcg(SCORES, [[1, 0, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(ValueError, match="round 0 has scores"):
        ndcg([[np.nan, 1.0]], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="give"):
        ndcg(SCORES, [[1.0]])
