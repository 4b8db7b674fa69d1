"""ARC-AGI 1 and 2: reading tasks, putting grids into sequences, augmenting, and voting over augmentations.

A grid is an int8 array (rows, columns) of colors 0 to 9. As a sequence it lies on a 30 x 30 canvas of cells:
PAD, END right of and below the grid, and color + 2.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saccade.errors import SaccadeError

SIDE, COLORS = 30, 10
PAD, END, FIRST = 0, 1, 2
VOCABULARY = FIRST + COLORS


@dataclass(frozen=True)
class Task:
    """Demonstrations and tests: pairs (input, output) of grids; a test's output may be secret: None."""

    name: str
    train: tuple
    test: tuple


@dataclass(frozen=True)
class View:
    """One way to look at a task: turned or mirrored (0 to 7), then recolored: new color of each old one."""

    turn: int
    colors: tuple

    def apply(self, grid: np.ndarray) -> np.ndarray:
        return np.array(self.colors, np.int8)[_turn(grid, self.turn)]

    def undo(self, grid: np.ndarray) -> np.ndarray:
        old = np.argsort(np.array(self.colors)).astype(np.int8)
        return _turn(old[grid], _UNDO[self.turn])


PLAIN = View(0, tuple(range(COLORS)))
_UNDO = (0, 3, 2, 1, 4, 5, 6, 7)  # a mirror image undoes itself


def _turn(grid: np.ndarray, turn: int) -> np.ndarray:
    turned = np.rot90(grid, turn % 4)
    return turned if turn < 4 else turned[:, ::-1]


def read_task(path) -> Task:
    """Read one task's JSON file. Raises: SaccadeError: unreadable or not a task (says where)."""
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SaccadeError(f"cannot read the ARC task {path}: {error}; give a task's JSON file") from error
    return parse_task(record, path.stem)


def parse_task(record, name: str) -> Task:
    """A task from parsed JSON. Raises: SaccadeError: names the task, the pair and what is wrong with it."""
    lists = [record.get(part) for part in ("train", "test")] if isinstance(record, dict) else [None]
    if not all(isinstance(pairs, list) and pairs for pairs in lists):
        raise SaccadeError(
            f"ARC task {name}: no lists `train` and `test`; use the format of the ARC-AGI data"
        )
    parts = {}
    for part in ("train", "test"):
        pairs = []
        for number, pair in enumerate(record[part], 1):
            where = f"ARC task {name}, {part} pair {number}"
            if not isinstance(pair, dict) or "input" not in pair:
                raise SaccadeError(f"{where}: no `input`; a pair is an object with input and output")
            if part == "train" and "output" not in pair:
                raise SaccadeError(f"{where}: no `output`; only tests may lack it")
            output = parse_grid(pair["output"], f"{where}, output") if "output" in pair else None
            pairs.append((parse_grid(pair["input"], f"{where}, input"), output))
        parts[part] = tuple(pairs)
    return Task(name, parts["train"], parts["test"])


def parse_grid(rows, where: str) -> np.ndarray:
    """A grid from JSON. Raises: SaccadeError: ragged, empty, beyond 30 x 30, or a cell that is no color."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise SaccadeError(f"{where}: a grid is a list of rows, and no row is empty")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise SaccadeError(
                f"{where}: row {number} has {len(row)} cells, row 1 has {len(rows[0])}; make them equal"
            )
        for cell in row:
            if type(cell) is not int or not 0 <= cell < COLORS:
                raise SaccadeError(f"{where}: {cell!r} in row {number} is no color; use 0 to {COLORS - 1}")
    if len(rows) > SIDE or len(rows[0]) > SIDE:
        raise SaccadeError(f"{where}: {len(rows)} x {len(rows[0])} exceeds {SIDE} x {SIDE}")
    return np.array(rows, np.int8)


def read_folder(folder) -> list[Task]:
    """Every *.json of a folder, by name. Raises: SaccadeError: there is none, or see `read_task`."""
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise SaccadeError(f"{folder} holds no *.json; give the folder of ARC tasks")
    return [read_task(path) for path in paths]


def encode(grid: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A grid in the canvas's upper left corner, END along its right and lower edge: int8 (side * side,)."""
    rows, columns = grid.shape
    canvas = np.full((side, side), PAD, np.int8)
    canvas[:rows, :columns] = grid + FIRST
    if rows < side:
        canvas[rows, :columns] = END
    if columns < side:
        canvas[:rows, columns] = END
    return canvas.ravel()


def decode(cells: np.ndarray) -> np.ndarray:
    """The largest rectangle of colors in the upper left corner; a canvas without gives a grid of 0 x 0."""
    side = round(len(cells) ** 0.5)
    colored = np.asarray(cells).reshape(side, side) >= FIRST
    widths = np.minimum.accumulate(np.where(colored.all(1), side, (~colored).argmax(1)))
    areas = widths * np.arange(1, side + 1)
    rows = int(areas.argmax()) + 1
    return (np.asarray(cells).reshape(side, side)[:rows, : widths[rows - 1]] - FIRST).astype(np.int8)


def draw_views(rng: np.random.Generator, count: int) -> list[View]:
    """The plain view and count - 1 further, all different; color 0 keeps its place, as published."""
    views, seen = [PLAIN], {PLAIN}
    while len(views) < count:
        colors = (0, *(int(c) + 1 for c in rng.permutation(COLORS - 1)))
        view = View(int(rng.integers(8)), colors)
        if view not in seen:
            seen.add(view)
            views.append(view)
    return views


@dataclass(frozen=True)
class Table:
    """Tasks in all their views, as arrays; every (task, view) is a puzzle with an embedding of its own.

    Args:
        inputs, outputs: int8 (N, cells), all demonstrations.  puzzle: int32 (N,).
        room: int8 (N, 2), rows and columns by which the pair may move on the canvas.
        start, count: int32 (tasks,), where each task's demonstrations stand.
        num_puzzles: rows of the puzzle embedding.
        tests: a dict for each test input in each view: task, test, view, puzzle, cells.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    puzzle: np.ndarray
    room: np.ndarray
    start: np.ndarray
    count: np.ndarray
    num_puzzles: int
    tests: list


def make_table(tasks: list[Task], num_views: int, rng: np.random.Generator, side: int = SIDE) -> Table:
    """Lay out tasks for training and voting.

    Args: num_views: of each task, the plain one included (published: 1,001).
    Raises: SaccadeError: a grid does not fit the canvas of side x side.
    """
    rows, tests, start, count = [], [], [], []
    puzzle = 0
    for task in tasks:
        start.append(len(rows))
        for view in draw_views(rng, num_views):
            for pair in task.train:
                seen = [view.apply(grid) for grid in pair]
                size = np.max([grid.shape for grid in seen], axis=0)
                if (size > side).any():
                    raise SaccadeError(
                        f"ARC task {task.name}: a grid of {size[0]} x {size[1]} exceeds side {side}"
                    )
                rows.append((*(encode(grid, side) for grid in seen), puzzle, side - size))
            for number, (grid, _) in enumerate(task.test):
                cells = encode(view.apply(grid), side)
                tests.append(
                    {"task": task.name, "test": number, "view": view, "puzzle": puzzle, "cells": cells}
                )
            puzzle += 1
        count.append(len(rows) - start[-1])
    inputs, outputs, puzzles, room = (np.stack(column) for column in zip(*rows, strict=True))
    places = [np.array(values, np.int32) for values in (start, count)]
    return Table(inputs, outputs, puzzles.astype(np.int32), room.astype(np.int8), *places, puzzle, tests)


def vote(tests: list[dict], cells: np.ndarray, confidence: np.ndarray, attempts: int = 2) -> dict:
    """The answers most views agree on; among equals the more confident.

    Args:
        tests: of a Table.  cells: int (N, cells), the answer in each view.  confidence: float (N,).
    Returns: (task, test) -> up to `attempts` grids, best first.
    """
    ballots: dict = defaultdict(lambda: defaultdict(list))
    for test, answer, sure in zip(tests, cells, confidence, strict=True):
        grid = test["view"].undo(decode(answer))
        ballots[test["task"], test["test"]][grid.shape, grid.tobytes()].append(float(sure))
    chosen = {}
    for key, votes in ballots.items():
        best = sorted(votes.items(), key=lambda item: (-len(item[1]), -np.mean(item[1])))[:attempts]
        chosen[key] = [np.frombuffer(raw, np.int8).reshape(shape) for (shape, raw), _ in best]
    return chosen


def score(tasks: list[Task], chosen: dict) -> float:
    """pass@k: the mean over tasks of the share of tests for which one of the answers is right.

    Raises: SaccadeError: a test's output is secret.
    """
    shares = []
    for task in tasks:
        hits = []
        for number, (_, output) in enumerate(task.test):
            if output is None:
                raise SaccadeError(
                    f"ARC task {task.name}: the output of test {number + 1} is secret, so no score"
                )
            hits.append(any(np.array_equal(grid, output) for grid in chosen.get((task.name, number), ())))
        shares.append(np.mean(hits))
    return float(np.mean(shares))


def generate(rng: np.random.Generator, side: int = 6) -> Task:
    """A simple task to try things with: every grid is turned and recolored in one hidden way."""
    colors = tuple(int(c) for c in rng.permutation(COLORS))
    rule = View(int(rng.integers(8)), colors)
    pairs = []
    for _ in range(4):
        grid = rng.integers(COLORS, size=rng.integers(2, side, size=2)).astype(np.int8)
        pairs.append((grid, rule.apply(grid)))
    return Task(f"made-{rng.integers(10**6):06d}", tuple(pairs[:3]), tuple(pairs[3:]))
