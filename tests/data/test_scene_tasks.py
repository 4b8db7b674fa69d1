"""Sources: determinism, splits, balance, and that every answer is what the program gives."""

import itertools
import pickle
import re
from collections import Counter

import numpy as np
import pytest

from saccade.data.scenes import (
    ANSWERS,
    TASKS,
    Source,
    caption_is_true,
    depth,
    difficulty,
    execute,
)
from saccade.data.scenes import builders as builders_module
from saccade.data.scenes.job import MAX_PIECES, fits
from saccade.errors import SaccadeError

NUMBER = 500


@pytest.fixture
def undrawn(monkeypatch):
    """Examples without their picture, for tests that read many."""
    monkeypatch.setattr(builders_module, "render", lambda scene: None)


def read(task, number=NUMBER, **options):
    source = Source(task, **options)
    return [source[i] for i in range(number)]


def pieces(text: str) -> int:
    """Words, each part of a hyphenated one, and punctuation marks, each its own."""
    words = re.sub(r"[^a-z0-9]+", " ", text.lower()).split()
    return len(words) + sum(not (c.isalnum() or c.isspace()) for c in text)


def key(example):
    return example.text, example.target, example.answer, example.scene, example.turns, example.regions


@pytest.mark.parametrize("task", TASKS)
def test_same_index_same_example(task):
    one, two = Source(task, seed=3)[11], pickle.loads(pickle.dumps(Source(task, seed=3)))[11]
    assert key(one) == key(two)
    assert np.array_equal(one.image, two.image)
    assert one.image.shape == (one.scene.height_px, one.scene.width_px, 3)
    assert one.image.dtype == np.uint8
    assert one.task == task
    assert one.kind
    assert one.depth >= 1


@pytest.mark.parametrize("task", TASKS)
def test_splits_seeds_and_indices_differ(task, undrawn):
    found = [
        key(example)
        for options in ({}, {"seed": 1}, {"split": "val"}, {"split": "test"})
        for example in read(task, 40, **options)
    ]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("task", "style"), [("vqa", "world"), ("rationale", "world"), ("dialogue", "world")])
def test_answer_is_what_the_program_gives(task, style, undrawn):
    for example in read(task, style=style):
        value = execute(example.program, example.scene)
        said = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        assert example.answer == said, example.text
        assert example.answer in ANSWERS
        assert example.depth == depth(example.program)
        assert pieces(example.text) <= MAX_PIECES["question"]


@pytest.mark.parametrize("style", ["world", "nlvr"])
def test_statement_label_is_what_the_program_gives(style, undrawn):
    examples = read("statement", style=style)
    for example in examples:
        assert example.answer == {True: "true", False: "false"}[execute(example.program, example.scene)]
        assert pieces(example.text) <= MAX_PIECES["statement"]
        assert example.scene.style == style
    assert 0.4 < np.mean([example.answer == "true" for example in examples]) < 0.6


def test_towers_are_only_told_of_towers(undrawn):
    examples = read("statement", style="nlvr")
    towers = [example for example in examples if "tower" in example.text]
    assert len(towers) > 100
    for example in towers:
        assert example.kind.startswith("tower_")
        assert {thing.shape for thing in example.scene.objects} == {"square"}
        assert len({thing.box_px[0] for thing in example.scene.objects}) == 3


def test_vqa_answers_are_balanced_within_each_kind(undrawn):
    by_kind = {}
    for example in read("vqa", 2000):
        by_kind.setdefault(example.kind, Counter())[example.answer] += 1
    assert len(by_kind) >= 14
    for kind, answers in by_kind.items():
        total, most = sum(answers.values()), max(answers.values())
        if total < 60:
            continue
        share = 1 / len(answers)
        assert most / total < share + 4 * (share * (1 - share) / total) ** 0.5, (kind, answers)


def test_yes_and_no_are_balanced_for_each_mention(undrawn):
    """No word that is often said tells yes from no."""
    said, yes = Counter(), Counter()
    for example in read("vqa", 2000):
        if example.answer in ("yes", "no"):
            for word in set(example.text.rstrip("?").split()):
                said[word] += 1
                yes[word] += example.answer == "yes"
    for word, count in said.items():
        if count >= 100:
            assert abs(yes[word] / count - 0.5) < 4.5 * 0.5 / count**0.5, word


def test_depths_are_even_and_within_the_range(undrawn):
    depths = Counter(example.depth for example in read("vqa", 1000))
    assert set(depths) == {1, 2, 3, 4, 5}
    assert min(depths.values()) > 150
    assert {example.depth for example in read("vqa", 60, min_depth=3, max_depth=4)} == {3, 4}
    assert {example.depth for example in read("vqa", 20, min_depth=6, max_depth=6)} == {6}


def test_captions_are_true_and_corrupted_captions_false(undrawn):
    wrong = 0
    examples = read("caption", 2000)
    for example, other in itertools.pairwise(examples):
        assert caption_is_true(example.target, example.scene), example.target
        assert caption_is_true(example.target.upper().rstrip("."), example.scene)
        assert pieces(example.target) <= MAX_PIECES["caption"]
        wrong += not caption_is_true(example.target, other.scene)
        for color, changed in (("red", "blue"), ("cyan", "green")):
            if example.kind.startswith("first") and f" {color} " in example.target:
                assert not caption_is_true(
                    example.target.replace(f" {color} ", f" {changed} "), example.scene
                )
    assert wrong > 1900


def test_rationales_end_with_the_answer_and_are_short(undrawn):
    for example in read("rationale"):
        assert example.target.endswith(f"; so {example.answer}")
        assert pieces(example.target) <= MAX_PIECES["rationale"]
        if example.kind.startswith("count") and example.kind != "count_union":
            assert f": {example.answer}; so" in example.target


def test_ground_box_is_the_one_object_meant(undrawn):
    for example in read("ground"):
        thing = example.scene.objects[execute(example.program, example.scene)]
        scale = np.array([example.scene.width_px, example.scene.height_px] * 2)
        assert np.allclose(np.array(example.box) * scale, thing.box_px)
        x0, y0, x1, y1 = example.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        assert example.text.startswith("the ")


def test_retrieve_twins_are_told_apart_by_their_texts(undrawn):
    for example in read("retrieve"):
        twin = example.pair
        for one, two in ((example, twin), (twin, example)):
            assert caption_is_true(one.text, one.scene)
            assert not caption_is_true(one.text, two.scene)
            assert pieces(one.text) <= MAX_PIECES["description"]
        assert abs(len(example.scene.objects) - len(twin.scene.objects)) <= 1
        assert twin.pair is None


def test_match_answers_are_true_of_the_picture(undrawn):
    examples = read("match")
    for example in examples:
        true = example.answer == "true"
        assert caption_is_true(example.text, example.scene) == true
        # The other description is of the opposite truth; what is described is shown or not.
        assert caption_is_true(example.other_text, example.scene) == (not true)
        assert caption_is_true(example.text, example.described)
        assert (example.described == example.scene) == true
        for text in (example.text, example.other_text):
            assert pieces(text) <= MAX_PIECES["description"]
    assert 0.4 < np.mean([example.answer == "true" for example in examples]) < 0.6
    assert 0.6 < np.mean([example.kind == "twin" for example in examples]) < 0.8


def test_limits_count_pieces():
    assert pieces("a mid-sized ball, red.") == 8
    for kind, limit in MAX_PIECES.items():
        assert fits("a, " * (limit // 2), kind)
        assert not fits("a, " * (limit // 2) + "b", kind)


def test_region_phrases_fit_their_boxes(undrawn):
    for example in read("region", 200):
        boxes = [box for _, box in example.regions]
        assert 2 <= len(boxes) == len(set(boxes)) <= 5
        w, h = example.scene.width_px, example.scene.height_px
        known = {
            (o.box_px[0] / w, o.box_px[1] / h, o.box_px[2] / w, o.box_px[3] / h)
            for o in example.scene.objects
        }
        assert set(boxes) <= known


def test_dialogue_takes_up_what_was_named(undrawn):
    for example in read("dialogue"):
        (_, opening), *_ = example.turns
        assert 1 <= len(example.turns) <= 3
        anchor = example.program
        while anchor.programs and anchor.op != "unique":
            anchor = anchor.programs[0]
        if opening == "yes":  # "it": the topic names one object, and the last question is about that one
            assert anchor.op == "unique"
            assert isinstance(execute(anchor, example.scene), int)
        else:
            assert int(opening) >= max(2, int(example.answer))


def test_objects_and_canvas_as_asked():
    for example in read("vqa", 20, num_objects=(5, 6), size_px=(96, 96), max_depth=2):
        assert example.image.shape == (96, 96, 3)
        assert len(example.scene.objects) <= 6
    example = Source("vqa")[0]
    assert difficulty(example) == (example.depth, len(example.scene.objects))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "paint"}, "unknown task 'paint': use one of vqa, "),
        ({"split": "dev"}, "unknown split 'dev': use one of train, val, test"),
        ({"style": "clevr"}, "unknown style 'clevr': use one of world, nlvr"),
        ({"task": "ground", "style": "nlvr"}, "task 'ground' has only world"),
        ({"min_depth": 4, "max_depth": 3}, "needs 1 <= min_depth"),
        ({"max_depth": 9}, "needs 1 <= min_depth"),
        ({"num_objects": (9, 2)}, "needs 3 <= least"),
        ({"seed": -1}, "use 0 or more"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(SaccadeError, match=message):
        Source(**{"task": "vqa", **arguments})


def test_index_past_the_end():
    source = Source("vqa")
    assert len(source) == 2**31 - 1
    with pytest.raises(IndexError):
        source[len(source)]
    with pytest.raises(IndexError):
        source[-1]
