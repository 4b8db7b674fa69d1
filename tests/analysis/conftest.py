"""A reasoner whose every answer is scripted, and a small model of random weights."""

import pytest
from scripted import Oracle, pipeline, random_vlm_hrm, words


@pytest.fixture
def scripted():
    """wrong rows -> a pipeline."""
    return lambda wrong=(): pipeline(Oracle(wrong))


@pytest.fixture(scope="session")
def real():
    return random_vlm_hrm(words())
