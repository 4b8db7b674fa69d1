"""Examples -> batches: pad, shift targets, place boxes. The only place where labels are shifted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saccade.data.image import Placement, choose_size, letterbox
from saccade.data.processor import Processor, stack
from saccade.data.scenes.captions import mentions
from saccade.data.scenes.referents import CHANNELS, referents, told
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
from saccade.data.text import BOS, EOS, PAD, Tokenizer
from saccade.errors import SaccadeError

TASKS = ("vqa", "statement", "caption", "rationale", "ground", "match")
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
        cell_px: side of the cells in which the scene is labelled too, see `cells`; None = no such labels.
    Call:
        examples: B of them.
    Returns: dict: images uint8 (B, H, W, 3); tokens int32 (B, T); padding_mask bool (B, T); depth int32 (B,).
        vqa, statement, match, rationale: answer int32 (B,). ground: boxes float32 (B, 4), of the canvas.
        match: other_tokens, other_padding_mask: the description of the opposite truth.
        with cell_px: the arrays of `cells`, each with a first axis B.
        caption with cell_px: mentions bool (B, L, N), True = the token to predict is of a noun phrase that
        fits what stands in that cell.
        caption, rationale: decoder_tokens int32 (B, L), <bos> first; targets int32 (B, L), the same one
        to the left, <eos> last; loss_mask bool (B, L), True = targets count.
    Raises: SaccadeError: a text or target is longer than its length (states both), an answer is unknown.
    """

    processor: Processor
    task: str
    text_length: int | None = None
    image_size: tuple[int, int] | None = None
    target_length: int | None = None
    cell_px: int | None = None

    def __post_init__(self):
        if self.task not in TASKS:
            raise SaccadeError(f"{self.task!r} is not a task; choose one of {', '.join(TASKS)}")

    def __call__(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        placed = [letterbox(example.image, self._size(example)) for example in examples]
        batch = {
            "images": stack(canvas for canvas, _ in placed),
            **self._texts([prompt(example) for example in examples]),
            "depth": np.array([example.depth for example in examples], np.int32),
        }
        if self.task in ("vqa", "rationale"):
            indices = [self.processor.encode_answer(example.answer) for example in examples]
            batch["answer"] = np.array(indices, np.int32)
        if self.task in ("statement", "match"):
            batch["answer"] = np.array([_truth(example.answer) for example in examples], np.int32)
        if self.task == "match":
            others = self._texts([example.other_text for example in examples])
            batch |= {f"other_{key}": value for key, value in others.items()}
        if self.task in ("caption", "rationale"):
            batch |= self._targets([example.target for example in examples])
        if self.task == "ground":
            boxes = [
                placement.to_canvas(_box(example))
                for example, (_, placement) in zip(examples, placed, strict=True)
            ]
            batch["boxes"] = np.stack(boxes)
        if self.cell_px:
            height, width = batch["images"].shape[1:3]
            grid = height // self.cell_px, width // self.cell_px
            index = {answer: i for i, answer in enumerate(self.processor.config.answers)}
            labels = [cells(e, place, grid, index) for e, (_, place) in zip(examples, placed, strict=True)]
            batch |= {key: np.stack([label[key] for label in labels]) for key in labels[0]}
            if self.task == "caption":
                shape = batch["targets"].shape[1], grid[0] * grid[1]
                batch["mentions"] = np.stack(
                    [
                        mentioned(e, self.processor.tokenizer, _cells_of(e.scene, place, grid)[0], shape)
                        for e, (_, place) in zip(examples, placed, strict=True)
                    ]
                )
        return batch

    def _texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        rows = [self.processor.encode(text, self.text_length) for text in texts]
        return dict(zip(("tokens", "padding_mask"), self.processor.pad(rows, self.text_length), strict=True))

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


# What `cells` names of an object, in this order.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES + NLVR_SHAPES,
    "color": COLORS + tuple(color for color in NLVR_COLORS if color not in COLORS),
    "size": SIZES,
    "material": MATERIALS,
}
_CLASS = {name: {value: i for i, value in enumerate(values)} for name, values in ATTRIBUTES.items()}


def cells(example: Example, placement: Placement, grid: tuple[int, int], answers: dict[str, int]) -> dict:
    """What stands in each cell of a grid over the canvas, and which of it the text means.

    Args:
        example: of any task.  placement: of its image on the canvas.  grid: (rows, columns), N cells.
        answers: index of each answer.
    Returns: dict, row-major:
        objects int8 (N, 4), the class of each of ATTRIBUTES of the object centred there, -1 = none (of two in
        one cell the nearer layer counts);
        object_boxes float32 (N, 4) xyxy of the canvas;
        referents int8 (N, CHANNELS), 1 = that object is meant, 0 = is not, -1 = no object, or nothing to say;
        told int8 (N,), the answer that is asked of the object there, -1 = none, or one that is no answer.
    """
    rows, columns = grid
    scene = example.scene
    objects = np.full((rows * columns, len(ATTRIBUTES)), -1, np.int8)
    boxes = np.zeros((rows * columns, 4), np.float32)
    meant = np.full((rows * columns, CHANNELS), -1, np.int8)
    of_object, placed = _cells_of(scene, placement, grid)
    values = np.full(rows * columns, -1, np.int8)
    channels, asked = referents(example), told(example)
    for i in sorted(range(len(scene.objects)), key=lambda i: scene.objects[i].layer):
        cell, item = of_object[i], scene.objects[i]
        objects[cell] = [_CLASS[name][getattr(item, name)] for name in ATTRIBUTES]
        boxes[cell] = placed[i]
        for channel, members in channels.items():
            meant[cell, channel] = i in members
        values[cell] = answers.get(asked.get(i, ""), -1)
    return {"objects": objects, "object_boxes": boxes, "referents": meant, "told": values}


def _cells_of(scene: Scene, placement: Placement, grid: tuple[int, int]):
    """Of each object: the cell of its centre, int (objects,), and its box on the canvas, (objects, 4)."""
    rows, columns = grid
    size = np.array([scene.width_px, scene.height_px] * 2)
    placed = placement.to_canvas(np.array([item.box_px for item in scene.objects]).reshape(-1, 4) / size)
    column = np.clip((placed[:, 0] + placed[:, 2]) / 2 * columns, 0, columns - 1).astype(int)
    row = np.clip((placed[:, 1] + placed[:, 3]) / 2 * rows, 0, rows - 1).astype(int)
    return row * columns + column, placed


def mentioned(example: Example, tokenizer: Tokenizer, cell, shape: tuple[int, int]) -> np.ndarray:
    """Which cells each token of a caption speaks of, see `mentions` of Collate.

    Args: cell: of each object.  shape: (L, N).
    """
    found = np.zeros(shape, bool)
    tokens = tokenizer.spans(example.target)
    for start, end, fitting in mentions(example.target, example.scene):
        for t, (token_start, token_end) in enumerate(tokens):
            if token_start < end and token_end > start:
                found[t, cell[fitting]] = True
    return found


def prompt(example: Example) -> str:
    """The text that the model reads: earlier turns of a dialogue, then what is asked now."""
    turns = [part for turn in example.turns for part in turn]
    return " ".join([*turns, example.text])


def _box(example: Example) -> tuple[float, float, float, float]:
    if example.box is None:
        raise SaccadeError("an example of task ground has no box; take it from a ground source")
    return example.box


def _truth(answer: str) -> int:
    if answer not in _TRUTH:
        raise SaccadeError(f"{answer!r} is not an answer to a statement; it must be true or false")
    return _TRUTH[answer]
