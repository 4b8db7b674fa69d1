"""Easy examples first: levels of difficulty, and a rule that says when the next one begins."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.errors import SaccadeError

IN_A_ROW = 3
# Weight of the current level, of the one before it, of the one before that, ...; the last number holds for
# all before. Any other tuple of such weights is a mixture of one's own.
SAMPLERS: dict[str, tuple[float, ...]] = {"current": (1.0, 0.0), "up_to": (1.0, 1.0)}


@dataclass(frozen=True)
class Drawn:
    """What is drawn at one level: item i is a function of the sources, the seed and i, and pickles.

    Args: sources: of the levels that may be drawn.  shares: of each, they sum to 1.  seed: of the draw.
    """

    sources: tuple
    shares: tuple[float, ...]
    seed: int

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, index: int):
        rng = np.random.default_rng((self.seed, int(index)))
        level = int(rng.choice(len(self.shares), p=self.shares))
        return self.sources[level][int(rng.integers(len(self.sources[level])))]


class Curriculum:
    """A source of a Stream whose examples grow harder: `Stream(curriculum, collate, objective, 32)`.

    The Trainer tells it of every evaluation. After three in a row at which `watch` is at least the level's
    threshold, the next level begins with the next batch that is read; batches that wait on the device are
    learnt from first. It never goes back. Level and count are saved in the checkpoint, so a resumed run sees
    the same examples.

    Args:
        levels: one source for each level, easy first, such as `Source("vqa", min_depth=d, max_depth=d)`.
            `scored` makes them of one source and a score.
        threshold: what `watch` must reach to pass a level; one for all, or one for each but the last.
        watch: name of the number that the Trainer's `evaluate` returns; it may read `level`.
        sampler: "current" (this level alone), "up_to" (all up to it alike), or weights of the current level,
            of the one before, and so on, the last for all before: (0.7, 0.3).
        seed: of the draw, from 0.
    Raises: SaccadeError: no level, a level without examples (names it), thresholds or weights that do not
        fit.
    Source: curriculum learning, Bengio et al. 2009, doi:10.1145/1553374.1553380.
    """

    def __init__(
        self,
        levels: Sequence[Any],
        threshold: float | Sequence[float],
        watch: str = "accuracy",
        sampler: str | Sequence[float] = "up_to",
        seed: int = 0,
    ):
        if not levels:
            raise SaccadeError("a curriculum has no levels; give one source for each")
        for number, source in enumerate(levels):
            if not len(source):
                raise SaccadeError(f"level {number} of the curriculum has no examples; leave it out")
        passes = len(levels) - 1
        thresholds = np.asarray(threshold, np.float64)
        thresholds = (np.full(passes, thresholds) if thresholds.ndim == 0 else thresholds).tolist()
        if not np.isfinite(thresholds).all():
            raise SaccadeError(f"thresholds are {thresholds}; give numbers that `watch` can reach")
        if len(thresholds) != passes:
            raise SaccadeError(
                f"{len(levels)} levels need {passes} thresholds, {len(thresholds)} are given; the last level "
                "has none"
            )
        self.sources, self.thresholds, self.watch, self.seed = tuple(levels), thresholds, watch, seed
        self.weights = _weights(sampler)
        self.level = 0
        self.passed = 0  # evaluations in a row at the threshold or above

    @classmethod
    def scored(
        cls,
        source: Sequence[Any],
        score: Callable[[Any], float],
        edges: Sequence[float],
        threshold: float | Sequence[float],
        size: int | None = None,
        **options,
    ) -> "Curriculum":
        """Levels of one source by the score of its examples.

        Args:
            score: example -> difficulty, a number; see `saccade.data.scenes.difficulty`.
            edges: rising; level k has the scores in [edges[k - 1], edges[k]), the first and last are open.
            size: examples to score, the first ones; None = all, for a source that is not endless.
        Raises: SaccadeError: a level that no example has (states its range and that of the scores); a score
            that is no number.
        """
        if list(edges) != sorted(set(edges)):
            raise SaccadeError(f"edges are {list(edges)}; they must rise")
        count = len(source) if size is None else min(size, len(source))
        if not count:
            raise SaccadeError("the curriculum's source has no examples; check it")
        scores = np.array([score(source[i]) for i in range(count)], np.float64)
        if not np.isfinite(scores).all():
            number = int(np.argmin(np.isfinite(scores)))
            raise SaccadeError(f"the score of example {number} is {scores[number]}; give each a number")
        level = np.searchsorted(np.asarray(edges, np.float64), scores, side="right")
        bounds = ["-inf", *(f"{edge:g}" for edge in edges), "inf"]
        picked = []
        for number in range(len(edges) + 1):
            rows = np.flatnonzero(level == number)
            if not len(rows):
                raise SaccadeError(
                    f"level {number} of the curriculum, scores in [{bounds[number]}, {bounds[number + 1]}), "
                    f"has no example among {count}, whose scores go from {scores.min():g} to "
                    f"{scores.max():g}; change `edges`"
                )
            picked.append(Picked(source, tuple(int(row) for row in rows)))
        return cls(picked, threshold, **options)

    @property
    def last(self) -> bool:
        return self.level == len(self.sources) - 1

    def note(self, values: Mapping[str, float]) -> bool:
        """Learn of an evaluation. Returns: whether a new level begins.

        Raises: SaccadeError: `watch` is not among the values (names those).
        """
        if self.watch not in values:
            raise SaccadeError(
                f"the curriculum watches {self.watch!r}, evaluate returned {', '.join(values) or 'nothing'}; "
                "change `watch`"
            )
        if self.last:
            return False
        reached = values[self.watch] >= self.thresholds[self.level]  # NaN never does
        self.passed = self.passed + 1 if reached else 0
        if self.passed < IN_A_ROW:
            return False
        self.level, self.passed = self.level + 1, 0
        return True

    def drawn(self) -> Drawn:
        """What this level draws; it stays as it is when the level changes."""
        distance = [min(self.level - k, len(self.weights) - 1) for k in range(self.level + 1)]
        weights = np.array([self.weights[d] for d in distance])
        used = np.flatnonzero(weights)
        shares = weights[used] / weights[used].sum()
        return Drawn(tuple(self.sources[k] for k in used), tuple(shares.tolist()), self.seed)

    def __len__(self) -> int:
        return len(self.drawn())

    def __getitem__(self, index: int):
        return self.drawn()[index]

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"level": self.level, "passed": self.passed}

    def restore(self, state: Mapping[str, int]) -> None:
        """Raises: SaccadeError: the level does not exist here."""
        if not 0 <= state["level"] < len(self.sources):
            raise SaccadeError(
                f"the checkpoint is at level {state['level']}, this curriculum has {len(self.sources)} "
                "levels; use a new output folder"
            )
        self.level, self.passed = int(state["level"]), int(state["passed"])


@dataclass(frozen=True)
class Picked:
    """Some rows of a source."""

    source: Any
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        return self.source[self.rows[index]]


def _weights(sampler: str | Sequence[float]) -> tuple[float, ...]:
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise SaccadeError(f"unknown sampler {sampler!r}: use {', '.join(SAMPLERS)}, or weights")
        return SAMPLERS[sampler]
    weights = tuple(float(weight) for weight in sampler)
    if not weights or not all(np.isfinite(w) and w >= 0 for w in weights) or not weights[0]:
        raise SaccadeError(
            f"sampler is {weights}; give weights of at least 0, that of the current level, the first, above 0"
        )
    return weights
