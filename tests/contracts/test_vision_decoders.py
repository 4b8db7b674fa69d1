"""What every model over a vision tower keeps to when it is saved; how each computes is in tests/models."""

from dataclasses import replace

import numpy as np
import pytest
import reference
from reference import to_numpy

from saccade.errors import SaccadeError
from saccade.model import CONFIG, WEIGHTS
from saccade.models.blip2 import BLIP2, BLIP2Config
from saccade.models.flamingo import Flamingo, FlamingoConfig
from saccade.models.llama import LlamaConfig
from saccade.models.opt import OPTConfig
from saccade.models.qformer import QFormerConfig
from saccade.models.vit import ViTConfig

TOWER = ViTConfig(20, 1, 2, 28, 4, (8, 12))
LLAMA, OPT = LlamaConfig(53, 24, 2, 6, 2, 44), OPTConfig(53, 32, 1, 4, 44, 40)
QFORMER = QFormerConfig(31, 24, 2, 3, 40, 5, 2, 16)
MODELS = {
    "flamingo": (Flamingo, FlamingoConfig(TOWER, LLAMA, 5, 1, 4, 1)),
    "blip2": (BLIP2, BLIP2Config(TOWER, QFORMER, OPT, 12)),
    "blip2_llama": (BLIP2, BLIP2Config(TOWER, replace(QFORMER, text=False), LLAMA, None)),
    "blip2_one": (BLIP2, BLIP2Config(TOWER, QFORMER, None, 12)),
}


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    """Shared: not to be changed."""
    kind, config = MODELS[request.param]
    return reference.randomize(kind(config))


def values(model) -> dict:
    return {name: to_numpy(v) for name, v in model.named_variables().items()}


def test_every_variable_has_a_name_of_its_own_and_trains(model):
    assert len(model.named_variables()) == len(model.variables) == len({id(v) for v in model.variables})
    assert len(model.trainable_variables) == len(model.variables)
    assert {v.dtype for v in model.variables} == {"float32"}


def test_a_directory_gives_the_weights_back_and_the_same_bytes_twice(model, tmp_path):
    for name in "ab":
        model.save(tmp_path / name)
    for file in (WEIGHTS, CONFIG):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    again = type(model).load(tmp_path / "a")
    assert again.config == model.config
    ours, theirs = values(model), values(again)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(theirs[name], ours[name], err_msg=name)


def test_a_half_width_file_is_read(model, tmp_path):
    model.save(tmp_path / "m", dtype="bfloat16")
    wide, narrow = values(model), values(type(model).load(tmp_path / "m"))
    for name in wide:
        np.testing.assert_allclose(narrow[name], wide[name], rtol=0.01, atol=1e-6, err_msg=name)


def test_another_configuration_is_refused(model, tmp_path):
    model.save(tmp_path / "m")
    wider = replace(model.config.vision, mlp_dim=32)
    with pytest.raises(SaccadeError, match="of another configuration: vision/block_0/mlp/up/kernel is"):
        type(model).load(tmp_path / "m", vision=wider)
    other = BLIP2 if isinstance(model, Flamingo) else Flamingo
    with pytest.raises(SaccadeError, match=f"describes a '{type(model).__name__}', not a {other.__name__}"):
        other.load(tmp_path / "m")
