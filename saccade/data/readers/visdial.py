"""VisDial v1.0 (Das et al. 2017): dialogues about a picture, 100 candidate answers a question."""

from pathlib import Path
from typing import ClassVar

from saccade.data.readers.coco import coco_name, coco_pictures
from saccade.data.readers.fields import checked, field, ident, ident_or_none
from saccade.data.readers.files import Pictures, find, orphan, part, read_json
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError

CANDIDATES = 100


class VisDial:
    """visdial_1.0_SPLIT.json and, where it is there, its file of dense annotations (for `relevance`).

    A row is a round of a dialogue, its id PICTURE-ROUND (from 1), its turns the rounds before. Of `test`,
    whose right answers are secret, it is the last round of each. A dense annotation of no round is a broken
    row. Pictures: VisualDialog_val2018/, of `train` COCO's.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("val", "train", "test")
    DENSE = ("visdial_1.0_{}_dense_annotations.json", "visdial_1.0_{}_dense_sample.json")

    def __init__(self, folder: Path, images: Path, split: str):
        self.split = split
        self.folder = f"VisualDialog_{split}2018"
        self.pictures = coco_pictures(images) if split == "train" else Pictures(images, self.folder, "images")
        path = find(folder, f"visdial_1.0_{split}.json")
        data = part(read_json(path, dict), "data", path, dict)
        self.questions, self.answers = (part(data, key, path) for key in ("questions", "answers"))
        file = str(path)
        dialogs = enumerate(part(data, "dialogs", path))
        self.records = [r for index, dialog in dialogs for r in self._records(file, index, dialog)]
        self.dense: dict[str, list[Record]] = {}
        self._join_dense(folder)

    def _records(self, file: str, index: int, dialog) -> list[Record]:
        """One for each round that is asked, (dialogue, round from 0)."""
        try:
            id = ident(dialog, "image_id")
            rounds = field(dialog, "dialog", list)
            if not rounds:
                raise RowError("text", "dialog: an empty list")
        except RowError as error:
            return [Record(file, index, None, error)]
        first = len(rounds) - 1 if self.split == "test" else 0
        return [Record(file, index, f"{id}-{k + 1}", (dialog, k)) for k in range(first, len(rounds))]

    def _join_dense(self, folder: Path) -> None:
        names = [name.format(self.split) for name in self.DENSE]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            return
        known = {record.id for record in self.records if record.id is not None}
        pictures = {id.rpartition("-")[0] for id in known}
        for index, entry in enumerate(read_json(path, list)):
            record = Record(str(path), index, ident_or_none(entry, "image_id"), entry)
            id = f"{record.id}-{ident_or_none(entry, 'round_id')}"
            if id in known:
                self.dense.setdefault(id, []).append(record)
            else:
                key = "image_id" if record.id is None or record.id not in pictures else "round_id"
                self.records.append(orphan(record, key))

    def row(self, record: Record) -> Row:
        dialog, k = record.value
        image_id = field(dialog, "image_id", int)
        rounds = dialog["dialog"]
        at = f"dialog[{k}]."
        options = field(rounds[k], "answer_options", list, at)
        if len(options) != CANDIDATES:
            raise RowError("answers", f"{at}answer_options: {len(options)}, not {CANDIDATES}")
        candidates = tuple(
            _said(self.answers, option, f"{at}answer_options[{i}]") for i, option in enumerate(options)
        )
        index = None if self.split == "test" else self._right(rounds[k], candidates, at)
        return Row(
            id=f"{image_id}-{k + 1}",
            picture=self.pictures.find("image_id", *self._names(image_id)),
            text=self._say(rounds[k], "question", at),
            answers=() if index is None else (candidates[index],),
            answer_index=index,
            candidates=candidates,
            relevance=self._relevance(f"{image_id}-{k + 1}"),
            context=field(dialog, "caption", str),
            turns=tuple(
                (self._say(turn, "question", f"dialog[{t}]."), self._say(turn, "answer", f"dialog[{t}]."))
                for t, turn in enumerate(rounds[:k])
            ),
            group=str(image_id),
            split=self.split,
            where=record.where,
        )

    def _names(self, image_id: int) -> tuple[str, ...]:
        if self.split == "train":
            return coco_name("train2014", image_id), coco_name("val2014", image_id)
        return (f"{self.folder}_{image_id:012d}.jpg",)

    def _say(self, turn, key: str, at: str) -> str:
        """The text of a turn's question or answer."""
        said = self.questions if key == "question" else self.answers
        return _said(said, field(turn, key, int, at), f"{at}{key}")

    def _right(self, turn, candidates: tuple[str, ...], at: str) -> int:
        """The index of the right candidate."""
        index = field(turn, "gt_index", int, at)
        if not 0 <= index < CANDIDATES:
            raise RowError("answers", f"{at}gt_index: {index}, there are {CANDIDATES} candidates")
        if self._say(turn, "answer", at) != candidates[index]:
            raise RowError("answers", f"{at}gt_index: candidate {index} is not the answer of the round")
        return index

    def _relevance(self, id: str) -> tuple[float, ...]:
        found = self.dense.get(id, [])
        if not found:
            return ()
        at = f"{found[0].where}: "
        if len(found) > 1:
            raise RowError("duplicate", f"{at}round {id} is row {found[1].index} too")
        key = "relevance" if "relevance" in found[0].value else "gt_relevance"
        given = field(found[0].value, key, list, at)
        if len(given) != CANDIDATES:
            raise RowError("type", f"{at}{key}: {len(given)} values for {CANDIDATES} candidates")
        values = tuple(float(checked(value, f"{at}{key}[{i}]", float)) for i, value in enumerate(given))
        if not all(0 <= value <= 1 for value in values):
            raise RowError("type", f"{at}{key}: a value outside [0, 1]")
        return values


def _said(texts: list, index, key: str) -> str:
    if not 0 <= checked(index, key, int) < len(texts):
        raise RowError("unknown", f"{key}: {index}, there are {len(texts)} texts")
    return checked(texts[index], f"{key}, text {index}", str)
