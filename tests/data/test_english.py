"""Programs in English: fixed sentences, the lexicon, and how many ways there are to say things."""

import re
from random import Random

import pytest

from saccade.data.scenes import TASKS, Source, lexicon, parse, words
from saccade.data.scenes.english import UnsayableError, ask, noun_phrase, refer, state


class Plain(Random):
    """Always the first wording."""

    def random(self):
        return 0.0

    def choice(self, options):
        return options[0]


BLUE = "unique(filter(filter(scene(),shape,ball),color,blue))"


@pytest.mark.parametrize(
    ("program", "question"),
    [
        ("count(scene())", "how many objects are there?"),
        ("count(filter(filter(scene(),shape,cube),color,red))", "how many red cubes are there?"),
        ("exist(filter(filter(scene(),color,orange),size,large))", "is there a large orange object?"),
        ("exist(filter(scene(),color,orange))", "is there an orange object?"),
        (f"query({BLUE},material)", "what is the blue ball made of?"),
        (
            f"query(unique(filter(relate(unique(filter(relate({BLUE},left),shape,cone)),above),shape,star)),color)",
            "what color is the star that is above the cone that is left of the blue ball?",
        ),
        (
            f"count(filter(same({BLUE},size),material,metal))",
            "what is the number of metal objects that have the same size as the blue ball?",
        ),
        (
            "greater(count(filter(scene(),shape,cube)),count(filter(scene(),shape,ball)))",
            "are there more cubes than balls?",
        ),
        (
            "query(unique(nth(filter(scene(),shape,cube),left,2)),size)",
            "what size is the second cube from the left?",
        ),
        (
            "same_attribute(unique(filter(scene(),shape,cube)),unique(filter(scene(),shape,star)),color)",
            "does the cube have the same color as the star?",
        ),
    ],
)
def test_plain_question(program, question):
    assert ask(Plain(), parse(program)) == question


@pytest.mark.parametrize(
    ("program", "statement"),
    [
        ("exist(filter(scene(),shape,cone))", "there is a cone."),
        ("not(exist(filter(scene(),shape,cone)))", "there is no cone."),
        (
            "some_group(equal(count(filter(scene(),color,yellow)),number(2)))",
            "there is a box with exactly two yellow objects.",
        ),
        ("every_group(exist(filter(scene(),shape,circle)))", "every box has a circle."),
        (
            "equal(count_groups(exist(filter(scene(),color,black))),number(1))",
            "exactly one box has a black object.",
        ),
        (
            "and(exist(filter(scene(),shape,cube)),not(exist(exclude(filter(scene(),shape,cube),color,red))))",
            "all cubes are red.",
        ),
    ],
)
def test_plain_statement(program, statement):
    assert state(Plain(), parse(program)) == statement


def test_referring_expression():
    program = parse(f"unique(filter(relate({BLUE},below),shape,cone))")
    assert refer(Plain(), program) == "the cone that is below the blue ball"


def test_an_inner_clause_is_never_bare():
    """ "the cube left of the ball above the cone" has two readings."""
    inner = parse("unique(filter(relate(unique(filter(scene(),shape,cone)),above),shape,ball))")
    outer = parse(f"filter(relate({inner},left),shape,cube)")
    for seed in range(200):
        text = noun_phrase(Random(seed), outer, "the")
        clause = text.split("ball" if "ball" in text else "sphere", 1)[1]
        assert re.match(r" (that|which) is ", clause), text


def test_what_has_no_sentence_says_so():
    with pytest.raises(UnsayableError, match="no sentence"):
        ask(Random(0), parse("not(not(exist(scene())))"))
    with pytest.raises(UnsayableError, match="no words"):
        noun_phrase(Random(0), parse("union(scene(),scene())"), "the")


def test_there_are_more_than_a_hundred_frames():
    tables = (words.QUESTIONS, words.STATEMENTS, words.PANEL_STATEMENTS, words.CAPTIONS, words.FOLLOW_UPS)
    frames = {frame for table in tables for row in table.values() for frame in row}
    assert len(frames) >= 100


@pytest.mark.parametrize("task", TASKS)
def test_lexicon_is_complete(task):
    known = set(lexicon())
    for style in ("world", "nlvr") if task == "statement" else ("world",):
        source = Source(task, style=style, seed=4)
        for index in range(350):
            example = source[index]
            texts = [example.text, example.answer, example.target]
            texts += [text for turn in example.turns for text in turn]
            texts += [phrase for phrase, _ in example.regions]
            said = re.findall(r"[a-z0-9-]+", " ".join(texts).lower())
            assert not set(said) - known, texts


def test_lexicon_is_lower_case_sorted_and_has_no_box_for_a_cube():
    assert list(lexicon()) == sorted(set(lexicon()))
    assert all(word == word.lower() for word in lexicon())
    assert "box" not in words.NOUNS["cube"]
