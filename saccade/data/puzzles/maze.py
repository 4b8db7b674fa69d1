"""Mazes on a square grid: reading, labelling, making, mirroring.

A maze is an int8 vector of side * side cells, row by row: WALL, OPEN, START, GOAL; its label has PATH on the
open cells of one shortest path.
"""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from saccade.data.puzzles.moves import Moves
from saccade.errors import SaccadeError, printable

WALL, OPEN, START, GOAL, PATH = 1, 2, 3, 4, 5
CHARACTERS = {"#": WALL, " ": OPEN, ".": OPEN, "S": START, "G": GOAL}
_SHOWN = " #.SG*"
# Of several shortest paths the published labels hold the one that, from the start, goes down where it can,
# else left, else right, else up (all 1,000 published training mazes agree).
_PREFERENCE = ((1, 0), (0, -1), (0, 1), (-1, 0))
SMALLEST, WINDING = 5, 2.5  # of varied mazes: the side, and the way's length in sides
TRIES = 20_000  # random cells that are looked at for one maze
_FAR = np.iinfo(np.int32).max


def parse(text: str) -> np.ndarray:
    """Read a maze drawn with # walls, spaces or dots, S start, G goal, one line a row.

    Returns: int8 (side * side,).
    Raises: SaccadeError: rows of unequal length, not square, another character, or not one S and one G.
    """
    rows = text.rstrip("\n").split("\n") if text.strip() else []
    rows = [row.rstrip("\r") for row in rows]
    if not rows:
        raise SaccadeError("the maze is empty; draw it with # walls, . open, S start, G goal")
    width = max(map(len, rows))
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise SaccadeError(
                f"row {number} of the maze has {len(row)} cells, the widest {width}; make them equal"
            )
        for column, c in enumerate(row, 1):
            if c not in CHARACTERS:
                raise SaccadeError(
                    f"{printable(c)!r} at row {number} column {column} is no # . S G or space; correct it"
                )
    if len(rows) != width:
        raise SaccadeError(f"the maze is {len(rows)} x {width}; make it square")
    return as_grid([CHARACTERS[c] for row in rows for c in row])


def as_grid(maze) -> np.ndarray:
    """A maze given as an array of any shape: int8 (side * side,).

    Raises: SaccadeError: not square, a cell of no kind, or not one start and one goal.
    """
    cells = np.asarray(maze).ravel()
    side = round(len(cells) ** 0.5)
    if not side or side * side != len(cells):
        raise SaccadeError(f"the maze has {len(cells)} cells; make it square")
    _check_kinds(cells[None], GOAL, "the maze")
    for name, kind in (("S", START), ("G", GOAL)):
        count = int((cells == kind).sum())
        if count != 1:
            raise SaccadeError(f"the maze has {count} cells {name}; draw exactly one")
    return cells.astype(np.int8)


def _check_kinds(cells, last: int, name: str) -> None:
    wrong = ~np.isin(cells, np.arange(WALL, last + 1))
    if wrong.any():
        raise SaccadeError(f"{name} must hold cells {WALL} to {last}, found {cells[wrong][0]}")


def to_text(maze) -> str:
    """As `parse` reads it, `*` for the path."""
    maze = np.asarray(maze).ravel()
    side = round(len(maze) ** 0.5)
    return "\n".join("".join(_SHOWN[c] for c in row) for row in maze.reshape(side, side))


def load(path) -> tuple[np.ndarray, np.ndarray]:
    """Read the published arrays: an npz file with `inputs` and `labels`, uint8 (N, cells).

    Raises: SaccadeError: unreadable, arrays missing or of other shapes, or cells of another kind.
    """
    try:
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            inputs, labels = file["inputs"], file["labels"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise SaccadeError(
            f"cannot read mazes from {path}: {error}; give an npz with inputs and labels"
        ) from error
    side = round(inputs.shape[-1] ** 0.5) if inputs.ndim == 2 and len(inputs) else 0
    if inputs.shape != labels.shape or not side or side * side != inputs.shape[1]:
        raise SaccadeError(
            f"{path} holds inputs {inputs.shape} and labels {labels.shape}; both must be "
            "(N, side * side), N at least 1"
        )
    for name, array, last in (("inputs", inputs, GOAL), ("labels", labels, PATH)):
        _check_kinds(array, last, f"{path}: {name}")
        for letter, kind in (("S", START), ("G", GOAL)):
            count = (array == kind).sum(1)
            if (count != 1).any():
                row = int((count != 1).argmax())
                raise SaccadeError(
                    f"{path}: {name} {row + 1} has {count[row]} cells {letter} ({kind}); a maze has one"
                )
    return inputs.astype(np.int8), labels.astype(np.int8)


def distances(mazes, kind: int = GOAL) -> np.ndarray:
    """Steps from every cell to the one of a kind: int32 (N, side, side), very large where there is no way."""
    grids = _grids(mazes)
    walls = grids == WALL
    found = np.where(grids == kind, 0, _FAR).astype(np.int32)
    for step in range(1, grids[0].size):
        front = found == step - 1
        if not front.any():
            break
        beside = np.zeros_like(front)
        for move in _PREFERENCE:
            beside |= _shift(front, move, False)
        found[beside & ~walls & (found == _FAR)] = step
    return found


def label(mazes) -> np.ndarray:
    """The published label of each maze: int8 (N, cells).

    Raises: SaccadeError: a maze has no way from start to goal (names the first).
    """
    grids = _grids(mazes)
    left = distances(mazes)
    rows, columns = (axis.copy() for axis in np.nonzero(grids == START)[1:])
    every = np.arange(len(grids))
    blocked = left[every, rows, columns] == _FAR
    if blocked.any():
        which = "the maze" if len(grids) == 1 else f"maze {int(blocked.argmax()) + 1}"
        raise SaccadeError(f"{which} has no way from start to goal; open a wall between them")
    padded = np.pad(left, ((0, 0), (1, 1), (1, 1)), constant_values=_FAR)
    answers = grids.copy()
    while True:
        here = left[every, rows, columns]
        walking = here > 1
        if not walking.any():
            return answers.reshape(len(grids), -1)
        moved = ~walking
        for down, right in _PREFERENCE:
            go = ~moved & (padded[every, rows + 1 + down, columns + 1 + right] == here - 1)
            rows, columns = rows + go * down, columns + go * right
            moved |= go
        answers[every[walking], rows[walking], columns[walking]] = PATH


def check(maze) -> np.ndarray:
    """The published label of one maze. Raises: SaccadeError: see `as_grid`; no way from start to goal."""
    return label(as_grid(maze)[None])[0]


def solved(mazes, answers) -> np.ndarray:
    """Whether each answer draws one shortest path and no more: int (N, cells) each -> bool (N,)."""
    grids, drawn = _grids(mazes), _grids(answers)
    path = drawn == PATH
    kept = ((drawn == grids) | (path & (grids == OPEN))).all((1, 2))
    start, goal = distances(mazes, START), distances(mazes, GOAL)
    length = np.where(grids == START, goal, 0).sum((1, 2))
    # Every cell drawn is on some shortest path, there are as many as one path has, and each but the start
    # touches one that is a step nearer to the start: that is one path.
    on_path = path & (start.astype(np.int64) + goal == length[:, None, None])
    count = path.sum((1, 2))
    chain = path | (grids == START) | (grids == GOAL)
    touching = np.zeros(grids.shape, int)
    for move in _PREFERENCE:
        touching += _shift(chain, move, False) & (_shift(start, move, -1) == start - 1)
    linked = ((touching >= 1) | ~chain | (grids == START)).all((1, 2))
    return kept & (length < _FAR) & (on_path == path).all((1, 2)) & (count == length - 1) & linked


def mirrors(mazes) -> np.ndarray:
    """All eight turns and mirror images: int8 (N, 8, cells), the first the maze itself."""
    grids = _grids(mazes)
    turned = [np.rot90(grids, k, (1, 2)) for k in range(4)]
    images = turned + [grid[:, :, ::-1] for grid in turned]
    return np.stack([image.reshape(len(grids), -1) for image in images], axis=1)


def draw_moves(rng: np.random.Generator, mazes) -> Moves:
    """One of the eight turns and mirror images for each of int (B, cells)."""
    count, cells = mazes.shape
    images = mirrors(np.arange(cells)[None])[0]
    names = np.tile(np.arange(PATH + 1), (count, 1))
    return Moves(names, images[rng.integers(len(images), size=count)])


def generate(
    rng: np.random.Generator, side: int = 30, walls: float = 0.37, least: float = 1
) -> tuple[np.ndarray, np.ndarray]:
    """A random maze and its label: start and goal lie as far apart as a random start allows.

    Args: walls: share of cells that are walls, as in the published mazes.  least: sides that the way has;
        others are thrown away (3 is reached by 1.5 % of 30 x 30, by 0.25 % of 6 x 6).
    Raises: SaccadeError: none of TRIES has such a way.
    """
    for _ in range(TRIES):
        cells = np.where(rng.random(side * side) < walls, WALL, OPEN).astype(np.int8)
        free = np.flatnonzero(cells == OPEN)
        if len(free) < 2:
            continue
        cells[rng.choice(free)] = START
        away = distances(cells[None], START)[0].ravel()
        reached = np.where(away < _FAR, away, -1)
        if reached.max() >= least * side:  # else the start was shut in, or all ways are short: try again
            cells[rng.choice(np.flatnonzero(reached == reached.max()))] = GOAL
            return cells, check(cells)
    raise SaccadeError(
        f"none of {TRIES:,} random mazes of side {side} has a way of {least:g} sides; lower least, or walls "
        f"({walls:g})"
    )


def generate_many(
    rng: np.random.Generator, count: int, side: int = 30, varied: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """`generate`, count times: int8 (count, cells) each.

    Args: varied: two of three are of any side from SMALLEST on and lie anywhere on the board, which is wall
        around them; one of these two winds: its way is WINDING sides long, or longer.
    """
    if varied:
        ways = generate, _smaller, _winding
        pairs = [ways[number % len(ways)](rng, side) for number in range(count)]
    else:
        pairs = [generate(rng, side) for _ in range(count)]
    mazes, labels = zip(*pairs, strict=True)
    return np.stack(mazes), np.stack(labels)


def _smaller(rng: np.random.Generator, side: int, least: float = 1) -> tuple[np.ndarray, ...]:
    own = int(rng.integers(min(SMALLEST, side), side + 1))
    return _on_board(rng, generate(rng, own, least=least), side)


def _winding(rng: np.random.Generator, side: int) -> tuple[np.ndarray, ...]:
    return _smaller(rng, side, least=WINDING)


def _on_board(rng: np.random.Generator, pair, side: int) -> tuple[np.ndarray, ...]:
    grids = _grids(pair)
    own = grids.shape[1]
    top, left = rng.integers(side - own + 1, size=2)
    board = np.full((len(grids), side, side), WALL, np.int8)
    board[:, top : top + own, left : left + own] = grids
    return tuple(board.reshape(len(grids), -1))


def _grids(mazes) -> np.ndarray:
    mazes = np.asarray(mazes)
    side = round(mazes.shape[-1] ** 0.5)
    return mazes.reshape(-1, side, side)


def _shift(grids, move, fill):
    """What stands one move back of each cell, `fill` outside: moved[r, c] = grids[r - down, c - right]."""
    down, right = move
    padded = np.pad(grids, ((0, 0), (1, 1), (1, 1)), constant_values=fill)
    side = grids.shape[1]
    return padded[:, 1 - down : 1 - down + side, 1 - right : 1 - right + side]
