import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.metrics.choice import mmstar_scores, option_letter, pope_scores, yes_or_no

relaxed = settings(deadline=None)  # the machine may be busy


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("No.", "no"),
        ("no, there is none", "no"),
        ("There is not a dog. Yes.", "no"),
        ("Yes, a dog. No cat", "yes"),  # the first sentence alone counts
        ("nothing", "yes"),  # whole words
        ("NO", "yes"),  # as POPE's script has it
        ("", "yes"),
    ],
)
def test_yes_or_no(text, answer):
    assert yes_or_no(text) == answer


def test_pope_by_hand():
    found = pope_scores(["yes", "yes", "no", "no", "yes"], ["yes", "no", "no", "yes", "yes"])
    assert found == pytest.approx(
        {"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 3 / 5}
    )
    nothing = pope_scores(["no"], ["no"])
    assert nothing == {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}


@relaxed
@given(st.lists(st.tuples(st.sampled_from(["yes", "no", ""]), st.sampled_from(["yes", "no"])), min_size=1))
def test_pope_properties(pairs):
    found = pope_scores(*zip(*pairs, strict=True))
    assert all(0 <= value <= 1 for value in found.values())
    if found["precision"] + found["recall"]:
        mean = 2 * found["precision"] * found["recall"] / (found["precision"] + found["recall"])
        assert found["f1"] == pytest.approx(mean)
    shuffled = random.Random(0).sample(pairs, len(pairs))
    assert pope_scores(*zip(*shuffled, strict=True)) == pytest.approx(found)
    assert pope_scores(*zip(*pairs * 2, strict=True)) == pytest.approx(found)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("(b)", "B"),
        ("The answer is C.", "C"),
        ("Answer: D", "D"),
        ("A: a dog", "A"),
        ("A dog is in C", "C"),
        ("It is a cat, so B", "B"),
        ("A is right", "A"),
        ("A and B look alike", "A"),
        ("a", "A"),
        ("I see a", "A"),
        ("A.\nBecause", "A"),
        ("a D-shaped box", None),
        ("an X-ray of Bob's cat", None),
        ("E", None),
        ("", None),
    ],
)
def test_option_letter(text, letter):
    assert option_letter(text) == letter


def test_mmstar_by_hand():
    found = mmstar_scores(
        ["A", "The answer is B", "a cat", "D"],
        ["A", "C", "A", "D"],
        ["math", "math", "logic", "logic"],
        ["algebra", "geometry", "code", "code"],
    )
    assert found == {
        "accuracy": 0.5,
        "unreadable": 0.25,
        "by_category": {"logic": 0.5, "math": 0.5},
        "by_axis": {"algebra": 1.0, "code": 0.5, "geometry": 0.0},
    }
    assert "by_axis" not in mmstar_scores(["A"], ["A"], ["math"])


@relaxed
@given(st.lists(st.tuples(st.text(max_size=12), st.sampled_from("ABCD"), st.sampled_from("xy")), min_size=1))
def test_mmstar_properties(rows):
    found = mmstar_scores(*zip(*rows, strict=True))
    assert 0 <= found["accuracy"] <= 1 - found["unreadable"] + 1e-12
    shuffled = random.Random(0).sample(rows, len(rows))
    assert mmstar_scores(*zip(*shuffled, strict=True))["accuracy"] == pytest.approx(found["accuracy"])
    assert mmstar_scores([label for _, label, _ in rows], *list(zip(*rows, strict=True))[1:])["accuracy"] == 1


def test_errors():
    with pytest.raises(ValueError, match="1 predictions, 2 labels"):
        pope_scores(["yes"], ["yes", "no"])
    with pytest.raises(ValueError, match="label 'maybe' is none of yes, no"):
        pope_scores(["yes"], ["maybe"])
    with pytest.raises(ValueError, match="0 predictions"):
        mmstar_scores([], [], [])
    with pytest.raises(ValueError, match="label 'a' is none of A, B, C, D"):
        mmstar_scores(["A"], ["a"], ["math"])
    with pytest.raises(ValueError, match="2 names"):
        mmstar_scores(["A"], ["A"], ["math", "math"])
