"""MMStar (Chen et al. 2024): 1,500 choices of A to D, in 6 categories and 18 axes."""

import base64
import binascii
import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from saccade.data.readers.fields import field, ident, ident_or_none, one_of
from saccade.data.readers.files import find, read_bytes
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError
from saccade.errors import SaccadeError

LETTERS = ("A", "B", "C", "D")
COLUMNS = ("index", "question", "image", "answer", "category", "l2_category")


class MMStar:
    """mmstar.parquet (needs the extra [data]) or MMStar.tsv, whose pictures are base64.

    The options are in the text, as published; the answer is a letter. `kind` is the category, `axis` the
    l2_category.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("val",)

    def __init__(self, folder: Path, images: Path, split: str):
        self.split = split
        path = find(folder, "mmstar.parquet", "MMStar.tsv", "data/mmstar.parquet")
        entries = _parquet(path) if path.suffix == ".parquet" else _tsv(path)
        self.records = [
            Record(str(path), i, ident_or_none(entry, "index"), entry) for i, entry in enumerate(entries)
        ]

    def row(self, record: Record) -> Row:
        entry = record.value
        return Row(
            id=ident(entry, "index"),
            picture=_picture(entry),
            text=field(entry, "question", str),
            answers=(one_of(field(entry, "answer", str), LETTERS, "answer"),),
            kind=field(entry, "category", str),
            axis=field(entry, "l2_category", str),
            group=ident(entry, "index"),
            split=self.split,
            where=record.where,
        )


def _picture(entry: Mapping) -> bytes:
    """The bytes of a picture: of parquet as they are, or in a struct of `bytes`; of tsv in base64."""
    value = entry.get("image")
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, bytes) and value:
        return value
    try:
        return base64.b64decode(field(entry, "image", str), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError("image", f"image: no base64: {error}") from None


def _parquet(path: Path) -> Iterator[Any]:
    # Here, not above: the tokenizers behind it take their time to import.
    from saccade.data.conversations.files import Parquet

    table = Parquet(path, path.parent, COLUMNS)
    for index in range(len(table)):
        try:
            yield table.row(index)
        except RowError as error:
            yield error


def _tsv(path: Path) -> Iterator[Any]:
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise SaccadeError(f"{path} is not UTF-8: {error}; get the file again") from None
    limit = csv.field_size_limit(2**31 - 1)  # of the process; pictures are longer than what it allows
    try:
        for entry in csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"):
            short = [key for key in COLUMNS if not entry.get(key)]
            yield RowError("missing", f"{', '.join(short)}: missing") if short else entry
    except csv.Error as error:
        raise SaccadeError(f"{path} is no tsv: {error}; get the file again") from None
    finally:
        csv.field_size_limit(limit)
