"""Other ways to write the same NLVR sentence: numbers, synonyms, typing errors."""

import re
from random import Random

from saccade.data.scenes.symmetry import KNOWN
from saccade.data.text import NUMBER_WORDS

# Interchangeable wherever they stand. Not so: each and every ("each other"), above and over (some writers
# mean
# "directly on" by one of them), base and bottom.
SYNONYMS = (
    ("item", "object"),
    ("items", "objects"),
    ("edge", "wall"),
    ("color", "colour"),
    ("colors", "colours"),
    ("contains", "has"),
)
_OTHERS = {word: tuple(w for w in row if w != word) for row in SYNONYMS for word in row}
# "one" is a number before these words only: not in "another one", "which one is".
_COUNTED = frozenset(
    "box boxes tower towers block blocks item items object objects circle square triangle black yellow blue "
    "grey".split()
)
_WORD = re.compile(r"[a-z]+|\d+")
_NUMBERS = {str(number): word for number, word in enumerate(NUMBER_WORDS[:11])}
_DIGITS: dict[str, str] = {word: digits for digits, word in _NUMBERS.items()}
_SPARED = frozenset(NUMBER_WORDS)  # a number misspelt might be another number
_SHORTEST_MISSPELT = 4


def reword(rng: Random, text: str, amount: float = 0.1) -> str:
    """The same statement, written otherwise.

    Args:
        text: in lower case.
        amount: probability that a word with another form takes one; and that the sentence gets a typing
            error.
    """
    words = [match.group() for match in _WORD.finditer(text)]
    misspelt = rng.randrange(len(words)) if words and rng.random() < amount else -1
    at = -1

    def change(match: re.Match) -> str:
        nonlocal at
        at += 1
        word, following = match.group(), words[at + 1] if at + 1 < len(words) else ""
        if rng.random() < amount:
            word = _other_form(rng, word, following)
        return misspell(rng, word) if at == misspelt else word

    return _WORD.sub(change, text)


def _other_form(rng: Random, word: str, following: str) -> str:
    if word in _NUMBERS:
        return _NUMBERS[word]
    if word in _DIGITS and (word != "one" or following in _COUNTED):
        return _DIGITS[word]
    return rng.choice(_OTHERS[word]) if word in _OTHERS else word


def misspell(rng: Random, word: str) -> str:
    """One letter lost, doubled, or exchanged with the next; a short word, a number or a new word stays."""
    if len(word) < _SHORTEST_MISSPELT or word in _SPARED or word.isdigit():
        return word
    i = rng.randrange(len(word) - 1)
    a, b = word[i], word[i + 1]
    wrong = word[:i] + rng.choice((b + a, a, a + a + b)) + word[i + 2 :]
    return word if wrong in KNOWN else wrong
