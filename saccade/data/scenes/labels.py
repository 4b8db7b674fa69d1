"""Short labels beside whole descriptions: "a red ball" of a picture that shows one, whose twin does not."""

from dataclasses import dataclass, replace
from itertools import combinations
from random import Random

from saccade.data.scenes.captions import attributes, matching
from saccade.data.scenes.english import article, noun
from saccade.data.scenes.scene import Example, Scene
from saccade.data.scenes.tasks import Source
from saccade.errors import SaccadeError

_NAMES = tuple(
    ("shape", *names) for count in (1, 2) for names in combinations(("color", "size", "material"), count)
)


@dataclass(frozen=True)
class Labelled:
    """Pairs of `Source("retrieve")`, some of whose texts name one object instead of the whole scene.

    A label is true of its own picture and false of the twin's, as a description is; of other pictures it may
    be true as well. A picture that has nothing of its own (two objects swapped, one taken away) keeps its
    description. A pure function of (source, index).

    Args: share: of the pairs that get labels where they can, 0 to 1.
    Raises: SaccadeError: a share out of range; a source of another task.
    """

    source: Source
    share: float = 0.25

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise SaccadeError(f"share is {self.share}: it must be from 0 to 1")
        if self.source.task != "retrieve":
            raise SaccadeError(f"the source is of task {self.source.task!r}; labels need one of 'retrieve'")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        rng = Random(f"labels-{self.source.split}-{self.source.seed}-{index}")
        twin = example.pair
        if twin is None or rng.random() >= self.share:
            return example
        pair = _labelled(rng, twin, example.scene)
        return replace(_labelled(rng, example, twin.scene), pair=pair)


def _labelled(rng: Random, example: Example, other: Scene) -> Example:
    text = label(rng, example.scene, other)
    return example if text is None else replace(example, text=text, kind="label")


def label(rng: Random, scene: Scene, other: Scene) -> str | None:
    """Shape and one or two more attributes of one object; None: `other` has the like of every object."""
    choices = [(thing, names) for thing in scene.objects for names in _NAMES]
    for thing, names in rng.sample(choices, len(choices)):
        filters = attributes(thing, names)
        if not matching(other, filters):
            return article(noun(rng, filters, many=False))
    return None
