"""The entry: what is measured on what, by which rule, and how it is written down."""

import hashlib
import math
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

import saccade
from saccade import backend
from saccade.data.readers import READERS
from saccade.errors import SaccadeError
from saccade.evaluation import published, scenes
from saccade.evaluation.answers import predict_answers, steps_of
from saccade.evaluation.record import (
    Shard,
    collect,
    merge_rows,
    write_merged,
    write_scores,
)
from saccade.evaluation.rules import rule_of
from saccade.evaluation.scenes import RULES, TASKS
from saccade.metrics.reasoning import halting_row
from saccade.pipeline import check_learned
from saccade.progress import track

DATA = ("scenes", *READERS)
LEARNED = {"panels": "statement"}  # a task -> what the model must have learned, where it has another name
_CHOICES = tuple(step / 4 for step in range(-24, 49))
_UNTOLD = ("max_steps", "weights", "num", "batch_size")  # of settings: not repeated in scores


def evaluate(
    pipeline,
    data: str = "scenes",
    task: str | None = None,
    num: int | None = None,
    seed: int = 99,
    split: str | None = None,
    batch_size: int = 250,
    threshold: float | None = None,
    rerank: int = 32,
    folder: str | Path | None = None,
    orders: int = 1,
    progress: bool = True,
    out: str | Path | None = None,
    name: str | None = None,
    shard: str | None = None,
    images: str | Path | None = None,
    rule: str | None = None,
    prompt: str | None = None,
    max_tokens: int | None = None,
    beams: int = 1,
    **options,
) -> dict[str, Any]:
    """Measure a model; see docs/evaluation.md for the rules.

    Args:
        pipeline: from `saccade.load`; for published data also an answerer, see evaluation.answerers.
        data: "scenes", drawn anew; or a data set of `saccade.data.readers`, in `folder`.
        task: of scenes, one of TASKS, None = vqa. "panels" are statements about NLVR-style scenes. Published
            data has its own.
        num: how many examples; None = all, of scenes 5,000, for `retrieve` 1,000 images.
        split: None = the usual one, of scenes "test".
        seed, **options: of the scene source; see `saccade.data.scenes.Source`.
        batch_size: rows at once.
        threshold: halting logit to exceed; None = the model's, if it reasons in steps.
        rerank: candidates of the dual encoder that the fused model reorders; 0 = none.
        orders: of nlvr judged in steps: how many of the six permutations of each example's panels.
        progress: a bar on standard error, if that is a terminal.
        out: a folder for run.json, predictions.jsonl and scores.json. Predictions are on disk after every
            batch: the same call continues a run that was cut off, and gives the same scores.
        name: what scores.json calls the model.
        shard: "2/4": that part alone, with `out`; `merge(out)` scores all parts together.
        images: of published data: the folder of the pictures, None = `folder`.
        rule, prompt, max_tokens: of published data: instead of the harness's.
        beams: of scene captions: texts compared by beam search, for a captioner; 1 = the likeliest words.
    Returns: the scores, plain values that JSON can hold, with data, rule, decoding and versions; of a shard
        its number and how many rows it has.
    Raises: SaccadeError: an unknown name, a missing folder, an odd gallery, a folder with another run.
    """
    _check(data, task, num, batch_size, rerank, orders, options)
    if beams != 1 and not (data == "scenes" and task == "caption" and hasattr(pipeline, "write")):
        raise SaccadeError(f"beams is {beams}, but only a captioner's captions take it; leave it out")
    part, out = Shard.parse(shard), None if out is None else Path(out)
    if shard is not None and out is None:
        raise SaccadeError(f"shard {shard} needs out, the folder where the parts meet; give out")
    started = time.perf_counter()
    settings: dict[str, Any] = {**({"model": name} if name else {}), "data": data}
    if out is not None:
        settings["weights"] = fingerprint(pipeline)
    if data == "scenes" or (data == "nlvr" and hasattr(pipeline, "reasoner") and rule is None):
        _only_published(data, images=images, rule=rule, prompt=prompt, max_tokens=max_tokens)
        halting = (batch_size, threshold, progress)
        if data == "scenes":
            _only_published(data, folder=folder)
            task, split = task or "vqa", split or "test"
            if hasattr(pipeline, "reasoner"):
                check_learned(pipeline.model, LEARNED.get(task, task))
            else:
                _check_other(pipeline, task, threshold)
            run = scenes.scene_run(pipeline, task, num, seed, split, *halting, options)
            run.beams = beams
            settings |= {"task": task, "split": split, "seed": seed, **options}
        else:
            task = "statement"
            run = scenes.nlvr_run(pipeline, folder, num, orders, *halting)
            settings |= {"task": task, "split": "dev", "orders": orders}
        job = scenes.job_of(run, task, rerank, settings)
    else:
        how = (rule, prompt, max_tokens, threshold, settings)
        job = published.published_job(pipeline, data, folder, split, images, num, batch_size, *how)
    job = replace(job, settings={**job.settings, "versions": environment(pipeline.model)})
    rows = collect(job, part, out, lambda steps, count: track(steps, count, "evaluating", progress))
    if part.count > 1:
        return {"shard": shard, "num": len(rows), "of": job.total, "out": str(out)}
    scores = score(job.settings, rows)
    if out is not None:
        write_scores(out, scores)
        return scores
    return {**scores, "seconds": round(time.perf_counter() - started, 2)}


def merge(folder: str | Path) -> dict[str, Any]:
    """Score a folder of shards, or of one run, from what is in it: no model, no data.

    Writes predictions.jsonl, run.json and scores.json as a run without shards does, to the byte.
    Returns: the scores.
    Raises: SaccadeError: shards or rows are missing, or belong to runs with different settings.
    """
    settings, rows = merge_rows(Path(folder))
    scores = score(settings, rows)
    write_merged(Path(folder), settings, rows)
    write_scores(Path(folder), scores)
    return scores


def score(settings: dict, rows: list[dict]) -> dict[str, Any]:
    """What scores.json says, from the settings of a run and all its rows in order."""
    head = {key: value for key, value in settings.items() if key not in _UNTOLD and key != "versions"}
    tail = {key: head.pop(key) for key in ("decoding", "threshold") if key in head}
    if "harness" in settings:
        rule, measured = rule_of(settings["harness"]).text, published.score(rows, settings)
    else:
        rule = RULES[scenes.rule_name(settings)]
        measured = scenes.score(rows, settings)
    return {**head, "num": len(rows), "rule": rule, **tail, **measured, "versions": settings["versions"]}


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
        _check("scenes", task, num, batch_size, 0, 1, {})
        if task in ("caption", "rationale", "retrieve"):
            raise SaccadeError(
                f"task {task!r} has no answer at every step; choose by vqa, statement, ground, match"
            )
        run = scenes.scene_run(pipeline, task, num, seed, split, batch_size, None, progress, {})
        numbers = run.track(range(run.count), run.count)
        arrays = steps_of([row for number in numbers for row in predict_answers(run, number)])
        traced[task] = arrays["q_halt"], arrays["correct"], arrays["depth"]
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


def fingerprint(pipeline) -> str:
    """A short hash of the weights, and of the halting rule, cycles and whatever else the model's JSON has.

    "" for a model that is no Keras model: its settings are then all that tells runs apart.
    """
    if not isinstance(pipeline.model, keras.Model):
        return ""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr(getattr(pipeline.model, "config", "")).encode())
    for variable in pipeline.model.variables:
        digest.update(f"{variable.shape}{variable.dtype}".encode())
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value))
        digest.update(value.view(np.uint8) if value.ndim else value.tobytes())
    return digest.hexdigest()


def _check(data, task, num, batch_size, rerank, orders, options):
    for what, value, valid in (("data", data, DATA), ("task", task or "vqa", TASKS)):
        if value not in valid:
            raise SaccadeError(f"unknown {what} {value!r}: use one of {', '.join(valid)}")
    for what, value, least in (("num", num, 1), ("batch_size", batch_size, 1), ("rerank", rerank, 0)):
        if value is not None and value < least:
            raise SaccadeError(f"{what} is {value}: use {least} or more")
    if data == "nlvr" and task not in (None, "statement"):
        raise SaccadeError(f"task {task!r}: nlvr has statements only; use task statement")
    if data not in ("scenes", "nlvr") and task is not None:
        raise SaccadeError(f"task {task!r} is of scenes, {data} has its own rule; leave task out")
    if data != "scenes" and options:
        raise SaccadeError(f"{next(iter(options))} is an option of scenes, not of {data}; leave it out")
    if not 1 <= orders <= 6:
        raise SaccadeError(f"orders is {orders}: an nlvr example has 1 to 6 permutations")
    if orders != 1 and data != "nlvr":
        raise SaccadeError(f"orders is {orders}, but {data} has no permutations; leave it out")


def _check_other(pipeline, task: str, threshold: float | None) -> None:
    """What of scenes can be asked of a model that does not reason in steps."""
    known = {"write": "caption", "reply": "vqa", "retrieve": "retrieve"}
    own = [task for verb, task in known.items() if hasattr(pipeline, verb)]
    if not own:
        kind = type(pipeline).__name__
        raise SaccadeError(
            f"a {kind} cannot be measured on scenes; give a VLM-HRM, captioner, CLIP, Flamingo or BLIP-2"
        )
    if task not in own:
        raise SaccadeError(
            f"this model cannot be measured by scenes, task {task}; use scenes, task {' or '.join(own)}"
        )
    if threshold is not None:
        raise SaccadeError("a threshold is given, but this model reasons in no steps; leave it out")


def _only_published(data: str, **given) -> None:
    for what, value in given.items():
        if value is not None:
            raise SaccadeError(f"{what} is for published data, not for {data}; leave it out")
