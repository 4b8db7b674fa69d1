"""Reading weight files of other programs: safetensors only, whole or in shards."""

import json
import re
from pathlib import Path

import numpy as np

from saccade.errors import SaccadeError
from saccade.files import load_tensors
from saccade.model import WEIGHTS

INDEX = f"{WEIGHTS}.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_weights(folder: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a directory: model.safetensors, or the shards that its index names.

    Raises: SaccadeError: there is none, or only pickle files, which are never read; a truncated file; a shard
        that is missing, lies elsewhere, or lacks a tensor of the index.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return load_tensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise SaccadeError(
            f"{folder} has its weights as a pickle ({pickles[0]}), which can run code and is never read; "
            f"give a directory with {WEIGHTS}"
        )
    raise SaccadeError(f"{folder} has no {WEIGHTS}; give a directory with one")


def _read_shards(folder: Path) -> dict[str, np.ndarray]:
    path = folder / INDEX
    try:
        where = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(where.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SaccadeError(f"{path} is not an index of shards ({error!r}); get the file again") from error
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        if not re.fullmatch(r"[\w.-]+\.safetensors", str(file)):
            raise SaccadeError(f"{path} names {file!r}, not a .safetensors file beside it; get it again")
        tensors |= load_tensors(folder / file)
    if tensors.keys() != where.keys():
        odd = sorted(tensors.keys() ^ where.keys())
        raise SaccadeError(
            f"{path} and its shards differ by {len(odd)} tensors (first: {odd[0]}); get them again"
        )
    return tensors
