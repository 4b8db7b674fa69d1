"""Tiny data sets in the formats they are published in, written by the tests themselves."""

import json
from pathlib import Path

import pytest
from PIL import Image

from saccade.data.readers import Rows, open_rows
from saccade.data.rows import RowError


def picture(path: Path, width: int = 8, height: int = 4, level: int = 90) -> Path:
    """A picture of one gray, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (level,) * 3).save(path)
    return path


def write(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_lines(path: Path, values) -> Path:
    """A JSON value a line; a text is a line as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def fault(rows: Rows, index: int) -> tuple[str, str]:
    """(cause, message) of a row that must be broken."""
    with pytest.raises(RowError) as error:
        rows[index]
    return error.value.cause, str(error.value)


def check_broken(name: str, folder: Path, where: str, cause: str, message: str, **options) -> None:
    """One row of the data set is broken, in this way and said at this place; the others are not."""
    rows = open_rows(name, folder, max_bad=1, **options)
    good = list(rows)
    assert len(good) == len(rows) - 1
    assert dict(rows.tally.causes) == {cause: 1}
    [text] = rows.tally.examples
    assert text.startswith(f"{folder / where}: {message}"), text
