"""Say the same in other words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from saccade.data.augment.item import Item, check_share
from saccade.data.scenes import words as scene_words
from saccade.data.scenes.scene import COLORS, MATERIALS, NLVR_COLORS, SIZES
from saccade.data.text import words
from saccade.errors import SaccadeError


def _scene_synonyms() -> dict[str, tuple[str, ...]]:
    adjectives, nouns = scene_words.ADJECTIVES, scene_words.NOUNS.values()
    groups = [adjectives[value] for value in dict.fromkeys((*COLORS, *NLVR_COLORS, *SIZES))]
    # Of materials only the adjectives: "made of shiny" is no English.
    groups += [tuple(w for w in adjectives[value] if w in scene_words.BEFORE_COLOR) for value in MATERIALS]
    groups += [*nouns, *(tuple(f"{word}s" for word in group) for group in nouns)]
    groups += [*scene_words.ATTRIBUTE_NOUNS.values(), *scene_words.RELATIONS.values()]
    every = [word for group in groups for word in group]
    clear = [[word for word in group if every.count(word) == 1] for group in groups]  # "block" is in two
    table = {word: tuple(other for other in group if other != word) for group in clear for word in group}
    # Within these phrases "left of" and "above" are something else.
    kept = ("the left of", "the right of", "the above", "the below")
    return {word: others for word, others in table.items() if others} | dict.fromkeys(kept, ())


# What means the same in the scene world: "large" and "big", "left of" and "to the left of".
SCENE_SYNONYMS = _scene_synonyms()


@dataclass(frozen=True)
class SynonymReplacement:
    """Replace words of the text by others that mean the same.

    Left as they are: names (capitals that no sentence start explains), words of the answer, and words inside
    the phrase of a box, so that phrases are still found in the text. "a" and "an" follow the new word.

    Args:
        table: word or phrase, in lower case -> what may stand in its place; the longest entry that fits
            counts, and one with nothing in its place stays. The meaning is the table's affair: SCENE_SYNONYMS
            is for the scene world, where "small" and "little" are one.
        share: chance of each word or phrase that could be replaced.
        protect: words that stay.
    Raises: SaccadeError: an empty table, an entry that is not a lower-case word with a tuple of words.
    """

    table: Mapping[str, tuple[str, ...]] = field(hash=False)
    share: float = 0.3
    protect: frozenset[str] = frozenset()

    def __post_init__(self):
        check_share("share", self.share)
        if not self.table:
            raise SaccadeError("the table of synonyms is empty; give one, as SCENE_SYNONYMS")
        for word, others in self.table.items():
            fine = word and word == word.strip().lower() and not isinstance(others, str)
            if not fine or not all(isinstance(other, str) and other for other in others):
                raise SaccadeError(
                    f"synonyms of {word!r} are {others!r}; give lower case and a tuple of words"
                )
        object.__setattr__(self, "protect", frozenset(word.lower() for word in self.protect))

    @cached_property
    def _pattern(self) -> re.Pattern:
        longest_first = "|".join(re.escape(word) for word in sorted(self.table, key=len, reverse=True))
        return re.compile(rf"(?<![\w-])(?:{longest_first})(?![\w-])", re.I)

    def __call__(self, rng: np.random.Generator, item: Item) -> Item:
        if item.hidden:
            return item.refuse("synonyms", "words are hidden already")
        text, protect = item.text, self.protect | frozenset(words(item.answer))
        boxed = [m.span() for p in item.phrases if p for m in re.finditer(re.escape(p), text, re.I)]
        out, end = "", 0
        for match in self._pattern.finditer(text):
            others = self.table[match.group().lower()]
            chance, place = rng.random(2)
            if chance >= self.share or not others or _is_name(text, match):
                continue
            if protect & frozenset(words(match.group())):
                continue
            if any(match.start() < stop and match.end() > start for start, stop in boxed):
                continue
            new = _in_case_of(match.group(), others[int(place * len(others))])
            out = _with_article(out + text[end : match.start()], new) + new
            end = match.end()
        return item.change(text=out + text[end:])


def _is_name(text: str, match: re.Match) -> bool:
    if not match.group()[0].isupper():
        return False
    starts = re.search(r"(?:^|[.!?:]\s)\W*$", text[: match.start()])
    return not starts or bool(re.match(r"\s+[A-Z]", text[match.end() :]))


def _in_case_of(old: str, new: str) -> str:
    return new[0].upper() + new[1:] if old[0].isupper() else new


def _with_article(before: str, word: str) -> str:
    """`before`, its last word "a" or "an" if it is one of them made to fit the word that follows."""
    match = re.search(r"(?<![\w'’-])(a)(n?)(\s+)$", before, re.I)
    return before[: match.end(1)] + ("n" if _starts_with_vowel(word) else "") + match[3] if match else before


def _starts_with_vowel(word: str) -> bool:
    """Of the sound, for the usual exceptions: an hour, an 8, but a unit, a European, a one-eyed cat."""
    if re.match(r"uni(?![mn])|us[aeu]|eu|one\b|once\b", word, re.I):
        return False
    return bool(re.match(r"[aeiou]|hour|hon(?:est|ou?r)|heir|8|1[18]\b", word, re.I))
