"""Jobs on published data sets: rows of a reader, asked by an answerer, judged by a rule."""

from pathlib import Path
from typing import Any

from saccade.data.readers import Row, open_rows
from saccade.errors import SaccadeError
from saccade.evaluation.answerers import answerer_of
from saccade.evaluation.harness import harness_of
from saccade.evaluation.record import Job
from saccade.evaluation.rules import rule_of, score_rows, truth_of


def published_job(
    pipeline: Any,
    data: str,
    folder: str | Path | None,
    split: str | None,
    images: str | Path | None,
    num: int | None,
    batch_size: int,
    rule: str | None,
    prompt: str | None,
    max_tokens: int | None,
    threshold: float | None,
    settings: dict,
) -> Job:
    """Predictions for the first `num` rows of a split; a broken row stops the run with its name.

    Args: prompt, max_tokens, rule: None = the harness's.
    Raises: SaccadeError: no folder, a model without the verb, a prompt without `{text}`.
    """
    if folder is None:
        raise SaccadeError(f"{data} needs the folder of its published files: give folder")
    harness = harness_of(data, rule)
    tokens = harness.max_tokens if max_tokens is None else max_tokens
    answerer = answerer_of(pipeline, tokens, threshold)
    verb = rule_of(harness.rule).verb
    if not hasattr(answerer, verb):
        raise SaccadeError(
            f"this model cannot {verb}, which rule {harness.rule} of {data} needs; use another model or rule"
        )
    if prompt is not None and not (answerer.follows or getattr(answerer, "completes", False)):
        raise SaccadeError("prompt is for models that follow instructions, this one takes the text alone")
    template = prompt or (harness.prompt if answerer.follows else "{text}")
    if "{text}" not in template and verb != "caption":
        raise SaccadeError(f"prompt {template!r} has no {{text}}, where the row's text belongs; add it")
    rows = open_rows(data, folder, split, images)
    total = min(len(rows), num or len(rows))
    size = min(batch_size, total)

    def batch(number: int) -> list[Row]:
        return [rows[i] for i in range(number * size, min((number + 1) * size, total))]

    def known(number: int) -> list[dict]:
        return [{"id": row.id, "text": row.text, **truth_of(harness.rule, row)} for row in batch(number)]

    def predict(number: int) -> list[dict]:
        chunk = batch(number)
        truths = [truth_of(harness.rule, row) for row in chunk]
        texts = [template.replace("{text}", row.text) for row in chunk]
        found = getattr(answerer, verb)(chunk, texts)
        if len(found) != len(chunk):
            raise SaccadeError(f"{verb} gave {len(found)} predictions for {len(chunk)} rows; give one a row")
        return [
            {"id": row.id, "text": row.text, **told, **truth}
            for row, told, truth in zip(chunk, found, truths, strict=True)
        ]

    how = {"harness": harness.rule, "prompt": template, **answerer.settings}
    told = {"split": rows.split, "num": total, "batch_size": size, **how}
    return Job({**settings, **told}, total, size, predict, known)


def score(rows: list[dict], settings: dict) -> dict:
    """The scores by the harness's rule from prediction rows alone."""
    return score_rows(rule_of(settings["harness"]), rows)
