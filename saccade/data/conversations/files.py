"""Conversations in files: jsonl beside a folder of images, webdataset tar, parquet. Random access by row."""

import glob
import tarfile
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np

from saccade.data.conversations.rows import Conversation, RowFormat
from saccade.data.rows import RowError, from_json
from saccade.errors import SaccadeError, printable

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
TEXT_QUESTION = "Describe the image."  # what a tar's key.txt answers
_KEPT_GROUPS = 4  # row groups that stay in memory


class Conversations:
    """The rows of files, in order, each a Conversation; read when asked for.

        rows = Conversations.open("cauldron/*/*.parquet")
        rows[7].messages

    `rows[i]` raises RowError where row i is damaged or filtered; see `packing` for how a stream skips them.

    Args:
        files: each has a length, `row(i)` -> dict, and a `folder` that image paths are relative to.
        row_format: which turns are kept.
    """

    def __init__(self, files: Sequence, row_format: RowFormat | None = None):
        self.files = list(files)
        self.row_format = row_format or RowFormat()
        self._ends = list(accumulate(len(file) for file in self.files))

    @classmethod
    def open(
        cls,
        paths: str | Path | Iterable[str | Path],
        images: str | Path | None = None,
        row_format: RowFormat | None = None,
    ) -> "Conversations":
        """Find the rows of .jsonl, .tar and .parquet files.

        Args:
            paths: a file, a folder (all such files in it), a glob, or several of these.
            images: the folder that paths of images are relative to; None = each file's own.
        Raises: SaccadeError: nothing matches, another kind of file, or one that is damaged as a whole.
        """
        row_format = row_format or RowFormat()
        folder = None if images is None else Path(images)
        return cls([_open(path, folder, row_format) for path in find(paths)], row_format)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def blocks(self) -> list[int] | None:
        """Rows of each part, in order, that is read as a whole (see saccade.data.order); None = of none."""
        if not any(isinstance(file, Parquet) for file in self.files):
            return None
        return [size for file in self.files for size in getattr(file, "blocks", [len(file)])]

    def __getitem__(self, index: int) -> Conversation:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index}: there are rows 0 to {len(self) - 1}")
        which = bisect_right(self._ends, index)
        file = self.files[which]
        at = int(index) - (self._ends[which - 1] if which else 0)
        where = f"{printable(str(file.path))}, row {at}"
        try:
            row = file.row(at)
        except RowError as error:
            raise RowError(error.cause, f"{where}: {error}") from None
        return self.row_format.conversation(row, where, file.folder)


def find(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files that paths, folders and globs name, sorted within each, none twice."""
    found: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        if Path(path).is_dir():
            matches = [p for p in sorted(Path(path).rglob("*")) if p.suffix in KINDS]
        elif Path(path).exists():
            matches = [Path(path)]
        else:
            matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
        if not matches:
            raise SaccadeError(f"no file matches {path}; give {', '.join(KINDS)} files, or a folder of them")
        found |= dict.fromkeys(matches)
    return list(found)


def _open(path: Path, folder: Path | None, row_format: RowFormat):
    if path.suffix not in KINDS:
        raise SaccadeError(f"{path} is no file of conversations; give one that ends in {', '.join(KINDS)}")
    try:
        return KINDS[path.suffix](path, folder or path.parent, row_format.columns)
    except OSError as error:
        raise SaccadeError(f"{path} cannot be read: {error.strerror or error}; check the path") from None


def _read(path: Path, start: int, size: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            data = stream.read(size)
    except OSError as error:
        raise RowError("unreadable", f"{error.strerror or error}") from None
    if len(data) < size:
        raise RowError("unreadable", f"the file ends {size - len(data)} bytes early")
    return data


class Jsonl:
    """A JSON object a line; empty lines are no rows."""

    def __init__(self, path: Path, folder: Path, columns: Collection[str]):
        self.path, self.folder = path, folder
        starts, sizes, at = [], [], 0
        with path.open("rb") as stream:
            for line in stream:
                if line.strip():
                    starts.append(at)
                    sizes.append(len(line))
                at += len(line)
        self._starts, self._sizes = np.array(starts, np.int64), np.array(sizes, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, index: int):
        return from_json(_read(self.path, int(self._starts[index]), int(self._sizes[index])))


class Tar:
    """A plain tar in webdataset's layout: members of one key are one row.

    key.jpg, .png or .webp (key.0.jpg, key.1.jpg, ... for several, in the order of the file) with key.json, a
    row or its list of turns, or key.txt, which answers TEXT_QUESTION. The members are listed once.
    """

    def __init__(self, path: Path, folder: Path, columns: Collection[str]):
        self.path, self.folder = path, None  # images are members, never paths
        rows: dict[str, list[tuple[str, int, int]]] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    parent, _, name = member.name.rpartition("/")
                    key, dot, suffix = name.partition(".")
                    if member.isfile() and key and dot:
                        entry = (suffix.lower(), member.offset_data, member.size)
                        rows.setdefault(f"{parent}/{key}", []).append(entry)
        except tarfile.TarError as error:
            raise SaccadeError(
                f"{path} is no plain tar, or damaged: {error}; get it again, decompressed"
            ) from None
        self._rows = list(rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int):
        members = self._rows[index]
        texts = [m for m in members if m[0] in ("json", "txt")]
        images = [m for m in members if m[0].rpartition(".")[2] in IMAGE_SUFFIXES]
        if len(texts) != 1:
            raise RowError("missing", f"it has {len(texts)} of .json and .txt; it needs one")
        suffix, start, size = texts[0]
        data = _read(self.path, start, size)
        row = from_json(data) if suffix == "json" else _caption(data)
        if isinstance(row, list):
            row = {"texts": row}
        if isinstance(row, dict):
            row["images"] = [_read(self.path, start, size) for _, start, size in images]
        return row


def _caption(data: bytes) -> dict:
    try:
        return {"texts": [{"user": TEXT_QUESTION, "assistant": data.decode()}]}
    except UnicodeDecodeError as error:
        raise RowError("unreadable", f"the text is not UTF-8: {error}") from None


class Parquet:
    """A parquet file; a row is read with its row group, and the last few groups are kept.

    Args: columns: those that are read, where they exist.
    """

    def __init__(self, path: Path, folder: Path, columns: Collection[str]):
        self.path, self.folder = path, folder
        parquet = _pyarrow()
        try:
            with parquet.ParquetFile(path) as file:
                there = set(file.schema_arrow.names)
                self.blocks = [
                    file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)
                ]
        except OSError:
            raise
        except Exception as error:  # pyarrow's own errors
            raise SaccadeError(
                f"{path} is no parquet file, or damaged: {printable(str(error))[:100]}; get it again"
            ) from None
        self._columns = tuple(sorted(there & set(columns)))
        self._ends = list(accumulate(self.blocks))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, index: int):
        group = bisect_right(self._ends, index)
        first = self._ends[group - 1] if group else 0
        try:
            table = _read_group(self.path, group, self._columns)
            return table.slice(index - first, 1).to_pylist()[0]
        except Exception as error:  # pyarrow's own errors, on damaged pages
            raise RowError("unreadable", f"its row group: {printable(str(error))[:100]}") from None


@lru_cache(maxsize=_KEPT_GROUPS)
def _read_group(path: Path, group: int, columns: tuple[str, ...]):
    with _pyarrow().ParquetFile(path) as file:
        return file.read_row_group(group, columns=list(columns))


def _pyarrow():
    try:
        from pyarrow import parquet
    except ImportError:
        raise SaccadeError("parquet needs pyarrow: pip install 'saccade[data]'") from None
    return parquet


KINDS: dict[str, type] = {".jsonl": Jsonl, ".tar": Tar, ".parquet": Parquet}
