"""The golden nanoVLM: a checkpoint in the published format, a batch, and what transformers makes of it."""

import functools
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).resolve().parent / "golden" / "nano_vlm.npz"


def part(arrays: dict, kind: str) -> dict:
    return {name.removeprefix(f"{kind}:"): a for name, a in arrays.items() if name.startswith(f"{kind}:")}


@functools.cache
def golden() -> dict:
    with np.load(GOLDEN) as file:
        return dict(file)


def config_of(arrays: dict) -> dict:
    return json.loads(str(arrays["config"]))


def write(folder: Path, arrays: dict | None = None, tensors: dict | None = None, **changes) -> Path:
    """A published directory; `changes` of its config.json (None takes a key out)."""
    arrays = golden() if arrays is None else arrays
    folder.mkdir(parents=True, exist_ok=True)
    save_file(part(arrays, "tensor") if tensors is None else tensors, folder / "model.safetensors")
    config = {k: v for k, v in {**config_of(arrays), **changes}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
