"""Puzzles and a TRM or HRM -> the numbers of a report, from one pass in which nothing halts."""

from pathlib import Path

import numpy as np

from saccade.analysis import choose
from saccade.analysis.collect import sigmoid
from saccade.analysis.numbers import breakdown, buckets, common
from saccade.analysis.record import Board, Card, Part
from saccade.data.puzzles import maze, sudoku
from saccade.errors import SaccadeError
from saccade.metrics.reasoning import at_step, calibration_error, halting_steps, spearman
from saccade.progress import track
from saccade.puzzles import KINDS
from saccade.recursion.halting import halting_threshold

RULES = {
    "sudoku": "share of puzzles whose answer is full, keeps the rules and keeps every given",
    "maze": "share of mazes in which exactly one shortest path is drawn",
}
_EMPTIEST, _FULLEST = 0.28, 0.5  # givens of the puzzles that are made, as shares of the cells


def make_puzzles(kind: str, cells: int, num: int, seed: int) -> np.ndarray:
    """`num` puzzles, int8 (num, cells), a function of the seed; Sudokus with few givens and with many."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, cells)))
    if kind == "maze":
        return maze.generate_many(rng, num, round(cells**0.5))[0]
    givens = rng.integers(round(_EMPTIEST * cells), round(_FULLEST * cells) + 1, size=num)
    return np.stack([sudoku.generate(rng, round(cells**0.25), int(count))[0] for count in givens])


def read_puzzles(model, file, num: int | None) -> np.ndarray:
    """The first `num` puzzles of a file: a Sudoku a line, or mazes as an npz.

    Raises: SaccadeError: unreadable, or none in it.
    """
    puzzles = sudoku.read(file) if model.kind == "sudoku" else maze.load(file)[0]
    if not len(puzzles):
        raise SaccadeError(f"{file} holds no puzzle; give a file with some")
    return puzzles[:num]


def difficulty_of(kind: str, puzzles: np.ndarray) -> np.ndarray:
    """int (N,): blank cells of a Sudoku, steps of a maze's shortest path. More is harder."""
    if kind == "sudoku":
        return (puzzles == 0).sum(axis=1)
    return np.where(puzzles == maze.START, maze.distances(puzzles).reshape(puzzles.shape), 0).sum(axis=1)


def collect_boards(
    model, puzzles: np.ndarray, threshold: float | None, batch_size: int, progress: bool
) -> Part:
    """One puzzle model. Arguments as `saccade.analysis.analyse`; puzzles: int8 (N, cells)."""
    threshold = halting_threshold(model.model.config, threshold)
    found = _trace(model.solver_for(puzzles.shape[1]), puzzles, batch_size, progress)
    solved = KINDS[model.kind].solved
    correct = np.stack([solved(puzzles, cells) for cells in found["cells"]])
    confidence = sigmoid(found["q_halt"])
    steps = halting_steps(found["halting"], threshold)
    right, belief = at_step(correct, steps), at_step(confidence, steps)
    hard = difficulty_of(model.kind, puzzles)
    level = _level(model.kind, puzzles.shape[1])
    labels = [level(int(value)) for value in hard]
    order = [level(value) for value in range(int(hard.max()) + 1)].index
    sure = at_step(found["halting"], steps) > threshold
    ends = np.where(sure, "sure, and wrong", "out of steps").tolist()
    scores = {
        "accuracy": float(right.mean()),
        "mean_steps": float(steps.mean()),
        "accuracy_all_steps": float(correct[-1].mean()),
        "max_steps": len(correct),
        "spearman_steps_depth": spearman(steps, hard),
        "calibration_error": calibration_error(belief, right),
    }

    def card(row: int) -> Card:
        verdict, name = "solved" if right[row] else "not solved", f"{model.kind}-{row}"
        return Card(name, labels[row], "solved", verdict, int(steps[row]), float(belief[row]))

    names = ("givens", "By blank cells") if model.kind == "sudoku" else ("path", "By length of the path")
    return Part(
        task=model.kind,
        rule=RULES[model.kind],
        decoding=f"one try; halts where the logit exceeds {threshold:g}, at most {len(correct)} steps",
        scores=scores,
        difficulty="blank cells" if model.kind == "sudoku" else "steps of the path",
        breakdowns=(breakdown(*names, labels, right, steps, order),),
        confusions=(),
        failures=choose.by_kind(right, ends, card),
        cases=tuple(
            _board(model.kind, puzzles[row], {k: v[:, row] for k, v in found.items()}, card(row), why)
            for row, why in choose.corners(right, steps, labels)
        ),
        **common(found["halting"], correct, confidence, hard, level, threshold),
    )


def _level(kind: str, cells: int):
    """A difficulty -> its range: four ranges between what is usual."""
    if kind == "sudoku":
        edges = sorted({round(cells * share) for share in (0.58, 0.64, 0.7)})
        return buckets(edges, " blank")
    side = round(cells**0.5)
    return buckets([round(side * share) for share in (1.5, 2, 3)], " steps")


def _trace(solver, puzzles: np.ndarray, batch_size: int, progress: bool) -> dict[str, np.ndarray]:
    """`solver.trace` in batches of one shape, the last filled up with its own rows."""
    size, parts = min(batch_size, len(puzzles)), []
    starts = range(0, len(puzzles), size)
    for start in track(starts, len(starts), "analysing", progress):
        some = puzzles[start : start + size]
        found = solver.trace(np.resize(some, (size, some.shape[1])))
        parts.append({name: values[:, : len(some)] for name, values in found.items()})
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def settling(cells: np.ndarray) -> np.ndarray:
    """int (L,): the first step, from 1, from which each cell kept the answer of the last. cells: (k, L)."""
    same = np.flip(np.logical_and.accumulate(np.flip(cells == cells[-1], axis=0)), axis=0)
    return same.argmax(axis=0) + 1


def _board(kind: str, puzzle: np.ndarray, found: dict, card: Card, why: str) -> Board:
    side = round(len(puzzle) ** 0.5)
    cells = found["cells"]
    own = cells[: card.steps]
    truths = sudoku.solutions(puzzle, 1) if kind == "sudoku" else [maze.label(puzzle[None])[0]]
    # A puzzle of a file may have no solution, and a solved maze another path: nothing is wrong there.
    correct = card.answer == card.truth
    truth = own[-1] if correct or not truths else truths[0]
    square = (side, side)
    return Board(
        card=card,
        why=why,
        correct=correct,
        kind=kind,
        given=puzzle.reshape(square),
        answer=own[-1].reshape(square),
        truth=truth.reshape(square),
        settled=settling(own).reshape(square),
        halting=sigmoid(found["halting"]),
        changed=(cells[1:] != cells[:-1]).sum(axis=1),
    )


def puzzle_data(model, file: str | Path | None, num: int, seed: int) -> np.ndarray:
    """Those of a file, or made ones."""
    cells = model.model.config.seq_len
    return read_puzzles(model, file, num) if file else make_puzzles(model.kind, cells, num, seed)
