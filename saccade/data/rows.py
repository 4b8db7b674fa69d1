"""What every source of rows shares: the error of a row that is skipped, the count of them, safe paths."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saccade.errors import SaccadeError, printable

ALLOWED_AT_ONCE = 1000  # a share of bad rows is judged over at least so many

# Why a row is not used. Bad rows count against a limit, the others are left out on purpose.
BAD = {
    "unreadable": "unreadable",
    "missing": "a key missing",
    "type": "a value of the wrong type",
    "text": "an empty text",
    "image": "an image that cannot be used",
    "answers": "no answer",
    "box": "a box that is none",
    "duplicate": "an id that came before",
    "unknown": "an unknown key or value",
}
LEFT_OUT = {
    "rating": "below the rating limits",
    "length": "longer than a sequence",
    "room": "without room in their batch",
}


class RowError(SaccadeError):
    """A row that is skipped. `cause`: a key of BAD or LEFT_OUT."""

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause = cause

    def __reduce__(self):
        return type(self), (self.cause, str(self))


class RowTally:
    """What became of the rows that were read so far, in this process.

    Args: max_bad: most rows that may be damaged: a number of different ones, however often they come again,
        or, under 1, a share of those read (of ALLOWED_AT_ONCE while fewer have been). Rows that are left out
        on purpose do not count.
    Raises: SaccadeError: max_bad is negative.
    """

    def __init__(self, max_bad: float = 0.01):
        if max_bad < 0:
            raise SaccadeError(f"max_bad is {max_bad}; give a number of rows, or a share under 1")
        self.max_bad = max_bad
        self.rows = 0
        self.causes: Counter[str] = Counter()
        self.examples: list[str] = []  # the first different bad rows

    @property
    def bad(self) -> int:
        return sum(self.causes[cause] for cause in BAD)

    def add(self, rows: int, causes: Mapping[str, int], bad: Iterable[str]) -> None:
        """Count rows that were read. causes: of those not used.  bad: the errors of the bad ones.

        Raises: SaccadeError: too many bad rows so far.
        """
        self.rows += rows
        self.causes.update(causes)
        room = 20 if self.max_bad < 1 else int(self.max_bad) + 1
        for text in bad:
            if text not in self.examples and len(self.examples) < room:
                self.examples.append(text)
        found, limit = len(self.examples), self.max_bad
        if limit < 1:
            found, limit = self.bad, limit * max(self.rows, ALLOWED_AT_ONCE)
        if found > limit:
            raise SaccadeError(
                f"{found} of {self.rows} rows cannot be used, more than max_bad={self.max_bad}; the first "
                f"is {self.examples[0]}; mend the data, or raise max_bad"
            )

    @property
    def reasons(self) -> str:
        """The causes and their counts, for a line of text."""
        words = BAD | LEFT_OUT
        return "".join(f"; {words[c]}: {self.causes[c]}" for c in words if self.causes[c])

    def __str__(self) -> str:
        return f"{self.rows} rows read, {self.rows - self.causes.total()} used{self.reasons}"


def from_json(data: bytes) -> Any:
    """One JSON value. Raises: RowError: it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RowError("unreadable", f"no JSON: {printable(str(error))}") from None


def inside(name: str, folder: Path | None) -> Path:
    """A path relative to the folder. Raises: RowError: there is no folder, or the path leaves it."""
    shown = printable(name)
    if folder is None:
        raise RowError("image", f"{shown} is a path, but no folder of images is given; give `images`")
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError) as error:  # a NUL, or links in a circle
        raise RowError("image", f"{shown} is no path: {error}") from None
    if Path(name).is_absolute() or not path.is_relative_to(folder.resolve()):
        raise RowError("image", f"{shown} leads out of {folder}")
    return path
