"""Flickr30k (Young et al. 2014): five captions a picture."""

from pathlib import Path
from typing import ClassVar

from saccade.data.readers.files import Pictures, find, read_bytes
from saccade.data.readers.karpathy import Karpathy
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError
from saccade.errors import SaccadeError

TOKENS = "results_20130124.token"


class Flickr30k:
    """Karpathy's splits from dataset_flickr30k.json; `all` from results_20130124.token, which has none.

    A line of the latter: picture.jpg#0, a tab, the caption. A row is a picture, its id the name without
    ".jpg". Pictures: in flickr30k-images/, flickr30k_images/, images/ or loose.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("test", "val", "train", "all")

    def __init__(self, folder: Path, images: Path, split: str):
        self.split = split
        self.pictures = Pictures(images, "flickr30k-images", "flickr30k_images", "images")
        self.karpathy = None
        if split == "all":
            self.records = _lines(find(folder, TOKENS))
        else:
            path = find(folder, "dataset_flickr30k.json")
            self.karpathy = Karpathy(path, split, "filename", self.pictures)
            self.records = self.karpathy.records

    def row(self, record: Record) -> Row:
        if self.karpathy is not None:
            return self.karpathy.row(record)
        name, lines = record.value
        seen: dict[str, int] = {}
        for index, number, caption in lines:
            if seen.setdefault(number, index) != index:
                raise RowError("duplicate", f"row {index}: {name}#{number} is row {seen[number]} too")
            if not caption.strip():
                raise RowError("text", f"row {index}: caption: empty")
        return Row(
            id=Path(name).stem,
            picture=self.pictures.find("picture", name),
            answers=tuple(caption for *_, caption in lines),
            group=Path(name).stem,
            split=self.split,
            where=record.where,
        )


def _lines(path: Path) -> list[Record]:
    """A record for each picture, (name, [(row, number, caption), ...]), and for each line that is none."""
    try:
        lines = read_bytes(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise SaccadeError(f"{path} is not UTF-8: {error}; get the file again") from None
    file, found, broken = str(path), {}, []
    for index, line in enumerate(lines):
        head, tab, caption = line.partition("\t")
        name, mark, number = head.rpartition("#")
        if tab and mark and name and number.isdecimal():
            found.setdefault(name, []).append((index, number, caption))
        elif line.strip():
            error = RowError("unreadable", f"{line[:60]}: not name#number, a tab and a caption")
            broken.append(Record(file, index, None, error))
    return [Record(file, lines[0][0], name, (name, lines)) for name, lines in found.items()] + broken
