"""A TRM computes, solves and learns the same on torch as on JAX, from the same saved weights."""

import os
import subprocess
import sys
from pathlib import Path

import every_puzzle
import numpy as np
import pytest
import reference

from saccade.models.trm import HRM, TRM

HERE = Path(__file__).parent
pytestmark = [pytest.mark.oracle, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(JAX's results, torch's results), each name -> array."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("puzzles")
    for seed, (name, config) in enumerate(every_puzzle.CONFIGS.items()):
        model = reference.randomize((HRM if config.one_step else TRM)(config, name="trm"), seed)
        model.halting.linear.bias.assign(model.halting.linear.bias.value * 0 - 0.5)
        model.save(folder / name)
    paths = os.pathsep.join(map(str, (HERE.parent.parent, HERE.parent, HERE)))
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": paths}
    command = [sys.executable, str(HERE / "every_puzzle.py"), str(folder), str(folder / "out.npz")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    with np.load(folder / "out.npz") as saved:
        theirs = dict(saved)
    ours = every_puzzle.everything(folder)
    assert ours.keys() == theirs.keys()
    return ours, theirs


def test_what_is_drawn_is_proper_and_runs_end(both):
    for found in both:
        assert found["sudokus drawn"].all()
        assert found["mazes drawn"].all()
        assert found["trained"].tolist() == [2, 1]


@pytest.mark.parametrize("name", every_puzzle.CONFIGS)
def test_forward(both, name):
    ours, theirs = both
    for key in ("trace halting", "trace q_halt", "q_halt"):
        np.testing.assert_allclose(ours[f"{name}/{key}"], theirs[f"{name}/{key}"], atol=1e-4, err_msg=key)
    np.testing.assert_array_equal(ours[f"{name}/steps"], theirs[f"{name}/steps"])
    same = ours[f"{name}/trace cells"] == theirs[f"{name}/trace cells"]
    assert same.mean() > 0.995  # a near tie may fall either way


@pytest.mark.parametrize("name", every_puzzle.CONFIGS)
def test_losses_and_gradients(both, name):
    ours, theirs = both
    keys = [key for key in ours if key.startswith((f"{name}/loss", f"{name}/gradient"))]
    assert len(keys) > 6
    for key in keys:
        scale = max(1.0, float(np.abs(ours[key]).max()))
        np.testing.assert_allclose(ours[key], theirs[key], atol=1e-4 * scale, err_msg=key)
