"""What is exchanged keeps a sentence as true as it was: read again by the grammar, and run on the new
picture."""

from dataclasses import replace
from random import Random

import pytest

from saccade.data.scenes import panels
from saccade.data.scenes.execute import execute
from saccade.data.scenes.nlvr import IMAGE_ORDERS, permute_groups, sample_nlvr
from saccade.data.scenes.panel_writer import draw
from saccade.data.scenes.panels import PanelStatements, is_clear
from saccade.data.scenes.scene import NLVR_COLORS, NLVR_SHAPES
from saccade.data.scenes.sentences import Sentences
from saccade.data.scenes.symmetry import KINDS, Symmetry, allowed, draw_symmetry


@pytest.fixture(scope="module")
def meaning():
    """Text -> the programs that the grammar draws it for: a reader that shares nothing with `symmetry`."""
    rng, found = Random(7), {}
    for _ in range(30_000):
        for towers in (False, True):
            text, program = draw(rng, towers)
            found.setdefault((text, towers), program)
    return found


def test_a_changed_sentence_is_as_true_of_the_changed_picture(meaning, monkeypatch):
    monkeypatch.setattr(panels, "render", lambda scene: None)
    source, rng = PanelStatements(seed=3), Random(1)
    read = dict.fromkeys(KINDS, 0)
    for i in range(3000):
        example = source[i]
        towers = example.kind == "tower"
        symmetry = draw_symmetry(rng, allowed(example.text, towers))
        text, scene = symmetry.text(example.text), symmetry.scene(example.scene)
        program = meaning.get((text, towers))
        if program is None:
            continue
        assert execute(program, scene) == (example.answer == "true"), (example.text, text, symmetry)
        changed = {
            "colors": symmetry.colors != NLVR_COLORS,
            "shapes": symmetry.shapes != NLVR_SHAPES,
            "mirror": symmetry.mirror,
            "flip": symmetry.flip,
            "turn": symmetry.turn,
        }
        for kind, is_so in changed.items():
            read[kind] += is_so
    assert min(read.values()) > 60, read


@pytest.mark.parametrize(
    ("text", "towers", "kinds"),
    [
        ("There is a box with 3 items and a black one", False, {*KINDS}),
        ("there is a blue circle touching the edge", False, {*KINDS}),
        (
            "There is a blue circle closely touching right wall of a box.",
            False,
            {"colors", "shapes", "mirror", "flip"},
        ),
        ("There is a circle touching the bottom", False, {"colors", "shapes", "mirror"}),
        ("a yellow circle is on a black square", False, {"colors", "shapes", "mirror"}),
        ("There is a blue circle touching the side.", False, {"colors", "shapes", "mirror", "flip"}),
        # a square may be a box
        ("one of the grey square has exactly three items", False, {*KINDS} - {"shapes"}),
        ("There are 2 squares with 1 black item", False, {*KINDS} - {"shapes"}),
        ("a triangle touching the edge of the square", False, {*KINDS} - {"shapes"}),
        ("There is a yellow item right above a black item", False, {"colors", "shapes"}),
        ("the first box has a circle", False, {"colors", "shapes"}),
        ("There is a tower with a black block at the top", True, {"colors"}),
        ("There is a box with only 2 squares.", True, {"colors"}),
        # a word that nobody knows might be a color
        ("There is a box with a bleu item", False, set()),
        ("There is a box with 1 b;ue square", False, set()),
        ("There is a red item", False, set()),
    ],
)
def test_which_changes_a_sentence_bears(text, towers, kinds):
    assert allowed(text, towers) == kinds


def test_words_are_exchanged_as_a_whole():
    symmetry = Symmetry(
        colors=("blue", "yellow", "black"), shapes=("square", "triangle", "circle"), mirror=True
    )
    text = "Two Blacks, blue circles & a YELLOW square touching the right wall; bluetriangle"
    assert symmetry.text(text) == (
        "two blues, yellow squares & a black triangle touching the left wall; bluetriangle"
    )


@pytest.mark.parametrize("towers", [False, True])
def test_pictures_stay_pictures(towers):
    import numpy as np

    rng, draws = np.random.default_rng(0), Random(0)
    for _ in range(60):
        scene = sample_nlvr(rng, towers=towers)
        for order in IMAGE_ORDERS:
            assert set(Symmetry(order).scene(scene).objects) == set(permute_groups(scene, order).objects)
        one = draw_symmetry(draws, KINDS)
        changed = one.scene(scene)
        for item in changed.objects:
            left = 150 * item.group
            x0, y0, x1, y1 = item.box_px
            assert left <= x0 < x1 <= left + 100
            assert 0 <= y0 < y1 <= 100
        for flag in ("mirror", "flip", "turn"):
            twice = replace(Symmetry(), **{flag: True})
            assert twice.scene(twice.scene(scene)) == scene
            assert is_clear(changed, False) == is_clear(scene, False)


def test_of_published_sentences_few_are_refused_and_no_vertical_word_is_turned(shared):
    source = Sentences(shared / "data" / "nlvr", "all")
    refused = 0
    for text, kinds in zip(source.texts, source._kinds, strict=True):
        refused += not kinds
        words = text.lower()
        if {"flip", "turn"} & set(kinds):
            assert not any(
                f" {word} " in f" {words.strip(' .')} "
                for word in (
                    "top",
                    "bottom",
                    "base",
                    "above",
                    "below",
                    "over",
                    "on",
                    "roof",
                    "under",
                    "tower",
                )
            ), text
        if "turn" in kinds:
            assert not any(word in words for word in ("left", "right", "side")), text
        if "shapes" in kinds:
            assert "grey" not in words, text
    assert refused < 0.05 * len(source.texts)
