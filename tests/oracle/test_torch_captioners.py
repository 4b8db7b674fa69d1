"""Captioners compute, learn and write the same on torch as on JAX, from the same saved weights."""

import os
import subprocess
import sys
from pathlib import Path

import every_captioner
import numpy as np
import pytest
import reference
from small_captioners import CONFIG, KINDS

HERE = Path(__file__).parent
pytestmark = pytest.mark.oracle


def test_torch_agrees_with_jax(tmp_path):
    pytest.importorskip("torch")
    for name, kind in KINDS.items():
        reference.randomize(kind(CONFIG)).save(tmp_path / name)
    paths = (HERE.parent.parent, HERE.parent, HERE)
    environment = {
        **os.environ,
        "KERAS_BACKEND": "torch",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    command = [sys.executable, str(HERE / "every_captioner.py"), str(tmp_path), str(tmp_path / "out.npz")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    with np.load(tmp_path / "out.npz") as saved:
        theirs = dict(saved)
    ours = every_captioner.everything(tmp_path)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        scale = 1e-4 * np.abs(value).max() if name.startswith("gradient") else 2e-5
        np.testing.assert_allclose(value, theirs[name], atol=scale + 1e-6, rtol=1e-3, err_msg=name)
