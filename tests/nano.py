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


def packed(rows, order=(0, 1, 2), padding=5):
    """The golden rows (one image, two, none) one behind the other, padding last, and where each is."""
    keep = rows["padding_mask"]
    length = keep.sum() + padding
    found = {name: np.zeros((1, length), rows[name].dtype) for name in ("tokens", "image_mask")} | {
        "segments": np.zeros((1, length), np.int32)
    }
    spans, at = {}, 0
    for segment, row in enumerate(order, 1):
        spans[row] = slice(at, at + keep[row].sum())
        for name in ("tokens", "image_mask"):
            found[name][0, spans[row]] = rows[name][row, keep[row]]
        found["segments"][0, spans[row]] = segment
        at = spans[row].stop
    images = {0: rows["images"][:1], 1: rows["images"][1:3], 2: rows["images"][:0]}
    found["images"] = np.concatenate([images[row] for row in order])
    return found, spans
