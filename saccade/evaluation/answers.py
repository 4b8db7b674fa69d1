"""Tasks with an answer at every step: questions, statements, matching, grounding."""

from typing import Any

import numpy as np

from saccade.evaluation.batches import Item, Run
from saccade.evaluation.record import short
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


def predict_answers(run: Run, number: int) -> list[dict]:
    """A row for each item of a batch, from one pass in which nothing halts.

    Halting is applied afterwards, on the host: a row's answer is that of the step at which it would have
    stopped, which is the same computation, so every threshold is measured in one pass. A row keeps of every
    step: `halting`, its logit; `right`, 0 or 1; for `ground` also `iou`.
    """
    return rows_of(run, *judge_answers(run, number))


def judge_answers(run: Run, number: int) -> tuple[list[Item], dict[str, np.ndarray]]:
    """Every step of every item of a batch.

    Returns: the items; arrays (K, N): q_halt, confidence, correct, choice (an index; a box (K, N, 4) for
        `ground`), truth (without K), and iou for `ground`.
    """
    chunk, batch = run.batch(number)
    trace = run.pipeline.reasoner.trace(batch, run.task)
    judged = _judge_box(trace, batch) if run.task == "ground" else _judge_choice(trace, batch)
    judged["q_halt"] = np.asarray(trace["q_halt"], np.float32)
    num = len(chunk)  # the last batch is filled up to its shape
    return chunk, {key: a[:num] if key == "truth" else a[:, :num] for key, a in judged.items()}


def rows_of(run: Run, items: list[Item], judged: dict[str, np.ndarray]) -> list[dict]:
    """Predictions, of what `judge_answers` gives."""
    steps = halting_steps(judged["q_halt"], run.threshold)
    return [_row(run, item, i, int(steps[i]), judged["q_halt"], judged) for i, item in enumerate(items)]


def measure_answers(run: Run) -> dict:
    """The scores of a whole run, without files: what a training run looks at as it goes."""
    rows = [row for number in run.track(range(run.count), run.count) for row in predict_answers(run, number)]
    return score_answers(rows, {"threshold": run.threshold})


def _row(run: Run, item: Item, i: int, steps: int, q_halt, judged: dict) -> dict:
    at = steps - 1
    return {
        "id": item.id,
        "text": item.example.text,
        "truth": _word(run, judged["truth"][i]),
        "prediction": _word(run, judged["choice"][at, i]),
        "correct": bool(judged["correct"][at, i]),
        "steps": steps,
        "confidence": short(judged["confidence"][at, i]),
        "depth": int(item.example.depth),
        "kind": item.example.kind,
        **({"group": item.group} if item.group else {}),
        "halting": short(q_halt[:, i]),
        "right": judged["correct"][:, i].astype(int).tolist(),
        **({"iou": judged["iou"][:, i].tolist()} if "iou" in judged else {}),
    }


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


def steps_of(rows: list[dict]) -> dict[str, np.ndarray]:
    """What the rows keep of every step: `q_halt` float32 (K, N), `correct` bool (K, N), `depth` int (N,)."""
    return {
        "q_halt": np.array([row["halting"] for row in rows], np.float32).T,
        "correct": np.array([row["right"] for row in rows], bool).T,
        "depth": np.array([row["depth"] for row in rows], int),
    }


def score_answers(rows: list[dict], settings: dict) -> dict:
    """What halting costs and saves, from predictions alone. Args: settings: has `threshold`."""
    traced = steps_of(rows)
    q_halt, depth = traced["q_halt"], traced["depth"]
    steps = halting_steps(q_halt, settings["threshold"])
    correct, last = at_step(traced["correct"], steps), traced["correct"][-1]
    confidence = np.array([row["confidence"] for row in rows], np.float32)
    values = {"accuracy": correct, "mean_steps": steps, "accuracy_all_steps": last}
    scores: dict[str, Any] = {name: float(np.mean(array)) for name, array in values.items()}
    scores |= {
        "max_steps": len(q_halt),
        "spearman_steps_depth": spearman(steps, depth),
        "calibration_error": calibration_error(confidence, correct),
        "accuracy_by_step": [float(row.mean()) for row in traced["correct"]],
    }
    if depth.any():  # real data has no programs
        scores["by_depth"] = by_group(depth, **values)
        scores["by_kind"] = by_group([row["kind"] for row in rows], **values)
    scores["thresholds"] = [halting_row(q_halt, traced["correct"], depth, t) for t in THRESHOLDS]
    if "iou" in rows[0]:
        overlap = np.array([row["iou"] for row in rows], np.float64).T
        scores["mean_iou"] = float(at_step(overlap, steps).mean())
        scores["mean_iou_all_steps"] = float(overlap[-1].mean())
    if "group" in rows[0]:
        groups = [row["group"] for row in rows]
        scores["consistency"] = consistency(groups, correct)
        scores["consistency_all_steps"] = consistency(groups, last)
        scores["sentences"] = len(set(groups))
    return scores


def _word(run, value):
    if run.task == "ground":
        return [round(float(side), 4) for side in value]
    return run.pipeline.processor.decode_answer(value) if run.task == "vqa" else ("false", "true")[value]
