"""Examples -> batches: pad, shift targets, place boxes. The only place where labels are shifted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saccade.data.image import choose_size, letterbox
from saccade.data.processor import Processor, stack
from saccade.data.scenes.scene import (
    COLORS,
    MATERIALS,
    NLVR_COLORS,
    NLVR_SHAPES,
    SHAPES,
    SIZES,
    Example,
    Scene,
)
from saccade.data.text import BOS, EOS, PAD
from saccade.errors import SaccadeError

TASKS = ("vqa", "statement", "caption", "rationale", "ground", "match", "retrieve")
_TRUTH = {"false": 0, "true": 1}


@dataclass(frozen=True)
class Collate:
    """Make one batch of NumPy arrays from examples of one task; picklable, for loader processes.

    Args:
        processor: sizes, tokenizer, answers.
        task: one of TASKS.
        text_length: T of every batch; None = the longest text, rounded up.
        image_size: (height, width) of the canvas; None = the best for the images, which must agree.
        target_length: L of captions and rationales; None = the processor's.
    Call:
        examples: B of them.
    Returns: dict: images uint8 (B, H, W, 3); tokens int32 (B, T); padding_mask bool (B, T); depth int32 (B,).
        vqa, statement, match, rationale: answer int32 (B,). ground: boxes float32 (B, 4), of the canvas.
        retrieve: the four of every task again, of each example's minimal-edit twin, as `twin_images`, ...
        caption, rationale: decoder_tokens int32 (B, L), <bos> first; targets int32 (B, L), the same one
        to the left, <eos> last; loss_mask bool (B, L), True = targets count.
    Raises: SaccadeError: a text or target is longer than its length (states both), an answer is unknown.
    """

    processor: Processor
    task: str
    text_length: int | None = None
    image_size: tuple[int, int] | None = None
    target_length: int | None = None

    def __post_init__(self):
        if self.task not in TASKS:
            raise SaccadeError(f"{self.task!r} is not a task; choose one of {', '.join(TASKS)}")

    def __call__(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        batch = self._rows(examples)
        if self.task == "retrieve":
            twins = self._rows([_pair(example) for example in examples])
            batch |= {f"twin_{key}": value for key, value in twins.items()}
        return batch

    def _rows(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        placed = [letterbox(example.image, self._size(example)) for example in examples]
        rows = [self.processor.encode(prompt(example), self.text_length) for example in examples]
        tokens, padding_mask = self.processor.pad(rows, self.text_length)
        batch = {
            "images": stack(canvas for canvas, _ in placed),
            "tokens": tokens,
            "padding_mask": padding_mask,
            "depth": np.array([example.depth for example in examples], np.int32),
        }
        if self.task in ("vqa", "rationale"):
            indices = [self.processor.encode_answer(example.answer) for example in examples]
            batch["answer"] = np.array(indices, np.int32)
        if self.task in ("statement", "match"):
            batch["answer"] = np.array([_truth(example.answer) for example in examples], np.int32)
        if self.task in ("caption", "rationale"):
            batch |= self._targets([example.target for example in examples])
        if self.task == "ground":
            boxes = [
                placement.to_canvas(_box(example))
                for example, (_, placement) in zip(examples, placed, strict=True)
            ]
            batch["boxes"] = np.stack(boxes)
        return batch

    def _size(self, example: Example) -> tuple[int, int]:
        return self.image_size or choose_size(example.image.shape[:2], self.processor.config.image_sizes)

    def _targets(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        length = self.target_length or self.processor.config.target_length
        decoder_tokens = np.full((len(texts), length), PAD, np.int32)
        targets = np.full((len(texts), length), PAD, np.int32)
        loss_mask = np.zeros((len(texts), length), bool)
        for index, text in enumerate(texts):
            ids = self.processor.tokenizer.encode(text)
            if len(ids) + 1 > length:
                raise SaccadeError(
                    f"a target of task {self.task} has {len(ids) + 1} tokens with <eos>, "
                    f"target_length is {length}; raise it"
                )
            decoder_tokens[index, : len(ids) + 1] = [BOS, *ids]
            targets[index, : len(ids) + 1] = [*ids, EOS]
            loss_mask[index, : len(ids) + 1] = True
        return {"decoder_tokens": decoder_tokens, "targets": targets, "loss_mask": loss_mask}


# What `CollateObjects` names of an object, in this order.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES + NLVR_SHAPES,
    "color": COLORS + tuple(color for color in NLVR_COLORS if color not in COLORS),
    "size": SIZES,
    "material": MATERIALS,
}


@dataclass(frozen=True)
class CollateObjects:
    """Scenes and their pictures -> what stands in each cell of a grid over the canvas.

    Args:
        processor: sizes.  cell_px: side of a cell on the canvas.  image_size: (height, width) of the canvas.
    Call:
        examples: B of them; text is ignored.
    Returns: dict: images uint8 (B, H, W, 3); objects int32 (B, N, 4), row-major cells: the class of each of
        ATTRIBUTES of the object centred there, -1 = none. Of two in one cell the nearer layer counts.
    """

    processor: Processor
    cell_px: int
    image_size: tuple[int, int]

    def __call__(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        placed = [letterbox(example.image, self.image_size) for example in examples]
        objects = [self._cells(e.scene, place) for e, (_, place) in zip(examples, placed, strict=True)]
        return {"images": stack(canvas for canvas, _ in placed), "objects": np.stack(objects)}

    def _cells(self, scene: Scene, placement) -> np.ndarray:
        rows, columns = (side // self.cell_px for side in self.image_size)
        cells = np.full((rows * columns, len(ATTRIBUTES)), -1, np.int32)
        size = np.array([scene.width_px, scene.height_px] * 2)
        for item in sorted(scene.objects, key=lambda item: item.layer):
            x0, y0, x1, y1 = placement.to_canvas(np.array(item.box_px) / size)
            row, column = int((y0 + y1) / 2 * rows), int((x0 + x1) / 2 * columns)
            labels = [values.index(getattr(item, name)) for name, values in ATTRIBUTES.items()]
            cells[min(row, rows - 1) * columns + min(column, columns - 1)] = labels
        return cells


def prompt(example: Example) -> str:
    """The text that the model reads: earlier turns of a dialogue, then what is asked now."""
    turns = [part for turn in example.turns for part in turn]
    return " ".join([*turns, example.text])


def _pair(example: Example) -> Example:
    if example.pair is None:
        raise SaccadeError("an example of task retrieve has no pair; take it from a retrieve source")
    return example.pair


def _box(example: Example) -> tuple[float, float, float, float]:
    if example.box is None:
        raise SaccadeError("an example of task ground has no box; take it from a ground source")
    return example.box


def _truth(answer: str) -> int:
    if answer not in _TRUTH:
        raise SaccadeError(f"{answer!r} is not an answer to a statement; it must be true or false")
    return _TRUTH[answer]
