"""The command `analyse`."""

import shlex
from typing import Any

import typer

from saccade.cli.look import logit
from saccade.cli.output import JsonOption, print_json, say


def analyse(
    model: str = typer.Argument(
        "vlm_hrm_scenes", metavar="MODEL", help="A bundled model's name, a directory, or a hub name."
    ),
    data: str | None = typer.Option(
        None, "--data", help="scenes, nlvr, sudoku or maze; default: what the model is for."
    ),
    task: list[str] | None = typer.Option(
        None,
        "--task",
        help="vqa, statement, panels, match or ground, several times; default: the first one learned.",
    ),
    num: int | None = typer.Option(
        None, "--num", min=1, help="Examples; default: 500, of nlvr and of a file all, of made puzzles 24."
    ),
    out: str = typer.Option("report.html", "--out", "-o", metavar="REPORT.html", help="The report."),
    formats: str = typer.Option(
        "html", "--formats", help="Some of html,json,svg,png; the others are named after the report."
    ),
    seed: int = typer.Option(99, "--seed", min=0, help="Of scenes and made puzzles."),
    split: str = typer.Option("test", "--split", help="Of scenes: train, val or test."),
    batch_size: int | None = typer.Option(None, "--batch-size", min=1, help="Examples at once."),
    threshold: float | None = typer.Option(
        None, "--threshold", min=0.0, max=1.0, help="Stop when the halting value exceeds this."
    ),
    folder: str | None = typer.Option(None, "--folder", help="Of nlvr: dev.jsonl and dev_images.zip."),
    orders: int = typer.Option(1, "--orders", min=1, max=6, help="Of nlvr: permutations of each example."),
    file: str | None = typer.Option(None, "--file", help="Of puzzles: a Sudoku a line, or mazes as an npz."),
    json: bool = JsonOption,
) -> None:
    """Write a report on how a model reasons: accuracy, halting, calibration, examples, mistakes."""
    import saccade
    from saccade.analysis import analyse as look_into
    from saccade.analysis import write
    from saccade.analysis.run import check_out

    kinds = tuple(dict.fromkeys(part.strip() for part in formats.split(",") if part.strip()))
    check_out(out, kinds)
    given: dict[str, Any] = {
        **{"--data": data, "--num": num, "--seed": seed if seed != 99 else None},
        **{
            "--split": split if split != "test" else None,
            "--batch-size": batch_size,
            "--threshold": threshold,
        },
        **{"--folder": folder, "--orders": orders if orders != 1 else None, "--file": file},
    }
    words = ["saccade", "analyse", model, *(word for name in task or () for word in ("--task", name))]
    words += [str(word) for pair in given.items() if pair[1] is not None for word in pair]
    report = look_into(
        saccade.load(model),
        data,
        tuple(task or ()) or None,
        num,
        seed,
        split,
        batch_size,
        logit(threshold),
        folder,
        orders,
        file,
        name=model,
        command=shlex.join(words),
    )
    written = write(report, out, kinds)
    if json:
        return print_json(report.to_json() | {"written": [str(path) for path in written]})
    for part in report.parts:
        scores = part.scores
        say(
            f"{part.task}: {scores['accuracy']:.1%} right of {part.num}, "
            f"{scores['mean_steps']:.2f} of {scores['max_steps']} steps, "
            f"calibration error {100 * scores['calibration_error']:.1f} points"
        )
    shown = [str(path) for path in written if path.suffix in (".html", ".json")]
    others = len(written) - len(shown)
    return say(" ".join([*shown, *([f"and {others} figures"] if others else [])]), "dim")


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(analyse)
