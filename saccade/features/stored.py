"""Features as arrays: kept on disk, taken in batches, or made by another program."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.image import Placement
from saccade.errors import SaccadeError
from saccade.files import write_error

SIDES = ("vision", "text")


def dims_of(vision_dim: int | None, text_dim: int | None, grid) -> dict[str, Any]:
    found = {"vision_dim": vision_dim, "text_dim": text_dim, "grid": grid}
    return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Stored features of N rows. `features[indices]` is a batch for a head.

    Args:
        arrays: `vision_features` float (N, P, C) or (N, C); `text_features` float (N, T, D) or (N, D); where
            there is padding `vision_mask` bool (N, P) and `text_mask` bool (N, T), True = keep; and what else
            a head reads or learns of each row.
        grid: (rows, columns) of the P patches, row-major; None = unknown, or no patches.
        placements: where each picture lies on its canvas, if known; boxes of a head are of the canvas.
    """

    arrays: dict[str, np.ndarray]
    grid: tuple[int, int] | None = None
    placements: tuple[Placement, ...] | None = None

    @property
    def dims(self) -> dict[str, Any]:
        """`vision_dim`, `text_dim` and, where it is known, `grid`: arguments of a VLMTaskConfig."""
        widths = [a.shape[-1] if (a := self.arrays.get(f"{s}_features")) is not None else None for s in SIDES]
        return dims_of(*widths, self.grid)

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, indices) -> dict[str, np.ndarray]:
        """A batch. Args: indices: a slice, or numbers of rows, as a Stream of them collates."""
        return {name: array[indices] for name, array in self.arrays.items()}

    def save(self, path: str | Path) -> None:
        """Write one .npz, whole or not at all. Raises: SaccadeError: another ending, disk full."""
        path = npz_path(path)
        extra: dict[str, Any] = {"grid": np.array(self.grid or (), int)}
        if self.placements is not None:
            extra["placements"] = np.array([pack(p) for p in self.placements], int).reshape(-1, 8)
        temporary = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.savez(file, allow_pickle=False, **self.arrays, **extra)
            temporary.replace(path)
        except OSError as error:
            raise write_error(error, path) from error
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "FeatureSet":
        """Read what `save` wrote. Raises: SaccadeError: missing, damaged, or another .npz."""
        path = npz_path(path)
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                found = dict(file)
        except FileNotFoundError:
            raise SaccadeError(f"{path} does not exist; encode the data first") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise SaccadeError(f"{path} cannot be read: {error}; encode the data again") from None
        grid, rows = found.pop("grid", None), found.pop("placements", None)
        if grid is None or not any(f"{side}_features" in found for side in SIDES):
            raise SaccadeError(f"{path} holds {', '.join(sorted(found)) or 'nothing'}, not features")
        placements = None if rows is None else tuple(map(unpack, rows.tolist()))
        return cls(found, (int(grid[0]), int(grid[1])) if len(grid) else None, placements)


def pack(p: Placement) -> tuple[int, ...]:
    """A Placement as 8 whole numbers."""
    return (*p.image_size, *p.canvas_size, p.top_px, p.left_px, p.height_px, p.width_px)


def unpack(r: Sequence[int]) -> Placement:
    return Placement((r[0], r[1]), (r[2], r[3]), *r[4:])


class Gathered:
    """Arrays of `count` rows in one place, filled batch by batch.

    Where batches differ in length, the shorter ones end in zeros, False in a mask.
    """

    def __init__(self, count: int):
        self.arrays: dict[str, np.ndarray] = {}
        self._count, self._start = count, 0

    def add(self, filled: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> None:
        """The next rows. Args: filled: arrays of a full batch; what is too much of the last is dropped.
        exact: arrays of the rows that there are.
        Raises: SaccadeError: texts of several lengths, with nothing that tells which tokens count.
        """
        start, size = self._start, len(next(iter(filled.values())))
        stop = min(start + size, self._count)
        for name, value in {**filled, **exact}.items():
            own = self._wide_enough(name, value, "text_mask" in filled)
            row = own[start:stop]
            (row[:, : value.shape[1]] if value.ndim > 1 else row)[:] = value[: stop - start]
        self._start = stop

    def _wide_enough(self, name: str, value: np.ndarray, masked: bool) -> np.ndarray:
        own = self.arrays.get(name)
        if own is None:  # zeros are no memory before they are written
            self.arrays[name] = np.zeros((self._count, *value.shape[1:]), value.dtype)
        elif value.ndim > 1 and value.shape[1] != own.shape[1]:
            lengths = sorted((own.shape[1], value.shape[1]))
            if name == "text_features" and value.ndim == 3 and not masked:
                raise SaccadeError(
                    f"texts are of {lengths[0]} and of {lengths[1]} tokens without a mask; "
                    "have tokenize give one"
                )
            if value.shape[1] > own.shape[1]:
                self.arrays[name] = np.zeros((self._count, *value.shape[1:]), value.dtype)
                self.arrays[name][: self._start, : own.shape[1]] = own[: self._start]
        return self.arrays[name]


def npz_path(path: str | Path) -> Path:
    if Path(path).suffix != ".npz":
        raise SaccadeError(f"{path} does not end in .npz; name a file that does")
    return Path(path)


def from_arrays(vision=None, text=None, vision_mask=None, text_mask=None, grid=None) -> FeatureSet:
    """Features that another program made: NumPy, JAX or torch (bfloat16 and gradients too), float32 here.

    Args:
        vision: (N, P, C), (N, C), or (N, rows, columns, C), which is flattened row-major; channels last, and
            without class tokens where a grid is meant.  text: (N, T, D) or (N, D).  Either may be left out.
        vision_mask, text_mask: of booleans or 0 and 1, True = keep (transformers' attention_mask).
        grid: (rows, columns) of the P patches; that of four dimensions is known.
    Raises: SaccadeError: shapes that do not fit (states them), values that are no finite numbers.
    """
    arrays: dict[str, np.ndarray] = {}
    for side, values, mask in (("vision", vision, vision_mask), ("text", text, text_mask)):
        if values is None:
            if mask is not None:
                raise SaccadeError(f"{side}_mask is given without features of {side}; give both")
            continue
        array = to_numpy(values)
        if side == "vision" and array.ndim == 4:
            if grid is not None and tuple(grid) != array.shape[1:3]:
                raise SaccadeError(f"vision is {array.shape}, grid says {tuple(grid)}; leave grid out")
            grid = array.shape[1:3]
            array = array.reshape(len(array), -1, array.shape[-1])
        if array.ndim not in (2, 3) or not array.size:
            raise SaccadeError(f"{side} is {array.shape}; give (rows, tokens, width) or (rows, width)")
        if not np.isfinite(array).all():
            raise SaccadeError(f"{side} has values that are no finite numbers; look at what made them")
        arrays[f"{side}_features"] = array
        if mask is not None:
            arrays[f"{side}_mask"] = _mask(side, mask, array)
    counts = {name: len(array) for name, array in arrays.items()}
    if not counts:
        raise SaccadeError("there are no features; give vision, text or both")
    if len(set(counts.values())) > 1:
        raise SaccadeError(f"the features are of different numbers of rows, {counts}; pair them one to one")
    return FeatureSet(arrays, _grid(grid, arrays.get("vision_features")))


def to_numpy(values) -> np.ndarray:
    """float32 array of NumPy, JAX or torch values, bfloat16 too; torch is not imported."""
    if hasattr(values, "detach"):  # a torch tensor, perhaps with gradients or on a GPU
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        values = values.numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise SaccadeError(f"features are {array.dtype}; give an array of numbers")
    return array.astype(np.float32)


def _mask(side: str, mask, features: np.ndarray) -> np.ndarray:
    values = to_numpy(mask)
    if features.ndim != 3 or values.shape != features.shape[:2]:
        raise SaccadeError(f"{side}_mask is {values.shape}, {side} is {features.shape}; one value a token")
    if not np.isin(values, (0, 1)).all():
        raise SaccadeError(f"{side}_mask has values beside 0 and 1; give 1 where a token is kept")
    return values.astype(bool)


def _grid(grid, features: np.ndarray | None) -> tuple[int, int] | None:
    if grid is None:
        return None
    rows, columns = (int(value) for value in grid)
    if features is None or features.ndim != 3 or features.shape[1] != rows * columns:
        shape = None if features is None else features.shape
        raise SaccadeError(f"vision is {shape}, a grid of {rows} x {columns} has {rows * columns} patches")
    return rows, columns
