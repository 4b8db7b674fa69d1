"""Jobs on examples whose truth is a program: the scene world, and NLVR as a VLM-HRM judges it in steps."""

from pathlib import Path
from typing import Any

from saccade.data.scenes.tasks import Source
from saccade.errors import SaccadeError
from saccade.evaluation.answers import predict_answers, score_answers
from saccade.evaluation.batches import Run, nlvr_items, scene_items
from saccade.evaluation.record import Job
from saccade.evaluation.retrieve import check_gallery, predict_retrieval, score_retrieval
from saccade.evaluation.texts import (
    predict_captions,
    predict_rationales,
    predict_replies,
    score_captions,
    score_rationales,
    score_replies,
)
from saccade.recursion.halting import halting_threshold

RULES = {
    "vqa": "share of questions whose most probable answer, of the closed set, is the right one",
    "statement": "share of statements judged rightly as true or false",
    "panels": "share of statements about three NLVR-style panels judged rightly as true or false",
    "match": "share of (image, description) pairs judged rightly; half are wrong, 70 % of them as twins",
    "ground": "share of boxes with IoU >= 0.5, both boxes on the model's canvas",
    "caption": "share of captions that the grammar's reader understands and whose every stated fact is true",
    "rationale": "share of rationales that end with the right answer",
    "retrieve": "R@1 among N images in twin pairs, mean of both directions; ties count against the model",
    "written": "share of questions whose written answer is the right one, word for word",
    "nlvr": "share of pictures judged rightly; consistency: share of sentences right on all their pictures",
}
TASKS = tuple(name for name in RULES if name not in ("nlvr", "written"))
WRITERS = {"caption": predict_captions, "rationale": predict_rationales, "written": predict_replies}
SCORERS = {
    "caption": score_captions,
    "rationale": score_rationales,
    "retrieve": score_retrieval,
    "written": score_replies,
}
_NUM = {"retrieve": 1000}
_REASONER_TASK = {"panels": "statement", "rationale": "vqa", "retrieve": "match"}


def scene_run(
    pipeline: Any,
    task: str,
    num: int | None,
    seed: int,
    split: str,
    batch_size: int,
    threshold: float | None,
    progress: bool,
    options: dict,
) -> Run:
    """Fresh scenes. Raises: SaccadeError: an unknown split or option, an odd gallery."""
    num = num or _NUM.get(task, 5000)
    style = {"style": "nlvr"} if task == "panels" else {}
    source = Source("statement" if task == "panels" else task, split=split, seed=seed, **style, **options)
    if task == "retrieve":
        check_gallery(num)
    items = scene_items(source, num // 2 if task == "retrieve" else num)
    halting = _halting(pipeline, threshold)
    return Run(pipeline, _REASONER_TASK.get(task, task), items, num, batch_size, halting, progress)


def nlvr_run(
    pipeline: Any,
    folder: str | Path | None,
    num: int | None,
    orders: int,
    batch_size: int,
    threshold: float | None,
    progress: bool,
) -> Run:
    """The published development split. Raises: SaccadeError: no folder, or not the published files."""
    if folder is None:
        raise SaccadeError("nlvr needs the folder that holds dev.jsonl and dev_images.zip: give folder")
    items, count = nlvr_items(folder, num, orders)
    halting = _halting(pipeline, threshold)
    return Run(pipeline, "statement", items, count, batch_size, halting, progress)


def job_of(run: Run, task: str, rerank: int, settings: dict) -> Job:
    """Predictions of a run, by a task of TASKS. Args: settings: what is known beside the run."""
    found = {
        **settings,
        "num": run.total,
        "decoding": _decoding(run, task, rerank),
        "threshold": run.threshold,
        "max_steps": getattr(run.pipeline.model.config, "halt_max_steps", None),
        **({"rerank": rerank if run.threshold is not None else 0} if task == "retrieve" else {}),
    }
    if task == "retrieve":  # one gallery: what a text finds depends on every image
        found["batch_size"] = run.size
        return Job(found, run.total, run.total, lambda number: predict_retrieval(run, rerank))
    predict = WRITERS.get(rule_name(found), predict_answers)
    return Job({**found, "batch_size": run.size}, run.total, run.size, lambda number: predict(run, number))


def score(rows: list[dict], settings: dict) -> dict:
    """The scores of a task from prediction rows and settings alone."""
    return SCORERS.get(rule_name(settings), score_answers)(rows, settings)


def rule_name(settings: dict) -> str:
    """Of RULES: the task, but "nlvr" for that data, and "written" for answers in words, of no closed set."""
    if settings["data"] == "nlvr":
        return "nlvr"
    return "written" if settings["task"] == "vqa" and settings["max_steps"] is None else settings["task"]


def _halting(pipeline: Any, threshold: float | None) -> float | None:
    """The halting logit in use; None for a model that does not reason in steps."""
    return halting_threshold(pipeline.model.config, threshold) if hasattr(pipeline, "reasoner") else None


def _decoding(run: Run, task: str, rerank: int) -> str:
    if run.threshold is None:
        writing = "greedy" if run.beams == 1 else f"beam search, {run.beams} beams"
        return "by the dual encoder" if task == "retrieve" else writing
    limit = run.pipeline.model.config.halt_max_steps
    halting = f"halts where the logit exceeds {run.threshold:g}, at most {limit} steps"
    if task in WRITERS:
        return f"greedy; {halting}"
    return f"top {rerank} reranked; {halting}" if task == "retrieve" and rerank else halting
