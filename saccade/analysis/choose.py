"""Which examples a report shows: right and wrong, early and late, and mistakes of each sort."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from saccade.analysis.record import Card, Confusion, Failure

_PER_CORNER, _PER_FAILURE, _PER_CONFUSION = 3, 3, 2
_FAILURES, _CONFUSIONS, _SUREST = 8, 8, 4
CardOf = Callable[[int], Card]


def corners(correct: np.ndarray, steps: np.ndarray, kinds: Sequence[str]) -> list[tuple[int, str]]:
    """(row, why) of rows that were right or wrong, after few steps or many; of varied kinds.

    Late are the slowest, early the quickest of those that took fewer steps. Where all took the same, none is
    late and more are early.
    """
    taken: list[tuple[int, str]] = []
    for word, rows in (("right", np.flatnonzero(correct)), ("wrong", np.flatnonzero(~correct))):
        quick = rows[np.argsort(steps[rows], kind="stable")].tolist()
        slow = rows[np.argsort(-steps[rows], kind="stable")].tolist()
        late = _varied([row for row in slow if steps[row] > steps[quick[0]]], kinds, _PER_CORNER)
        bound = min((steps[row] for row in late), default=np.inf)
        early = _varied([row for row in quick if steps[row] < bound], kinds, 2 * _PER_CORNER - len(late))
        taken += [(row, f"{word}, early") for row in early] + [(row, f"{word}, late") for row in late]
    return taken


def _varied(rows: list[int], kinds: Sequence[str], count: int) -> list[int]:
    """The first rows, passing over a kind that was there already as long as others are left nearby."""
    found, seen = [], set()
    for row in rows[: 8 * count]:
        if len(found) < count and kinds[row] not in seen:
            found.append(row)
            seen.add(kinds[row])
    rest = [row for row in rows if row not in found]
    return sorted([*found, *rest[: max(0, count - len(found))]], key=rows.index)


def by_kind(correct: np.ndarray, kinds: Sequence[str], card: CardOf) -> tuple[Failure, ...]:
    """The kinds with most mistakes."""
    wrong = Counter(kinds[row] for row in np.flatnonzero(~correct))
    every = Counter(kinds)
    found = []
    for kind, count in sorted(wrong.items(), key=lambda pair: (-pair[1], pair[0]))[:_FAILURES]:
        rows = [row for row in np.flatnonzero(~correct) if kinds[row] == kind][:_PER_FAILURE]
        found.append(Failure(kind, count, every[kind], tuple(card(int(row)) for row in rows)))
    return tuple(found)


def surest(correct: np.ndarray, confidence: np.ndarray, card: CardOf) -> tuple[Failure, ...]:
    """The mistakes of which the model was most sure; nothing where there are none."""
    wrong = np.flatnonzero(~correct)
    rows = wrong[np.argsort(-confidence[wrong], kind="stable")][:_SUREST]
    return (Failure("surest mistakes", len(wrong), 0, tuple(map(card, map(int, rows)))),) if len(rows) else ()


def confusions(correct: np.ndarray, truth, answer, card: CardOf) -> tuple[Confusion, ...]:
    """The pairs of a right and a given answer that came most often."""
    rows = np.flatnonzero(~correct)
    pairs = Counter((truth[row], answer[row]) for row in rows)
    found = []
    for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_CONFUSIONS]:
        own = [row for row in rows if (truth[row], answer[row]) == pair][:_PER_CONFUSION]
        found.append(Confusion(*pair, count, tuple(card(int(row)) for row in own)))
    return tuple(found)
