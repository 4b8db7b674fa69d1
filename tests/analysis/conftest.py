"""A reasoner whose every answer is scripted, and a small model of random weights."""

import numpy as np
import pytest
from scripted import Oracle, pipeline, words

from saccade.data.scenes import ANSWERS


@pytest.fixture
def scripted():
    """wrong rows -> a pipeline."""
    return lambda wrong=(): pipeline(Oracle(wrong))


@pytest.fixture(scope="session")
def real():
    """A tiny VLM-HRM with random weights, its halting head included."""
    import keras

    from saccade.models.vit import ViTConfig
    from saccade.models.vlm_hrm import VLMHRM, preset
    from saccade.pipeline import Pipeline

    tower = ViTConfig(dim=24, depth=1, num_heads=2, mlp_dim=40, image_size=(32, 32), stem=(8, 12, 16))
    config = preset(
        "vlm_hrm_nano", vision=tower, vocab_size=900, num_answers=len(ANSWERS), dim=32, mlp_dim=48
    )
    rng = np.random.default_rng(5)
    with keras.StatelessScope():  # values come when it closes: NumPy's need no compilation
        model = VLMHRM(config)
        for variable in model.variables:
            value = rng.normal(size=variable.shape, scale=0.3).astype(variable.dtype)
            variable._initializer = lambda shape, dtype=None, value=value: value
    return Pipeline(model, words())
