"""`saccade solve`: answers, and one clear line for every bad puzzle, before any model is loaded."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from saccade.cli import app
from saccade.data.puzzles import maze, sudoku
from saccade.models.trm import TRM, preset
from saccade.solve import Solution

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLVED = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def run(*words):
    return CliRunner().invoke(app, ["solve", *words])


class Fake:
    """Answers rightly, or with the first answer spoilt."""

    def __init__(self, kind, right=True, tries=3):
        self.rules = {"sudoku": sudoku, "maze": maze}[kind]
        self.right = right
        self.tries = tries

    def solve_many(self, puzzles, mode, seed=0, seconds=None):
        grid = self.rules.check(puzzles[0])
        if not self.right:
            grid = np.roll(grid, 1)
        valid = bool(self.rules.solved(puzzles, grid[None])[0])
        return [
            Solution(
                grid, valid, 5 if mode == "halting" else 16, 0.987, 1 if mode == "halting" else self.tries
            )
        ]


@pytest.fixture
def fake(monkeypatch):
    made = {"right": True}
    monkeypatch.setattr("saccade.puzzles.load_puzzle_model", lambda name, kind: Fake(kind, **made))
    return made


def test_a_sudoku(fake):
    result = run("sudoku", PUZZLE, "--mode", "halting")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "5 3 4  6 7 8  9 1 2"
    assert lines[-1] == "valid, 5 steps, confidence 98.7%"
    assert run("sudoku", PUZZLE).stdout.splitlines()[-1].endswith("3 tries")


def test_json(fake):
    record = json.loads(run("sudoku", PUZZLE, "--json").stdout)
    assert "".join(str(d) for row in record["grid"] for d in row) == SOLVED
    assert record["valid"] is True
    assert (record["steps"], record["tries"]) == (16, 3)


def test_a_maze(fake, tmp_path):
    path = tmp_path / "maze.txt"
    path.write_text("S.#.\n..#.\n#...\n...G\n")
    assert run("maze", str(path), "-m", "fake").stdout.splitlines()[:4] == ["S.#.", "**#.", "#*..", ".**G"]


def test_a_wrong_grid_is_never_shown(fake):
    fake["right"] = False
    result = run("sudoku", PUZZLE)
    assert result.exit_code == 2
    assert "the model found no answer that keeps the rules in 16 steps" in result.output
    assert "5 3 4" not in result.output
    as_json = run("sudoku", PUZZLE, "--json")
    assert list(json.loads(as_json.stdout)) == ["error"]


@pytest.mark.parametrize(
    ("mode", "tries", "advice"),
    [
        ("search", 3, "use more --seconds than 7 or another --seed or another --model"),
        ("search", 129, "129 tries; use another --seed or another --model"),  # time was left
        ("halting", 1, "use --mode search"),
    ],
)
def test_what_could_help_is_said(fake, mode, tries, advice):
    fake |= {"right": False, "tries": tries}
    assert advice in run("sudoku", PUZZLE, "--mode", mode, "--seconds", "7").output


BAD = {
    "length": (PUZZLE[:-2], "this text has 79"),
    "characters": (PUZZLE.replace("5", "q", 1), "'q' at cell 1"),
    "givens": ("55" + PUZZLE[2:], "the digit 5 is given twice"),
    "unsolvable": ("12345678." + "." * 8 + "9" + "." * 63, "has no solution"),
    "ambiguous": ("." * 81, "several solutions"),
    "solved": (SOLVED, "already solved"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_bad_sudokus_are_told_before_a_model_is_loaded(text, message, monkeypatch):
    monkeypatch.setattr("saccade.puzzles.load_puzzle_model", lambda *a: pytest.fail("loaded"))
    result = run("sudoku", text)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("S#\n#G", "no way from start to goal"),
        ("S.\n.", "row 2 of the maze has 1"),
        (None, "cannot read the maze"),
    ],
)
def test_bad_mazes(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr("saccade.puzzles.load_puzzle_model", lambda *a: pytest.fail("loaded"))
    path = tmp_path / "maze.txt"
    if text is not None:
        path.write_text(text)
    result = run("maze", str(path))
    assert result.exit_code == 2
    assert message in result.output


def test_the_bundled_model_solves_a_maze_of_any_side(tmp_path):
    drawn = "\ufeffS##...\n..#.#.\n#...#.\n####..\n.....#\nG###..\n"  # begins as some editors do
    (tmp_path / "maze.txt").write_text(drawn, encoding="utf-8")
    result = run("maze", str(tmp_path / "maze.txt"))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:6] == ["S##***", "**#*#*", "#***#*", "####**", "*****#", "G###.."]


def test_models_that_do_not_fit(tmp_path):
    small = {"dim": 16, "num_heads": 2, "multiple": 8, "h_cycles": 1, "l_cycles": 1, "halt_max_steps": 2}
    TRM(preset("trm_sudoku_4x4", **small)).save(tmp_path / "four")
    result = run("sudoku", PUZZLE, "--model", str(tmp_path / "four"))
    assert "has 81 cells, the model was trained on 16" in result.output
    result = run("sudoku", PUZZLE, "--model", "nothing_of_the_kind")
    assert "no model or directory is called 'nothing_of_the_kind'" in result.output
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "four")])
    assert result.exit_code == 2
    assert "is a model of puzzles; use `saccade solve`" in result.output
