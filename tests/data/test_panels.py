"""Statements in the writers' words: labels, balance, and that they mean what the writers' labels say."""

import re
from collections import Counter
from random import Random

import numpy as np
import pytest

from saccade.data.scenes import panels
from saccade.data.scenes.execute import execute
from saccade.data.scenes.panel_writer import draw
from saccade.data.scenes.panels import PanelStatements, is_clear, panel_lexicon
from saccade.data.scenes.referents import referents
from saccade.data.scenes.sentences import Sentences
from saccade.data.text import NUMBER_WORDS, words
from saccade.errors import SaccadeError

NUMBER = 1500


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(panels, "render", lambda scene: None)


def test_the_label_is_what_the_program_gives(undrawn):
    source = PanelStatements(seed=1)
    answers, known = Counter(), {*panel_lexicon(), *map(str, range(9))}
    for i in range(NUMBER):
        example = source[i]
        assert execute(example.program, example.scene) == (example.answer == "true"), example.text
        assert not {*words(example.text)} - known
        assert referents(example), example.text
        if example.kind == "box":
            assert is_clear(example.scene, "closely" in example.text)
        answers[example.kind, example.answer] += 1
    for kind in ("box", "tower"):
        assert 0.4 < answers[kind, "true"] / (answers[kind, "true"] + answers[kind, "false"]) < 0.6
    assert 0.45 < (answers["tower", "true"] + answers["tower", "false"]) / NUMBER < 0.65


def test_an_example_depends_on_seed_and_index_alone():
    one, two, other = PanelStatements(4)[9], PanelStatements(4)[9], PanelStatements(5)[9]
    assert (one.text, one.answer, one.scene) == (two.text, two.answer, two.scene)
    assert np.array_equal(one.image, two.image)
    assert (one.text, one.scene) != (other.text, other.scene)
    with pytest.raises(SaccadeError, match="seed"):
        PanelStatements(-1)
    with pytest.raises(IndexError):
        PanelStatements()[-1]


def spelled(text: str) -> str:
    digits = {word: str(n) for n, word in enumerate(NUMBER_WORDS)}
    plain = re.sub(r"[^\w\s]", " ", text.lower()).replace("object", "item")
    return " ".join(digits.get(word, word) for word in plain.split())


def test_the_writers_labels_agree(shared):
    """Hundreds of published sentences are ones that the grammar draws: it means what their labels say."""
    rng, meaning = Random(0), {}
    for _ in range(60_000):
        for towers in (False, True):
            text, program = draw(rng, towers)
            meaning.setdefault((spelled(text), towers), program)
    source = Sentences(shared / "data" / "nlvr", "all")
    towers = set(source._by_look[1])
    read = right = total = 0
    for i, (text, sides) in enumerate(zip(source.texts, source._members, strict=True)):
        program = meaning.get((spelled(text), i in towers))
        if program is None:
            continue
        read += 1
        for label, side in enumerate(sides):
            for k in side[:12]:
                scene = source.original(int(k))
                if i in towers or is_clear(scene, "closely" in text):
                    right += execute(program, scene) == bool(label)
                    total += 1
    assert read > 600, read
    assert right / total > 0.98, right / total
