"""What a report holds: plain numbers, texts and arrays. `Report.to_json()` is the documented JSON."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

SCHEMA = "saccade.analysis/1"


@dataclass(frozen=True, slots=True)
class Group:
    """Examples that share something. low, high: Wilson's 95 % interval of `accuracy`, shares in [0, 1]."""

    label: str
    num: int
    accuracy: float
    low: float
    high: float
    mean_steps: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """name: of the figure.  title: what the groups differ in."""

    name: str
    title: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose confidence lies in (low, high]; confidence: their mean."""

    low: float
    high: float
    num: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Path:
    """A value at each step: float (K,), in [0, 1]."""

    label: str
    values: np.ndarray


@dataclass(frozen=True, slots=True)
class Card:
    """One example in short. image: uint8 (H, W, 3), None for a board; not in the JSON."""

    id: str
    text: str
    truth: str
    answer: str
    steps: int
    confidence: float
    image: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown step by step.

    why: it was chosen, "right, early" and so on.
    halting: float (K,), the model's belief that it is done, 0 to 1.
    """

    card: Card
    why: str
    correct: bool
    halting: np.ndarray


@dataclass(frozen=True, slots=True)
class Case(Shown):
    """A question, a statement, a phrase.

    paths: answers (or measures) over all K steps.  answers: that of each step up to halting.
    attention: float (k, h, w) over the image, each sums to 1, k = card.steps.
    boxes: float (k, 4) and true_box (4,), task `ground`: xyxy in [0, 1] of the image.
    """

    paths: tuple[Path, ...]
    answers: tuple[str, ...]
    attention: np.ndarray
    boxes: np.ndarray | None = None
    true_box: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Board(Shown):
    """A puzzle, cell by cell.

    given, answer, truth: int (side, side).
    settled: int (side, side), the first step from which a cell kept the answer it had at halting.
    changed: int (K - 1,), cells whose answer differs from the step before.
    """

    kind: str
    given: np.ndarray
    answer: np.ndarray
    truth: np.ndarray
    settled: np.ndarray
    changed: np.ndarray


@dataclass(frozen=True, slots=True)
class Failure:
    """Mistakes of one sort. num: examples of that sort, right ones too; 0 where that has no meaning."""

    title: str
    wrong: int
    num: int
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Confusion:
    """`answer` was given where `truth` was right, `count` times."""

    truth: str
    answer: str
    count: int
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """All about one task.

    scores: as `evaluate` names them.  curve: one dict (threshold, accuracy, mean_steps, spearman) for each
    threshold, lowest first.  operating: the one in use.  accuracy_by_step: had all stopped there, (K,).
    histogram: int (2, K), wrong and right answers by the step of halting.
    effort: int (levels, K), examples by difficulty and step; levels: their names; difficulty: what it is.
    bins: of the confidence at halting.
    """

    task: str
    rule: str
    decoding: str
    num: int
    scores: dict[str, Any]
    curve: tuple[dict[str, Any], ...]
    operating: dict[str, Any]
    accuracy_by_step: tuple[float, ...]
    histogram: np.ndarray
    difficulty: str
    levels: tuple[str, ...]
    effort: np.ndarray
    bins: tuple[Bin, ...]
    breakdowns: tuple[Breakdown, ...]
    confusions: tuple[Confusion, ...]
    failures: tuple[Failure, ...]
    cases: tuple[Case | Board, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """about: model, data, split, seed, command, versions and so on.  parts: one for each task."""

    about: dict[str, Any]
    parts: tuple[Part, ...]

    def to_json(self) -> dict:
        """Plain values for `json.dumps`, without pictures; see docs/analyse.md."""
        return {"schema": SCHEMA, **plain(self)}


def plain(value: Any) -> Any:
    """Dataclasses as dicts, arrays as lists, floats of six digits, what is not finite as None; no pixels."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.name != "image"]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
