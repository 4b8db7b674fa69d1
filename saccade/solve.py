"""A trained TRM or HRM solves puzzles: compiled calls over many, search, and what is right of it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import ops

from saccade import backend
from saccade.errors import SaccadeError
from saccade.recursion.halting import halting_threshold
from saccade.recursion.scheduler import run_fixed, run_slots

MODES = ("halting", "fixed", "search")


@dataclass(frozen=True, slots=True)
class Solution:
    """What a model made of one puzzle.

    Args:
        grid: int8 (cells,), right only if `valid`.  valid: it keeps the puzzle and its rules; they were
        checked. steps: reasoning steps taken, all tries together.  confidence: the model's own belief, 0 to
        1. tries: 1, or more where a search was needed.
    """

    grid: np.ndarray
    valid: bool
    steps: int
    confidence: float
    tries: int = 1


@dataclass(frozen=True)
class Search:
    """How to go on with puzzles whose first answer breaks the rules: turned another way, from noisy states.

    Of the hardest Sudokus a try solves most within five steps; another start costs less than waiting.

    Args:
        rounds: at most so many calls in which a puzzle is tried.  seconds: none begins later; None = any
            time.
        steps: at most so many in a try, the first included.
        noise: standard deviation of what is added to the first z_l.
        moves: (rng, puzzles) -> Moves that keep a puzzle what it is; None = only noise.
    Source: sampled recursions chosen by q, as PTRM; turned puzzles, as the test-time augmentation of Speed is
        Confidence (arXiv:2601.19085).
    """

    rounds: int = 128
    seconds: float | None = None
    steps: int = 8
    noise: float = 0.5
    moves: Callable | None = None


def default_slots() -> int:
    """How many puzzles reason at once: a CPU is as fast with few, and waits less for the last."""
    return 8 if backend.device_name() == "cpu" else 256


class Solver:
    """Reasoning of a TRM over batches of puzzles; each shape compiles once.

    Args: model: a built TRM or HRM.
    """

    def __init__(self, model):
        self.model = model
        self._compiled: dict = {}

    def _call(self, key, function, *args):
        if key not in self._compiled:
            self._compiled[key] = backend.compiled(function, self.model)
        return keras.tree.map_structure(
            lambda t: np.asarray(ops.convert_to_numpy(t)), self._compiled[key](*args)
        )

    def trace(self, tokens, puzzle=None) -> dict:
        """Take every step of every puzzle and keep the answers of all: nothing halts.

        Args: tokens: int (N, L).  puzzle: int (N,), rows of the puzzle embedding; None = 0.
        Returns: `cells` int8 (K, N, L), the answer after each of the K = halt_max_steps steps; `halting`
            float32 (K, N), which halts a puzzle when it exceeds the threshold; `q_halt` float32 (K, N).
        """

        def function(batch):
            x, mask = self.model.encode(batch)

            def body(carry, _):
                carry, outputs = self.model.step(carry, x, mask)
                kept = {key: outputs[key] for key in ("q_halt", "halting")}
                return carry, {**kept, "cells": ops.cast(ops.argmax(outputs["logits"], axis=-1), "int8")}

            carry = self.model.initial_carry(x)
            return ops.scan(body, carry, length=self.model.config.halt_max_steps)[1]

        return self._call("trace", function, as_batch(tokens, puzzle))

    def solve(
        self,
        puzzles,
        valid: Callable,
        mode: str = "halting",
        slots: int | None = None,
        threshold: float | None = None,
        search: Search | None = None,
        seed: int = 0,
    ) -> list[Solution]:
        """Solve puzzles and check every answer.

        Args:
            puzzles: int (N, cells).  valid: (puzzles, grids) -> bool (N,), the rules.
            mode: `halting` stops each puzzle when the model believes its answer, and gives its slot to the
                next; `fixed` takes all steps, as published; `search` is halting within `search.steps`, then
                further tries of those that failed.
            slots: puzzles that reason at once; None = `default_slots`.  threshold: of halting; None = the
                model's.
        Raises: SaccadeError: an unknown mode, or no slot.
        """
        if mode not in MODES:
            raise SaccadeError(f"unknown mode {mode!r}; use one of {', '.join(MODES)}")
        if slots is not None and slots < 1:
            raise SaccadeError(f"slots={slots} must be at least 1")
        puzzles = np.asarray(puzzles)
        if not len(puzzles):
            return []
        slots = slots or default_slots()
        run = self.fixed if mode == "fixed" else self.halting
        search = search or Search()
        options = {} if mode == "fixed" else {"threshold": threshold}
        options |= {"max_steps": search.steps} if mode == "search" else {}
        cells, q_halt, steps = run(puzzles, slots=slots, **options)
        found = [
            Solution(*row)
            for row in zip(cells, valid(puzzles, cells).tolist(), steps.tolist(), _share(q_halt), strict=True)
        ]
        if mode == "search":
            self._search(puzzles, valid, found, search, slots, threshold, np.random.default_rng(seed))
        return found

    def _search(self, puzzles, valid, found: list[Solution], search: Search, slots, threshold, rng) -> None:
        """Replace what is not valid in `found` by something valid, or by what the model believes most."""
        end = math.inf if search.seconds is None else time.monotonic() + search.seconds
        failed = [i for i, solution in enumerate(found) if not solution.valid]
        tries = min(slots, len(failed))  # side by side, always as many: one shape, one compilation
        for _ in range(search.rounds if failed else 0):
            for begin in range(0, len(failed), tries):
                if time.monotonic() >= end:
                    return
                some = failed[begin : begin + tries]
                rows = np.resize(some, tries)  # a few puzzles get several tries at once
                given = puzzles[rows]
                moves = search.moves(rng, given) if search.moves else None
                cells, q_halt, steps = self.halting(
                    moves.apply(given) if moves else given,
                    slots=tries,
                    threshold=threshold,
                    noise=search.noise * rng.standard_normal(self._state_shape(tries)),
                    max_steps=search.steps,
                )
                cells = moves.undo(cells) if moves else cells
                right = valid(given, cells)
                for i in some:
                    own = np.flatnonzero(rows == i)
                    best = own[np.lexsort((q_halt[own], right[own]))[-1]]
                    new = Solution(
                        cells[best], bool(right[best]), int(steps[own].sum()), _share(q_halt[best]), len(own)
                    )
                    found[i] = _better(found[i], new)
            failed = [i for i in failed if not found[i].valid]

    def _state_shape(self, rows: int) -> tuple[int, int, int]:
        return rows, self.model.config.length, self.model.config.dim

    def halting(
        self,
        tokens,
        puzzle=None,
        slots: int = 256,
        threshold: float | None = None,
        noise=None,
        max_steps: int | None = None,
    ):
        """Every puzzle stops by itself; its slot takes the next at once, all in one compiled call.

        Args: noise: float (slots, S, D), added to the first z_l of each puzzle of a slot; None = 0.
            threshold, max_steps: of halting; None = the model's.
        Returns: cells int8 (N, L), q_halt float32 (N,), steps int32 (N,).
        """
        slots, config = min(slots, len(tokens)), self.model.config
        limit = halting_threshold(config, threshold)
        most = config.halt_max_steps if max_steps is None else min(max_steps, config.halt_max_steps)
        drawn = np.zeros(self._state_shape(slots), np.float32) if noise is None else np.float32(noise)

        def function(batch, noise, threshold, max_steps):
            x, mask = self.model.encode(batch)

            def first(x):
                carry = self.model.initial_carry(x)
                return {**carry, "z_l": carry["z_l"] + ops.cast(noise, x.dtype)}

            @backend.jit  # run_slots traces it twice otherwise
            def step(carry, x, mask):
                return self.model.step(carry, x, mask, threshold=threshold, max_steps=max_steps)

            result, steps = run_slots(step, first, x, mask, _read, slots)
            return *result, steps

        limits = np.float32(limit), np.int32(most)
        return self._call(("halting", slots), function, as_batch(tokens, puzzle), drawn, *limits)

    def fixed(self, tokens, puzzle=None, slots: int = 256):
        """Every puzzle takes all steps: the published evaluation. Returns: as `halting`."""
        cells, q_halt = self.last(tokens, puzzle, min(slots, len(tokens)))
        return cells, q_halt, np.full(len(tokens), self.model.config.halt_max_steps, np.int32)

    def last(self, tokens, puzzle=None, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """The answer after all steps, batch after batch.

        Returns: cells int8 (N, L); q_halt float32 (N,).
        """
        batch = as_batch(tokens, puzzle)
        parts = []
        for start in range(0, len(batch["tokens"]), batch_size):
            # The last batch repeats its first rows: one shape, one compilation.
            rows = np.arange(start, start + batch_size) % len(batch["tokens"])
            parts.append(self._call("last", self._last, {key: value[rows] for key, value in batch.items()}))
        cells, q_halt = (
            np.concatenate(column)[: len(batch["tokens"])] for column in zip(*parts, strict=True)
        )
        return cells, q_halt

    def _last(self, batch):
        x, mask = self.model.encode(batch)
        outputs, _ = run_fixed(
            lambda carry: self.model.step(carry, x, mask),
            self.model.initial_carry(x),
            _read,
            self.model.config.halt_max_steps,
        )
        return outputs


def _read(outputs):
    return ops.cast(ops.argmax(outputs["logits"], axis=-1), "int8"), ops.cast(outputs["q_halt"], "float32")


def _better(old: Solution, new: Solution) -> Solution:
    """The new one if it is valid, else the one believed most; steps and tries are those of both."""
    kept = new if new.valid or new.confidence > old.confidence else old
    return replace(kept, steps=old.steps + new.steps, tries=old.tries + new.tries)


def _share(q_halt):
    """Logits as probabilities: a list, or a number."""
    return (1 / (1 + np.exp(-np.asarray(q_halt, float)))).tolist()


def as_batch(tokens, puzzle=None) -> dict:
    """What `TRM.encode` reads, from int arrays (N, L) and (N,)."""
    tokens = np.asarray(tokens, np.int32)
    rows = np.zeros(len(tokens)) if puzzle is None else puzzle
    return {"tokens": tokens, "puzzle": np.asarray(rows, np.int32)}


def measure(
    solver: Solver, tokens, right: Callable, puzzle=None, threshold: float | None = None
) -> dict[str, float]:
    """Shares of puzzles solved, after all steps and when halting decides, from one pass.

    Args:
        tokens: int (N, L).  right: int8 (N, L) answers -> bool (N,).  threshold: of halting; None = the
            model's.
    Returns: `exact`, solved after the last step; `exact_halting`, solved at each puzzle's own halting step;
        `mean_steps` of the latter.
    """
    found = solver.trace(tokens, puzzle)
    halts = found["halting"] > halting_threshold(solver.model.config, threshold)
    halts[-1] = True
    step = halts.argmax(axis=0)
    own = found["cells"][step, np.arange(len(step))]
    return {
        "exact": float(right(found["cells"][-1]).mean()),
        "exact_halting": float(right(own).mean()),
        "mean_steps": float((step + 1).mean()),
    }
