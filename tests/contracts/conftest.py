"""The models under contract. A further model joins by adding a row."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

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


@pytest.fixture(params=CONFIGS, scope="session")
def config(request):
    return CONFIGS[request.param]


@pytest.fixture
def model(config):
    """Shared by the tests: not to be changed."""
    return tiny.vlm_hrm(config=config)
