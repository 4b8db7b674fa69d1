"""The commands `solve sudoku` and `solve maze`."""

from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from saccade.cli.output import JsonOption, plural, print_json, say
from saccade.errors import SaccadeError


class Mode(StrEnum):
    search = "search"
    halting = "halting"
    fixed = "fixed"


ModeOption: Any = typer.Option(
    Mode.search,
    "--mode",
    help="halting: stop when sure; fixed: all steps; search: then try again if rules are broken.",
)
SecondsOption: Any = typer.Option(20.0, "--seconds", min=0.0, help="search: no try begins later.")
SeedOption: Any = typer.Option(0, "--seed", min=0, help="Of the search.")

group = typer.Typer(help="Solve a puzzle, and check the answer against its rules.", no_args_is_help=True)


@group.command()
def sudoku(
    puzzle: str = typer.Argument(metavar="PUZZLE", help="81 characters, a dot for a blank (16 for 4 x 4)."),
    mode: Mode = ModeOption,
    seconds: float = SecondsOption,
    seed: int = SeedOption,
    model: str = typer.Option("trm_sudoku", "--model", "-m", help="A bundled model's name or a directory."),
    json: bool = JsonOption,
) -> None:
    """Solve a Sudoku."""
    _solve("sudoku", puzzle, model, mode, seconds, seed, json)


@group.command()
def maze(
    file: str = typer.Argument(
        metavar="FILE", help="A text file: # wall, dot or space open, S start, G goal."
    ),
    mode: Mode = ModeOption,
    seconds: float = SecondsOption,
    seed: int = SeedOption,
    model: str = typer.Option("trm_maze", "--model", "-m", help="A bundled model's name or a directory."),
    json: bool = JsonOption,
) -> None:
    """Draw a shortest path through a maze."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SaccadeError(f"cannot read the maze {file}: {error}; give a text file") from error
    _solve("maze", text, model, mode, seconds, seed, json)


def _solve(kind: str, text: str, name: str, mode: Mode, seconds: float, seed: int, as_json: bool) -> None:
    from saccade.puzzles import KINDS, load_puzzle_model

    rules = KINDS[kind]
    cells = rules.parse(text)
    rules.check(cells)  # what is wrong with the puzzle is told before the model is loaded
    model = load_puzzle_model(name, kind)
    from saccade.solve import Search  # with the model, after Keras

    solution = model.solve_many(cells[None], str(mode), seed=seed, seconds=seconds)[0]
    if not solution.valid:
        ways = ["another --seed", "another --model"] if mode is Mode.search else ["--mode search"]
        if (
            mode is Mode.search and solution.tries <= Search.rounds
        ):  # else it gave up before its time was over
            ways.insert(0, f"more --seconds than {seconds:g}")
        raise SaccadeError(
            f"the model found no answer that keeps the rules in {plural(solution.steps, 'step')}"
            f"{_tries(solution)}; use {' or '.join(ways)}"
        )
    if as_json:
        side = round(len(solution.grid) ** 0.5)
        return print_json(
            {
                "grid": solution.grid.reshape(side, side).tolist(),
                "valid": solution.valid,
                "steps": solution.steps,
                "confidence": round(solution.confidence, 4),
                "tries": solution.tries,
            }
        )
    say(rules.show(solution.grid), "bold")
    effort = f"{plural(solution.steps, 'step')}, confidence {solution.confidence:.1%}{_tries(solution)}"
    return say(f"valid, {effort}", "dim")


def _tries(solution) -> str:
    return "" if solution.tries == 1 else f", {solution.tries} tries"


def register(app: typer.Typer) -> None:
    """Add this group."""
    app.add_typer(group, name="solve")
