import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.metrics.vqa import normalize_answer, vqa_accuracy, vqa_scores

relaxed = settings(deadline=None)  # the machine may be busy
answer = st.sampled_from(["yes", "no", "2", "two", "the dog", "dog", "a dog!", "1,000", "dont", "t.v."])
annotators = st.lists(answer, min_size=2, max_size=10)


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("The two dogs.", "2 dogs"),
        (" A red\tand an\nold car ", "red and old car"),
        ("None", "0"),
        ("ten eleven", "10 eleven"),
        ("black/white", "black white"),  # a mark between words becomes a space,
        ("black / white", "black white"),  # beside a space it goes,
        ("x-y, z-w", "x y z w"),  # each mark is judged on its own,
        ("ten-four 1,000", "tenfour 1000"),  # and a number with a comma lets all marks go
        ("3.5", "3.5"),
        ("t.v. 3.", "tv 3"),
        ("dont youre oclock", "don't you're o'clock"),
        ("couldnt've couldn'tve wed've", "couldn't've couldn't've we'd've"),
        ("it's", "it's"),
        ("somebody'd", "somebodyd"),  # as the official table has it
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalisation_by_hand(raw, normal):
    assert normalize_answer(raw) == normal


def test_accuracy_by_hand():
    def accuracy(matches):
        return vqa_accuracy("yes", ["yes"] * matches + ["no"] * (10 - matches))

    assert accuracy(0) == 0
    # One match: left out once, 1/3 else. Two: 1/3 twice, 2/3 else. Three: 2/3 three times, 1 else.
    assert accuracy(1) == pytest.approx(0.3)
    assert accuracy(2) == pytest.approx(0.6)
    assert accuracy(3) == pytest.approx(0.9)
    assert accuracy(4) == accuracy(10) == 1


def test_references_lose_punctuation_only_if_annotators_disagree():
    assert vqa_accuracy("t.v.", ["t.v."] * 10) == 0  # the prediction is "tv", the references stay
    assert vqa_accuracy("t.v.", ["t.v."] * 9 + ["screen"]) == 1
    assert vqa_accuracy("The dog", ["the dog"] * 9 + ["cat"]) == 0  # articles of references stay too
    assert vqa_accuracy("two", ["2"] * 9 + ["3"]) == 1


def test_scores_by_type():
    answers = [["yes"] * 10, ["2"] * 10, ["3"] + ["4"] * 9]
    scores = vqa_scores(["Yes.", "two", "three"], answers, ["yes/no", "number", "number"])
    assert scores == {
        "accuracy": pytest.approx((1 + 1 + 0.3) / 3),
        "by_type": {"number": pytest.approx(0.65), "yes/no": 1.0},
    }
    assert vqa_scores(["Yes."], answers[:1]) == {"accuracy": 1.0}


@relaxed
@given(st.text(max_size=30), annotators, st.integers(0, 99))
def test_bounds_order_and_empty_prediction(text, answers, seed):
    found = vqa_accuracy(text, answers)
    assert 0 <= found <= 1
    assert vqa_accuracy(text, random.Random(seed).sample(answers, len(answers))) == pytest.approx(found)
    assert vqa_accuracy("", answers) == 0


@relaxed
@given(answer, annotators)
def test_one_more_annotator_who_agrees_never_costs_anything(text, answers):
    with_one, with_two = ([*answers, "other", *[normalize_answer(text)] * count] for count in (1, 2))
    assert vqa_accuracy(text, with_two) >= vqa_accuracy(text, with_one)


def test_errors():
    with pytest.raises(ValueError, match="answers are 'yes'"):
        vqa_accuracy("yes", "yes")
    with pytest.raises(ValueError, match="at least 2"):
        vqa_accuracy("yes", ["yes"])
    with pytest.raises(ValueError, match=r"number \[1, 2\]"):
        vqa_scores(["yes"], [["yes"] * 2] * 2)
    with pytest.raises(ValueError, match=r"number \[0, 0\]"):
        vqa_scores([], [])
