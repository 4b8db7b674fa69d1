"""The files of Karpathy & Fei-Fei (2015): captions of COCO and Flickr30k, in splits that all compare on."""

from pathlib import Path
from typing import ClassVar

from saccade.data.readers.fields import field, ident, one_of
from saccade.data.readers.files import Pictures, part, read_json, records
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError


class Karpathy:
    """The pictures of one split of dataset_coco.json or dataset_flickr30k.json, with their captions.

    Args: path: of the file.  id_key: the key that is a row's id; `filename`: without its ending.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("test", "val", "train", "restval")

    def __init__(self, path: Path, split: str, id_key: str, pictures: Pictures):
        self.split, self.id_key, self.pictures = split, id_key, pictures
        entries = records(path, part(read_json(path, dict), "images", path), id_key)
        # What names no known split may belong to this one: it stays, and is broken.
        others = [name for name in self.SPLITS if name != split]
        self.records = [r for r in entries if _split(r.value) not in others]

    def row(self, record: Record) -> Row:
        entry = record.value
        one_of(field(entry, "split", str), self.SPLITS, "split")
        id = ident(entry, self.id_key)
        id = Path(id).stem if self.id_key == "filename" else id
        sentences = field(entry, "sentences", list)
        if not sentences:
            raise RowError("answers", "sentences: an empty list")
        name = field(entry, "filename", str)
        folder = entry.get("filepath")  # COCO's: val2014
        return Row(
            id=id,
            picture=self.pictures.find("filename", f"{folder}/{name}" if folder else name, name),
            answers=tuple(field(s, "raw", str, f"sentences[{i}].") for i, s in enumerate(sentences)),
            group=id,
            split=self.split,
            where=record.where,
        )


def _split(entry) -> str | None:
    return entry.get("split") if isinstance(entry, dict) else None
