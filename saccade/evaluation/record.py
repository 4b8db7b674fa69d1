"""What a run leaves in its folder, batch by batch, so that it can be cut off, continued, split and merged.

    run.json            the settings, everything that the predictions depend on; written first
    predictions.jsonl   a row an example, in order, on disk after every batch
    scores.json         computed from the other two alone; written last

A shard i of n takes every n-th batch, whole, and writes run-IofN.json and predictions-IofN.jsonl: batches are
made of the same rows as without shards, so the merged predictions are the same bytes.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saccade.errors import SaccadeError, printable
from saccade.files import write_error, write_text

RUN, PREDICTIONS, SCORES = "run{}.json", "predictions{}.jsonl", "scores.json"
_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")
_FILE = re.compile(r"predictions-(\d+)of(\d+)\.jsonl")


@dataclass(frozen=True)
class Shard:
    """Part `number`, from 1, of `count`: batches number - 1, number - 1 + count, ..."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Shard":
        """ "2/4"; None = everything. Raises: SaccadeError: it is no part of a whole."""
        if text is None:
            return cls()
        found = _SHARD.fullmatch(text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise SaccadeError(f"shard is {text!r}; give i/n with i from 1 to n, as 2/4")
        return cls(int(found[1]), int(found[2]))

    @property
    def suffix(self) -> str:
        return "" if self.count == 1 else f"-{self.number}of{self.count}"

    def batches(self, count: int, size: int) -> range:
        """The numbers of its batches. Raises: SaccadeError: there are fewer batches than shards."""
        if self.count > count:
            raise SaccadeError(
                f"{self.count} shards of {count} batches of {size} rows: some would be empty; use at most "
                f"{count} shards, or a smaller batch_size"
            )
        return range(self.number - 1, count, self.count)


@dataclass(frozen=True)
class Job:
    """Predictions to be made.

    settings: plain values, everything that they depend on.  total: rows.  size: rows of a batch.
    predict: number of a batch, from 0 -> its rows, each a dict of plain values with `id` and `prediction`.
    known: number of a batch -> what its rows say beside the prediction, made without the model: rows that a
        folder has already must say the same. None = the settings alone tell data apart.
    """

    settings: dict[str, Any]
    total: int
    size: int
    predict: Callable[[int], list[dict]]
    known: Callable[[int], list[dict]] | None = None

    @property
    def count(self) -> int:
        return -(-self.total // self.size)


def collect(job: Job, shard: Shard, folder: Path | None, track: Callable[[Iterable, int], Iterable]) -> list:
    """Every row of the shard, in order: those that `folder` has already, then the others.

    Args: folder: None = nothing is written.  track: (steps, how many) -> the steps, with a bar perhaps.
    Raises: SaccadeError: the folder holds a run of other settings or data, or damaged rows, or is being
        written to.
    """
    batches = shard.batches(job.count, job.size)
    if folder is None:
        return [row for number in track(batches, len(batches)) for row in _numbered(job, number)]
    keep_settings(folder / RUN.format(shard.suffix), job.settings)
    path = folder / PREDICTIONS.format(shard.suffix)
    expected = [index for number in batches for index in _rows(job, number)]
    with _appended(path) as file:
        found, size = _read_rows(path, torn=True)
        _check_order(path, found, expected)
        done = 0
        while done < len(batches) and _end(job, batches, done) <= len(found):
            done += 1
        kept = _end(job, batches, done - 1) if done else 0
        _check_data(path, found, [row for n in batches[:done] for row in job.known(n)] if job.known else [])
        # A batch is predicted whole again unless all of it is there: its rows are then the same to the bit.
        file.truncate(size if kept == len(found) else _length(path, kept))
        rows = found[:kept]
        for number in track(batches[done:], len(batches) - done):
            new = _numbered(job, number)
            _append(file, path, "".join(dumps(row) + "\n" for row in new))
            rows += new
    return rows


def merge_rows(folder: Path) -> tuple[dict, list[dict]]:
    """The settings and all rows of a folder: of its shards, or of the run that was not split.

    Returns: settings; the rows in order.
    Raises: SaccadeError: shards or rows are missing, or of runs with different settings.
    """
    if not folder.is_dir():
        raise SaccadeError(f"{folder} is no folder; give the one that `evaluate --out` wrote")
    names = sorted(path.name for path in folder.iterdir())
    parts = [Shard(int(m[1]), int(m[2])) for m in map(_FILE.fullmatch, names) if m]
    if not parts:
        parts = [Shard()]
    _check_parts(folder, parts)
    settings = [read_settings(folder / RUN.format(part.suffix)) for part in parts]
    for part, given in zip(parts, settings, strict=True):
        _check_same(folder / RUN.format(part.suffix), settings[0], given)
    rows = [row for part in parts for row in _read_rows(folder / PREDICTIONS.format(part.suffix))[0]]
    rows.sort(key=lambda row: row["index"])
    total, indices = settings[0]["num"], [row["index"] for row in rows]
    if indices != list(range(total)):
        missing = sorted({*range(total)} - {*indices})
        which = f"the first that is missing is {missing[0]}" if missing else "some are there twice"
        raise SaccadeError(f"{folder} holds {len(rows)} of {total} rows, {which}; finish the run first")
    return settings[0], rows


def write_merged(folder: Path, settings: dict, rows: list[dict]) -> None:
    """The files of a run that was not split."""
    write_text(folder / RUN.format(""), dumps(settings, indent=1) + "\n")
    write_text(folder / PREDICTIONS.format(""), "".join(dumps(row) + "\n" for row in rows))


def write_scores(folder: Path, scores: dict) -> None:
    """scores.json, last of all: where it is, the predictions are."""
    write_text(folder / SCORES, dumps(scores, indent=1) + "\n")


def keep_settings(path: Path, settings: dict) -> None:
    """Write the settings, or check that they are those that are there. Raises: SaccadeError: they differ."""
    if path.exists():
        _check_same(path, read_settings(path), json.loads(dumps(settings)))
    else:
        write_text(path, dumps(settings, indent=1) + "\n")


def read_settings(path: Path) -> dict:
    """Raises: SaccadeError: missing, or no settings."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SaccadeError(f"{path} does not exist; give a folder that `evaluate --out` wrote") from None
    except (OSError, ValueError) as error:
        raise SaccadeError(f"{path} cannot be read: {error}; delete the folder and run again") from None
    if not isinstance(found, dict) or not isinstance(found.get("num"), int):
        raise SaccadeError(f"{path} holds no settings of a run; delete the folder and run again")
    return found


def dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, default=lambda value: value.item())


def short(values) -> Any:
    """float32 values as the shortest decimals that give the same float32 again; any shape."""
    if np.ndim(values):
        return [short(value) for value in values]
    return float(str(np.float32(values)))


def _rows(job: Job, number: int) -> range:
    return range(number * job.size, min((number + 1) * job.size, job.total))


def _end(job: Job, batches: range, place: int) -> int:
    """How many rows the batches up to that place have."""
    return place * job.size + len(_rows(job, batches[place]))


def _numbered(job: Job, number: int) -> list[dict]:
    rows, indices = job.predict(number), _rows(job, number)
    return [{"index": index, **row} for index, row in zip(indices, rows, strict=True)]


def _check_same(path: Path, old: dict, new: dict) -> None:
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            before, now = (printable(dumps(given.get(key)))[:80] for given in (old, new))
            raise SaccadeError(
                f"{path} is of a run with {key} {before}, this one has {now}; choose another folder, or "
                "delete that one"
            )


def _check_parts(folder: Path, parts: list[Shard]) -> None:
    counts = sorted({part.count for part in parts})
    if len(counts) > 1:
        raise SaccadeError(f"{folder} holds shards of {counts[0]} and of {counts[1]}; keep one split")
    missing = sorted({*range(1, counts[0] + 1)} - {part.number for part in parts})
    if missing:
        raise SaccadeError(
            f"{folder} has {len(parts)} of {counts[0]} shards, {missing[0]}/{counts[0]} is missing; run it"
        )


def _check_order(path: Path, rows: list[dict], expected: list[int]) -> None:
    for place, row in enumerate(rows):
        if place >= len(expected) or row["index"] != expected[place]:
            raise SaccadeError(f"{path}: line {place + 1} is of row {row['index']}; delete the file")


def _check_data(path: Path, rows: list[dict], known: list[dict]) -> None:
    """Raises: SaccadeError: a row is of other data than what is known of it."""
    for row, given in zip(rows, known, strict=False):
        for key, value in given.items():
            if row.get(key) != value:
                before, now = (printable(dumps(v))[:80] for v in (row.get(key), value))
                raise SaccadeError(
                    f"{path}: row {row['index']} has {key} {before}, the data has {now}; choose another "
                    "folder, or delete that one"
                )


def _read_rows(path: Path, torn: bool = False) -> tuple[list[dict], int]:
    """The rows of a file, and the bytes that they take. Args: torn: the last line may be cut short.

    Raises: SaccadeError: missing, or a line that is no row.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SaccadeError(f"{path} cannot be read: {error.strerror}; run that part again") from None
    end = content.rfind(b"\n") + 1
    if end < len(content) and not torn:
        raise SaccadeError(f"{path} ends within a line: the run was cut off; finish it first")
    rows = []
    for number, line in enumerate(content[:end].splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row["index"], int):
                raise TypeError("index")
        except (ValueError, TypeError, KeyError) as error:
            raise SaccadeError(f"{path}: line {number} is no prediction ({error}); delete the file") from None
        rows.append(row)
    return rows, end


def _length(path: Path, count: int) -> int:
    """Bytes of the first `count` lines."""
    return sum(len(line) + 1 for line in path.read_bytes().split(b"\n")[:count])


@contextmanager
def _appended(path: Path) -> Generator[Any]:
    """The file, open to be appended to by this process alone."""
    try:
        file = open(path, "ab")  # noqa: SIM115, closed below
    except OSError as error:
        raise write_error(error, path) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SaccadeError(f"{path} is being written by another process; wait, or use a shard") from None
        yield file


def _append(file, path: Path, text: str) -> None:
    try:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise write_error(error, path) from error
