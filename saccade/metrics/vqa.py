"""The official VQA score: answers as people wrote them, normalised in the official way, oddities included."""

import re
from collections.abc import Sequence

import numpy as np

from saccade.metrics.reasoning import by_group

_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_PERIOD = re.compile(
    r"(?!<=\d)\.(?!\d)"
)  # (?!<= is meant as (?<! officially too; so a period behind a digit goes
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_NUMBERS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_ARTICLES = ("a", "an", "the")

# The contractions that the official scorer restores. Of one apostrophe: written without it. Of two: without
# either.
_ONE = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's
    isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've
    shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd
    there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've
    when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't
    y'all you'd you'll you're you've""".split()
_TWO = """couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
    something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've""".split()
_CONTRACTIONS = (
    {word.replace("'", ""): word for word in _ONE}
    | {word.replace("'", "", 1): word for word in _TWO}
    | {word[::-1].replace("'", "", 1)[::-1]: word for word in _TWO}
    | dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")
    | dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at")
    | {"somebody'd": "somebodyd"}  # sic
)


def _without_punctuation(text: str) -> str:
    """Marks next to a space, and all marks of a text with a number like 1,000, go; others become a space."""
    found = text
    in_number = _COMMA_IN_NUMBER.search(text)
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if beside_space or in_number else " ")
    return _PERIOD.sub("", found)


def normalize_answer(text: str) -> str:
    """A predicted answer as the official scorer compares it: "The two dogs." -> "2 dogs".

    Punctuation, lower case, numbers up to ten as digits (none as 0), no articles, apostrophes restored.
    Source: VQAEval of https://github.com/GT-Vision-Lab/VQA.
    """
    text = _without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer, in [0, 1]: mean of min(matches / 3, 1) over ways to leave one annotator out.

    The prediction is always normalised. Annotators' answers lose their punctuation if they are not all
    equal, and stay as they are otherwise: they are expected in the form in which the data set publishes them.

    Args:
        prediction: any text.  answers: one for each annotator (10 in VQA), equal ones repeated.
    Raises: ValueError: fewer than 2 answers.
    Source: Antol et al. 2015; Goyal et al. 2017, arXiv:1612.00837; https://visualqa.org/evaluation.html.
    """
    if isinstance(answers, str) or len(answers) < 2:
        raise ValueError(
            f"answers are {answers!r}: leaving one out needs a list of at least 2, one an annotator"
        )
    if len(set(answers)) > 1:
        answers = [_without_punctuation(answer) for answer in answers]
    prediction = normalize_answer(prediction)
    same = np.array([answer == prediction for answer in answers], int)
    return float(np.minimum((same.sum() - same) / 3, 1).mean())


def vqa_scores(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], answer_types: Sequence[str] | None = None
) -> dict:
    """`accuracy`, the mean of vqa_accuracy, in [0, 1], and `by_type`: {yes/no, number, other ...: mean}.

    Args:
        predictions: N texts.  answers: N lists, see vqa_accuracy.  answer_types: N names; None = no
            `by_type`.
    Raises: ValueError: numbers differ (states them), or there is nothing to score.
    """
    counts = [len(column) for column in (predictions, answers, answer_types) if column is not None]
    if len(set(counts)) > 1 or not counts[0]:
        raise ValueError(f"predictions, answers and types number {counts}: give equally many, at least 1")
    each = np.array([vqa_accuracy(text, given) for text, given in zip(predictions, answers, strict=True)])
    scores: dict = {"accuracy": float(each.mean())}
    if answer_types is not None:
        groups = by_group(answer_types, accuracy=each)
        scores["by_type"] = {name: row["accuracy"] for name, row in groups.items()}
    return scores
