"""Commands that need time: train and evaluate."""

from enum import StrEnum

import typer

from saccade.cli.look import ThresholdOption, load_pipeline, logit
from saccade.cli.output import JsonOption, print_json, say


class Task(StrEnum):
    vqa = "vqa"
    statement = "statement"
    panels = "panels"
    match = "match"
    ground = "ground"
    caption = "caption"
    rationale = "rationale"
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
    num: int | None = typer.Option(
        None, "--num", "-n", min=1, help="How many examples: 5000, 1000 images for retrieve, all of nlvr."
    ),
    seed: int = typer.Option(99, "--seed", min=0, help="Seed of the scenes."),
    split: str = typer.Option("test", "--split", help="Of the scenes: train, val, test."),
    threshold: float | None = ThresholdOption,
    batch_size: int = typer.Option(250, "--batch-size", min=1, help="Rows that reason at once."),
    rerank: int = typer.Option(
        32, "--rerank", min=0, help="retrieve: candidates for the fused model; 0 = none."
    ),
    folder: str | None = typer.Option(None, "--folder", metavar="DIR", help="nlvr: where dev.jsonl is."),
    orders: int = typer.Option(1, "--orders", min=1, max=6, help="nlvr: permutations of each example."),
    out: str | None = typer.Option(
        None, "--out", "-o", metavar="DIR", help="Write scores.json and predictions.jsonl there."
    ),
    json: bool = JsonOption,
) -> None:
    """Measure a model on fresh examples."""
    from saccade.evaluation import evaluate as measure

    result = measure(
        load_pipeline(model, "ask", "retrieve", "caption"),
        data=data,
        task=str(task),
        num=num,
        seed=seed,
        split=split,
        threshold=logit(threshold),
        batch_size=batch_size,
        rerank=rerank,
        folder=folder,
        orders=orders,
        out=out,
        name=model,
    )
    if json:
        return print_json(result)
    return _say_result(result)


def _say_result(result: dict, prefix: str = "") -> None:
    for name, value in result.items():
        if isinstance(value, dict):
            _say_result(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for row in value:
                say(f"{prefix + name:<32} " + "  ".join(f"{key} {_shown(item)}" for key, item in row.items()))
        else:
            say(f"{prefix + name:<32} {_shown(value)}")


def _shown(value) -> str:
    if isinstance(value, list):
        return " ".join(_shown(item) for item in value)
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(train)
    app.command()(evaluate)
