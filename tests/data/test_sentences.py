"""Human sentences as a stream: what is drawn, what is held out, what is never seen; and their rewording."""

import json
import pickle
from collections import Counter
from random import Random

import nlvr_files
import numpy as np
import pytest

from saccade.data.scenes.execute import execute
from saccade.data.scenes.nlvr import scene_from_structured
from saccade.data.scenes.rewording import misspell, reword
from saccade.data.scenes.sentences import Sentences, frequent_words, is_held_out, normal_form
from saccade.data.scenes.symmetry import KNOWN
from saccade.errors import SaccadeError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("nlvr")
    nlvr_files.write(path)
    return path


@pytest.fixture(scope="module")
def rows(folder):
    return nlvr_files.write(folder)


def test_labels_stay_right(folder, rows):
    """Order of boxes alone: the sentence's own program still says so."""
    program = {text: program for text, program, _, _ in rows}
    source = Sentences(folder, "all", symmetries=False, rewording=0)
    answers = Counter()
    for i in range(300):
        example = source[i]
        assert execute(program[example.text], example.scene) == (example.answer == "true")
        assert example.image.shape == (100, 400, 3)
        answers[example.answer] += 1
    assert min(answers.values()) > 90


def test_an_example_depends_on_seed_and_index_alone(folder):
    source, twin = (
        Sentences(folder, "all", seed=2),
        pickle.loads(pickle.dumps(Sentences(folder, "all", seed=2))),
    )
    other = Sentences(folder, "all", seed=3)
    different = 0
    for i in (0, 5, 2**31 - 2):
        one, two = source[i], twin[i]
        assert (one.text, one.answer, one.scene) == (two.text, two.answer, two.scene)
        assert np.array_equal(one.image, two.image)
        different += other[i].scene != one.scene
    assert different
    with pytest.raises(IndexError):
        source[len(source)]


def test_parts_share_no_sentence(folder, monkeypatch):
    monkeypatch.setattr("saccade.data.scenes.sentences.HELD_OUT", 4)
    train, held, everything = (Sentences(folder, part) for part in ("train", "held_out", "all"))
    assert {*train.texts} | {*held.texts} == {*everything.texts}
    assert not {*map(normal_form, train.texts)} & {*map(normal_form, held.texts)}
    assert train.num_scenes + held.num_scenes == everything.num_scenes
    assert is_held_out("There is a  Box.") == is_held_out("there is a box")


def test_share_of_towers(folder):
    source = Sentences(folder, "all", towers=0.9)
    towers = [
        len({item.box_px[2] - item.box_px[0] for item in source[i].scene.objects}) == 1 for i in range(200)
    ]
    assert 0.8 < np.mean(towers) < 1


def test_fixed_pictures_are_untouched(folder, rows):
    program = {text: program for text, program, _, _ in rows}
    fixed = Sentences(folder, "all").fixed(4)
    for text, example in fixed:
        assert example.text == text
        assert execute(program[text], example.scene) == (example.answer == "true")
    assert max(Counter(text for text, _ in fixed).values()) <= 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sentence": "a", "label": 1, "boxes": [[], [], []]}', "label"),
        ('{"sentence": "a", "label": true}', "boxes"),
        ('{"sentence": "a", "label": true, "boxes": [[[1, 2, 3]], [], []]}', "line 1"),
        ('{"sentence": "a", "label": true, "boxes": [[[5, 0, 10, 0, 0]], [], []]}', "no such object"),
        ('{"sentence": "a", "label": true, "boxes": [[[0, 0, 30, 0, 71]], [], []]}', "no such object"),
        ("{", "cannot be read"),
    ],
)
def test_broken_files_are_named(tmp_path, line, message):
    import gzip

    with gzip.open(tmp_path / "train_scenes.jsonl.gz", "wt") as file:
        file.write(line + "\n")
    with pytest.raises(SaccadeError, match=message):
        Sentences(tmp_path, "all")


def test_wrong_arguments(tmp_path, folder):
    with pytest.raises(SaccadeError, match="no such file"):
        Sentences(tmp_path)
    for bad, message in (({"part": "dev"}, "unknown part"), ({"seed": -1}, "seed"), ({"towers": 2}, "share")):
        with pytest.raises(SaccadeError, match=message):
            Sentences(folder, **bad)


def canonical(scene):
    """A picture without the order of its boxes and of its objects."""
    panels = [[], [], []]
    for item in scene.objects:
        x0, y0, x1, y1 = item.box_px
        panels[item.group].append(
            (item.shape, item.color, x0 - 150 * item.group, y0, x1 - 150 * item.group, y1)
        )
    return hash(tuple(sorted(tuple(sorted(panel)) for panel in panels)))


def test_nothing_of_the_development_split_is_trained_on(shared):
    """No published pair of sentence and picture; no picture but towers, of which there are few different
    ones.

    Sentences as such do recur: writers of both splits wrote "There is 1 yellow square" (447 of 989).
    """
    folder = shared / "data" / "nlvr"
    source = Sentences(folder, "all")
    pairs, pictures = set(), set()
    for text, sides in zip(source.texts, source._members, strict=True):
        for k in np.concatenate(sides):
            picture = canonical(source.original(int(k)))
            pairs.add((normal_form(text), picture))
            pictures.add(picture)
    recurring = 0
    forms = {normal_form(text) for text in source.texts}
    for line in (folder / "dev.jsonl").read_text().splitlines():
        row = json.loads(line)
        scene = scene_from_structured(row["structured_rep"])
        picture, form = canonical(scene), normal_form(row["sentence"])
        assert (form, picture) not in pairs, row["id"]
        if any(item.size != "medium" for item in scene.objects):
            assert picture not in pictures, row["id"]
        recurring += form in forms
    assert recurring == 447


def test_rewording_is_a_function_of_its_generator_and_off_at_zero():
    text = "there are two blue items, each other one touching the edge."
    assert reword(Random(0), text, 0.0) == text
    assert reword(Random(4), text, 0.9) == reword(Random(4), text, 0.9)
    found = {reword(Random(i), text, 0.5) for i in range(200)}
    assert len(found) > 20
    assert any("2 blue" in one for one in found)
    assert any("objects" in one for one in found)
    assert any("wall" in one for one in found)
    for one in found:
        assert " one " in one or " oen" in one  # a pronoun here, no number
        assert ("two" in one) != ("2" in one)  # never another number, never misspelt


def test_typing_errors_make_no_other_word():
    for word in ("black", "yellow", "least", "most", "items", "only"):
        for i in range(60):
            wrong = misspell(Random(i), word)
            assert wrong == word or wrong not in KNOWN
    assert {misspell(Random(i), "three") for i in range(20)} == {"three"}
    assert {misspell(Random(i), "not") for i in range(20)} == {"not"}


def test_frequent_words():
    assert frequent_words(["a b", "a c", "A b.", "d d"], 2) == ["a", "b"]
