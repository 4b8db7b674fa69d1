"""Heads on stored features, by the official rule of their task."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from saccade import backend
from saccade.data.readers import Row
from saccade.errors import SaccadeError
from saccade.evaluation.record import dumps, write_scores
from saccade.evaluation.rules import RULES, rule_of, score_rows, truth_of
from saccade.features import FeatureSet
from saccade.files import write_text
from saccade.metrics.retrieval import caption_ranks
from saccade.progress import track

# The rule of each task: a head's `decode` must give what the rule reads.
RULE_OF = {
    "vqa": "vqa",
    "grounding": "grounding",
    "matching": "retrieval",
    "captioning": "caption",
    "dense_captioning": "dense_captions",
    "dialogue": "dialogue",
}


def evaluate_head(
    head,
    features: FeatureSet,
    rows: Sequence[Row],
    answers: Sequence[str] | None = None,
    rule: str | None = None,
    predict: Callable[[dict], Sequence] | None = None,
    batch_size: int = 64,
    progress: bool = True,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Score a head by the official rule of its task.

    Args:
        head: of saccade.heads.  features: row i is of `rows[i]`.
        rows: of a data set, with what the rule compares with. For matching, rows of one `group` (of one `id`
            where it is empty) share a picture, and its features are those of the first.
        answers: of vqa: the words of the answer indices.
        rule: None = that of the task in RULE_OF; "exact" for questions with a single answer.
        predict: see `predictions`.
        batch_size: rows at once; one program, the last batch is filled up.
        out: a folder for predictions.jsonl and scores.json, each written whole.
    Returns: task, rule, num and the rule's scores, plain values.
    Raises: SaccadeError: numbers of rows differ, nothing to score, an unknown rule, words missing.
    """
    task = str(head.config.task)
    if len(features) != len(rows) or not len(rows) or batch_size < 1:
        raise SaccadeError(f"{len(features)} features for {len(rows)} rows; give one a row, at least 1")
    if rule is None and task not in RULE_OF:
        raise SaccadeError(f"task {task!r} has no rule of its own; give rule, one of {', '.join(RULES)}")
    name = rule or RULE_OF[task]
    scorer = rule_of(name)
    if name == "retrieval":
        table = _queries(head, _batches(features, batch_size, progress), rows)
    else:
        found = predictions(head, features, answers, predict, batch_size, progress)
        if task == "grounding" and predict is None and features.placements is not None:
            found = [p.to_image(box).tolist() for p, box in zip(features.placements, found, strict=True)]
        table = [
            {"id": row.id, "text": row.text, "prediction": value, **truth_of(name, row)}
            for row, value in zip(rows, found, strict=True)
        ]
    table = [{"index": index, **row} for index, row in enumerate(table)]
    scores = {
        "task": task,
        "harness": name,
        "num": len(rows),
        "rule": scorer.text,
        **score_rows(scorer, table),
    }
    if out is not None:
        write_text(Path(out) / "predictions.jsonl", "".join(dumps(row) + "\n" for row in table))
        write_scores(Path(out), scores)
    return scores


def predictions(
    head,
    features: FeatureSet,
    answers: Sequence[str] | None = None,
    predict: Callable[[dict], Sequence] | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> list:
    """What a head says of each row, as `score_predictions` wants it.

    Args:
        answers, batch_size: see evaluate_head.
        predict: a batch of features -> a prediction a row, for heads that generate (captioning, dense
            captioning); None = what the head's outputs decode to, of dialogue the scores of its candidates.
    """
    decode = predict or _decoder(head, str(head.config.task), answers)
    batches = _batches(features, batch_size, progress)
    return [p for batch, count in batches for p in list(decode(batch))[:count]]


def _batches(features: FeatureSet, batch_size: int, progress: bool) -> Iterator[tuple[dict, int]]:
    size = min(batch_size, len(features))
    starts = range(0, len(features), size)
    for start in track(starts, len(starts), "evaluating", progress):
        yield _filled(features, np.arange(start, min(start + size, len(features))), size)


def _filled(features: FeatureSet, indices: np.ndarray, size: int) -> tuple[dict, int]:
    """A batch of `size` rows, the last repeated, and how many of them are meant."""
    spare = np.repeat(indices[-1:], size - len(indices))
    return features[np.concatenate([indices, spare])], len(indices)


def _call(head) -> Callable[[dict], dict]:
    call = backend.compiled(lambda batch: head(batch), head)
    return lambda batch: keras.tree.map_structure(ops.convert_to_numpy, call(batch))


def _decoder(head, task: str, answers) -> Callable[[dict], Sequence]:
    call = _call(head)
    if task == "vqa":
        if answers is None or len(answers) != head.config.num_answers:
            given = "none" if answers is None else len(answers)
            raise SaccadeError(f"answers are {given}, the head has {head.config.num_answers}; give its words")
        return lambda batch: head.decode(call(batch), list(answers))
    if task == "grounding":
        return lambda batch: [box.tolist() for box in head.decode(call(batch))[0]]
    if task == "dialogue":
        return lambda batch: call(batch)["candidate_scores"]
    return lambda batch: head.decode(call(batch))


def _queries(head, batches, rows: Sequence[Row]) -> list[dict]:
    """A row for each picture and each text: the rank at which it finds what belongs to it."""
    embed, sides = _call(head), ("image_embeddings", "text_embeddings")
    parts = []
    for batch, count in batches:
        outputs = embed(batch)
        parts.append([np.asarray(outputs[side], np.float64)[:count] for side in sides])
    images, texts = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    names = [row.group or row.id for row in rows]
    first = {name: names.index(name) for name in dict.fromkeys(names)}
    place = {name: at for at, name in enumerate(first)}
    similarity = images[list(first.values())] @ texts.T
    to_text, to_image = caption_ranks(similarity, [place[name] for name in names])
    found = [
        {"id": name, "way": "image_to_text", "prediction": int(rank)}
        for name, rank in zip(first, to_text, strict=True)
    ]
    return found + [
        {"id": row.id, "way": "text_to_image", "prediction": int(rank)}
        for row, rank in zip(rows, to_image, strict=True)
    ]
