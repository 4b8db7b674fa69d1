"""Start a run as a process and kill it, as a machine that is taken away does."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from saccade.train import checkpoint

HERE = Path(__file__).parent


def kill(script: str, out_dir: Path, checkpoints: int = 1) -> int:
    """Run `script OUT_DIR`, a file beside this one, and kill it at any moment soon after so many checkpoints.

    Returns: the step of the newest checkpoint. Fails if the run ends before.
    """
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent.parent}{os.pathsep}{HERE}"}
    process = subprocess.Popen(
        [sys.executable, str(HERE / script), str(out_dir)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 100
    while len(checkpoint.list_checkpoints(out_dir)) < checkpoints and process.poll() is None:
        assert time.monotonic() < limit, f"{script} wrote no {checkpoints} checkpoints in 100 s"
        time.sleep(0.002)
    time.sleep(random.Random(os.getpid()).uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=20) == -signal.SIGKILL, "the run ended before it could be killed"
    return checkpoint.step_of(checkpoint.list_checkpoints(out_dir)[-1])
