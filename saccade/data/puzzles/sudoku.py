"""Sudoku: reading, checking, solving, making and turning puzzles around.

A grid is an int8 vector of n * n cells, row by row, 0 = blank; n = 9 in boxes of 3 x 3, or n = 4 in boxes of
2 x 2.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from saccade.data.puzzles.moves import Moves
from saccade.errors import SaccadeError, printable
from saccade.progress import track

BLANKS = ".0_*?xX"
_BOXES = {16: 2, 81: 3}  # cells -> side of a box
_FRAME = set("-+=|")
_WORTH_PROCESSES = 200  # puzzles; below, starting processes takes longer than solving


def parse(text: str) -> np.ndarray:
    """Read a puzzle in the usual forms: one line or nine, `.`, 0, _, *, ? or x for a blank, frames ignored.

    Returns: int8 (81,), or (16,) for a 4 x 4 puzzle.
    Raises: SaccadeError: another length, or another character (names it and its place).
    """
    cells = _characters(text, set())
    if len(cells) not in _BOXES:  # perhaps a row of blanks drawn as dashes looked like a frame
        again = _characters(text, set("+="))
        cells = again if len(again) in _BOXES else cells
    if len(cells) not in _BOXES:
        raise SaccadeError(
            f"a Sudoku has 81 cells (or 16 for 4 x 4), this text has {len(cells)}; "
            "write one character a cell, . for a blank"
        )
    n = _BOXES[len(cells)] ** 2
    allowed = {**dict.fromkeys(BLANKS + "-", 0), **{str(d): d for d in range(1, n + 1)}}
    for place, c in enumerate(cells, 1):
        if c not in allowed:
            raise SaccadeError(
                f"{printable(c)!r} at cell {place} is neither a digit 1 to {n} nor a blank; use . for a blank"
            )
    return np.array([allowed[c] for c in cells], np.int8)


def _characters(text: str, sure: set[str]) -> list[str]:
    """Those of all lines that are no frame, without what stands between cells.

    Args: sure: one of these must be in a line that is a frame; empty = none need.
    """
    lines = ["".join(line.split()) for line in text.splitlines()]
    frames = [set(line) <= _FRAME and (not sure or bool(sure & set(line))) for line in lines]
    kept = (line for line, frame in zip(lines, frames, strict=True) if not frame)
    return [c for line in kept for c in line if c not in "|,;"]


def as_grid(puzzle) -> np.ndarray:
    """A puzzle given as an array of any shape: int8 (cells,).

    Raises: SaccadeError: neither 81 nor 16 cells, or one that is no whole number from 0 to 9 (or 4).
    """
    grid = np.asarray(puzzle).ravel()
    if len(grid) not in _BOXES:
        raise SaccadeError(
            f"a Sudoku has 81 cells (or 16 for 4 x 4), this array has {len(grid)}; 0 is a blank"
        )
    n = _BOXES[len(grid)] ** 2
    wrong = ~np.isin(grid, np.arange(n + 1))
    if wrong.any():
        cell = int(wrong.argmax())
        raise SaccadeError(f"{grid[cell]} at cell {cell + 1} is neither a digit 1 to {n} nor 0 for a blank")
    return grid.astype(np.int8)


def to_text(grid) -> str:
    """One line, `.` for a blank."""
    return "".join(str(int(d)) if d else "." for d in np.asarray(grid).ravel())


def to_rows(grid) -> str:
    """Rows with spaces between boxes, for people."""
    grid = np.asarray(grid).ravel()
    box = _BOXES[len(grid)]
    n = box * box
    rows = []
    for r in range(n):
        text = to_text(grid[r * n : r * n + n])
        rows.append(" ".join(" ".join(text[i : i + box]) + " " for i in range(0, n, box)).rstrip())
        if (r + 1) % box == 0 and r + 1 < n:
            rows.append("")
    return "\n".join(rows)


@cache
def units(cells: int) -> np.ndarray:
    """Cells of every row, column and box: int (3n, n)."""
    box = _BOXES[cells]
    n = box * box
    grid = np.arange(cells).reshape(n, n)
    boxes = grid.reshape(box, box, box, box).transpose(0, 2, 1, 3).reshape(n, n)
    return np.concatenate([grid, grid.T, boxes])


@cache
def _neighbours(cells: int) -> tuple:
    table = units(cells)
    return tuple(
        (
            tuple(sorted({int(p) for unit in table if c in unit for p in unit} - {c})),
            tuple(tuple(int(p) for p in unit) for unit in table if c in unit),
        )
        for c in range(cells)
    )


def conflict(grid) -> tuple[int, int, int] | None:
    """A digit that stands twice in one unit: (digit, cell, other cell), None where there is none."""
    grid = np.asarray(grid).ravel()
    for unit in units(len(grid)):
        for a, b in combinations(unit, 2):
            if grid[a] and grid[a] == grid[b]:
                return int(grid[a]), int(a), int(b)
    return None


def is_solution(puzzle, grid) -> bool:
    """Whether a grid is full, keeps the rules and keeps every given."""
    return bool(solved(np.asarray(puzzle)[None], np.asarray(grid)[None])[0])


def solved(puzzles, grids) -> np.ndarray:
    """`is_solution` for many at once: int (B, cells) each -> bool (B,)."""
    puzzles, grids = np.asarray(puzzles), np.asarray(grids)
    table = units(puzzles.shape[1])
    wanted = np.arange(1, table.shape[1] + 1)
    rules = (np.sort(grids[:, table], axis=-1) == wanted).all((1, 2))
    return rules & ((puzzles == 0) | (puzzles == grids)).all(1)


def solutions(puzzle, limit: int = 2) -> list[np.ndarray]:
    """Up to `limit` solutions, by search with propagation. Exact: fewer than `limit` are all there are."""
    puzzle = np.asarray(puzzle).ravel()
    n = _BOXES[len(puzzle)] ** 2
    masks = [(1 << n) - 1] * len(puzzle)
    for cell, digit in enumerate(puzzle):
        if digit and not _assign(masks, cell, 1 << (int(digit) - 1)):
            return []
    found: list[np.ndarray] = []
    _search(masks, limit, found)
    return found


def _assign(masks: list[int], cell: int, bit: int) -> bool:
    """Put a digit into a cell and follow what it forces. False: a contradiction, masks are then spoilt."""
    neighbours = _neighbours(len(masks))
    if not masks[cell] & bit:
        return False
    queue = [(cell, masks[cell] & ~bit)]
    while queue:
        cell, gone = queue.pop()
        gone &= masks[cell]
        if not gone:
            continue
        left = masks[cell] & ~gone
        if not left:
            return False
        masks[cell] = left
        peers, own_units = neighbours[cell]
        if not left & (left - 1):  # one digit left: no peer may have it
            queue += [(p, left) for p in peers if masks[p] & left]
        while gone:  # each lost digit may now have one place left in a unit
            bit = gone & -gone
            gone ^= bit
            for unit in own_units:
                places = [p for p in unit if masks[p] & bit]
                if not places:
                    return False
                if len(places) == 1 and masks[places[0]] != bit:
                    queue.append((places[0], masks[places[0]] & ~bit))
    return True


def _search(masks: list[int], limit: int, found: list) -> None:
    open_cells = [(m.bit_count(), c) for c, m in enumerate(masks) if m & (m - 1)]
    if not open_cells:
        found.append(np.array([m.bit_length() for m in masks], np.int8))
        return
    _, cell = min(open_cells)
    left = masks[cell]
    while left and len(found) < limit:
        bit = left & -left
        left ^= bit
        trial = masks.copy()
        if _assign(trial, cell, bit):
            _search(trial, limit, found)


def check(puzzle) -> np.ndarray:
    """The only solution of a proper puzzle.

    Raises: SaccadeError: no grid (see `as_grid`), two equal givens in a unit, already solved, no solution, or
        more than one.
    """
    puzzle = as_grid(puzzle)
    n = _BOXES[len(puzzle)] ** 2
    twice = conflict(puzzle)
    if twice:
        digit, a, b = twice
        places = " and ".join(f"row {c // n + 1} column {c % n + 1}" for c in (a, b))
        raise SaccadeError(f"the digit {digit} is given twice, at {places}, in one unit; correct a given")
    if (puzzle > 0).all():
        raise SaccadeError("this Sudoku is already solved: it has no blank; leave some cells blank")
    found = solutions(puzzle)
    if not found:
        raise SaccadeError("this Sudoku has no solution: its givens contradict each other; correct a given")
    if len(found) > 1:
        raise SaccadeError(
            f"this Sudoku has several solutions: its {int((puzzle > 0).sum())} givens decide little; add one"
        )
    return found[0]


def generate(rng: np.random.Generator, box: int = 3, givens: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A random proper puzzle and its solution.

    Args:
        box: 3, or 2 for 4 x 4.  givens: stop taking cells away at so many; 0 = take all that can go.
    """
    n = box * box
    rows, columns = np.divmod(np.arange(n * n), n)
    pattern = ((box * (rows % box) + rows // box + columns) % n + 1).astype(np.int8)
    grid = shuffle(rng, pattern[None], pattern[None])[1][0]
    return _take_away(rng, grid.copy(), givens), grid


def _take_away(rng, puzzle: np.ndarray, givens: int) -> np.ndarray:
    """Cells emptied in random order, where one solution is left, down to so many givens; in place."""
    for cell in rng.permutation(np.flatnonzero(puzzle)):
        if (puzzle > 0).sum() <= givens:
            break
        kept, puzzle[cell] = puzzle[cell], 0
        if len(solutions(puzzle)) != 1:
            puzzle[cell] = kept
    return puzzle


def vary(rng: np.random.Generator, puzzle, taken: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Another proper puzzle near this one, mostly with another solution: new grids; `shuffle` turns old ones.

    A few givens are taken away; one of the grids that this allows (of the first 30) becomes the solution, and
    givens of it are added until it is the only one; then all that are not needed go.

    Args: puzzle: int (cells,), proper.  taken: so many givens; more give easier puzzles.
    Returns: the puzzle and its solution, int8 (cells,) each. Easier than a very hard one: what made it hard
        is lost at the first given.
    """
    puzzle = np.array(puzzle, np.int8)
    puzzle[rng.permutation(np.flatnonzero(puzzle))[:taken]] = 0
    allowed = solutions(puzzle, 30)
    wanted = allowed[rng.integers(len(allowed))]
    while others := [grid for grid in solutions(puzzle) if (grid != wanted).any()]:
        cell = rng.choice(np.flatnonzero(others[0] != wanted))
        puzzle[cell] = wanted[cell]
    return _take_away(rng, puzzle, 0), wanted


def vary_all(puzzles, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`count` variants of each puzzle and their solutions, spread over the processor's cores.

    Some 15 puzzles a second and core. The same seed gives the same.

    Returns: int8 (N * count, cells) each.
    """
    puzzles = np.asarray(puzzles, np.int8)
    jobs = [(puzzle, count, (seed, i)) for i, puzzle in enumerate(puzzles)]
    made = np.concatenate(_spread(_variants, jobs, "making variants"))
    return made[:, 0], made[:, 1]


def _variants(job: tuple) -> np.ndarray:
    """int8 (count, 2, cells)."""
    puzzle, count, seed = job
    rng = np.random.default_rng(seed)
    return np.stack([np.stack(vary(rng, puzzle)) for _ in range(count)])


def shuffle(rng: np.random.Generator, puzzles, grids) -> tuple[np.ndarray, np.ndarray]:
    """Another puzzle of the same kind, its solution moved alike: int (B, cells) each, see `draw_moves`."""
    moves = draw_moves(rng, np.asarray(puzzles))
    return moves.apply(puzzles), moves.apply(grids)


def draw_moves(rng: np.random.Generator, puzzles) -> Moves:
    """For each of int (B, cells): digits renamed, bands, stacks, rows and columns moved, or transposed.

    Source: the augmentation of HRM, arXiv:2506.21734.
    """
    count, cells = puzzles.shape
    box = _BOXES[cells]
    n = box * box
    names = np.concatenate([np.zeros((count, 1), int), _orders(rng, count, n) + 1], axis=1)
    rows, columns = _lines(rng, count, box), _lines(rng, count, box)
    source = rows[:, :, None] * n + columns[:, None]
    flipped = rng.random(count) < 0.5
    source = np.where(flipped[:, None, None], source.transpose(0, 2, 1), source)
    return Moves(names, source.reshape(count, cells))


def _orders(rng, count: int, n: int) -> np.ndarray:
    return np.argsort(rng.random((count, n)), axis=1)


def _lines(rng, count: int, box: int) -> np.ndarray:
    """Orders of n lines that keep bands together: int (count, n)."""
    within = np.argsort(rng.random((count, box, box)), axis=2)
    return (_orders(rng, count, box)[:, :, None] * box + within).reshape(count, box * box)


def read(path) -> np.ndarray:
    """Read a text file with one puzzle a line: int8 (N, cells).

    Raises: SaccadeError: the file cannot be read, is empty or mixes sizes, or a line is no puzzle (names it).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SaccadeError(f"cannot read puzzles from {path}: {error}; give a text file") from error
    puzzles = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                puzzles.append(parse(line))
            except SaccadeError as error:
                raise SaccadeError(f"{path}, line {number}: {error}") from error
    if not puzzles:
        raise SaccadeError(f"{path} holds no puzzle; write one a line")
    if len({len(p) for p in puzzles}) > 1:
        raise SaccadeError(f"{path} mixes puzzles of different sizes; use one size a file")
    return np.stack(puzzles)


def check_all(puzzles) -> np.ndarray:
    """The only solution of each proper puzzle, int8 (N, cells); many are spread over the processor's cores.

    Raises: SaccadeError: see `check`.
    """
    return np.stack(_spread(check, list(puzzles), "checking puzzles"))


def _spread(function, jobs: list, label: str) -> list:
    """The function of every job; of many jobs, in one process a core. A bar shows how far it is."""
    if len(jobs) < _WORTH_PROCESSES:
        return list(track(map(function, jobs), len(jobs), label))
    # An executor, not a Pool: a script without `if __name__ == "__main__"` then fails, where it would hang.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return list(track(pool.map(function, jobs, chunksize=8), len(jobs), label))
