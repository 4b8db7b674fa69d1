"""METEOR 1.5 for English with two of its four kinds of matches, exact and stem: no Java, no data.

Synonyms (WordNet) and paraphrases (a table of 60 MB) are left out, so scores are lower than METEOR's. They
equal those of `java -jar meteor-1.5.jar ... -l en -m "exact stem"`. Report them as "METEOR (exact, stem)",
never as METEOR.

Source: Denkowski and Lavie 2014; parameters of the ranking task, which are its default for English.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from saccade.metrics.stem import stem
from saccade.metrics.text import Scores, Tokens, check_pairs

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
_MODULE_WEIGHTS = np.array([1.0, 0.6])  # exact, stem
_KIND_WEIGHTS = np.array([DELTA, 1 - DELTA])  # content words, function words
_BEAM = 40

# Words of a relative frequency above 0.001 in English news: the rule, and by it the list, of Denkowski and
# Lavie 2011.
FUNCTION_WORDS = frozenset(
    """the of to and a in that for is on 's it with was as said at he by be from have has are his but an
    this not i will they who their had we which were been more or s its would about new one after
    you also up when there than all out her people she year two can if last first over other into
    some what so no time years could 't -rrb- -lrb- , . " ’ ) ( : $ “ ” -- — - ? '""".split()
)


class _Counts(NamedTuple):
    """Words (2 sides, 2 kinds), matches (2 sides, 2 modules, 2 kinds), chunks. Side 0 is the prediction."""

    words: np.ndarray
    matches: np.ndarray
    chunks: int


def meteor_exact_stem(predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Scores:
    """METEOR 1.5 with exact and stem matches, in [0, 1]. Tokens are compared as they are, case included.

    Of several references the best counts. The corpus score is computed from the summed counts of all pairs,
    so it is not the mean of `each`.

    Args:
        predictions: N lists of tokens.  references: N lists of one or more lists of tokens.
    Raises: ValueError: see text.check_pairs.
    """
    check_pairs(predictions, references)
    best = []
    for prediction, texts in zip(predictions, references, strict=True):
        candidates = [_count(prediction, text) for text in texts]
        best.append(max(((_score(counts), counts) for counts in candidates), key=lambda pair: pair[0]))
    total = _Counts(*(sum(parts) for parts in zip(*(counts for _, counts in best), strict=True)))
    return Scores(_score(total), np.array([score for score, _ in best]))


def _score(counts: _Counts) -> float:
    found = np.einsum("smk,m,k->s", counts.matches, _MODULE_WEIGHTS, _KIND_WEIGHTS)
    if not found.all():
        return 0.0
    precision, recall = found / (counts.words @ _KIND_WEIGHTS)
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    fragmentation = counts.chunks / counts.matches.sum((1, 2)).mean()
    return float(mean * (1 - GAMMA * fragmentation**BETA))


def _count(prediction: Tokens, reference: Tokens) -> _Counts:
    sides = [[int(token in FUNCTION_WORDS) for token in text] for text in (prediction, reference)]
    words = np.array([[len(kinds) - sum(kinds), sum(kinds)] for kinds in sides])
    matches, chunks, last = np.zeros((2, 2, 2)), 0, None
    for pair in align(prediction, reference):
        module = int(prediction[pair[0]] != reference[pair[1]])
        for side in (0, 1):
            matches[side, module, sides[side][pair[side]]] += 1
        chunks += last is None or pair != (last[0] + 1, last[1] + 1)
        last = pair
    whole = chunks == 1 and (matches.sum((1, 2)) == words.sum(1)).all()
    return _Counts(words, matches, 0 if whole else chunks)  # what agrees from end to end is not in pieces


class _Path(NamedTuple):
    """An alignment up to some word of the reference."""

    lost: int = 0  # minus the exact matches
    closed: int = 0  # chunks that have ended
    distance: int = 0
    open_at: int = -1  # where in the prediction the open chunk would go on; -1: none is open
    pairs: tuple[tuple[int, int], ...] = ()

    def cost(self) -> tuple[int, int, int]:
        """What is less is better."""
        return self.lost, self.closed, self.distance

    def farther(self, distance: int) -> "_Path":
        return self._replace(distance=self.distance + distance)

    def skipping(self) -> "_Path":
        return self._replace(closed=self.closed + (self.open_at >= 0), open_at=-1)

    def matching(self, i: int, j: int, exact: bool) -> "_Path":
        closed = self.closed + (self.open_at not in (-1, i))
        return _Path(self.lost - exact, closed, self.distance, i + 1, (*self.pairs, (i, j)))


def align(prediction: Tokens, reference: Tokens) -> list[tuple[int, int]]:
    """Pairs (place in the prediction, place in the reference) of matched words, in the reference's order.

    Most exact matches, then fewest chunks (runs adjacent in both), then the least distance, by a beam search
    of 40 paths. Words that could match one another and nothing else are matched in any case. METEOR's
    program differs from the paper, and this follows the program: stem matches do not count as matches in the
    search (weights are truncated to integers), and the distance |i - j| of an ambiguous match is charged to
    the alternatives after it.
    """
    choices = _choices(prediction, reference)
    claims = Counter(i for row in choices for i in row)
    paths = [_Path()]
    for j, row in enumerate(choices):
        following = []
        for path in paths:
            if len(row) == 1 and claims[row[0]] == 1:
                (i,) = row
                following.append(path.farther(abs(i - j)).matching(i, j, prediction[i] == reference[j]))
                continue
            used = {i for i, _ in path.pairs}
            for i in row:
                if i not in used:
                    following.append(path.matching(i, j, prediction[i] == reference[j]))
                    path = path.farther(abs(i - j))
            following.append(path.skipping())
        paths = sorted(following, key=_Path.cost)[:_BEAM]
    return list(min((path.skipping() for path in paths), key=_Path.cost).pairs)


def _choices(prediction: Tokens, reference: Tokens) -> list[list[int]]:
    """For each word of the reference the places of words with its stem, those of the same word first."""
    places: dict[str, list[int]] = {}
    for i, token in enumerate(prediction):
        places.setdefault(stem(token), []).append(i)
    return [sorted(places.get(stem(token), []), key=lambda i: prediction[i] != token) for token in reference]
