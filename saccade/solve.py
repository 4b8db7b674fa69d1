"""A trained TRM or HRM solves puzzles: compiled calls over many, search, and what is right of it."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from saccade import backend
from saccade.errors import SaccadeError
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

    Args:
        rounds: at most so many calls.  rows: puzzles and tries side by side in a call.
        noise: standard deviation of what is added to the first z_l.
        moves: (rng, puzzles) -> Moves that keep a puzzle what it is; None = only noise.
    Source: sampled recursions chosen by q, as PTRM; turned puzzles, as the test-time augmentation of Speed is
        Confidence (arXiv:2601.19085).
    """

    rounds: int = 8
    rows: int = 16
    noise: float = 0.5
    moves: Callable | None = None


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
        slots: int = 256,
        threshold: float | None = None,
        search: Search | None = None,
        seed: int = 0,
    ) -> list[Solution]:
        """Solve puzzles and check every answer.

        Args:
            puzzles: int (N, cells).  valid: (puzzles, grids) -> bool (N,), the rules.
            mode: `halting` stops each puzzle when the model believes its answer, and gives its slot to the
                next; `fixed` takes all steps, as published; `search` is halting, then `search` for those that
                failed.
            slots: puzzles that reason at once.  threshold: of halting; None = the model's.
        Raises: SaccadeError: an unknown mode.
        """
        if mode not in MODES:
            raise SaccadeError(f"unknown mode {mode!r}; use one of {', '.join(MODES)}")
        puzzles = np.asarray(puzzles)
        run = self.fixed if mode == "fixed" else self.halting
        options = {} if mode == "fixed" else {"threshold": threshold}
        cells, q_halt, steps = run(puzzles, slots=slots, **options)
        found = [
            Solution(*row)
            for row in zip(cells, valid(puzzles, cells).tolist(), steps.tolist(), _share(q_halt), strict=True)
        ]
        if mode == "search":
            self._search(puzzles, valid, found, search or Search(), np.random.default_rng(seed))
        return found

    def _search(self, puzzles, valid, found: list[Solution], search: Search, rng) -> None:
        """Replace what is not valid in `found` by something valid, or by what the model believes most."""
        for _ in range(search.rounds):
            failed = [i for i, solution in enumerate(found) if not solution.valid]
            if not failed:
                return
            for begin in range(0, len(failed), search.rows):
                some = failed[begin : begin + search.rows]
                rows = np.resize(some, search.rows)  # a few puzzles get several tries at once
                given = puzzles[rows]
                moves = search.moves(rng, given) if search.moves else None
                cells, q_halt = self.sample(moves.apply(given) if moves else given, search.noise, rng)
                cells = moves.undo(cells) if moves else cells
                right = valid(given, cells)
                for i in some:
                    own = np.flatnonzero(rows == i)
                    best = own[np.lexsort((q_halt[own], right[own]))[-1]]
                    found[i] = self._better(found[i], cells[best], bool(right[best]), q_halt[best], len(own))

    def _better(self, old: Solution, cells, right: bool, q_halt: float, tries: int) -> Solution:
        steps, tries = old.steps + tries * self.model.config.halt_max_steps, old.tries + tries
        confidence = _share(q_halt)
        if not right and confidence <= old.confidence:
            cells, confidence = old.grid, old.confidence
        return Solution(cells, right, steps, confidence, tries)

    def halting(self, tokens, puzzle=None, slots: int = 256, threshold: float | None = None):
        """Every puzzle stops by itself; its slot takes the next at once, all in one compiled call.

        Returns: cells int8 (N, L), q_halt float32 (N,), steps int32 (N,).
        """
        slots = min(slots, len(tokens))
        limit = self.model.config.halt_threshold if threshold is None else threshold

        def function(batch, threshold):
            x, mask = self.model.encode(batch)
            result, steps = run_slots(
                lambda carry, x, mask: self.model.step(carry, x, mask, threshold=threshold),
                self.model.initial_carry,
                x,
                mask,
                _read,
                slots,
            )
            return *result, steps

        return self._call(("halting", slots), function, as_batch(tokens, puzzle), np.float32(limit))

    def fixed(self, tokens, puzzle=None, slots: int = 256):
        """Every puzzle takes all steps: the published evaluation. Returns: as `halting`."""
        cells, q_halt = self.last(tokens, puzzle, min(slots, len(tokens)))
        return cells, q_halt, np.full(len(tokens), self.model.config.halt_max_steps, np.int32)

    def sample(self, tokens, noise: float, rng: np.random.Generator, puzzle=None):
        """All steps from noisy first states; the answer of the step the model believed most.

        Returns: cells int8 (N, L), q_halt float32 (N,).
        """
        shape = (len(tokens), self.model.config.length, self.model.config.dim)

        def function(batch, noise):
            x, mask = self.model.encode(batch)
            carry = self.model.initial_carry(x)
            carry = {**carry, "z_l": carry["z_l"] + ops.cast(noise, x.dtype)}
            carry, outputs = self.model.step(carry, x, mask)

            def body(_, state):
                carry, (cells, best) = state
                carry, outputs = self.model.step(carry, x, mask)
                new, q_halt = _read(outputs)
                surer = q_halt > best
                return carry, (ops.where(ops.expand_dims(surer, 1), new, cells), ops.maximum(q_halt, best))

            steps = self.model.config.halt_max_steps - 1
            return ops.fori_loop(0, steps, body, (carry, _read(outputs)))[1]

        drawn = (noise * rng.standard_normal(shape)).astype(np.float32)
        return self._call(("sample", len(tokens)), function, as_batch(tokens, puzzle), drawn)

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


def _share(q_halt):
    """Logits as probabilities: a list, or a number."""
    return (1 / (1 + np.exp(-np.asarray(q_halt, float)))).tolist()


def as_batch(tokens, puzzle=None) -> dict:
    """What `TRM.encode` reads, from int arrays (N, L) and (N,)."""
    tokens = np.asarray(tokens, np.int32)
    rows = np.zeros(len(tokens)) if puzzle is None else puzzle
    return {"tokens": tokens, "puzzle": np.asarray(rows, np.int32)}


def measure(solver: Solver, tokens, right: Callable, puzzle=None, threshold: float = 0.0) -> dict[str, float]:
    """Shares of puzzles solved, after all steps and when halting decides, from one pass.

    Args:
        tokens: int (N, L).  right: int8 (N, L) answers -> bool (N,).  threshold: of halting.
    Returns: `exact`, solved after the last step; `exact_halting`, solved at each puzzle's own halting step;
        `mean_steps` of the latter.
    """
    found = solver.trace(tokens, puzzle)
    halts = found["halting"] > threshold
    halts[-1] = True
    step = halts.argmax(axis=0)
    own = found["cells"][step, np.arange(len(step))]
    return {
        "exact": float(right(found["cells"][-1]).mean()),
        "exact_halting": float(right(own).mean()),
        "mean_steps": float((step + 1).mean()),
    }
