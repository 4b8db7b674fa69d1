"""Words are masked and said otherwise, and say the same."""

import re

import numpy as np
import pytest

from saccade.data.augment import (
    ATTRIBUTE_WORDS,
    SCENE_SYNONYMS,
    HorizontalFlip,
    Item,
    SynonymReplacement,
    WordMasking,
)
from saccade.data.scenes import Source, caption_is_true, facts, lexicon
from saccade.data.text import words
from saccade.errors import SaccadeError

PICTURE = np.zeros((3, 4, 3), np.uint8)
ALL = SynonymReplacement(SCENE_SYNONYMS, share=1.0)


def rng(*seed) -> np.random.Generator:
    return np.random.default_rng(seed)


def item(text: str, **more) -> Item:
    return Item(PICTURE, text=text, **more)


# Masking.


def test_masking_hides_a_share_of_the_words_and_says_which():
    text = "a large red ball, on the table: it is not mid-sized <image> [CLS] don't"
    for seed in range(200):
        found = WordMasking(share=0.4)(rng(seed), item(text))
        assert len(found.hidden) == 5  # of 12 words
        restored, moved = found.text, 0
        for start, end, word in found.hidden:
            shown = found.text[start:end]
            assert shown in ("<mask>", word)
            restored = restored[: start + moved] + word + restored[end + moved :]
            moved += len(word) - (end - start)
        assert restored == text
        assert "<image> [CLS]" in found.text


def test_masking_replaces_as_bert_does():
    shown = [0, 0, 0]
    step = WordMasking(share=1.0, mask="[MASK]", vocabulary=("zebra", "yak"))
    text = " ".join(f"word{i}" for i in range(20))
    for seed in range(100):
        found = step(rng(seed), item(text))
        for start, end, word in found.hidden:
            new = found.text[start:end]
            shown[["[MASK]", word].index(new) if new in ("[MASK]", word) else 2] += 1
            assert new in ("[MASK]", word, "zebra", "yak")
    np.testing.assert_allclose(np.array(shown) / 2000, [0.8, 0.1, 0.1], atol=0.03)


def test_masking_spares_what_is_protected_and_the_answer():
    text = "is the Large RED ball of glass or a medium-sized cube?"
    step = WordMasking(share=1.0, protect=ATTRIBUTE_WORDS)
    hidden = {word for seed in range(50) for *_, word in step(rng(seed), item(text, answer="Or")).hidden}
    assert hidden == {"is", "the", "of", "a"}


@pytest.mark.parametrize("text", ["", "...", "<image>", "[CLS] [SEP]", "red"])
def test_nothing_is_masked_where_no_word_may_be(text):
    given_item = item(text)
    assert WordMasking(share=1.0, protect={"RED"})(rng(0), given_item) is given_item
    assert WordMasking(share=0)(rng(0), item("a dog")).text == "a dog"


def test_at_least_one_word_is_masked():
    assert len(WordMasking(share=0.01)(rng(0), item("a dog")).hidden) == 1


def test_hidden_words_are_left_alone():
    found = WordMasking(share=1.0)(rng(0), item("the ball on the left of it"))
    for step, note in (
        (HorizontalFlip(), "flip: hidden words may be sides"),
        (WordMasking(), "masking: words are hidden already"),
        (ALL, "synonyms: words are hidden already"),
    ):
        again = step(rng(0), found)
        assert again.refused == (note,)
        assert again.text == found.text


# Synonyms.


def test_synonyms_and_articles():
    table = {
        "big": ("enormous",),
        "enormous": ("big",),
        "cat": ("animal",),
        "unit": ("hour",),
        "item": ("one-eyed cat",),
    }
    step = SynonymReplacement(table, share=1.0)
    for before, after in (
        ("a big dog", "an enormous dog"),
        ("An enormous dog and A BIG DOG", "A big dog and A BIG DOG"),  # capitals inside may be a name
        ("Big dogs. Big dogs", "Enormous dogs. Enormous dogs"),
        ("it is a  cat", "it is an  animal"),
        ("plan a: a unit, an item", "plan a: an hour, a one-eyed cat"),
        ("a very big dog", "a very enormous dog"),
        ("bigger cats, big-eyed", "bigger cats, big-eyed"),
        ("", ""),
    ):
        assert step(rng(0), item(before)).text == after


@pytest.mark.parametrize(
    "text", ["he saw Big Ben", "Big Ben is old", "the Large Hadron Collider", "Violet's hat. My Violet"]
)
def test_names_stay(text):
    found = [ALL(rng(seed), item(text)).text for seed in range(10)]
    assert set(found) == {text} or text.startswith("Violet")
    assert all("My Violet" in new for new in found if "Violet" in text)


def test_the_longest_phrase_is_replaced_and_phrases_within_others_stay():
    assert {ALL(rng(s), item("it is to the left of them")).text for s in range(20)} == {
        "it is left of them",
        "it is on the left side of them",
    }
    assert ALL(rng(0), item("it stands on the left of them")).text == "it stands on the left of them"
    assert ALL(rng(0), item("a block, square blocks")).text == "a block, square blocks"  # a cube or a square


def test_words_in_phrases_of_boxes_and_of_the_answer_stay():
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    before = item("The gray ball is left of a gray thing", boxes=boxes, phrases=("the gray ball",))
    found = ALL(rng(0), before)
    assert found.text.startswith("The gray ball is ")
    assert "grey" in found.text
    assert found.phrases == before.phrases
    question = item("is it small, medium or large?", answer="large")
    for seed in range(20):
        assert ALL(rng(seed), question).text.endswith(" or large?")
    assert (
        SynonymReplacement(SCENE_SYNONYMS, 1.0, frozenset({"GRAY"}))(rng(0), item("a gray dog")).text
        == "a gray dog"
    )


def test_the_table_of_the_scene_world_keeps_to_its_words_and_back():
    known = set(words(" ".join(lexicon())))
    for word, others in SCENE_SYNONYMS.items():
        for other in others:
            assert word in SCENE_SYNONYMS[other]
            assert set(words(other)) <= known
    for word in ("block", "glass", "rubber", "metal", "square", "star"):
        assert word not in SCENE_SYNONYMS


def test_captions_said_otherwise_are_as_true():
    # "There are three objects" is what the reader knows, not "things".
    step = SynonymReplacement(SCENE_SYNONYMS, 1.0, protect=frozenset({"objects"}))
    source, twin, changed = Source("caption"), Source("caption", seed=1), 0
    for index in range(400):
        example = source[index]
        text = step(rng(index), item(example.target)).text
        changed += text != example.target
        assert facts(text) == facts(example.target), text
        other = twin[index].scene
        assert caption_is_true(text, other) == caption_is_true(example.target, other)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
    assert changed > 350


def test_the_share_of_replaced_words():
    text, step = "a small ball " * 10, SynonymReplacement(SCENE_SYNONYMS, share=0.2)
    new = [step(rng(seed), item(text)).text for seed in range(100)]
    kept = sum(one.split().count("ball") for one in new) / 1000
    assert 0.75 < kept < 0.85


@pytest.mark.parametrize(
    "make",
    [
        lambda: SynonymReplacement({}),
        lambda: SynonymReplacement({"Big": ("large",)}),
        lambda: SynonymReplacement({"big": "large"}),
        lambda: SynonymReplacement({"big": ("",)}),
        lambda: SynonymReplacement({"": ("a",)}),
        lambda: SynonymReplacement({"big": ("large",)}, share=2),
        lambda: WordMasking(share=1.1),
        lambda: WordMasking(mask=""),
    ],
)
def test_steps_that_cannot_be(make):
    with pytest.raises(SaccadeError, match="give"):
        make()
