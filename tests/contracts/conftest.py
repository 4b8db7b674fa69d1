"""The models under contract. A further model joins by adding a row to MODELS.

`any_model` is every model that can be saved; `model` a VLM-HRM, whose many outputs test_forward.py knows.
"""

import functools
import sys
from dataclasses import replace
from pathlib import Path

import clip_parts
import pytest
import reference
import small_captioners
import tiny

from saccade.models.blip2 import BLIP2, BLIP2Config
from saccade.models.captioners import ShowAndTell, ShowAttendTell
from saccade.models.clip import CLIP
from saccade.models.flamingo import Flamingo, FlamingoConfig
from saccade.models.llama import LlamaConfig
from saccade.models.nano_vlm import NanoVLM, NanoVLMConfig
from saccade.models.opt import OPTConfig
from saccade.models.qformer import QFormerConfig
from saccade.models.trm import TRM, TRMConfig
from saccade.models.vit import ViTConfig
from saccade.models.vlm_hrm import VLMHRM

sys.path.insert(0, str(Path(__file__).parent))  # the tests import forward.py by name

CONFIGS = {
    "vlm_hrm": tiny.CONFIG,
    # H and L nets, Q-learning, everything optional left out
    "vlm_hrm_hrm": replace(
        tiny.CONFIG,
        shared=False,
        h_cycles=1,
        q_learning=True,
        cross=False,
        text_depth=0,
        attributes=(),
    ),
}

TOWER = ViTConfig(20, 1, 2, 28, 4, (8, 12))
LLAMA, OPT = LlamaConfig(53, 24, 2, 6, 2, 44), OPTConfig(53, 32, 1, 4, 44, 40)
QFORMER = QFormerConfig(31, 24, 2, 3, 40, 5, 2, 16)
WIDER = {"vision": replace(TOWER, mlp_dim=32)}
PUZZLES = TRMConfig(5, 9, 3, 2, 24, 3, multiple=8, h_cycles=2, l_cycles=1)
# The class, a configuration of it, and a change with which the saved weights no longer fit.
MODELS = {
    **{name: (VLMHRM, config, {"num_answers": 12}) for name, config in CONFIGS.items()},
    "flamingo": (Flamingo, FlamingoConfig(TOWER, LLAMA, 5, 1, 4, 1), WIDER),
    "blip2": (BLIP2, BLIP2Config(TOWER, QFORMER, OPT, 12), WIDER),
    "blip2_llama": (BLIP2, BLIP2Config(TOWER, replace(QFORMER, text=False), LLAMA, None), WIDER),
    "blip2_one": (BLIP2, BLIP2Config(TOWER, QFORMER, None, 12), WIDER),
    "nano_vlm": (NanoVLM, NanoVLMConfig(replace(TOWER, image_size=(8, 16)), LLAMA), {"shuffle": 1}),
    "clip": (CLIP, clip_parts.config(), {"embedding_dim": 19}),
    "siglip": (CLIP, clip_parts.config(sigmoid=True), {"logit_bias": False}),
    "show_and_tell": (ShowAndTell, small_captioners.CONFIG, {"dim": 26}),
    "show_attend_tell": (ShowAttendTell, small_captioners.CONFIG, {"vocab_size": 14}),
    "trm": (TRM, PUZZLES, {"vocab_size": 6}),
    "hrm": (TRM, replace(PUZZLES, h_layers=1, q_learning=True), {"h_layers": 0}),
}


@functools.cache
def build(name: str):
    kind, config, _ = MODELS[name]
    return tiny.vlm_hrm(config=config) if kind is VLMHRM else reference.randomize(kind(config))


@pytest.fixture(params=MODELS)
def any_model(request):
    """Shared by the tests: not to be changed."""
    return build(request.param)


@pytest.fixture
def misfit(request, any_model):
    """A change of its configuration with which its weights do not fit."""
    return MODELS[request.node.callspec.params["any_model"]][2]


@pytest.fixture(params=CONFIGS, scope="session")
def config(request):
    return CONFIGS[request.param]


@pytest.fixture
def model(config):
    """Shared by the tests: not to be changed."""
    return tiny.vlm_hrm(config=config)
