"""The mixers that know a board: what hears what, and that no place is special."""

import numpy as np
import pytest
import reference
from reference import to_numpy

from saccade.layers.boards import NeighbourMixer, UnitMixer


def make(box: int, **options) -> UnitMixer:
    layer = UnitMixer(6, 5, box, name="units", **options)
    layer.build()
    return reference.randomize(layer, seed=3)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_a_cell_hears_its_row_column_box_and_the_average_of_all(prefix):
    """Change one cell: what the cells of its units hear changes by more than what all hear."""
    layer = make(3)
    x = np.random.default_rng(0).normal(size=(2, prefix + 81, 6)).astype(np.float32)
    changed = x.copy()
    row, column = 4, 7
    changed[:, prefix + row * 9 + column] += 1.0
    moved = to_numpy(layer(changed)) - to_numpy(layer(x))
    everywhere = moved[:, prefix]  # cell (0, 0) shares no unit with (4, 7)
    for place in range(81):
        r, c = divmod(place, 9)
        shares = r == row or c == column or (r // 3, c // 3) == (row // 3, column // 3)
        same = np.allclose(moved[:, prefix + place], everywhere, atol=1e-6)
        assert same != shares, (r, c)
    np.testing.assert_allclose(moved[:, :prefix], np.repeat(everywhere[:, None], prefix, 1), atol=1e-6)
    assert np.abs(everywhere).max() > 1e-4


def test_a_digit_hears_its_own_in_the_units_and_the_others_of_its_cell():
    """Change one digit of one cell; see which tokens hear more than what all hear."""
    layer, (row, column, digit) = make(3, digits=9), (4, 7, 5)
    x = np.random.default_rng(0).normal(size=(1, 1 + 729, 6)).astype(np.float32)
    changed = x.copy()
    changed[:, 1 + (row * 9 + column) * 9 + digit] += 1.0
    moved = to_numpy(layer(changed)) - to_numpy(layer(x))
    everywhere = moved[:, 1]  # digit 0 of cell (0, 0) shares nothing
    heard = ~np.isclose(moved[0, 1:], everywhere, atol=1e-6).all(-1).reshape(9, 9, 9)
    expected = np.zeros((9, 9, 9), bool)
    expected[row, :, digit] = expected[:, column, digit] = expected[3:6, 6:9, digit] = True
    expected[row, column] = True
    np.testing.assert_array_equal(heard, expected)
    np.testing.assert_allclose(moved[:, 0], everywhere, atol=1e-6)


def test_digits_renamed_move_the_result_alike():
    layer, order = make(2, digits=4), np.array([2, 0, 3, 1])
    x = np.random.default_rng(1).normal(size=(2, 16, 4, 6)).astype(np.float32)
    plain = to_numpy(layer(x.reshape(2, 64, 6))).reshape(2, 16, 4, 6)
    renamed = to_numpy(layer(x[:, :, order].reshape(2, 64, 6))).reshape(2, 16, 4, 6)
    np.testing.assert_allclose(renamed, plain[:, :, order], atol=2e-5)
    assert np.abs(plain - plain[:, :, order]).max() > 1e-3


@pytest.mark.parametrize("gated_norm", [False, True])
@pytest.mark.parametrize("box", [2, 3])
def test_lines_moved_within_and_between_bands_move_the_result_alike(box, gated_norm):
    layer = make(box, gated_norm=gated_norm)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, box**4, 6)).astype(np.float32)

    def lines():
        bands = rng.permutation(box)[:, None] * box
        return (bands + np.stack([rng.permutation(box) for _ in range(box)])).ravel()

    order = (lines()[:, None] * box**2 + lines()).ravel()
    assert sorted(order) == list(range(box**4))
    assert list(order) != list(range(box**4))
    np.testing.assert_allclose(to_numpy(layer(x[:, order])), to_numpy(layer(x))[:, order], atol=2e-5)


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("place", [(0, 0), (2, 3), (4, 4)])
def test_a_cell_is_heard_beside_it_each_way_by_other_weights(prefix, place):
    layer = NeighbourMixer(6, 5, 5, name="neighbours")
    layer.build()
    reference.randomize(layer, seed=3)
    (row, column), x = place, np.random.default_rng(0).normal(size=(2, prefix + 25, 6)).astype(np.float32)
    changed = x.copy()
    changed[:, prefix + row * 5 + column] += 1.0
    moved = to_numpy(layer(changed)) - to_numpy(layer(x))
    everywhere = moved[:, prefix + (row * 5 + column)]  # a cell does not hear itself but in the mean of all
    said = {}
    for r in range(5):
        for c in range(5):
            own = moved[:, prefix + r * 5 + c] - everywhere
            if abs(r - row) + abs(c - column) == 1:
                said[r - row, c - column] = own
            else:
                np.testing.assert_allclose(own, 0, atol=1e-6)
    ways = list(said.values())
    assert len(ways) == 4 - (row in (0, 4)) - (column in (0, 4))
    assert all(np.abs(own).max() > 1e-3 for own in ways)
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(ways) for b in ways[:i])
    np.testing.assert_allclose(moved[:, :prefix], np.repeat(everywhere[:, None], prefix, 1), atol=1e-6)


def test_neighbours_know_no_place_and_no_side():
    """A board in the middle of a larger one, walled by silence, hears what it hears alone."""
    small, large = (NeighbourMixer(6, 5, side, name="neighbours") for side in (3, 5))
    for layer in (small, large):
        layer.build()
        reference.randomize(layer, seed=3)
    x = np.random.default_rng(0).normal(size=(1, 3, 3, 6)).astype(np.float32)
    around = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros say nothing: silu(0) 0 = 0
    down = to_numpy(small.down.kernel)
    for layer in (small, large):
        layer.down.kernel.assign(np.where(np.arange(25)[:, None] < 20, down, 0))  # not the mean of all
    inner = to_numpy(large(around.reshape(1, 25, 6))).reshape(1, 5, 5, 6)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, to_numpy(small(x.reshape(1, 9, 6))).reshape(1, 3, 3, 6), atol=1e-5)
