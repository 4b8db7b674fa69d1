import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch_run import learn

HERE = Path(__file__).parent


@pytest.mark.oracle
def test_torch_learns_the_same_weights(tmp_path):
    pytest.importorskip("torch")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "torch",
        "PYTHONPATH": f"{HERE.parent.parent}{os.pathsep}{HERE}",
    }
    out = tmp_path / "torch.npz"
    run = subprocess.run(
        [sys.executable, str(HERE / "torch_run.py"), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    with np.load(out) as saved:
        theirs = [saved[name] for name in saved.files]
    ours = learn()
    assert len(ours) == len(theirs) == 8
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
