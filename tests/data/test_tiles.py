"""Grids within a budget, never scaled up unless asked, and tiles that are the picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.data.tiles import choose_grid, count_tiles, cut, stretch
from saccade.errors import SaccadeError

P = 512


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((224, 224), (1, 1)),
        ((1023, 1023), (1, 1)),
        ((1024, 1024), (2, 2)),
        ((1024, 2100), (1, 4)),  # 2048 x 1000: no side is scaled up
        ((2100, 1100), (4, 2)),
        ((5000, 5000), (4, 4)),
        ((600, 10_000), (1, 4)),
    ],
)
def test_nothing_is_scaled_up(size, grid):
    assert choose_grid(size, P, 2048) == grid


@given(st.integers(2, 5000), st.integers(2, 5000), st.integers(1, 40))
def test_every_grid_keeps_to_the_budget_and_the_picture(height, width, max_tiles):
    rows, columns = choose_grid((height, width), P, 2048, max_tiles)
    assert count_tiles((rows, columns)) <= max_tiles
    assert rows == 1 or rows * P <= height
    assert columns == 1 or columns * P <= width
    assert choose_grid((width, height), P, 2048, max_tiles) == (
        (columns, rows) if height != width else (rows, columns)
    )
    assert max(rows, columns) <= 4


@pytest.mark.parametrize(
    ("max_tiles", "grid"), [(17, (4, 4)), (16, (3, 3)), (5, (2, 2)), (4, (1, 1)), (1, (1, 1))]
)
def test_the_finest_grid_within_the_budget(max_tiles, grid):
    assert choose_grid((4000, 4000), P, 2048, max_tiles) == grid


@pytest.mark.parametrize(
    ("size", "fill", "grid"),
    [
        ((224, 224), True, (4, 4)),  # the published 17 tiles, 1,088 tokens
        ((224, 224), False, (1, 1)),
        ((400, 600), False, (2, 2)),  # 1024 x 683, the short side rounded up
        ((1024, 2100), False, (2, 4)),
        ((600, 10_000), True, (1, 4)),
    ],
)
def test_the_reference_rounds_up(size, fill, grid):
    assert choose_grid(size, P, 2048, reference=True, fill=fill) == grid
    assert choose_grid(size, P, 2048, 5, reference=True, fill=fill) in ((1, 1), (2, 2), (1, 2), (1, 4))


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(SaccadeError, match="max_tiles is 0, an image needs at least 1"):
        choose_grid((9, 9), P, 2048, 0)


def test_tiles_are_the_picture_row_by_row():
    image = np.random.default_rng(0).integers(0, 256, size=(8, 12, 3)).astype(np.uint8)
    parts = cut(image, 4, (2, 3))
    assert parts.shape == (7, 4, 4, 3)
    assert parts.dtype == np.uint8
    for at in range(6):
        row, column = divmod(at, 3)
        np.testing.assert_array_equal(
            parts[1 + at], image[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        )
    assert np.abs(parts[0].astype(float).mean() - image.mean()) < 6


def test_one_tile_is_the_whole():
    image = np.full((3, 9, 3), 7, np.uint8)
    np.testing.assert_array_equal(cut(image, 4, (1, 1)), np.full((1, 4, 4, 3), 7))
    np.testing.assert_array_equal(stretch(image, 4), np.full((4, 4, 3), 7))


def test_the_reference_keeps_floats():
    image = np.random.default_rng(0).integers(0, 256, size=(8, 8, 3)).astype(np.uint8)
    parts = cut(image, 4, (2, 2), reference=True)
    assert parts.dtype == np.float32
    assert parts.max() <= 1
    np.testing.assert_array_equal(parts[4], image[4:, 4:].astype(np.float32) / np.float32(255))
    assert not np.array_equal(parts[0] * 255, np.rint(parts[0] * 255))
