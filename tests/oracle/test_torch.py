"""A VLM-HRM computes, learns and writes the same on torch as on JAX, from the same saved weights."""

import os
import subprocess
import sys
from pathlib import Path

import every_objective
import numpy as np
import pytest
import tiny

HERE = Path(__file__).parent
pytestmark = [pytest.mark.oracle, pytest.mark.timeout(900)]  # two backends compile seven objectives


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(JAX's results, torch's results), each name -> array."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("torch")
    tiny.vlm_hrm().save(folder / "model")
    paths = (HERE.parent.parent, HERE.parent, HERE)
    environment = {
        **os.environ,
        "KERAS_BACKEND": "torch",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    command = [
        sys.executable,
        str(HERE / "every_objective.py"),
        str(folder / "model"),
        str(folder / "out.npz"),
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    with np.load(folder / "out.npz") as saved:
        theirs = dict(saved)
    ours = every_objective.everything(folder / "model")
    assert ours.keys() == theirs.keys()
    return ours, theirs


def test_forward(both):
    ours, theirs = both
    names = [name for name in ours if not name.startswith(("loss ", "gradient "))]
    assert {"tokens", "steps", "hidden", "slots/answer"} <= set(names)
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("objective", every_objective.OBJECTIVES)
def test_losses(both, objective):
    ours, theirs = (side[f"loss {objective}"] for side in both)
    assert np.isfinite(ours)
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)


def test_gradients(both):
    ours, theirs = both
    for name in (n for n in ours if n.startswith("gradient ")):
        assert theirs[name].any(), name
        np.testing.assert_allclose(
            ours[name], theirs[name], atol=1e-4 * np.abs(ours[name]).max() + 1e-7, rtol=1e-3, err_msg=name
        )
