"""Full-size presets without memory: names, shapes, parameter counts."""

from dataclasses import replace

import jax
import keras
import numpy as np
import pytest

from saccade.data.batching import ATTRIBUTES
from saccade.data.scenes.referents import CHANNELS
from saccade.models.vlm_hrm import PRESETS, VLMHRM, for_task, preset

PARAMETERS = {"vlm_hrm_nano": 349_163, "vlm_hrm_small": 7_986_979}
FULL = {"attributes": tuple(len(values) for values in ATTRIBUTES.values()), "referents": CHANNELS}


def abstract(config) -> VLMHRM:
    """A model whose variables are never given values."""
    with keras.StatelessScope(initialize_variables=False):
        return VLMHRM(config)


def test_every_preset_is_counted():
    assert PARAMETERS.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_parameters(name):
    assert abstract(preset(name, **FULL)).count_params() == PARAMETERS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_forward_of_full_size(name):
    config = preset(name)
    model, (height, width) = abstract(config), config.vision.image_size

    def run(values, batch):
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
            inputs = for_task(batch, "vqa")
            x, mask = model.encode(inputs)
            carry, outputs = model.step(model.initial_carry(x), x, mask, model.layout(inputs))
            return x, mask, carry, model.heads["vqa"](outputs["task"])

    values = [jax.ShapeDtypeStruct(tuple(v.shape), v.dtype) for v in model.variables]
    batch = {
        "images": jax.ShapeDtypeStruct((5, height, width, 3), np.uint8),
        "tokens": jax.ShapeDtypeStruct((5, 64), np.int32),
        "padding_mask": jax.ShapeDtypeStruct((5, 64), bool),
    }
    x, mask, carry, answer = jax.eval_shape(run, values, batch)
    cell = config.vision.patch_size * config.shuffle
    length = 1 + (height // cell) * (width // cell) + 64 + config.fusion_tokens
    assert x.shape == (5, length, config.dim)
    assert mask.shape == (5, length)
    assert carry["z_h"].shape == carry["z_l"].shape == x.shape
    assert answer.shape == (5, config.num_answers)


def test_shared_nets_halve_the_core():
    shared, separate = (abstract(replace(PRESETS["vlm_hrm_nano"], shared=s)) for s in (True, False))
    core = sum(int(np.prod(v.shape)) for v in shared.core.variables)
    assert separate.count_params() - shared.count_params() == core > 0


def test_a_preset_can_be_changed():
    assert preset("vlm_hrm_nano", dim=128).dim == 128
    with pytest.raises(TypeError):
        preset("vlm_hrm_nano", width=128)
