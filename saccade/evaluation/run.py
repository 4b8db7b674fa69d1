"""The entry: what is measured on what, by which rule, and how it is written down."""

import json
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import saccade
from saccade import backend
from saccade.data.scenes.tasks import Source
from saccade.errors import SaccadeError
from saccade.evaluation.answers import measure_answers, trace_all
from saccade.evaluation.batches import Run, nlvr_items, scene_items
from saccade.evaluation.retrieve import check_gallery, measure_retrieval
from saccade.evaluation.texts import measure_captions, measure_rationales
from saccade.files import write_text
from saccade.metrics.reasoning import halting_row

DATA = ("scenes", "nlvr")
RULES = {
    "vqa": "share of questions whose most probable answer, of the closed set, is the right one",
    "statement": "share of statements judged rightly as true or false",
    "panels": "share of statements about three NLVR-style panels judged rightly as true or false",
    "match": "share of (image, description) pairs judged rightly; half are wrong, 70 % of them as twins",
    "ground": "share of boxes with IoU >= 0.5, both boxes on the model's canvas",
    "caption": "share of captions that the grammar's reader understands and whose every stated fact is true",
    "rationale": "share of rationales that end with the right answer",
    "retrieve": "R@1 among N images in twin pairs, mean of both directions; ties count against the model",
    "nlvr": "share of pictures judged rightly; consistency: share of sentences right on all their pictures",
}
TASKS = tuple(name for name in RULES if name != "nlvr")
_NUM = {"retrieve": 1000}
_REASONER_TASK = {"panels": "statement", "rationale": "vqa", "retrieve": "match"}
_MOST = 1e6
_CHOICES = tuple(step / 4 for step in range(-24, 49))


def evaluate(
    pipeline,
    data: str = "scenes",
    task: str = "vqa",
    num: int | None = None,
    seed: int = 99,
    split: str = "test",
    batch_size: int = 250,
    threshold: float | None = None,
    rerank: int = 32,
    folder: str | Path | None = None,
    orders: int = 1,
    progress: bool = True,
    out: str | Path | None = None,
    name: str | None = None,
    **options,
) -> dict[str, Any]:
    """Measure a pipeline on fresh examples; see docs/evaluation.md for the rules.

    Args:
        pipeline: from `saccade.load`.
        data: "scenes", drawn anew; or "nlvr", the published development split in `folder`.
        task: one of TASKS. "panels" are statements about NLVR-style scenes. nlvr has "statement" alone.
        num: how many examples; None = 5,000, for `retrieve` 1,000 images, for nlvr all.
        seed, split, **options: of the scene source; see `saccade.data.scenes.Source`.
        batch_size: rows that reason at once.
        threshold: halting logit to exceed; None = the model's, and for a captioner, which has none.
        rerank: candidates of the dual encoder that the fused model reorders; 0 = none.
        orders: of nlvr: how many of the six permutations of each example's panels, in the published order.
        progress: a bar on standard error, if that is a terminal.
        out: a folder for scores.json and predictions.jsonl, each written whole or not at all.
        name: what scores.json calls the model.
    Returns: the scores, plain values that JSON can hold, with data, split, seed, rule, decoding and versions.
    Raises: SaccadeError: an unknown name, a missing folder, an odd gallery.
    """
    _check(data, task, num, batch_size, rerank, orders, folder)
    if not hasattr(pipeline, "reasoner"):
        _check_other(pipeline, data, task, threshold)
    started = time.perf_counter()
    run = _plan(pipeline, data, task, num, seed, split, batch_size, threshold, folder, orders, options)
    run.progress = progress
    if task == "retrieve":
        measured, predictions = measure_retrieval(run, rerank)
    elif task == "caption":
        measured, predictions = measure_captions(run)
    elif task == "rationale":
        measured, predictions = measure_rationales(run)
    else:
        measured, predictions = measure_answers(run)
    origin = (
        {"split": split, "seed": seed, **options} if data == "scenes" else {"split": "dev", "orders": orders}
    )
    count = len(predictions)
    scores = {
        **({"model": name} if name else {}),
        **{"data": data, "task": task, **origin, "num": count},
        "rule": RULES["nlvr" if data == "nlvr" else task],
        "decoding": _decoding(run, task, rerank),
        "threshold": run.threshold,
        **measured,
        "seconds": round(time.perf_counter() - started, 2),
        "versions": environment(pipeline.model),
    }
    if out is not None:
        _write(Path(out), scores, predictions)
    return scores


def choose_threshold(
    pipeline,
    tasks: tuple[str, ...] = ("vqa", "statement", "ground", "match"),
    num: int = 2000,
    seed: int = 98,
    split: str = "val",
    tolerance: float = 0.001,
    batch_size: int = 250,
    progress: bool = True,
) -> dict[str, Any]:
    """The halting logit with the fewest mean steps that costs no task more than `tolerance` of its accuracy.

    Args:
        tasks: of TASKS, those that answer at every step; steps are averaged over them.
        tolerance: allowed loss of accuracy against running all steps, as a share.
        The rest is as in `evaluate`. Choose on one split, report on another.
    Returns: threshold, and for each task what `halting_row` gives there, with accuracy_all_steps.
    """
    traced = {}
    for task in tasks:
        _check("scenes", task, num, batch_size, 0, 1, None)
        if task in ("caption", "rationale", "retrieve"):
            raise SaccadeError(
                f"task {task!r} has no answer at every step; choose by vqa, statement, ground, match"
            )
        run = _plan(pipeline, "scenes", task, num, seed, split, batch_size, None, None, 1, {})
        run.progress = progress
        items, arrays = trace_all(run)
        traced[task] = arrays["q_halt"], arrays["correct"], [item.example.depth for item in items]
    # More steps with every threshold: the first that is good enough takes the fewest. Above the highest logit
    # nothing halts early, so the last one always is.
    ceiling = float(math.ceil(max(float(q_halt.max()) for q_halt, *_ in traced.values())))
    for threshold in (*(t for t in _CHOICES if t < ceiling), ceiling):
        rows: dict[str, dict] = {
            task: {**halting_row(*arrays, threshold), "accuracy_all_steps": float(arrays[1][-1].mean())}
            for task, arrays in traced.items()
        }
        if all(row["accuracy_all_steps"] - row["accuracy"] <= tolerance + 1e-9 for row in rows.values()):
            break
    steps = sum(row["mean_steps"] for row in rows.values()) / len(rows)
    origin = {"split": split, "seed": seed, "num": num, "tolerance": tolerance}
    return {"threshold": threshold, "mean_steps": steps, "tasks": rows, **origin}


def environment(model) -> dict[str, str]:
    """What a score or a timing depends on besides the model: versions, device, precision."""
    names = ("keras", "numpy", backend.name())
    return {
        "saccade": saccade.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "device": backend.device_name(),
        "precision": model.dtype_policy.name,
    }


def _check(data, task, num, batch_size, rerank, orders, folder):
    for what, value, valid in (("data", data, DATA), ("task", task, TASKS)):
        if value not in valid:
            raise SaccadeError(f"unknown {what} {value!r}: use one of {', '.join(valid)}")
    for what, value, least in (("num", num, 1), ("batch_size", batch_size, 1), ("rerank", rerank, 0)):
        if value is not None and value < least:
            raise SaccadeError(f"{what} is {value}: use {least} or more")
    if data == "nlvr" and task != "statement":
        raise SaccadeError(f"task {task!r}: nlvr has statements only; use task statement")
    if data == "nlvr" and folder is None:
        raise SaccadeError("nlvr needs the folder that holds dev.jsonl and dev_images.zip: give folder")
    if not 1 <= orders <= 6:
        raise SaccadeError(f"orders is {orders}: an nlvr example has 1 to 6 permutations")


def _check_other(pipeline, data, task, threshold):
    """What can be asked of a model that does not reason in steps."""
    known = {"write": "caption", "retrieve": "retrieve"}
    own = next((task for verb, task in known.items() if hasattr(pipeline, verb)), None)
    if own is None:
        kind = type(pipeline).__name__
        raise SaccadeError(f"a {kind} cannot be measured; give a VLM-HRM, a captioner or a CLIP")
    if (data, task) != ("scenes", own):
        raise SaccadeError(f"this model cannot be measured by {data}, task {task}; use scenes, task {own}")
    if threshold is not None:
        raise SaccadeError(f"threshold is {threshold}, but this model reasons in no steps; leave it out")


def _plan(pipeline, data, task, num, seed, split, batch_size, threshold, folder, orders, options) -> Run:
    if hasattr(pipeline, "reasoner"):
        threshold = float(pipeline.model.config.halt_threshold if threshold is None else threshold)
        threshold = min(max(threshold, -_MOST), _MOST)  # JSON has no infinity
    if data == "nlvr":
        items, count = nlvr_items(folder, num, orders)
        return Run(pipeline, "statement", items, count, batch_size, threshold)
    num = num or _NUM.get(task, 5000)
    style = {"style": "nlvr"} if task == "panels" else {}
    source = Source("statement" if task == "panels" else task, split=split, seed=seed, **style, **options)
    if task == "retrieve":
        check_gallery(num)
    items = scene_items(source, num // 2 if task == "retrieve" else num)
    return Run(pipeline, _REASONER_TASK.get(task, task), items, num, batch_size, threshold)


def _decoding(run: Run, task: str, rerank: int) -> str:
    if run.threshold is None:
        return "greedy" if task == "caption" else "by the dual encoder"
    limit = run.pipeline.model.config.halt_max_steps
    halting = f"halts where the logit exceeds {run.threshold:g}, at most {limit} steps"
    if task in ("caption", "rationale"):
        return f"greedy; {halting}"
    return f"top {rerank} reranked; {halting}" if task == "retrieve" and rerank else halting


def _write(folder: Path, scores: dict, predictions: list[dict]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, default=_number) + "\n" for row in predictions]
    write_text(folder / "predictions.jsonl", "".join(lines))
    # The scores come last: where they are, the predictions are.
    write_text(folder / "scores.json", json.dumps(scores, indent=1, default=_number) + "\n")


def _number(value):
    """A NumPy scalar as Python's own."""
    return value.item()
