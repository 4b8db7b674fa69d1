import numpy as np
import pytest

from saccade.metrics.entropy import entropies, entropy_scores


def test_by_hand():
    shares = [[1.0, 1, 1, 1], [0, 3, 0, 0], [1, 1, 0, 0]]
    np.testing.assert_allclose(entropies(shares), [np.log(4), 0, np.log(2)], atol=1e-12)
    found = entropy_scores(shares)
    assert found["entropy_mean"] == pytest.approx(np.log(8) / 3)
    assert found["spread"] == pytest.approx(0.5)
    assert found["entropy_std"] == pytest.approx(np.std([np.log(4), 0, np.log(2)]))


def test_masked_places_do_not_count():
    mask = np.array([[True, True, False, False], [False, True, False, False]])
    shares = np.array([[1.0, 1, 9, 9], [5, 5, 5, 5]])
    np.testing.assert_allclose(entropies(shares, mask), [np.log(2), 0], atol=1e-12)
    assert entropy_scores(shares, mask)["spread"] == pytest.approx(0.5)  # all it may; and no choice at all


def test_any_leading_axes():
    shares = np.random.default_rng(0).random((2, 3, 5))
    each = [[-sum(p * np.log(p) for p in row / row.sum()) for row in rows] for rows in shares]
    np.testing.assert_allclose(entropies(shares), each)
    mask = np.array([True, True, True, False, False])
    assert entropies(shares, mask).max() <= np.log(3) + 1e-12


@pytest.mark.parametrize(
    ("shares", "mask", "message"),
    [
        ([[1.0, -0.1]], None, "negative values"),
        ([[1.0, np.nan]], None, "no numbers"),
        (np.zeros((0, 3)), None, "or nothing"),
        ([[1.0, 1], [0, 0]], None, "row 1 of the shares is all 0"),
        ([[1.0, 1], [1, 0]], [[True, True], [False, True]], "row 1 of the shares is all 0"),
    ],
)
def test_what_has_no_entropy_is_refused(shares, mask, message):
    with pytest.raises(ValueError, match=message):
        entropies(shares, mask)
