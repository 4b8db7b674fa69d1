"""The official rules: each reads prediction rows, as they are written, and nothing else.

A row is a dict of plain values: `id`, `prediction`, and what the rule compares it with. Scores do not depend
on the order in which rows were made: they are sorted by `index` before they come here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.data.readers import Row
from saccade.errors import SaccadeError
from saccade.metrics.captions import caption_scores
from saccade.metrics.choice import mmstar_scores, pope_scores
from saccade.metrics.dense import Described, dense_caption_map
from saccade.metrics.dialogue import dialogue_scores, ndcg
from saccade.metrics.reasoning import by_group, consistency
from saccade.metrics.region import MIN_IOU, iou
from saccade.metrics.retrieval import rank_scores
from saccade.metrics.vqa import vqa_scores


def vqa(rows: list[dict]) -> dict:
    """VQA accuracy over ten annotators, answers normalised in the official way; by answer type."""
    types = [row["answer_type"] for row in rows]
    told = types if all(types) else None
    return vqa_scores(_texts(rows), [row["answers"] for row in rows], told)


def exact(rows: list[dict]) -> dict:
    """Share equal to an answer, case, spaces around it and a last period aside; by `kind` and `axis`."""
    said = zip(_texts(rows), rows, strict=True)
    right = np.array([plain(text) in map(plain, row["answers"]) for text, row in said], float)
    return {"accuracy": float(right.mean()), **_families(rows, right)}


def yes_no(rows: list[dict]) -> dict:
    """POPE: accuracy, precision, recall and F1 of "yes", yes-ratio."""
    return pope_scores(_texts(rows), [row["answers"][0] for row in rows])


def letter(rows: list[dict]) -> dict:
    """MMStar: the first letter A to D that stands alone is the right one; by category and axis."""
    labels = [row["answers"][0] for row in rows]
    kinds, axes = ([row[key] for row in rows] for key in ("kind", "axis"))
    return mmstar_scores(_texts(rows), labels, kinds, axes if all(axes) else None)


def caption(rows: list[dict]) -> dict:
    """BLEU-1 to 4, ROUGE-L, CIDEr-D and METEOR (exact, stem) of the corpus, PTB tokens."""
    return caption_scores(_texts(rows), [row["answers"] for row in rows])


def grounding(rows: list[dict]) -> dict:
    """Share of expressions whose box has an IoU of at least 0.5; mean IoU. A row without a box is wrong."""
    boxes = [row["prediction"] or (0, 0, 0, 0) for row in rows]
    overlap = iou(np.array(boxes, np.float64), np.array([row["boxes"][0] for row in rows], np.float64))
    return {"accuracy": float(np.mean(overlap >= MIN_IOU)), "mean_iou": float(overlap.mean())}


def statement(rows: list[dict]) -> dict:
    """Share judged rightly; consistency: share of sentences (`group`) right on all their pictures."""
    judged = [truth_word(text) for text in _texts(rows)]
    right = np.array([word == row["answers"][0] for word, row in zip(judged, rows, strict=True)])
    scores = {
        "accuracy": float(right.mean()),
        "unreadable": float(np.mean([word is None for word in judged])),
    }
    groups = [row["group"] for row in rows]
    if all(groups):
        scores |= {"consistency": consistency(groups, right), "sentences": len(set(groups))}
    return scores


def dialogue(rows: list[dict]) -> dict:
    """VisDial: MRR, R@1/5/10, mean rank over the candidates; NDCG of the rounds that have relevances."""
    scores = _candidate_scores(rows)
    found = dialogue_scores(scores, [row["answer_index"] for row in rows])
    dense = [i for i, row in enumerate(rows) if any(row["relevance"])]
    if dense:
        found["ndcg"] = ndcg(scores[dense], [rows[i]["relevance"] for i in dense])
        found["rounds_with_relevance"] = len(dense)
    return found


def dense_captions(rows: list[dict]) -> dict:
    """Mean AP over IoU .3 to .7 x METEOR 0 to .25, truth merged at IoU .7; METEOR is exact and stem."""
    predictions = []
    for row in rows:
        regions = row["prediction"]
        boxes = np.array([region["box"] for region in regions], np.float64).reshape(-1, 4)
        certainty = np.array([region["score"] for region in regions], np.float64)
        predictions.append(Described(boxes, [region["caption"] for region in regions], certainty))
    truths = [Described(np.array(row["boxes"], np.float64), row["answers"]) for row in rows]
    found = dense_caption_map(predictions, truths)
    found["ap"] = {f"iou {t:g}, meteor {s:g}": value for (t, s), value in found["ap"].items()}
    return found


def retrieval(rows: list[dict]) -> dict:
    """R@1/5/10, median and mean rank both ways; a row is a query: `way`, and `prediction`, the rank."""
    scores: dict[str, Any] = {}
    for way in ("image_to_text", "text_to_image"):
        ranks = np.array([row["prediction"] for row in rows if row["way"] == way])
        if not len(ranks):
            raise SaccadeError(f"there is no query {way}; give both ways")
        scores[way] = {"num": len(ranks), **rank_scores(ranks)}
    return {"r@1": (scores["image_to_text"]["r@1"] + scores["text_to_image"]["r@1"]) / 2, **scores}


@dataclass(frozen=True)
class Rule:
    """score: rows -> scores.  needs: fields of a data set's Row that it compares with.  verb: what a model
    must offer, see saccade.evaluation.answerers."""

    score: Callable[[list[dict]], dict]
    needs: tuple[str, ...]
    verb: str = "answer"

    @property
    def text(self) -> str:
        return " ".join((self.score.__doc__ or "").split())


RULES: Mapping[str, Rule] = {
    "vqa": Rule(vqa, ("answers", "answer_type")),
    "exact": Rule(exact, ("answers", "kind", "axis")),
    "yes_no": Rule(yes_no, ("answers",)),
    "letter": Rule(letter, ("answers", "kind", "axis")),
    "caption": Rule(caption, ("answers",), "caption"),
    "grounding": Rule(grounding, ("boxes",), "locate"),
    "statement": Rule(statement, ("answers", "group"), "judge"),
    "dialogue": Rule(dialogue, ("answer_index", "relevance"), "rank"),
    "dense_captions": Rule(dense_captions, ("answers", "boxes"), "describe"),
    "retrieval": Rule(retrieval, (), "match"),
}
# What an answer may be where a rule knows only so many.
_LABELS = {"yes_no": ("yes", "no"), "letter": ("A", "B", "C", "D"), "statement": ("true", "false")}
_OPTIONAL = ("answer_type", "kind", "axis", "group", "relevance")


def rule_of(name: str) -> Rule:
    """Raises: SaccadeError: no such rule."""
    if name not in RULES:
        raise SaccadeError(f"unknown rule {name!r}; use one of {', '.join(RULES)}")
    return RULES[name]


def truth_of(name: str, row: Row) -> dict:
    """What the rule compares a prediction for this row with, as plain values.

    Raises: SaccadeError: the row does not have it, as in splits whose answers are secret.
    """
    found = {key: _plain(getattr(row, key)) for key in rule_of(name).needs}
    for key, value in found.items():
        if key not in _OPTIONAL and value in (None, []):
            raise SaccadeError(
                f"{row.where} has no {key}, which rule {name} needs; use a split that has them"
            )
    if name in _LABELS and found["answers"][0] not in _LABELS[name]:
        known = ", ".join(_LABELS[name])
        raise SaccadeError(f"{row.where}: answer {found['answers'][0]!r}, rule {name} knows {known} only")
    if name == "vqa" and len(found["answers"]) < 2:
        raise SaccadeError(
            f"{row.where} has {len(found['answers'])} answer, rule vqa needs several; use rule exact"
        )
    return found


def score_predictions(rule: str, predictions: Sequence, rows: Sequence[Row]) -> dict:
    """Score what a head or any other program decoded: `predictions[i]` is for `rows[i]`.

    Args:
        rule: of RULES. vqa, exact, yes_no, letter, caption, statement: texts.  grounding: a box xyxy in
            [0, 1] of the picture, or None.  dialogue: a score for each candidate, -inf for what is none.
            dense_captions: for each picture a list of {"box": xyxy, "score": float, "caption": text}.
    Raises: SaccadeError: an unknown rule, numbers differ, nothing to score, a row without its truth.
    """
    if len(predictions) != len(rows) or not len(rows):
        raise SaccadeError(f"{len(predictions)} predictions for {len(rows)} rows; give one a row, at least 1")
    scorer = rule_of(rule)
    table = [
        {"id": row.id, "prediction": _plain(found), **truth_of(rule, row)}
        for found, row in zip(predictions, rows, strict=True)
    ]
    return score_rows(scorer, table)


def score_rows(rule: Rule, rows: list[dict]) -> dict:
    """The scores of prediction rows. Raises: SaccadeError: the metric cannot use them, with its reason."""
    try:
        scores = rule.score(rows)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise SaccadeError(f"the predictions cannot be scored: {' '.join(reason.split())}") from error
    refused = sum("refused" in row for row in rows)
    return {**scores, "refused": refused / len(rows)} if refused else scores


def plain(text: str) -> str:
    """Lower case, without spaces around it and a last period."""
    return text.strip().rstrip(".").strip().lower()


def truth_word(text: str) -> str | None:
    """ "true" or "false", as the first of true, false, yes, no says; None without."""
    meant = {"true": "true", "yes": "true", "false": "false", "no": "false"}
    words = ("".join(c if c.isalnum() else " " for c in text)).lower().split()
    return next((meant[word] for word in words if word in meant), None)


def _texts(rows: list[dict]) -> list[str]:
    """Raises: ValueError: a prediction is no text."""
    for row in rows:
        if not isinstance(row["prediction"], str):
            raise ValueError(f"the prediction of row {row['id']} is {row['prediction']!r:.60}; give a text")
    return [row["prediction"] for row in rows]


def _families(rows: list[dict], right: np.ndarray) -> dict:
    found = {}
    for key in ("kind", "axis"):
        names = [row[key] for row in rows]
        if all(names):
            groups = by_group(names, accuracy=right)
            found[f"by_{key}"] = {name: group["accuracy"] for name, group in groups.items()}
    return found


def _candidate_scores(rows: list[dict]) -> np.ndarray:
    """float (N, C); a candidate without a score (null, -inf) comes after all others, finite for NDCG."""
    counts = sorted({len(row["prediction"]) for row in rows})
    if len(counts) > 1:
        raise SaccadeError(f"rounds have {counts[0]} and {counts[-1]} scores; give one a candidate")
    scores = np.array([[-np.inf if s is None else s for s in row["prediction"]] for row in rows], np.float64)
    known = np.isfinite(scores)
    floor = scores[known].min() - 1 if known.any() else 0.0
    return np.where(scores == -np.inf, floor, scores)


def _plain(value: Any) -> Any:
    """Arrays, tensors and tuples as lists; -inf, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (str, type(None), bool, int)):
        return value
    if isinstance(value, float):
        return None if value == -np.inf else value
    return _plain(np.asarray(value).tolist())
