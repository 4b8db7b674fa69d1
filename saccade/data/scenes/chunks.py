"""The scene world as chunks of interleaved texts: questions, and episodes of made-up names."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from saccade.data.interleaved import Chunk
from saccade.data.scenes.render import render
from saccade.data.scenes.sample import sample_scene
from saccade.data.scenes.scene import COLORS, SHAPES
from saccade.data.scenes.tasks import Source
from saccade.errors import SaccadeError

WORDS = ("dax", "wug", "blick", "zup", "fep", "toma", "lorp", "nib", "gazzer", "koba", "mip", "tove")
TEXT = "this is a"
PAIRS = tuple(
    (attribute, *pair)
    for attribute, values in (("color", COLORS), ("shape", SHAPES))
    for pair in combinations(values, 2)
)
HELD_OUT = PAIRS[::5]  # never contrasted in training
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class SceneChunks:
    """Rows of one chunk: a picture, what is asked of it, the answer.

    Args:
        source: of any task.
        field: of its examples, that answers: "answer", "target" of captions, or "text" of descriptions, for
            which nothing is asked.
    """

    source: Source
    field: str = "answer"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Chunk, ...]:
        example = self.source[index]
        asked = "" if self.field == "text" else example.text
        return (Chunk(asked, example.image, getattr(example, self.field)),)


@dataclass(frozen=True)
class Episodes:
    """Rows whose rule is told by nothing but the demonstrations: two kinds of things get made-up names.

    One episode contrasts two values of an attribute (red and blue, cubes and balls); each gets a made-up
    word, drawn anew. Every picture shows one object whose other attributes are random. Which attribute
    counts and which word names which value can be read from the demonstrations only: without any, no answer
    is better than a guess among all words. Each row is a pure function of (split, seed, shots, index).

    Args:
        shots: demonstrations ahead of the question. The first two show both names, every other one by chance:
            were both shown equally often, the last names could be had by counting, without the pictures.
        split: "train", or "val": other pictures, and pairs of values that training never contrasts.
        size_px: (width, height) of the pictures.
    Raises: SaccadeError: an unknown split, negative shots.
    """

    shots: int = 4
    split: str = "train"
    seed: int = 0
    size_px: tuple[int, int] = (128, 128)

    def __post_init__(self):
        if self.split not in _SPLITS:
            raise SaccadeError(f"unknown split {self.split!r}: use one of {', '.join(_SPLITS)}")
        if self.shots < 0:
            raise SaccadeError(f"shots is {self.shots}, it must be at least 0; 0 shows no demonstration")

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, index: int) -> tuple[Chunk, ...]:
        """The demonstrations, then the question with its answer."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index}: there are episodes 0 to {len(self) - 1}")
        key = (_SPLITS.index(self.split), self.shots, self.seed, int(index))
        rng = np.random.default_rng(np.random.SeedSequence(key))
        pairs = HELD_OUT if self.split == "val" else tuple(p for p in PAIRS if p not in HELD_OUT)
        attribute, *values = pairs[rng.integers(len(pairs))]
        names = rng.choice(WORDS, size=2, replace=False)
        first = rng.integers(2)
        shown = [first, 1 - first, *rng.integers(2, size=max(0, self.shots - 2))][: self.shots]
        chunks = [self._chunk(rng, attribute, values[i], str(names[i])) for i in (*shown, rng.integers(2))]
        return tuple(chunks)

    def _chunk(self, rng, attribute: str, value: str, name: str) -> Chunk:
        while True:  # one object in eight has the color wanted, one in five the shape
            scene = sample_scene(rng, num_objects=1, size_px=self.size_px)
            if getattr(scene.objects[0], attribute) == value:
                return Chunk(TEXT, render(scene), name)
