"""Commands that need time: train and evaluate."""

from enum import StrEnum
from typing import Any

import typer

from saccade.cli.look import ThresholdOption, load_pipeline, logit
from saccade.cli.output import JsonOption, print_json, say
from saccade.errors import SaccadeError


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
    model: str | None = typer.Argument(None, metavar="MODEL", help="A bundled model's name or a directory."),
    data: str = typer.Option("scenes", "--data", help="scenes, or a data set: vqa_v2, gqa, nlvr, jsonl, ..."),
    task: Task | None = typer.Option(None, "--task", help="Of the scenes; vqa where none is given."),
    num: int | None = typer.Option(
        None, "--num", "-n", min=1, help="How many: all, of scenes 5000, for retrieve 1000 images."
    ),
    seed: int = typer.Option(99, "--seed", min=0, help="Seed of the scenes."),
    split: str | None = typer.Option(None, "--split", help="Of the data set; of scenes train, val, test."),
    threshold: float | None = ThresholdOption,
    batch_size: int = typer.Option(250, "--batch-size", min=1, help="Rows at once."),
    rerank: int = typer.Option(
        32, "--rerank", min=0, help="retrieve: candidates for the fused model; 0 = none."
    ),
    folder: str | None = typer.Option(
        None, "--folder", metavar="DIR", help="The published files of the data set."
    ),
    images: str | None = typer.Option(
        None, "--images", metavar="DIR", help="Its pictures, if they are not in --folder."
    ),
    orders: int = typer.Option(1, "--orders", min=1, max=6, help="nlvr: permutations of each example."),
    rule: str | None = typer.Option(None, "--rule", help="Instead of the data set's own; jsonl needs one."),
    prompt: str | None = typer.Option(
        None, "--prompt", help="For models that follow one; {text} is the row's text."
    ),
    max_tokens: int | None = typer.Option(None, "--max-tokens", min=1, help="Of a written answer."),
    beams: int = typer.Option(1, "--beams", min=1, help="Of a captioner's captions: beam search."),
    out: str | None = typer.Option(
        None,
        "--out",
        "-o",
        metavar="DIR",
        help="Write predictions.jsonl as they come, and scores.json; the same command continues there.",
    ),
    shard: str | None = typer.Option(None, "--shard", metavar="I/N", help="That part alone, into --out."),
    merge: str | None = typer.Option(
        None, "--merge", metavar="DIR", help="Score the predictions in DIR, all shards together; no MODEL."
    ),
    json: bool = JsonOption,
) -> None:
    """Measure a model on fresh examples or a published data set."""
    if (merge is None) == (model is None):
        raise SaccadeError("give MODEL, or --merge DIR without one")
    if merge is not None:
        from saccade.evaluation import merge as score_folder

        result = score_folder(merge)
    else:
        from saccade.evaluation import evaluate as measure

        assert model is not None
        # What only published data and shards have is passed on where it is given.
        more: dict[str, Any] = {
            "shard": shard,
            "images": images,
            "rule": rule,
            "prompt": prompt,
            "max_tokens": max_tokens,
        }
        result = measure(
            load_pipeline(model, "ask", "retrieve", "caption"),
            data=data,
            task=None if task is None else str(task),
            num=num,
            seed=seed,
            split=split,
            threshold=logit(threshold),
            batch_size=batch_size,
            rerank=rerank,
            folder=folder,
            orders=orders,
            beams=beams,
            out=out,
            name=model,
            **{option: value for option, value in more.items() if value is not None},
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
