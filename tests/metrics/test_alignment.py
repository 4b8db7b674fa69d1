import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.metrics.alignment import alignment, embedding_similarity, similarity_statistics, uniformity

relaxed = settings(deadline=None)  # the machine may be busy
SQUARE = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -1.0]])


def test_by_hand():
    assert alignment(SQUARE, SQUARE) == 0
    assert alignment(SQUARE, -SQUARE) == pytest.approx(4)
    # Of six pairs four are at a right angle (squared distance 2) and two opposite (4).
    assert uniformity(SQUARE) == pytest.approx(np.log((4 * np.exp(-4) + 2 * np.exp(-8)) / 6))
    assert uniformity(np.ones((3, 2))) == pytest.approx(0)
    assert embedding_similarity(SQUARE, np.roll(SQUARE, 1, axis=0)) == pytest.approx(0)
    found = similarity_statistics(SQUARE, SQUARE, temperature=1.0)
    assert found["positive_mean"] == 1
    assert found["negative_mean"] == pytest.approx(-1 / 3)
    assert found["gap"] == pytest.approx(4 / 3)
    shares = np.exp([1.0, 0, 0, -1]) / np.exp([1.0, 0, 0, -1]).sum()
    assert found["row_entropy"] == pytest.approx(-(shares * np.log(shares)).sum())


def test_one_pair():
    found = similarity_statistics([[1.0, 1.0]], [[1.0, 1.0]])
    assert found["positive_mean"] == pytest.approx(1)
    assert found["negative_mean"] == found["row_entropy"] == 0


@relaxed
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_properties(seed, number):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, number, 5))
    assert 0 <= alignment(a, b) <= 4
    assert alignment(a, b) == pytest.approx(2 - 2 * embedding_similarity(a, b))
    assert -8 <= uniformity(a) <= 0
    order, sizes = rng.permutation(number), rng.uniform(0.1, 9, (number, 1))
    assert uniformity((a * sizes)[order]) == pytest.approx(uniformity(a))
    found = similarity_statistics(a, b)
    assert similarity_statistics(a[order], (b * sizes)[order]) == pytest.approx(found)
    swapped = similarity_statistics(b, a)
    assert swapped["row_entropy"] == pytest.approx(found["column_entropy"])
    assert 0 <= found["row_entropy"] <= np.log(number) + 1e-9


def test_errors():
    with pytest.raises(ValueError, match="embedding 1 has the length 0"):
        alignment([[1.0], [0.0]], [[1.0], [1.0]])
    with pytest.raises(ValueError, match=r"\(2, 1\) and \(1, 1\)"):
        embedding_similarity([[1.0], [1.0]], [[1.0]])
    with pytest.raises(ValueError, match="1 embedding"):
        uniformity([[1.0]])
    with pytest.raises(ValueError, match=r"embeddings are \(0,\)"):
        uniformity([])
    with pytest.raises(ValueError, match="temperature is 0"):
        similarity_statistics(SQUARE, SQUARE, temperature=0)
