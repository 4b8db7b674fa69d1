"""Tasks that write: captions, rationales of answers, and answers of models that have no closed set."""

import re

import numpy as np

from saccade.data.interleaved import few_shot
from saccade.data.scenes.captions import UnreadableError, caption_is_true, facts
from saccade.evaluation.batches import Run
from saccade.metrics.reasoning import by_group, calibration_error

_CONCLUSION = re.compile(r"\bso (.+?)\.?$")


def predict_captions(run: Run, number: int) -> list[dict]:
    """A caption counts if the reader of the grammar understands it and every fact in it holds.

    Of a captioner, which does not reason in steps, nothing about steps is told.
    """
    items, batch = run.batch(number)
    if hasattr(run.pipeline, "reasoner"):
        result = run.pipeline.reasoner.run(batch, "caption", run.threshold)
        patient = run.pipeline.reasoner.run(batch, "caption", np.inf)
    else:
        result, patient = run.pipeline.write(batch, num_beams=run.beams), None
    rows = []
    for i, item in enumerate(items):
        scene = item.example.scene
        text = _decode(run, result["tokens"][i])
        row = {
            "id": item.id,
            "text": "",
            "truth": item.example.target,
            "prediction": text,
            "correct": caption_is_true(text, scene),
            "readable": is_readable(text),
            "confidence": round(float(np.exp(result["log_probability"][i])), 4),
            "objects": len(scene.objects),
        }
        if patient is not None:
            row["steps"] = int(result["steps"][i])
            row["all_steps"] = caption_is_true(_decode(run, patient["tokens"][i]), scene)
        rows.append(row)
    return rows


def score_captions(rows: list[dict], settings: dict) -> dict:
    """From predictions alone. Args: settings: has `max_steps`, None of a model without steps."""
    accuracy = _column(rows, "correct")
    scores: dict = {"accuracy": float(accuracy.mean())}
    if settings["max_steps"] is not None:
        scores |= {
            "mean_steps": float(_column(rows, "steps").mean()),
            "accuracy_all_steps": float(_column(rows, "all_steps").mean()),
            "max_steps": settings["max_steps"],
        }
    return {
        **scores,
        "unreadable": float(1 - _column(rows, "readable").mean()),
        "distinct": len({row["prediction"] for row in rows}) / len(rows),
        "mean_words": float(np.mean([len(str(row["prediction"]).split()) for row in rows])),
        "calibration_error": calibration_error(_column(rows, "confidence"), accuracy),
        "by_objects": by_group(_column(rows, "objects").astype(int), accuracy=accuracy),
    }


def predict_replies(run: Run, number: int) -> list[dict]:
    """Of a model that answers in words: a question counts if the words are the right answer's."""
    items = run.chunk(number)
    # The last batch is filled up, as others are.
    filled = items + [items[-1]] * (run.size - len(items))
    replies = run.pipeline.reply([few_shot((), item.example.image, item.example.text) for item in filled])
    return [
        {
            "id": item.id,
            "text": item.example.text,
            "truth": item.example.answer,
            "prediction": reply.text,
            "correct": reply.text == item.example.answer,
            "confidence": round(reply.confidence, 4),
            "depth": int(item.example.depth),
            "kind": item.example.kind,
        }
        for item, reply in zip(items, replies[: len(items)], strict=True)
    ]


def score_replies(rows: list[dict], settings: dict) -> dict:
    """From predictions alone."""
    correct = _column(rows, "correct")
    kinds = np.array([row["kind"] for row in rows])
    return {
        "accuracy": float(correct.mean()),
        "calibration_error": calibration_error(_column(rows, "confidence"), correct),
        "by_depth": by_group(_column(rows, "depth").astype(int), accuracy=correct),
        "by_kind": by_group(kinds, accuracy=correct),
    }


def predict_rationales(run: Run, number: int) -> list[dict]:
    """A rationale is right if it ends with the right answer ("so 3"); its steps are compared as text."""
    items, batch = run.batch(number, "rationale")
    written = run.pipeline.reasoner.explain(batch, run.threshold)
    rows = []
    for i, item in enumerate(items):
        text, steps = _decode(run, written["tokens"][i]), int(written["steps"][i])
        answer = run.pipeline.processor.decode_answer(written["probabilities"][steps - 1, i].argmax())
        rows.append(
            {
                "id": item.id,
                "text": item.example.text,
                "truth": item.example.target,
                "prediction": text,
                "correct": conclusion(text) == item.example.answer,
                "exact": text == item.example.target,
                "answer": answer,
                "steps": steps,
                "confidence": round(float(np.exp(written["log_probability"][i])), 4),
                "agrees": conclusion(text) == answer,
                "answer_correct": answer == item.example.answer,
                "depth": item.example.depth,
            }
        )
    return rows


def score_rationales(rows: list[dict], settings: dict) -> dict:
    """From predictions alone. Args: settings: has `max_steps`."""
    correct, exact = _column(rows, "correct"), _column(rows, "exact")
    return {
        "accuracy": float(correct.mean()),
        "exact": float(exact.mean()),
        "agrees_with_answer": float(_column(rows, "agrees").mean()),
        "answer_accuracy": float(_column(rows, "answer_correct").mean()),
        "mean_steps": float(_column(rows, "steps").mean()),
        "max_steps": settings["max_steps"],
        "by_depth": by_group(_column(rows, "depth").astype(int), accuracy=correct, exact=exact),
    }


def conclusion(text: str) -> str:
    """What a rationale ends with: "..., so 3" -> "3"; "" if it concludes nothing."""
    found = _CONCLUSION.search(text.strip())
    return found.group(1).rsplit("so ", 1)[-1] if found else ""


def is_readable(text: str) -> bool:
    """Whether a caption is one that the grammar can say, true or not."""
    try:
        facts(text)
    except UnreadableError:
        return False
    return True


def _decode(run: Run, tokens) -> str:
    return run.pipeline.processor.tokenizer.decode(tokens.tolist())


def _column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], np.float64)
