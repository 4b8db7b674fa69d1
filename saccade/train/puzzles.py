"""What TRM and HRM learn: to fill every cell of puzzles turned around on the device, new for every draw."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from saccade import losses
from saccade.data.puzzles import maze
from saccade.train.objectives import Recursive


@dataclass(frozen=True)
class Fill:
    """Predict every cell of the answer.

    data: `tokens`, `targets` int32 (B, L); `puzzle` int32 (B,); `loss_mask` bool (B, L) where some cells do
    not count.

    Args:
        smoothing, stablemax: see losses.cross_entropy; TRM and HRM are published with stablemax.
    """

    smoothing: float = 0.0
    stablemax: bool = True

    def inputs(self, data):
        return {key: data[key] for key in ("tokens", "puzzle")}

    def __call__(self, model, outputs, data, layout):
        logits, targets = outputs["logits"], data["targets"]
        cells = losses.cross_entropy(logits, targets, self.smoothing, self.stablemax)
        hits = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), targets)
        mask = data.get("loss_mask", ops.ones_like(hits))
        correct = ops.all(ops.logical_or(hits, ops.logical_not(mask)), axis=-1)
        share = ops.mean(losses.masked_mean(ops.cast(hits, "float32"), mask))
        return losses.masked_mean(cells, mask), correct, {"cells": share}


@dataclass(frozen=True)
class Chains:
    """A model whose every row reasons in K chains, from different first z_l.

    K is its num_chains. z_h and z_l are (B, K, S, D) in its states; a step gives everything for each chain,
    (B, K, ...).
    """

    model: Any

    @property
    def config(self):
        return self.model.config

    def encode(self, batch):
        return self.model.encode(batch)

    def layout(self, batch):
        return self.model.layout(batch)

    def initial_carry(self, x) -> dict:
        first = [self.model.initial_carry(x, chain) for chain in range(self.config.num_chains)]
        return first[0] | {key: ops.stack([own[key] for own in first], axis=1) for key in ("z_h", "z_l")}

    def step(self, carry, x, mask, layout=None):
        chains = self.config.num_chains
        x, mask, steps, halted = (
            ops.repeat(t, chains, axis=0) for t in (x, mask, carry["steps"], carry["halted"])
        )
        state = {"z_h": _merge(carry["z_h"]), "z_l": _merge(carry["z_l"]), "steps": steps, "halted": halted}
        stepped = self.model.step(state, x, mask, layout)
        return keras.tree.map_structure(lambda t: ops.reshape(t, (-1, chains, *t.shape[1:])), stepped)


def _merge(t):
    """(B, K, ...) -> (B * K, ...)."""
    return ops.reshape(t, (-1, *t.shape[2:]))


@dataclass(frozen=True)
class WinnerTakesAll(Recursive):
    """K chains of reasoning for every puzzle; the one of least loss teaches.

    Only the winner's loss is learnt from, so a chain may specialise. Every chain goes on from its own z_l
    and from the winner's z_h; the winner decides about halting. Solving needs one chain, the first.

    K is the model's num_chains; K = 1 is `Recursive`, at K times the price otherwise.

    Source: Speed is Confidence, arXiv:2601.19085.
    """

    def initial_carry(self, model, batch) -> dict:
        return super().initial_carry(Chains(model), batch)

    def __call__(self, model, carry, batch, seed):
        return super().__call__(Chains(model), carry, batch, seed)

    def _finish(self, model, carry, data, state, outputs, layout, seed, further, further_metrics, settled):
        chains = model.config.num_chains
        outputs = {key: _merge(outputs[key]) for key in ("logits", "q_halt", "halting")}
        each = keras.tree.map_structure(lambda t: ops.repeat(t, chains, axis=0), data)
        rows = ops.stop_gradient(self.task(model, outputs, each, layout)[0])
        best = ops.cast(ops.argmin(ops.reshape(rows, (-1, chains)), axis=-1), "int32")
        winner = best + ops.arange(best.shape[0], dtype="int32") * chains
        outputs = {key: ops.take(t, winner, axis=0) for key, t in outputs.items()}
        z_h = ops.expand_dims(ops.take(_merge(state["z_h"]), winner, axis=0), 1)
        state = state | {"z_h": ops.repeat(z_h, chains, axis=1), "steps": state["steps"][:, 0]}
        first = ops.mean(ops.cast(ops.equal(best, 0), "float32"))
        metrics = further_metrics | {"first_wins": first}
        return super()._finish(model, carry, data, state, outputs, layout, seed, further, metrics, settled)


@dataclass(frozen=True)
class Drawn:
    """An objective whose examples are made on the device, inside the compiled step.

    The stream brings `index` int32 (B,) only; `draw` looks the puzzles up in a table that the compiled step
    holds, and turns each around with the step's seed. The carry keeps what was drawn until its slot halts; a
    puzzle that no slot took comes again, turned otherwise.

    Args:
        objective: such as Recursive(Fill()).
        draw: (index, seed) -> data of the objective's task.
    """

    objective: Any
    draw: Callable

    def initial_carry(self, model, batch) -> dict:
        # Every slot of a first carry is empty: what is drawn here only gives it its shape.
        return self.objective.initial_carry(model, self.draw(batch["index"], keras.random.SeedGenerator(0)))

    def __call__(self, model, carry, batch, seed):
        return self.objective(model, carry, self.draw(batch["index"], seed), seed)


class SudokuSymmetries:
    """Draw Sudokus: digits renamed, bands, stacks, rows and columns moved, transposed (`sudoku.shuffle`).

    Args:
        puzzles, solutions: int (N, cells), 0 = blank.
        reveal: share of the draws that show some of their solution, up to half of the blanks: the same
            puzzle, made easier.
    Call: index: int32 (B,).  seed: of the draw.
    Returns: `tokens`, `targets` int32 (B, cells); `puzzle` int32 (B,), all 0.
    """

    def __init__(self, puzzles, solutions, reveal: float = 0.0):
        self.reveal = reveal
        self.puzzles, self.solutions = np.asarray(puzzles, np.int8), np.asarray(solutions, np.int8)
        self.cells = self.puzzles.shape[1]
        self.n = round(self.cells**0.5)
        self.box = round(self.n**0.5)

    def __call__(self, index, seed) -> dict:
        count, n = index.shape[0], self.n
        digits = ops.pad(_orders((count, n), seed) + 1, ((0, 0), (1, 0)))  # a blank stays a blank
        rows, columns = self._lines(count, seed), self._lines(count, seed)
        source = ops.expand_dims(rows, 2) * n + ops.expand_dims(columns, 1)
        flipped = ops.reshape(keras.random.uniform((count,), seed=seed) < 0.5, (-1, 1, 1))
        source = ops.where(flipped, ops.transpose(source, (0, 2, 1)), source)
        source = ops.reshape(source, (count, self.cells))

        def move(table):
            grid = ops.cast(ops.take(ops.convert_to_tensor(table), index, axis=0), "int32")
            return ops.take_along_axis(digits, ops.take_along_axis(grid, source, axis=1), axis=1)

        tokens, targets = move(self.puzzles), move(self.solutions)
        if self.reveal:
            shown = self._shown(count, seed)
            tokens = ops.where(ops.logical_and(tokens == 0, shown), targets, tokens)
        return {"tokens": tokens, "targets": targets, "puzzle": ops.zeros((count,), "int32")}

    def _shown(self, count: int, seed):
        """bool (B, cells): in `reveal` of the rows each cell with a probability of its row's, U(0, 1/2)."""
        easier = keras.random.uniform((count, 1), seed=seed) < self.reveal
        share = keras.random.uniform((count, 1), maxval=0.5, seed=seed)
        return ops.logical_and(easier, keras.random.uniform((count, self.cells), seed=seed) < share)

    def _lines(self, count: int, seed):
        """Orders of n lines that keep bands together: int32 (B, n)."""
        bands = ops.expand_dims(_orders((count, self.box), seed), 2) * self.box
        return ops.reshape(bands + _orders((count, self.box, self.box), seed), (count, self.n))


class MazeMirrors:
    """Draw mazes: each in one of its eight turns and mirror images, labelled anew by `maze.label`.

    Args: mazes: int (N, cells).
    Call: index: int32 (B,).  seed: of the draw.
    Returns: `tokens`, `targets` int32 (B, cells); `puzzle` int32 (B,), all 0.
    """

    def __init__(self, mazes):
        images = maze.mirrors(mazes)
        self.mazes = images.reshape(-1, images.shape[-1])
        self.labels = maze.label(self.mazes)

    def __call__(self, index, seed) -> dict:
        count = index.shape[0]
        image = index * 8 + keras.random.randint((count,), 0, 8, dtype="int32", seed=seed)

        def pick(table):
            return ops.cast(ops.take(ops.convert_to_tensor(table), image, axis=0), "int32")

        return {
            "tokens": pick(self.mazes),
            "targets": pick(self.labels),
            "puzzle": ops.zeros((count,), "int32"),
        }


class ArcDraws:
    """Draw a demonstration of an ARC task in a random view, moved to a random place of the canvas.

    Args: table: see arc.Table.
    Call: index: int32 (B,), the task.  seed: of the draw.
    Returns: `tokens`, `targets` int32 (B, cells); `puzzle` int32 (B,); `loss_mask` bool (B, cells), False on
        padding.
    """

    def __init__(self, table):
        self.table = table
        self.side = round(table.inputs.shape[1] ** 0.5)

    def __call__(self, index, seed) -> dict:
        t, side = self.table, self.side
        start, count = (ops.take(ops.convert_to_tensor(a), index, axis=0) for a in (t.start, t.count))
        shares = keras.random.uniform((index.shape[0], 3), seed=seed)
        example = start + _below(shares[:, 0], count)
        room = ops.cast(ops.take(ops.convert_to_tensor(t.room), example, axis=0), "int32")
        # A cell comes from as far up and left as the pair moves; what comes from outside is padding.
        lines = ops.expand_dims(ops.arange(side, dtype="int32"), 0)
        rows = lines - ops.expand_dims(_below(shares[:, 1], room[:, 0] + 1), 1)
        columns = lines - ops.expand_dims(_below(shares[:, 2], room[:, 1] + 1), 1)
        rows, columns = ops.expand_dims(rows, 2), ops.expand_dims(columns, 1)
        inside = ops.reshape(ops.logical_and(rows >= 0, columns >= 0), (-1, side * side))
        source = ops.reshape(ops.maximum(rows, 0) * side + ops.maximum(columns, 0), (-1, side * side))

        def move(table):
            cells = ops.cast(ops.take(ops.convert_to_tensor(table), example, axis=0), "int32")
            return ops.where(inside, ops.take_along_axis(cells, source, axis=1), 0)

        targets = move(t.outputs)
        puzzle = ops.take(ops.convert_to_tensor(t.puzzle), example, axis=0)
        return {"tokens": move(t.inputs), "targets": targets, "puzzle": puzzle, "loss_mask": targets > 0}


def _below(share, limit):
    """int32 in [0, limit) from a uniform share in [0, 1)."""
    found = ops.cast(ops.floor(share * ops.cast(limit, "float32")), "int32")
    return ops.minimum(found, limit - 1)  # the product may round up


def _orders(shape: tuple, seed):
    """Uniform permutations along the last axis: int32, of that shape."""
    return ops.cast(ops.argsort(keras.random.uniform(shape, seed=seed), axis=-1), "int32")


class Indices:
    """The source of a `Drawn` stream: item i is i."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> int:
        return i


def collate_indices(items: list) -> dict[str, np.ndarray]:
    return {"index": np.asarray(items, np.int32)}
