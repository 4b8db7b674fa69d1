"""Projection and fusion tokens against NumPy."""

import numpy as np
import pytest
import reference
from reference import to_numpy, weights

from saccade.fusion.projection import Projection, pixel_shuffle
from saccade.fusion.resampler import FusionTokens

B, C, D, F, T, N, HEADS = 2, 5, 24, 4, 7, 9, 3


@pytest.mark.parametrize(("grid", "factor"), [((4, 6), 2), ((6, 3), 3), ((2, 5), 1)])
def test_pixel_shuffle_is_the_published_one(grid, factor):
    """(B, H/r, r, W/r, r, C) -> permute (0, 1, 3, 2, 4, 5) -> (B, HW/r^2, r^2 C), square by square."""
    rows, columns = grid
    x = np.random.default_rng(0).normal(size=(B, rows * columns, C)).astype(np.float32)
    result = to_numpy(pixel_shuffle(x, grid, factor))
    assert result.shape == (B, rows * columns // factor**2, factor**2 * C)
    picture = x.reshape(B, rows, columns, C)
    for i in range(rows // factor):
        for j in range(columns // factor):
            square = picture[:, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
            np.testing.assert_array_equal(result[:, i * (columns // factor) + j], square.reshape(B, -1))


def test_pixel_shuffle_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="pixel shuffle by 2 does not divide the patch grid 4 x 5"):
        pixel_shuffle(np.zeros((1, 20, C), np.float32), (4, 5), 2)


def test_projection():
    layer = Projection(C, D, shuffle=2)
    layer.build()
    reference.randomize(layer)
    x = np.random.default_rng(1).normal(size=(B, 24, C)).astype(np.float32)
    expected = to_numpy(pixel_shuffle(x, (4, 6), 2)) @ weights(layer)["linear/kernel"]
    np.testing.assert_allclose(to_numpy(layer(x, grid=(4, 6))), expected, atol=1e-5)


def test_fusion_tokens_read_the_image_and_then_the_text():
    layer = FusionTokens(F, D, HEADS)
    layer.build()
    w = weights(reference.randomize(layer))
    rng = np.random.default_rng(2)
    vision, text = (rng.normal(size=(B, n, D)).astype(np.float32) for n in (N, T))
    mask = np.ones((B, T), bool)
    mask[0, 4:], mask[1] = False, False
    f = np.broadcast_to(w["tokens"], (B, F, D))
    f = reference.rms(f + reference.attention(reference.part(w, "read_vision"), f, vision, None, HEADS)[0])
    read = reference.attention(reference.part(w, "read_text"), f, text, mask[:, None], HEADS)[0]
    np.testing.assert_allclose(to_numpy(layer(vision, text, mask)), reference.rms(f + read), atol=5e-5)
    assert not read[1].any()  # a row without text reads nothing
