"""Commands that need time: train and evaluate."""

from enum import StrEnum

import typer

from saccade.cli.output import JsonOption, print_json, say


class Task(StrEnum):
    vqa = "vqa"
    statement = "statement"
    caption = "caption"
    ground = "ground"
    match = "match"
    retrieve = "retrieve"


def train(
    recipe: str = typer.Argument(metavar="RECIPE", help="A recipe's name (scenes_vlm_hrm) or a Python file."),
    overrides: list[str] | None = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="Such as train.steps=200."
    ),
    smoke: bool = typer.Option(False, "--smoke", help="The smallest run that touches everything."),
    out: str | None = typer.Option(None, "--out", "-o", metavar="DIR", help="Default: runs/RECIPE."),
    json: bool = JsonOption,
) -> None:
    """Train a model by a recipe; the same command continues a run that was cut off."""
    from dataclasses import asdict

    from saccade.train.recipe import run_recipe

    result = run_recipe(recipe, list(overrides or []), smoke, out)
    if json:
        return print_json(asdict(result))
    return say(f"trained: {result}", "bold")


def evaluate(
    model: str = typer.Argument(metavar="MODEL", help="A bundled model's name or a directory."),
    data: str = typer.Option("scenes", "--data", help="A data set: scenes, nlvr."),
    task: Task = typer.Option(Task.vqa, "--task"),
    num: int = typer.Option(5000, "--num", "-n", min=1, help="How many examples."),
    seed: int = typer.Option(99, "--seed", min=0, help="Seed of the examples."),
    out: str | None = typer.Option(None, "--out", "-o", metavar="DIR", help="Also write the result there."),
    json: bool = JsonOption,
) -> None:
    """Measure a model on fresh examples."""
    from pathlib import Path

    import saccade
    from saccade.evaluate import evaluate as measure
    from saccade.files import write_text

    result = measure(saccade.load(model), data=data, task=str(task), num=num, seed=seed)
    if out:
        import json as encoder

        text = encoder.dumps(result, indent=1, default=float) + "\n"
        write_text(Path(out) / f"{data}-{task}.json", text)
    if json:
        return print_json(result)
    return _say_result(result)


def _say_result(result: dict, prefix: str = "") -> None:
    for name, value in result.items():
        if isinstance(value, dict):
            _say_result(value, f"{prefix}{name}.")
        else:
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            say(f"{prefix + name:<32} {shown}")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(train)
    app.command()(evaluate)
