"""Scenes without language: for what needs to know only what stands where."""

import numpy as np

from saccade.data.scenes.render import render
from saccade.data.scenes.sample import sample_scene
from saccade.data.scenes.scene import Example
from saccade.errors import SaccadeError


class Kept:
    """The first `size` examples of a source, each drawn when first asked for and kept in memory.

    For training on few cores, where drawing costs more than learning; a fresh stream teaches more.
    """

    def __init__(self, source, size: int):
        self.source, self.size = source, size
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index}: there are examples 0 to {self.size - 1}")
        if index not in self._kept:
            self._kept[index] = self.source[index]
        return self._kept[index]


class Pictures:
    """Random access to 2**31 - 1 rendered scenes of one style, functions of (split, seed, style, index).

    Args:
        split: "train", "val" or "test".  seed: from 0.  style: "world" or "nlvr".
        num_objects: (least, most) of a world scene; an nlvr scene has its own numbers.
    Raises: SaccadeError: an unknown split or style (lists the valid ones).
    """

    SPLITS = ("train", "val", "test")
    STYLES = ("world", "nlvr")

    def __init__(
        self,
        *,
        split: str = "train",
        seed: int = 0,
        style: str = "world",
        num_objects: tuple[int, int] = (3, 8),
    ):
        for name, valid in ((split, self.SPLITS), (style, self.STYLES)):
            if name not in valid:
                raise SaccadeError(f"unknown name {name!r}: use one of {', '.join(valid)}")
        self.style = style
        self.num_objects = num_objects if style == "world" else None
        self._key = (0x9C7, self.SPLITS.index(split), self.STYLES.index(style), seed)

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng(np.random.SeedSequence((*self._key, int(index))))
        scene = sample_scene(rng, style=self.style, num_objects=self.num_objects)
        return Example(task="perceive", image=render(scene), scene=scene)
