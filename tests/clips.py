"""The golden CLIPs: checkpoints in transformers' format, a batch, and what transformers makes of it."""

import functools
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).resolve().parent / "golden" / "clip.npz"
VARIANTS = ("clip_quick", "clip_gelu", "siglip")


@functools.cache
def golden() -> dict:
    with np.load(GOLDEN) as file:
        return dict(file)


def part(variant: str, kind: str, arrays: dict | None = None) -> dict:
    """kind: "tensor", "batch" or "output"."""
    prefix, arrays = f"{variant}:{kind}:", golden() if arrays is None else arrays
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def config_of(variant: str) -> dict:
    return json.loads(str(golden()[f"{variant}:config"]))


def write(folder: Path, variant: str, tensors: dict | None = None, **changes) -> Path:
    """A published directory; `changes` of its config.json, of the towers' as vision_config__KEY."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(part(variant, "tensor") if tensors is None else tensors, folder / "model.safetensors")
    config = config_of(variant)
    for key, value in changes.items():
        *outer, last = key.split("__")
        functools.reduce(dict.__getitem__, outer, config)[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder
