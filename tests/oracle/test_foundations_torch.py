"""Flamingo, BLIP2 and the gradient of `splice` on torch say what they say on JAX."""

import os
import subprocess
import sys
from pathlib import Path

import foundations_run
import numpy as np
import pytest

HERE = Path(__file__).parent


@pytest.mark.oracle
def test_torch_equals_jax(tmp_path):
    pytest.importorskip("torch")
    script, out = HERE / "foundations_run.py", tmp_path / "out.npz"
    paths = os.pathsep.join([str(HERE.parent), str(HERE.parent.parent)])
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script), str(out)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = foundations_run.outputs()
    with np.load(out) as found:
        assert set(found) == set(expected)
        for name, value in expected.items():
            if name.endswith("written"):
                np.testing.assert_array_equal(found[name], value, err_msg=name)
            else:
                np.testing.assert_allclose(found[name], value, atol=2e-4, rtol=2e-4, err_msg=name)
