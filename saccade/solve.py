"""A trained TRM or HRM as compiled calls over many puzzles, and what it gets right."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from saccade import backend
from saccade.recursion.scheduler import run_fixed


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
        cells, q_halt = (np.concatenate(column)[: len(batch["tokens"])] for column in zip(*parts, strict=True))
        return cells, q_halt

    def _last(self, batch):
        x, mask = self.model.encode(batch)
        outputs, _ = run_fixed(
            lambda carry: self.model.step(carry, x, mask),
            self.model.initial_carry(x),
            lambda outputs: (ops.cast(ops.argmax(outputs["logits"], axis=-1), "int8"), outputs["q_halt"]),
            self.model.config.halt_max_steps,
        )
        return outputs


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
