"""Which examples a report shows: right and wrong, early and late, and mistakes of each sort."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from saccade.analysis.record import Card, Confusion, Failure

_PER_CORNER, _PER_FAILURE, _PER_CONFUSION = 3, 3, 2
_FAILURES, _CONFUSIONS, _SUREST = 8, 8, 4
CardOf = Callable[[int], Card]


def corners(correct: np.ndarray, steps: np.ndarray, kinds: Sequence[str]) -> list[tuple[int, str]]:
    """(row, why) of rows that were right or wrong, after few steps or many; of varied kinds."""
    taken: list[tuple[int, str]] = []
    for right in (True, False):
        rows = np.flatnonzero(correct == right)
        early = rows[np.argsort(steps[rows], kind="stable")]
        late = rows[np.argsort(-steps[rows], kind="stable")]
        for name, order in (("early", early), ("late", late)):
            why = f"{'right' if right else 'wrong'}, {name}"
            free = [int(row) for row in order if row not in {row for row, _ in taken}]
            taken += [(row, why) for row in _varied(free, kinds, _PER_CORNER)]
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
