"""A trained puzzle model and what a user does with it: `saccade.load("trm_sudoku").solve(puzzle)`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saccade.data.puzzles import maze, sudoku
from saccade.errors import SaccadeError


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of puzzle: how to read, check, compare, turn and show one."""

    parse: Callable
    check: Callable
    solved: Callable
    draw_moves: Callable
    show: Callable


KINDS = {
    "sudoku": Kind(sudoku.parse, sudoku.check, sudoku.solved, sudoku.draw_moves, sudoku.to_rows),
    "maze": Kind(maze.parse, maze.check, maze.solved, maze.draw_moves, maze.to_text),
}
WIDE = 128  # channels from which a CPU gains by bfloat16
_KIND_OF_VOCABULARY = {10: "sudoku", 5: "sudoku", maze.PATH + 1: "maze"}


class PuzzleModel:
    """A TRM or HRM trained on Sudoku or mazes.

    Args: model: built.
    Raises: SaccadeError: trained on something else (ARC tasks need their own puzzle embeddings).
    """

    def __init__(self, model):
        from saccade.solve import Solver  # brings Keras, which reading and checking a puzzle need not

        vocabulary = model.config.vocab_size
        if vocabulary not in _KIND_OF_VOCABULARY:
            raise SaccadeError(
                f"a model of {vocabulary} kinds of cells solves neither Sudoku (10) nor mazes (6)"
            )
        self.model = model
        self.kind = _KIND_OF_VOCABULARY[vocabulary]
        self.solver = Solver(model)
        self._solvers = {model.config.seq_len: self.solver}  # of boards of other sides, as they come

    def solve(self, puzzle, mode: str = "search", seed: int = 0, seconds: float | None = None):
        """Solve one puzzle, given as text or as an array of cells, and check the answer.

        The puzzle itself is checked first, by exact methods: that it has one solution (a maze: a way).

        Args: mode: see Solver.solve.  seconds: of `search`, see Search.
        Returns: a Solution; look at `valid`: the model may fail.
        Raises: SaccadeError: unreadable, contradictory, ambiguous, already solved, without a way, or of a
            size this model was not made for.
        """
        kind = KINDS[self.kind]
        cells = kind.parse(puzzle) if isinstance(puzzle, str) else np.asarray(puzzle).ravel()
        self._check_size(len(cells))
        kind.check(cells)
        return self.solve_many(cells[None], mode, seed=seed, seconds=seconds)[0]

    def solve_many(
        self,
        puzzles,
        mode: str = "halting",
        slots: int | None = None,
        seed: int = 0,
        seconds: float | None = None,
    ) -> list:
        """Solve int (N, cells) puzzles: Solutions. Answers are checked, of puzzles only shape and range.

        Raises: SaccadeError: no integers (N, cells), another size, other cells; see Solver.solve.
        """
        from saccade.solve import Search

        kind = KINDS[self.kind]
        puzzles = np.asarray(puzzles)
        if puzzles.ndim != 2 or not np.issubdtype(puzzles.dtype, np.integer):
            raise SaccadeError(
                f"puzzles of shape {puzzles.shape} and type {puzzles.dtype} are no integers (N, cells); read "
                f"texts with saccade.data.puzzles.{self.kind}.parse and stack them"
            )
        solver = self.solver_for(puzzles.shape[1])
        last = self.model.config.vocab_size - 1
        if len(puzzles) and not 0 <= puzzles.min() <= puzzles.max() <= last:
            raise SaccadeError(
                f"puzzles must hold cells 0 to {last}, found {puzzles.min()} to {puzzles.max()}"
            )
        search = Search(moves=kind.draw_moves, seconds=seconds)
        return solver.solve(puzzles, kind.solved, mode, slots, search=search, seed=seed)

    def solver_for(self, cells: int):
        """The Solver for puzzles of so many cells; each size compiles once.

        Raises: SaccadeError: the model was not made for them.
        """
        from saccade.solve import Solver

        self._check_size(cells)
        if cells not in self._solvers:
            self._solvers[cells] = Solver(self.model.resized(cells))
        return self._solvers[cells]

    def _check_size(self, cells: int) -> None:
        config = self.model.config
        if cells != config.seq_len and not config.any_side:
            raise SaccadeError(
                f"this puzzle has {cells} cells, the model was trained on {config.seq_len}; give one of that "
                "size, or another model"
            )
        if not cells or round(cells**0.5) ** 2 != cells:
            raise SaccadeError(f"this puzzle has {cells} cells, which is no square board; make it square")


def read_puzzle_model(folder) -> PuzzleModel:
    """The model of a directory that a puzzle recipe wrote. Raises: SaccadeError: see Model.load."""
    from saccade import backend
    from saccade.model import read_config
    from saccade.models.trm import HRM, TRM

    record = read_config(folder)
    kind = HRM if record.get("model") == "HRM" else TRM
    # Wide products take half the time in bfloat16. Narrow ones gain nothing, and lose answers by rounding:
    # trm_sudoku, 32 wide, with 3 h_cycles solves 85 % instead of 90 % of 192 of the hardest.
    wide = record.get("config", {}).get("dim", 0) >= WIDE
    dtype = "mixed_bfloat16" if wide and backend.multiplies_bfloat16() else "float32"
    return PuzzleModel(kind.load(folder, dtype=dtype))


def load_puzzle_model(name_or_folder, kind: str) -> PuzzleModel:
    """As `saccade.load`, for a model of one kind. Raises: SaccadeError: it is a model of another kind."""
    from saccade.pipeline import load

    model = load(name_or_folder)
    found = model.kind if isinstance(model, PuzzleModel) else "vision and language"
    if found != kind:
        raise SaccadeError(f"{name_or_folder} is a model of {found}, not of {kind}; give another --model")
    return model
