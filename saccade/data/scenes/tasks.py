"""Endless streams of examples: `Source("vqa")[7]` is always the same example.

    source = Source("vqa", split="train", seed=0)
    source[7].text, source[7].answer

An example is a function of (task, split, seed, style, index) and of the options, nothing else; two splits
never share a stream. Question and answer are drawn first and the scene is made to fit (plant.py), so a text
without its image predicts no answer. An answer is only ever what `execute` gives on the finished scene.
"""

import zlib
from random import Random

import numpy as np

from saccade.data.scenes.builders import BUILDERS, STYLES_OF
from saccade.data.scenes.job import Job, Options
from saccade.data.scenes.questions import MAX_DEPTH, PALETTES
from saccade.data.scenes.scene import Example
from saccade.errors import SaccadeError

TASKS = tuple(BUILDERS)
SPLITS = ("train", "val", "test")
STYLES = tuple(PALETTES)


class Source:
    """Random access to 2**31 - 1 examples of one task.

    Args:
        task: one of TASKS.
        split: "train", "val" or "test".
        seed: any whole number from 0.
        style: "world", or "nlvr" for three grey panels where the task has it.
        min_depth, max_depth: range of program depths, uniform within; see `program.depth`.
        num_objects: (least, most) objects in a world scene.
        size_px, background, occlusion: passed to `sample_scene`.
    Raises: SaccadeError: an unknown name (lists the valid ones) or a range that is empty.
    """

    def __init__(
        self,
        task: str,
        *,
        split: str = "train",
        seed: int = 0,
        style: str = "world",
        min_depth: int = 1,
        max_depth: int = 5,
        num_objects: tuple[int, int] = (3, 8),
        size_px: tuple[int, int] | None = None,
        background: str | None = None,
        occlusion: bool = False,
    ):
        _known("task", task, TASKS)
        _known("split", split, SPLITS)
        _known("style", style, STYLES)
        if style not in STYLES_OF[task]:
            raise SaccadeError(f"style {style!r}: task {task!r} has only {', '.join(STYLES_OF[task])}")
        if not 1 <= min_depth <= max_depth <= MAX_DEPTH:
            raise SaccadeError(
                f"depth {min_depth}..{max_depth}: needs 1 <= min_depth <= max_depth <= {MAX_DEPTH}"
            )
        least, most = (num_objects, num_objects) if isinstance(num_objects, int) else num_objects
        if not 3 <= least <= most <= 10:
            raise SaccadeError(f"num_objects={num_objects}: needs 3 <= least <= most <= 10")
        if seed < 0:
            raise SaccadeError(f"seed={seed}: use 0 or more")
        self.task, self.split, self.seed, self.style = task, split, seed, style
        self.options = Options(style, min_depth, max_depth, (least, most), size_px, background, occlusion)
        self._key = (zlib.crc32(task.encode()), SPLITS.index(split), STYLES.index(style), seed)

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index}: a source has examples 0 to {len(self) - 1}")
        rng = np.random.default_rng(np.random.SeedSequence((*self._key, int(index))))
        job = Job(Random(rng.bit_generator.random_raw()), rng, self.options)
        return BUILDERS[self.task](job)


def _known(what: str, name: str, valid: tuple[str, ...]) -> None:
    if name not in valid:
        raise SaccadeError(f"unknown {what} {name!r}: use one of {', '.join(valid)}")


def difficulty(example: Example) -> tuple[int, int]:
    """(program depth, number of objects): compare the first, then the second."""
    return example.depth, len(example.scene.objects)
