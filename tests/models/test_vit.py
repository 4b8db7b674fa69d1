"""The vision tower against NumPy."""

import numpy as np
import pytest
import reference
from reference import part, to_numpy, weights

from saccade.models.vit import ViT, ViTConfig

B, D, DEPTH, HEADS, PATCH, GRID = 2, 12, 2, 3, 4, (2, 3)
SIZE = (GRID[0] * PATCH, GRID[1] * PATCH)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (0.25, 0.2)])
def test_the_tower_sees_normalised_pixels(mean, std):
    config = ViTConfig(D, DEPTH, HEADS, 20, PATCH, SIZE, pixel_mean=mean, pixel_std=std)
    tower = ViT(config)
    tower.build()
    reference.randomize(tower)
    images = np.random.default_rng(0).random((B, *SIZE, 3)).astype(np.float32)
    w = weights(tower)
    x = reference.convolution(part(w, "patches/projection"), (images - mean) / std, PATCH)
    x = (x + w["patches/positions"]).reshape(B, -1, D)
    for i in range(DEPTH):
        x = reference.encoder_block(part(w, f"block_{i}"), x, None, HEADS)
    expected = reference.layer_norm(part(w, "norm"), x)
    np.testing.assert_allclose(to_numpy(tower(images)), expected, atol=5e-5)


def test_a_mid_grey_image_is_zero_by_default():
    config = ViTConfig()
    assert (0.5 - config.pixel_mean) / config.pixel_std == 0
    assert (1.0 - config.pixel_mean) / config.pixel_std == 1
