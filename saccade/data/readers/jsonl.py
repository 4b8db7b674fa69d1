"""One's own data: a JSON object a line, whose keys are the fields of a Row."""

from pathlib import Path
from typing import Any, ClassVar

from saccade.data.readers.fields import box_of, checked, field, ident, ident_or_none, optional, texts
from saccade.data.readers.files import Pictures, json_lines
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError
from saccade.errors import SaccadeError, printable

_TEXTS = ("text", "answer_type", "context", "kind", "axis", "group")
_LISTS = ("answers", "boxes", "candidates", "relevance", "turns")
KEYS = ("id", "image", "split", "answer_index", *_TEXTS, *_LISTS)


class Jsonl:
    """A .jsonl file, or a folder that holds one; pictures beside it.

    `image` is needed, a path within the folder of pictures; everything else may be missing, but is not empty
    where it is there. `id`: missing = the number of the row, from 0. `answers`: a text, or a list of them.
    `boxes`: [[x0, y0, x1, y1], ...] in [0, 1]. `turns`: [[question, answer], ...]. Other keys are refused.
    A split is the rows that name it in `split`; "all", the usual one, is every row.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ()  # whichever there are

    def __init__(self, folder: Path, images: Path, split: str):
        path = folder if folder.is_file() else _only(folder)
        self.split = split
        self.pictures = Pictures(images.parent if images.is_file() else images)
        file, self.records, others = str(path), [], set()
        for index, value in json_lines(path):
            if _may_be(value, split):
                unnamed = isinstance(value, dict) and value.get("id") is None
                id = str(index) if unnamed else ident_or_none(value, "id")
                self.records.append(Record(file, index, id, value))
            else:
                others.add(value.get("split") or "rows without one")
        if not self.records:
            there = printable(", ".join(sorted(others)))[:200]
            raise SaccadeError(f"{path} has no row of split {split!r}; there are {there or 'none'}")

    def row(self, record: Record) -> Row:
        entry = record.value
        picture = self.pictures.find("image", field(entry, "image", str))
        for key in entry:
            if key not in KEYS:
                raise RowError("unknown", f"{key}: unknown; the keys are {', '.join(KEYS)}")
        fields: dict[str, Any] = {key: optional(entry, key, str, "") for key in _TEXTS}
        fields |= {key: _LISTED[key](entry[key]) for key in _LISTS if entry.get(key) is not None}
        _go_together(fields)
        return Row(
            id=str(record.index) if entry.get("id") is None else ident(entry, "id"),
            picture=picture,
            answer_index=_index(entry, fields),
            split=optional(entry, "split", str, ""),
            where=record.where,
            **fields,
        )


def _may_be(value: Any, split: str) -> bool:
    """Whether a line is of this split; one that does not say so as it should stays, and is a broken row."""
    if split == "all" or not isinstance(value, dict):
        return True
    named = value.get("split")
    return named == split or not (named is None or isinstance(named, str))


def _only(folder: Path) -> Path:
    found = sorted(folder.glob("*.jsonl"))
    if len(found) != 1:
        raise SaccadeError(f"{folder} holds {len(found)} .jsonl files; give the path of the one you mean")
    return found[0]


def _answers(value) -> tuple[str, ...]:
    if isinstance(value, str):
        return (checked(value, "answers", str),)
    return texts(checked(value, "answers", list), "answers")


def _relevance(value) -> tuple[float, ...]:
    given = checked(value, "relevance", list)
    found = tuple(float(checked(v, f"relevance[{i}]", float)) for i, v in enumerate(given))
    if not all(0 <= v <= 1 for v in found):
        raise RowError("type", "relevance: a value outside [0, 1]")
    return found


def _turns(value) -> tuple[tuple[str, str], ...]:
    found = []
    for i, turn in enumerate(checked(value, "turns", list)):
        if len(checked(turn, f"turns[{i}]", list)) != 2:
            raise RowError("type", f"turns[{i}]: {len(turn)} values, not a question and an answer")
        question, answer = texts(turn, f"turns[{i}]")
        found.append((question, answer))
    return tuple(found)


_LISTED = {
    "answers": _answers,
    "boxes": lambda value: tuple(
        box_of(box, f"boxes[{i}]") for i, box in enumerate(checked(value, "boxes", list))
    ),
    "candidates": lambda value: texts(checked(value, "candidates", list), "candidates"),
    "relevance": _relevance,
    "turns": _turns,
}


def _go_together(fields: dict[str, Any]) -> None:
    """Raises: RowError: relevance without, or for another number of, candidates."""
    values, candidates = len(fields.get("relevance", ())), len(fields.get("candidates", ()))
    if values and values != candidates:
        raise RowError("type", f"relevance: {values} values for {candidates} candidates")


def _index(entry, fields: dict[str, Any]) -> int | None:
    """answer_index, checked. Raises: RowError: it is not of a candidate, or of another than answers[0]."""
    index = optional(entry, "answer_index", int, None)
    if index is None:
        return None
    candidates = fields.get("candidates", ())
    if not 0 <= index < len(candidates):
        raise RowError("answers", f"answer_index: {index}, there are {len(candidates)} candidates")
    if fields.get("answers", (candidates[index],))[0] != candidates[index]:
        raise RowError("answers", f"answer_index: candidate {index} is not answers[0]")
    return index
