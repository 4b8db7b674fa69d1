"""What is augmented: a picture, its boxes and its words, kept together."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from saccade.errors import SaccadeError


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One example. Steps make a new one and never write into the arrays of another; they may share them.

    Args:
        image: uint8 (H, W, 3), at least one pixel. `read_image` makes one of gray pictures and of files.
        boxes: float32 (R, 4), xyxy in [0, 1] of the image, x0 <= x1, y0 <= y1; lines and points too.
        text: what is said or asked about the image, in English.
        answer: the answer to it, if it is a question. Only a flip ever changes it.
        phrases: what each box is of, R of them, or none at all. They go where their boxes go.
        hidden: what WordMasking hid: (start, end, word before), in characters of `text`.
        refused: steps that were due and not taken, "step: why", to be counted.
    Raises: SaccadeError: another shape, type or range, with what was given.
    """

    image: np.ndarray
    boxes: np.ndarray = field(default_factory=_no_boxes)
    text: str = ""
    answer: str = ""
    phrases: tuple[str, ...] = ()
    hidden: tuple[tuple[int, int, str], ...] = ()
    refused: tuple[str, ...] = ()

    def __post_init__(self):
        _check_image(self.image)
        _check_boxes(self.boxes)
        for name in ("text", "answer"):
            if not isinstance(getattr(self, name), str):
                raise SaccadeError(f"{name} is a {type(getattr(self, name)).__name__}; give a string")
        if self.phrases and len(self.phrases) != len(self.boxes):
            raise SaccadeError(
                f"{len(self.phrases)} phrases for {len(self.boxes)} boxes; give one for each box, or none"
            )

    @property
    def words(self) -> tuple[str, ...]:
        """Everything that is said about the image: text, answer and phrases."""
        return self.text, self.answer, *self.phrases

    def change(self, **changes: Any) -> "Item":
        """The same but for these fields."""
        return replace(self, **changes)

    def refuse(self, step: str, why: str) -> "Item":
        """The same, with a note that a step was due and not taken."""
        return replace(self, refused=(*self.refused, f"{step}: {why}"))


Step = Callable[[np.random.Generator, Item], Item]


def _check_image(image) -> None:
    if not isinstance(image, np.ndarray):
        raise SaccadeError(f"the image is a {type(image).__name__}; give an array, as read_image makes it")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise SaccadeError(
            f"the image is {image.dtype} {image.shape}; give uint8 (H, W, 3), as read_image makes it"
        )


def _check_boxes(boxes) -> None:
    if not isinstance(boxes, np.ndarray) or boxes.dtype != np.float32 or boxes.shape != (len(boxes), 4):
        given = f"{boxes.dtype} {boxes.shape}" if isinstance(boxes, np.ndarray) else type(boxes).__name__
        raise SaccadeError(f"boxes are {given}; give a float32 array (R, 4)")
    # Written so that NaN fails too.
    fine = (boxes[:, :2] >= 0) & (boxes[:, 2:] <= 1) & (boxes[:, :2] <= boxes[:, 2:])
    if not fine.all():
        wrong = boxes[~fine.all(1)][0].tolist()
        raise SaccadeError(f"box {wrong} is not xyxy in [0, 1] with x0 <= x1, y0 <= y1; convert and clip it")


def check_share(name: str, value: float) -> None:
    """Raises: SaccadeError: not a number in [0, 1]."""
    if not 0 <= value <= 1:
        raise SaccadeError(f"{name} is {value}; give a number from 0 to 1")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises: SaccadeError: not one of the choices."""
    if value not in choices:
        raise SaccadeError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
