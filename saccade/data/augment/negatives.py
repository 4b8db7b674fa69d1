"""Captions that are not true of an image, to learn from the difference."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from saccade.data.text import words
from saccade.errors import SaccadeError


def shared_words(one: str, other: str) -> float:
    """Words in both over words in either, 0 to 1."""
    first, second = set(words(one)), set(words(other))
    return len(first & second) / max(1, len(first | second))


class NegativeSampler:
    """Draw captions of other images that are false of this one.

    Never drawn: a caption of the same image, one with the same words in the same order (case and punctuation
    aside), one with the same key as a caption of the image, and one that `is_true` holds for. Without it a
    caption of another image may happen to be true of this one ("a dog"); only the caller can know.

    Args:
        captions: image id -> its captions.
        key: equal for captions that say the same; as `saccade.data.scenes.facts` for those of scenes.
        is_true: (image id, caption) -> whether it is true of that image.
        nearest_of: hard negatives: of so many captions drawn, the most similar that is false. 1 = any.
        similarity: (caption, caption) -> float, larger is harder; the nearest caption of the image counts.
    Call:
        rng: equal generators draw equal captions.
        image: its id.
        count: how many different ones.
    Returns: tuple of `count` captions, no two with the same words or key.
    Raises: SaccadeError: an id that is not there, or fewer than `count` negatives exist (says how many).
    """

    def __init__(
        self,
        captions: Mapping[Any, Sequence[str]],
        *,
        key: Callable[[str], Hashable] | None = None,
        is_true: Callable[[Any, str], bool] | None = None,
        nearest_of: int = 1,
        similarity: Callable[[str, str], float] = shared_words,
    ):
        if nearest_of < 1:
            raise SaccadeError(f"nearest_of is {nearest_of}; give 1 or more")
        for image, texts in captions.items():
            if isinstance(texts, str):
                raise SaccadeError(f"the captions of image {image!r} are one string; give a list of strings")
        self.captions = {image: tuple(texts) for image, texts in captions.items()}
        self.key, self.is_true = key, is_true
        self.nearest_of, self.similarity = nearest_of, similarity
        self._all = [text for texts in self.captions.values() for text in texts]

    def __call__(self, rng: np.random.Generator, image: Any, count: int = 1) -> tuple[str, ...]:
        if image not in self.captions:
            raise SaccadeError(f"image {image!r} has no captions here; give the id of one of the images")
        own = self.captions[image]
        taken = {form for text in own for form in self._forms(text)}
        found: list[str] = []
        while len(found) < count:
            text = self._draw(rng, image, taken)
            if text is None:
                raise SaccadeError(
                    f"image {image!r} has {len(found)} captions of others that are false of it, {count} were "
                    "asked for; give more images, or ask for fewer"
                )
            taken.update(self._forms(text))
            found.append(text)
        return tuple(found)

    def _forms(self, text: str) -> tuple[Hashable, ...]:
        """What two captions that say the same have in common, one of them at least."""
        plain = ("words", *words(text))
        return (plain,) if self.key is None else (plain, ("key", self.key(text)))

    def _draw(self, rng: np.random.Generator, image: Any, taken: set) -> str | None:
        own = self.captions[image]
        for group in self._groups(rng):
            # The image's own captions are among them, and taken.
            texts = [self._all[i] for i in group]
            texts = [text for text in texts if taken.isdisjoint(self._forms(text))]
            if self.nearest_of > 1:
                texts.sort(key=lambda text: -max((self.similarity(mine, text) for mine in own), default=0.0))
            for text in texts:
                if self.is_true is None or not self.is_true(image, text):
                    return text
        return None

    def _groups(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Random groups; after eight, where negatives must be rare, every caption in random order."""
        total = len(self._all)
        if not total:
            return
        for _ in range(8):
            yield rng.integers(total, size=self.nearest_of)
        order = rng.permutation(total)
        for start in range(0, total, self.nearest_of):
            yield order[start : start + self.nearest_of]
