"""Tasks with an answer at every step: questions, statements, matching, grounding."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from saccade.evaluation.batches import Item, Run
from saccade.metrics.reasoning import (
    at_step,
    by_group,
    calibration_error,
    consistency,
    halting_row,
    halting_steps,
    spearman,
)
from saccade.metrics.region import MIN_IOU, iou

THRESHOLDS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


def trace_all(run: Run) -> tuple[list[Item], dict[str, np.ndarray]]:
    """Every step of every item.

    Returns: the items, without pixels; arrays (K, N): q_halt, confidence,
        correct, choice (an index; a box (K, N, 4) for `ground`), truth (without K), and iou for `ground`.
    """
    parts, items = defaultdict(list), []
    for chunk, batch in run.batches():
        trace = run.pipeline.reasoner.trace(batch, run.task)
        judged = _judge_box(trace, batch) if run.task == "ground" else _judge_choice(trace, batch)
        judged["q_halt"] = np.asarray(trace["q_halt"], np.float32)
        for name, values in judged.items():
            rows = values[: len(chunk)] if name == "truth" else values[:, : len(chunk)]
            parts[name].append(rows)
        items += [_light(item) for item in chunk]
    joined = {name: np.concatenate(a, axis=0 if name == "truth" else 1) for name, a in parts.items()}
    return items, joined


def _light(item: Item) -> Item:
    """The item without pixels: thousands of them are kept."""
    return replace(item, example=replace(item.example, image=None))


def _judge_choice(trace, batch):
    p = np.asarray(trace["probabilities"], np.float32)  # a mixed-precision model gives bfloat16
    choice = p.argmax(axis=-1)
    return {
        "choice": choice,
        "confidence": p.max(axis=-1),
        "correct": choice == batch["answer"],
        "truth": batch["answer"],
    }


def _judge_box(trace, batch):
    boxes = np.asarray(trace["box"], np.float32)
    overlap = iou(boxes, batch["boxes"])
    return {
        "choice": boxes,
        "confidence": np.asarray(trace["confidence"], np.float32),
        "correct": overlap >= MIN_IOU,
        "truth": batch["boxes"],
        "iou": overlap,
    }


def measure_answers(run: Run) -> tuple[dict, list[dict]]:
    """Scores and predictions of one task, from one pass in which nothing halts.

    Halting is applied afterwards, on the host: a row's answer is that of the step at which it would have
    stopped, which is the same computation, so every threshold is measured in one pass.
    """
    items, traced = trace_all(run)
    steps = halting_steps(traced["q_halt"], run.threshold)
    scores = halting_scores(items, traced, steps)
    if run.task == "ground":
        scores["mean_iou"] = float(at_step(traced["iou"], steps).mean())
        scores["mean_iou_all_steps"] = float(traced["iou"][-1].mean())
    if items[0].group:
        right = at_step(traced["correct"], steps)
        groups = [item.group for item in items]
        scores["consistency"] = consistency(groups, right)
        scores["consistency_all_steps"] = consistency(groups, traced["correct"][-1])
        scores["sentences"] = len(set(groups))
    return scores, _predictions(run, items, traced, steps)


def halting_scores(items: list[Item], traced: dict, steps: np.ndarray) -> dict:
    """What halting costs and saves; `items` give depth and kind, `traced` is as from `trace_all`."""
    correct, last = at_step(traced["correct"], steps), traced["correct"][-1]
    confidence = at_step(traced["confidence"], steps)
    depth = np.array([item.example.depth for item in items])
    values = {"accuracy": correct, "mean_steps": steps, "accuracy_all_steps": last}
    scores: dict[str, Any] = {name: float(np.mean(array)) for name, array in values.items()}
    scores |= {
        "max_steps": len(traced["q_halt"]),
        "spearman_steps_depth": spearman(steps, depth),
        "calibration_error": calibration_error(confidence, correct),
        "accuracy_by_step": [float(row.mean()) for row in traced["correct"]],
    }
    if depth.any():  # real data has no programs
        scores["by_depth"] = by_group(depth, **values)
        scores["by_kind"] = by_group([item.example.kind for item in items], **values)
    scores["thresholds"] = [halting_row(traced["q_halt"], traced["correct"], depth, t) for t in THRESHOLDS]
    return scores


def _predictions(run, items, traced, steps):
    choices = traced["choice"][steps - 1, np.arange(len(items))]
    confidence = at_step(traced["confidence"], steps)
    return [
        {
            "id": item.id,
            "text": item.example.text,
            "truth": _word(run, traced["truth"][i]),
            "prediction": _word(run, choices[i]),
            "correct": bool(traced["correct"][steps[i] - 1, i]),
            "steps": int(steps[i]),
            "confidence": round(float(confidence[i]), 4),
        }
        for i, item in enumerate(items)
    ]


def _word(run, value):
    if run.task == "ground":
        return [round(float(side), 4) for side in value]
    return run.pipeline.processor.decode_answer(value) if run.task == "vqa" else ("false", "true")[value]
