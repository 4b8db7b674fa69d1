"""Checkpoints of a run: folders `step_00001000/` with state.safetensors and state.json, whole or absent."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from saccade.errors import SaccadeError
from saccade.files import atomic_directory, load_tensors, remove_partial, save_tensors, write_text

FORMAT = 1
TENSORS = "state.safetensors"
FACTS = "state.json"


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a state tree under names such as `queues/main/data/tokens` or `trained/0003`."""
    return {
        "/".join(f"{key:04d}" if isinstance(key, int) else str(key) for key in path): leaf
        for path, leaf in keras.tree.flatten_with_path(tree)
    }


def unflatten(template: Any, leaves: dict[str, np.ndarray], convert: Callable, where: Path) -> Any:
    """Put saved leaves into a tree shaped like `template`.

    Raises: SaccadeError: a leaf is missing, extra or of another shape or type (names the first).
    """
    expected = flatten(template)
    for name in sorted(expected.keys() ^ leaves.keys()):
        side = "lacks" if name in expected else "has the unexpected"
        raise SaccadeError(f"{where} is of another run: it {side} {name}; use a new output folder")
    for name, leaf in expected.items():
        saved = leaves[name]
        wanted = (tuple(leaf.shape), keras.backend.standardize_dtype(leaf.dtype))
        if (saved.shape, saved.dtype.name) != wanted:
            raise SaccadeError(
                f"{where} is of another run: {name} is {saved.dtype.name}{list(saved.shape)} there and "
                f"{wanted[1]}{list(wanted[0])} here; use a new output folder"
            )
    return keras.tree.pack_sequence_as(template, [convert(leaves[name]) for name in expected])


def step_of(path: Path) -> int | None:
    """The step a folder's name states, None for other folders."""
    match = re.fullmatch(r"step_(\d+)", path.name)
    return int(match.group(1)) if match else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [p for p in folder.glob("step_*") if step_of(p) is not None and p.is_dir()]
    return sorted(found, key=lambda p: step_of(p) or 0)


def save(folder: Path, step: int, tensors: dict[str, np.ndarray], facts: dict, keep: int) -> Path:
    """Write the checkpoint of a step, then delete all but the `keep` newest.

    Args:
        tensors: name -> array. facts: JSON values to keep beside them.
    Raises: SaccadeError: disk full or no permission; older checkpoints are then intact.
    """
    remove_partial(folder)
    path = folder / f"step_{step:08d}"
    with atomic_directory(path) as temporary:
        digest = save_tensors(temporary / TENSORS, tensors)
        facts = {"format": FORMAT, "step": step, "sha256": digest, **facts}
        write_text(temporary / FACTS, json.dumps(facts, indent=1))
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)  # best effort: one too many is harmless
    return path


def load(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read one checkpoint. Returns (tensors, facts). Raises: SaccadeError: damaged, or of a newer format."""
    try:
        facts = json.loads((path / FACTS).read_text())
        found, digest = facts["format"], facts["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaccadeError(
            f"{path / FACTS} is missing or damaged; delete {path} to use an older one"
        ) from error
    if found != FORMAT:
        raise SaccadeError(
            f"{path} has checkpoint format {found}, this version reads {FORMAT}; update saccade"
        )
    return load_tensors(path / TENSORS, digest), facts


def load_newest(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, np.ndarray], dict] | None:
    """The newest checkpoint that is intact; `say` hears about every damaged one passed over.

    Returns: (path, tensors, facts), or None where there is no checkpoint at all.
    Raises: SaccadeError: there are checkpoints and every one is damaged.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            return path, *load(path)
        except SaccadeError as error:
            say(f"skipping a damaged checkpoint: {error}")
    if paths:
        raise SaccadeError(f"all {len(paths)} checkpoints in {folder} are damaged; use a new folder")
    return None
