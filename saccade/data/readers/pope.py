"""POPE (Li et al. 2023): is there such an object in the picture? Yes or no."""

from pathlib import Path
from typing import ClassVar

from saccade.data.readers.coco import coco_pictures
from saccade.data.readers.fields import field, ident, ident_or_none, one_of
from saccade.data.readers.files import find, json_lines
from saccade.data.readers.rows import Record, Row


class Pope:
    """coco_pope_SPLIT.json, a JSON object a line, in the folder or in coco/ or output/coco/.

    Pictures: COCO's val2014.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("random", "popular", "adversarial")

    def __init__(self, folder: Path, images: Path, split: str):
        self.split, self.pictures = split, coco_pictures(images)
        name = f"coco_pope_{split}.json"
        path = find(folder, name, f"coco/{name}", f"output/coco/{name}")
        self.records = [
            Record(str(path), index, ident_or_none(value, "question_id"), value)
            for index, value in json_lines(path)
        ]

    def row(self, record: Record) -> Row:
        entry = record.value
        name = field(entry, "image", str)
        return Row(
            id=ident(entry, "question_id"),
            picture=self.pictures.find("image", name),
            text=field(entry, "text", str),
            answers=(one_of(field(entry, "label", str), ("yes", "no"), "label"),),
            answer_type="yes/no",
            group=name,
            split=self.split,
            where=record.where,
        )
