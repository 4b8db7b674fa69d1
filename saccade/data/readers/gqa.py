"""GQA (Hudson & Manning 2019): questions made from scene graphs, one answer each."""

from pathlib import Path
from typing import ClassVar

from saccade.data.readers.fields import field, optional
from saccade.data.readers.files import Pictures, find, read_json
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError


class _Pairs(dict):
    """An object of a file that remembers its pairs, repeated keys included."""

    pairs: tuple = ()


def _keep(pairs: list) -> dict:
    found = _Pairs(pairs)
    if len(found) < len(pairs):
        found.pairs = tuple(pairs)
    return found


class Gqa:
    """SPLIT_questions.json, in the folder or in questions/: an object of question id -> question.

    Pictures: images/2405722.jpg, or loose. Splits test, challenge and submission have no answers.
    """

    SPLITS: ClassVar[tuple[str, ...]] = (
        "testdev_balanced", "testdev_all", "val_balanced", "val_all", "train_balanced",
        "test_balanced", "test_all", "challenge_balanced", "challenge_all", "submission_all",
    )  # fmt: skip

    def __init__(self, folder: Path, images: Path, split: str):
        self.split, self.pictures = split, Pictures(images, "images")
        self.secret = split.startswith(("test_", "challenge_", "submission_"))
        name = f"{split}_questions.json"
        path = find(folder, name, f"questions/{name}")
        data = read_json(path, dict, hook=_keep)
        pairs = data.pairs or data.items()
        self.records = [Record(str(path), i, id, value) for i, (id, value) in enumerate(pairs)]

    def row(self, record: Record) -> Row:
        entry = record.value
        image_id = field(entry, "imageId", str)
        answers, kind, axis = (), "", ""
        if not self.secret:
            types = field(entry, "types", dict)
            answers = (field(entry, "answer", str),)
            kind = field(types, "structural", str, "types.")
            axis = field(types, "semantic", str, "types.")
        elif optional(entry, "answer", str, None):
            raise RowError("unknown", f"answer: there is one, but answers of {self.split} are secret")
        return Row(
            id=record.id or "",
            picture=self.pictures.find("imageId", f"{image_id}.jpg"),
            text=field(entry, "question", str),
            answers=answers,
            kind=kind,
            axis=axis,
            group=image_id,
            split=self.split,
            where=record.where,
        )
