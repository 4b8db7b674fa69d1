"""Examples to measure on, in batches of one shape, so that one program compiles."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from saccade.data.batching import Collate, prompt
from saccade.data.image import choose_size
from saccade.data.processor import Processor
from saccade.data.readers import Row, open_rows
from saccade.data.scenes.scene import Example
from saccade.data.scenes.tasks import Source

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


@dataclass
class Run:
    """What every measure needs.

    pipeline: has `processor`, `model` and `reasoner`, or `write` (captioners).  task: the reasoner's.
    items: `total` of them, read once.  batch_size: rows of every batch.  threshold: halting logit, None = no
    steps.  progress: a bar on a terminal's stderr.
    """

    pipeline: Any
    task: str
    items: Iterable[Item]
    total: int
    batch_size: int
    threshold: float | None
    progress: bool = False
    label: str = field(default="evaluating")

    def batches(self, task: str | None = None) -> Iterator[tuple[list[Item], dict[str, np.ndarray]]]:
        """(items, batch) until all are done. The last batch repeats its last item to keep its shape."""
        size = min(self.batch_size, self.total)
        items = iter(self.items)
        chunks = iter(lambda: list(itertools.islice(items, size)), [])
        for chunk in self.track(chunks, -(-self.total // size)):
            padded = [item.example for item in chunk] + [chunk[-1].example] * (size - len(chunk))
            yield chunk, collate(self.pipeline.processor, task or self.task, padded)

    def track(self, steps: Iterable, total: int) -> Iterable:
        """The same steps, with a bar if there is a terminal to show it."""
        console = Console(stderr=True)
        hidden = not (self.progress and console.is_terminal)
        return track(steps, self.label, total, console=console, transient=True, disable=hidden)


def scene_items(source: Source, num: int) -> Iterator[Item]:
    """The first `num` examples of a source, drawn as they are needed."""
    for index in range(num):
        yield Item(f"{source.split}-{source.seed}-{index}", source[index])


def nlvr_items(folder: str | Path, num: int | None, orders: int) -> tuple[Iterator[Item], int]:
    """(pictures of the NLVR development split, how many): `orders` of each example's six, up to `num`."""
    rows = open_rows("nlvr", folder)
    # A row without id is broken: it counts, and says so when it is read.
    places = [at for at, id in enumerate(rows.ids) if id is None or int(id.rpartition("-")[2]) < orders]
    places = places[:num]
    return (_nlvr_item(rows[at]) for at in places), len(places)


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
