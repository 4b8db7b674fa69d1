"""Examples to measure on, in batches of one shape, so that one program compiles."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.batching import Collate, prompt
from saccade.data.image import choose_size
from saccade.data.processor import Processor
from saccade.data.readers import Row, open_rows
from saccade.data.scenes.scene import Example
from saccade.data.scenes.tasks import Source
from saccade.progress import track

# Texts are padded to this, or to the processor's limit where one is longer: two shapes at most.
TEXT_LENGTH = 64
_ASPECT = {"world": (1, 1), "nlvr": (100, 400)}
_NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Item:
    """An example under the name that predictions give it; `group`: what consistency counts as one."""

    id: str
    example: Example
    group: str = ""


class Lazy(Sequence):
    """`count` items, each made when it is asked for: `make(index)`."""

    def __init__(self, make: Callable[[int], Any], count: int):
        self.make, self.length = make, count

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(f"item {index}: there are items 0 to {self.length - 1}")
        return self.make(index)


@dataclass
class Run:
    """What every measure needs.

    pipeline: has `processor`, `model` and `reasoner`, or one of `write`, `reply`, `retrieve`.  task: the
        reasoner's.
    items: `total` of them.  batch_size: rows of every batch.  threshold: halting logit, None = no steps.
    progress: a bar on a terminal's stderr.  beams: of a captioner's texts, 1 = greedy.
    """

    pipeline: Any
    task: str
    items: Sequence[Item]
    total: int
    batch_size: int
    threshold: float | None
    progress: bool = False
    label: str = field(default="evaluating")
    beams: int = 1

    @property
    def size(self) -> int:
        return min(self.batch_size, self.total)

    @property
    def count(self) -> int:
        """How many batches there are."""
        return -(-self.total // self.size)

    def batch(self, number: int, task: str | None = None) -> tuple[list[Item], dict[str, np.ndarray]]:
        """(items, arrays) of batch `number`. The last batch repeats its last item to keep its shape."""
        chunk = self.chunk(number)
        padded = [item.example for item in chunk] + [chunk[-1].example] * (self.size - len(chunk))
        return chunk, collate(self.pipeline.processor, task or self.task, padded)

    def chunk(self, number: int) -> list[Item]:
        """The items of batch `number`."""
        return [self.items[i] for i in range(number * self.size, min((number + 1) * self.size, self.total))]

    def batches(self, task: str | None = None) -> Iterator[tuple[list[Item], dict[str, np.ndarray]]]:
        """`batch` of every number."""
        for number in self.track(range(self.count), self.count):
            yield self.batch(number, task)

    def track(self, steps: Iterable, total: int) -> Iterable:
        """The same steps, with a bar if there is a terminal to show it."""
        return track(steps, total, self.label, self.progress)


def scene_items(source: Source, num: int) -> Sequence[Item]:
    """The first `num` examples of a source, drawn as they are needed."""
    return Lazy(lambda index: Item(f"{source.split}-{source.seed}-{index}", source[index]), num)


def nlvr_items(folder: str | Path, num: int | None, orders: int) -> tuple[Sequence[Item], int]:
    """(pictures of the NLVR development split, how many): `orders` of each example's six, up to `num`."""
    rows = open_rows("nlvr", folder)
    # A row without id is broken: it counts, and says so when it is read.
    places = [at for at, id in enumerate(rows.ids) if id is None or int(id.rpartition("-")[2]) < orders]
    places = places[:num]
    return Lazy(lambda index: _nlvr_item(rows[places[index]]), len(places)), len(places)


def _nlvr_item(row: Row) -> Item:
    example = Example("statement", row.image, row.scene, row.text, row.answers[0], kind="nlvr")
    return Item(row.id, example, row.group)


def collate(processor: Processor, task: str, examples: Sequence[Example], text_length: int | None = None):
    """One batch, on the canvas of the examples' style, of `text_length` or `common_length` tokens.

    Pictures without a scene go onto the canvas that fits the first of them.
    """
    first = examples[0]
    shape = _ASPECT[first.scene.style] if first.scene is not None else first.image.shape[:2]
    canvas = choose_size(shape, processor.config.image_sizes)
    length = text_length or common_length(processor, examples)
    return Collate(processor, task, text_length=length, image_size=canvas)(examples)


def common_length(processor: Processor, examples: Sequence[Example]) -> int:
    """T for these texts: one of three, so that few programs compile."""
    longest = max(len(processor.encode(prompt(example), _NO_LIMIT)) for example in examples)
    limit = processor.config.max_length
    lengths = (processor.config.length_multiple, min(TEXT_LENGTH, limit))
    # Captioning has no text: the shortest length. Everything else has one length, or the limit.
    return next((length for length in lengths[longest > 1 :] if longest <= length), limit)
