"""Benchmarks answered by a word or a letter: POPE (yes or no) and MMStar (A to D)."""

import re
from collections.abc import Sequence

import numpy as np

from saccade.metrics.reasoning import by_group

MMSTAR_PROMPT = (
    "Answer with the option's letter from the given choices directly"  # after question and options
)

_NO = {"no", "No", "not"}
# A letter on its own. "A" before a word is the article, unless the sentence goes on after the letter.
_LETTER = re.compile(
    r"(?<![\w'’-])(?:[B-D]|A(?!\s+(?!(?:is|was|because|since|as|and|or|but)\b)[a-z]))(?![\w'’]|-\w)",
    re.IGNORECASE,
)


def yes_or_no(text: str) -> str:
    """ "no" if the first sentence has the word no, No or not, else "yes": the rule of POPE's own script.

    Everything else is a yes there, also an empty or unrelated text.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if _NO & set(words) else "yes"


def pope_scores(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """`accuracy`; `precision`, `recall`, `f1` of "yes"; `yes_ratio`, the share answered yes; all in [0, 1].

    Precision is 0 if nothing was answered yes, recall if there was nothing to find, F1 if both are.

    Args:
        predictions: N generated texts (see yes_or_no).  labels: N of "yes" or "no".
    Raises: ValueError: numbers differ or are 0 (states them), or another label.
    Source: Li et al. 2023, arXiv:2305.10355.
    """
    _check(predictions, labels, ("yes", "no"))
    said = np.array([yes_or_no(text) == "yes" for text in predictions])
    true = np.array([label == "yes" for label in labels])
    hits = int((said & true).sum())
    return {
        "accuracy": float((said == true).mean()),
        "precision": hits / max(int(said.sum()), 1),
        "recall": hits / max(int(true.sum()), 1),
        "f1": 2 * hits / max(int(said.sum() + true.sum()), 1),
        "yes_ratio": float(said.mean()),
    }


def option_letter(text: str) -> str | None:
    """The first of A to D that stands alone and is no article: "The answer is (b)." -> "B"; None without.

    An "A" or "a" followed by a word is the article, unless that word carries the sentence on ("A is right",
    "A and B"). Letters tied to others by a hyphen or an apostrophe do not stand alone.
    """
    found = _LETTER.search(text)
    return found[0].upper() if found else None


def mmstar_scores(
    predictions: Sequence[str],
    labels: Sequence[str],
    categories: Sequence[str],
    axes: Sequence[str] | None = None,
) -> dict:
    """`accuracy`, `by_category`, if given `by_axis`; `unreadable`, the share without a letter; all in [0, 1].

    A text without a letter is wrong.

    Args:
        predictions: N generated texts (see option_letter), greedy, asked with MMSTAR_PROMPT.  labels: N
            letters A to D.
        categories: N names, of 6 core capabilities.  axes: N names, of 18.
    Raises: ValueError: numbers differ or are 0 (states them), or another label.
    Source: Chen et al. 2024, arXiv:2403.20330.
    """
    _check(predictions, labels, ("A", "B", "C", "D"))
    for names in (categories, axes):
        if names is not None and len(names) != len(labels):
            raise ValueError(
                f"{len(names)} names of categories or axes for {len(labels)} questions: give one each"
            )
    letters = [option_letter(text) for text in predictions]
    right = np.array([letter == label for letter, label in zip(letters, labels, strict=True)], float)
    scores = {
        "accuracy": float(right.mean()),
        "unreadable": float(np.mean([letter is None for letter in letters])),
        "by_category": {name: row["accuracy"] for name, row in by_group(categories, accuracy=right).items()},
    }
    if axes is not None:
        scores["by_axis"] = {name: row["accuracy"] for name, row in by_group(axes, accuracy=right).items()}
    return scores


def _check(predictions: Sequence[str], labels: Sequence[str], known: tuple[str, ...]) -> None:
    if len(predictions) != len(labels) or not len(labels):
        raise ValueError(
            f"{len(predictions)} predictions, {len(labels)} labels: give equally many, at least 1"
        )
    strange = sorted({*labels} - {*known})
    if strange:
        raise ValueError(f"label {strange[0]!r} is none of {', '.join(known)}")
