"""The files of a data set: found, read as a whole, joined by their ids."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from saccade.data.readers.fields import ident, ident_or_none
from saccade.data.readers.rows import Record
from saccade.data.rows import RowError, from_json, inside
from saccade.errors import SaccadeError, printable


def find(folder: Path, *names: str) -> Path:
    """The first of these files that exists. Raises: SaccadeError: none does."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise SaccadeError(f"{folder} holds no {' or '.join(names)}; give the folder that the files are in")


def read_bytes(path: Path) -> bytes:
    """Raises: SaccadeError: it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SaccadeError(f"{path} cannot be read: {error.strerror or error}; check the path") from None


def read_json(path: Path, kind: type, hook: Callable | None = None) -> Any:
    """A JSON file. Args: kind: list or dict.  hook: makes an object of its (key, value) pairs.

    Raises: SaccadeError: it cannot be read, is no JSON, or something else than a `kind`.
    """
    try:
        value = json.loads(read_bytes(path), object_pairs_hook=hook)
    except (ValueError, RecursionError) as error:
        raise SaccadeError(f"{path} is no JSON: {printable(str(error))[:100]}; get the file again") from None
    return expect(value, kind, str(path))


def expect(value: Any, kind: type, name: str) -> Any:
    """The value, if it is a `kind`. Raises: SaccadeError."""
    if not isinstance(value, kind):
        words = "a list" if kind is list else "an object"
        raise SaccadeError(f"{name} holds a {type(value).__name__}, not {words}; is it the published file?")
    return value


def part(data: dict, key: str, path: Path, kind: type = list) -> Any:
    """The list (or dict) under a key of a file. Raises: SaccadeError: it is not there, or something else."""
    if key not in data:
        raise SaccadeError(f"{path} has no {key!r}, only {printable(', '.join(data))[:100]}")
    return expect(data[key], kind, f"{path}, {key!r},")


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(row, value) of each line that is not empty; a value may be the RowError that it is."""
    lines = (line for line in read_bytes(path).splitlines() if line.strip())
    for index, line in enumerate(lines):
        try:
            yield index, from_json(line)
        except RowError as error:
            yield index, error


def records(path: Path | str, entries: Iterable, key: str) -> list[Record]:
    """A record for each entry, in order; `key` is that of its id."""
    return [Record(str(path), i, ident_or_none(entry, key), entry) for i, entry in enumerate(entries)]


class Table:
    """The entries of a list in a file, by id.

    Args: path, part: of the list.  key: of the id.
    """

    def __init__(self, path: Path, part: str, entries: list, key: str):
        self.name = f"{path}, {part}" if part else str(path)
        self.key, self._entries = key, records(self.name, entries, key)
        self._by_id: dict[str, list[Record]] = {}
        for record in self._entries:
            if record.id is not None:
                self._by_id.setdefault(record.id, []).append(record)

    def get(self, id: str, key: str) -> Any:
        """The entry with this id. Args: key: that asks, for errors.

        Raises: RowError: there is none, or several.
        """
        found = self._by_id.get(id, [])
        if not found:
            raise RowError("missing", f"{key}: {id} is not in {self.name}")
        if len(found) > 1:
            raise RowError("duplicate", f"{key}: {id} is {len(found)} times in {self.name}")
        return found[0].value

    def unasked(self, ids: Iterable[str | None]) -> list[Record]:
        """What belongs to none of these ids: a record, broken, of each."""
        asked = set(ids)
        return [orphan(r, self.key) for r in self._entries if r.id is None or r.id not in asked]


def orphan(record: Record, key: str) -> Record:
    """A record that belongs to no row of its data set, as a broken row. Args: key: of its id."""
    try:
        error = RowError("unknown", f"{key}: {ident(record.value, key)} belongs to no row")
    except RowError as wrong:
        error = wrong
    return Record(record.file, record.index, None, error)


class Pictures:
    """A folder of pictures. Args: folder.  under: where in it published archives put them."""

    def __init__(self, folder: Path, *under: str):
        self.folder = folder
        self.under: tuple[str, ...] = ("", *under)

    def find(self, key: str, *names: str) -> Path:
        """The first of these names, relative to one of the places, that exists; it is not opened.

        Raises: RowError: there is none, or a name leads out of the folder.
        """
        try:
            for name in names:
                for under in self.under:
                    if os.path.isfile(os.path.join(self.folder, under, name)):
                        return inside(os.path.join(under, name), self.folder)
            for name in names:
                inside(name, self.folder)
        except RowError as error:
            raise RowError("image", f"{key}: {error}") from None
        shown = " or ".join(names)[:200]
        places = f", nor in its {', '.join(self.under[1:])}" if self.under[1:] else ""
        raise RowError("image", f"{key}: no file {shown} in {self.folder}{places}")
