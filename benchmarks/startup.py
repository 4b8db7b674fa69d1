"""How long `saccade ask` takes from the shell: `python benchmarks/startup.py [--model DIR] [--repeats 3]`.

Whole processes, started one after another: the first finds an empty compilation cache (XDG_CACHE_HOME is a
new temporary folder), the others what the first has left. Prints the wall time of each in seconds.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import saccade

QUESTION = "how many objects are there?"


def ask(image: Path, model: str, explain: bool, environment: dict) -> float:
    """Seconds of one whole process."""
    command = [sys.executable, "-m", "saccade.cli", "ask", str(image), QUESTION, "--model", model]
    command += ["--explain"] if explain else []
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def describe() -> str:
    """Versions and the device, which a process of its own looks up: this one must not hold it."""
    names = ("keras", "jax", "numpy")
    code = "from saccade import backend; print(backend.device_name())"
    device = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    versions = " ".join(f"{name}={version(name)}" for name in names)
    own = f"saccade={saccade.__version__} python={platform.python_version()}"
    return f"{own} {versions} device={device.strip()} cores={os.cpu_count()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vlm_hrm_scenes")
    parser.add_argument("--repeats", type=int, default=3, help="runs after the first")
    parser.add_argument("--explain", action="store_true", help="time `ask --explain`")
    options = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        from PIL import Image

        from saccade.data.scenes import Source

        image = Path(folder) / "scene.png"
        Image.fromarray(Source("vqa", split="test", seed=7, size_px=(128, 128))[0].image).save(image)
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        # A cache that the caller has set would be found filled.
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        for number in range(1 + options.repeats):
            seconds = ask(image, options.model, options.explain, environment)
            print(f"{'empty cache ' if number == 0 else 'filled cache'} {seconds:6.2f} s")


if __name__ == "__main__":
    main()
