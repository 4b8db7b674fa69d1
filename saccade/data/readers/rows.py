"""A row of a published data set, and the rows of one of its splits."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from saccade.data.image import read_image
from saccade.data.rows import RowError, RowTally
from saccade.data.scenes.scene import Scene
from saccade.errors import SaccadeError, printable

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One item of any data set. Fields that a data set does not use keep their defaults.

    id: unique among the rows; as the data set writes it, or made of what it writes.
    picture: a path, or the bytes of a file; decoded by `image`.
    text: what is asked, stated or looked for.
    answers: right ones. VQA: of all annotators, in order (the place is the annotator); captions: all of the
        picture; regions: their phrases. Empty where a split keeps them secret.
    answer_type: VQA: "yes/no", "number" or "other".
    answer_index: which of `candidates` is answers[0].
    boxes: xyxy in [0, 1] of the picture, x0 < x1, y0 < y1. The one that `text` means, or one for each answer.
    candidates: to be ranked or chosen from.  relevance: of each, in [0, 1]; empty = not annotated.
    context: a text that is known before the turns (VisDial: the caption).
    turns: dialogue: ((question, answer), ...) before `text`.
    scene: what the picture shows, where that is known (NLVR).
    kind, axis: family and finer family, for scores by family.
    group: rows that belong together: of one picture, sentence, reference or dialogue.
    where: the file and row it comes from, for errors.
    """

    id: str
    picture: Path | bytes = field(repr=False)
    text: str = ""
    answers: tuple[str, ...] = ()
    answer_type: str = ""
    answer_index: int | None = None
    boxes: tuple[Box, ...] = ()
    candidates: tuple[str, ...] = ()
    relevance: tuple[float, ...] = ()
    context: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    scene: Scene | None = None
    kind: str = ""
    axis: str = ""
    group: str = ""
    split: str = ""
    where: str = "a row"

    @property
    def image(self) -> np.ndarray:
        """The picture, decoded anew each time: uint8 (H, W, 3). Raises: RowError: it cannot be used."""
        try:
            return read_image(self.picture)
        except SaccadeError as error:
            raise RowError("image", f"{self.where}: {error}") from None


@dataclass(frozen=True, slots=True)
class Record:
    """What a file says of one row, unchecked.

    file: its name, for errors.  index: of the row in it, from 0.  id: None = not readable.
    value: whatever its reader makes a Row of; or the RowError that it is.
    """

    file: str
    index: int
    id: str | None
    value: Any

    @property
    def where(self) -> str:
        return printable(f"{self.file}: row {self.index}")


class Reader(Protocol):
    """One split of a data set in its published files.

    Each reader is called with the folder of the files, the folder of the pictures, and one of its SPLITS,
    the first of which is the usual one. Raises: SaccadeError: a file is missing, or damaged as a whole.
    """

    SPLITS: ClassVar[tuple[str, ...]]
    split: str
    records: list[Record]

    def __init__(self, folder: Path, images: Path, split: str): ...

    def row(self, record: Record) -> Row:
        """Raises: RowError: starts with the key that is wrong."""
        ...


class Rows:
    """The rows of a split, made when asked for; a RowError where a row is broken.

        rows[7].text      # raises RowError if row 7 is broken
        for row in rows:  # skips broken rows, counted in rows.tally, up to max_bad

    Args: reader: see Reader.  max_bad: see RowTally; 0 = none is skipped.
    """

    def __init__(self, reader: Reader, max_bad: float = 0):
        self.reader, self.split = reader, reader.split
        self.tally = RowTally(max_bad)
        self._repeats: dict[int, tuple[str, int]] = {}  # row -> its id, and an earlier one that has it
        first: dict[str, int] = {}
        for index, record in enumerate(reader.records):
            if record.id is not None and first.setdefault(record.id, index) != index:
                self._repeats[index] = record.id, first[record.id]

    def __len__(self) -> int:
        return len(self.reader.records)

    @property
    def ids(self) -> list[str | None]:
        """The id of each row, without making it; None where it cannot be read."""
        return [record.id for record in self.reader.records]

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index}: there are rows 0 to {len(self) - 1}")
        record = self.reader.records[index]
        try:
            if isinstance(record.value, RowError):
                raise record.value
            if index in self._repeats:
                id, first = self._repeats[index]
                found = self.reader.records[first].index
                raise RowError("duplicate", f"id: {id} is that of row {found} too")
            return self.reader.row(record)
        except RowError as error:
            raise RowError(error.cause, f"{record.where}: {printable(str(error))}") from None

    def __iter__(self) -> Iterator[Row]:
        """Raises: SaccadeError: more than max_bad rows are broken."""
        for index in range(len(self)):
            try:
                row = self[index]
            except RowError as error:
                self.tally.add(1, {error.cause: 1}, [str(error)])
            else:
                self.tally.add(1, {}, [])
                yield row

    def skip(self, error: RowError) -> None:
        """Count a row that was given and turned out broken, as `row.image` may. Raises: as iteration."""
        self.tally.add(0, {error.cause: 1}, [str(error)])
