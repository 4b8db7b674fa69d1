"""Hide words of a text, to be predicted."""

import re
from dataclasses import dataclass

import numpy as np

from saccade.data.augment.item import Item, check_share
from saccade.data.augment.meaning import COLOR_WORDS
from saccade.data.scenes import words as scene_words
from saccade.data.text import words
from saccade.errors import SaccadeError

# <image>, <|im_start|> and [CLS] are no words.
_PIECE = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]|(?P<word>[^\W_]+(?:[-'’][^\W_]+)*)")


def _attribute_words() -> frozenset[str]:
    """Colors, sizes, materials and shapes of the scene world, plurals too, and the colors of COLOR_WORDS."""
    tables = (scene_words.ADJECTIVES, {k: v for k, v in scene_words.NOUNS.items() if k})
    singular = {word for table in tables for group in table.values() for word in group}
    return COLOR_WORDS | singular | {f"{word}s" for word in singular}


ATTRIBUTE_WORDS = _attribute_words()


@dataclass(frozen=True, slots=True)
class WordMasking:
    """Hide some words of the text; `Item.hidden` says where and what they were.

    As BERT: of the words picked, 80 % become `mask`, 10 % a random word of `vocabulary`, 10 % stay as they
    are, to be predicted too. Special tokens (<image>, [CLS]) are never picked, nor are words of the answer.

    Args:
        share: of the words that may be picked, rounded, at least one (none if share is 0 or no word may be).
        mask: what stands for a hidden word.
        vocabulary: for the random words; empty = these become `mask` too.
        protect: words that are never picked, in any case of letters, as ATTRIBUTE_WORDS.
    Raises: SaccadeError: share is not in [0, 1], or mask is empty.
    Source: arXiv:1810.04805, section 3.1. Differs: whole words.
    """

    share: float = 0.15
    mask: str = "<mask>"
    vocabulary: tuple[str, ...] = ()
    protect: frozenset[str] = frozenset()

    def __post_init__(self):
        check_share("share", self.share)
        if not self.mask:
            raise SaccadeError('mask is empty; give what stands for a hidden word, as "<mask>"')
        object.__setattr__(self, "protect", frozenset(word.lower() for word in self.protect))

    def __call__(self, rng: np.random.Generator, item: Item) -> Item:
        if item.hidden:
            return item.refuse("masking", "words are hidden already")
        protect = self.protect | frozenset(words(item.answer))
        found = [m for m in _PIECE.finditer(item.text) if m["word"] and not _protected(m["word"], protect)]
        number = min(len(found), max(1, round(self.share * len(found)))) if self.share else 0
        if not number:
            return item
        picked = sorted(rng.choice(len(found), number, replace=False))
        out, hidden, end, length = [], [], 0, 0
        for match in (found[i] for i in picked):
            shown = self._shown(rng, match["word"])
            out += [item.text[end : match.start()], shown]
            start = length + match.start() - end
            end, length = match.end(), start + len(shown)
            hidden.append((start, length, match["word"]))
        return item.change(text="".join([*out, item.text[end:]]), hidden=tuple(hidden))

    def _shown(self, rng: np.random.Generator, word: str) -> str:
        fate, place = rng.random(2)
        if fate < 0.1:
            return word
        if fate < 0.2 and self.vocabulary:
            return self.vocabulary[int(place * len(self.vocabulary))]
        return self.mask


def _protected(word: str, protect: frozenset[str]) -> bool:
    """A word joined by hyphens is protected by each of its parts too."""
    return word.lower() in protect or any(part in protect for part in words(word))
