"""VQA v2 (Goyal et al. 2017): questions about COCO pictures, ten answers each."""

from pathlib import Path
from typing import ClassVar

from saccade.data.readers.coco import coco_name, coco_pictures
from saccade.data.readers.fields import field, ident, one_of
from saccade.data.readers.files import Table, find, part, read_json, records
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError

ANSWER_TYPES = ("yes/no", "number", "other")


class VqaV2:
    """v2_OpenEnded_mscoco_SPLIT_questions.json and v2_mscoco_SPLIT_annotations.json, which tests lack.

    Pictures: SPLIT/COCO_SPLIT_000000000042.jpg (test-dev2015: of test2015). A question without annotation,
    and an annotation without question, are broken rows.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("val2014", "train2014", "test-dev2015", "test2015")

    def __init__(self, folder: Path, images: Path, split: str):
        self.split, self.pictures = split, coco_pictures(images)
        path = find(folder, f"v2_OpenEnded_mscoco_{split}_questions.json")
        self.records = records(path, part(read_json(path, dict), "questions", path), "question_id")
        self.annotations = None
        if not split.startswith("test"):
            path = find(folder, f"v2_mscoco_{split}_annotations.json")
            entries = part(read_json(path, dict), "annotations", path)
            self.annotations = Table(path, "", entries, "question_id")
            self.records += self.annotations.unasked([record.id for record in self.records])

    def row(self, record: Record) -> Row:
        question = record.value
        id = ident(question, "question_id")
        image_id = field(question, "image_id", int)
        answers, answer_type, kind = self._answers(id, image_id)
        return Row(
            id=id,
            picture=self.pictures.find("image_id", coco_name(self.split, image_id)),
            text=field(question, "question", str),
            answers=answers,
            answer_type=answer_type,
            kind=kind,
            group=str(image_id),
            split=self.split,
            where=record.where,
        )

    def _answers(self, id: str, image_id: int) -> tuple[tuple[str, ...], str, str]:
        """(answers, answer type, question type)."""
        if self.annotations is None:
            return (), "", ""
        entry, at = self.annotations.get(id, "question_id"), "annotation."
        if field(entry, "image_id", int, at) != image_id:
            raise RowError("unknown", f"{at}image_id: {entry['image_id']}, but the question's is {image_id}")
        given = field(entry, "answers", list, at)
        if not given:
            raise RowError("answers", f"{at}answers: an empty list")
        answers = tuple(_said(answer, f"{at}answers[{i}].") for i, answer in enumerate(given))
        answer_type = one_of(field(entry, "answer_type", str, at), ANSWER_TYPES, f"{at}answer_type")
        return answers, answer_type, field(entry, "question_type", str, at)


def _said(answer, at: str) -> str:
    """What one annotator said; nothing is an answer too, which the official scorer compares as any other."""
    silent = isinstance(answer, dict) and answer.get("answer") == ""
    return "" if silent else field(answer, "answer", str, at)
