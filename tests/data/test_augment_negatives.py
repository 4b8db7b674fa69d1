"""Negatives are false of their image, as hard as asked, and an error where there are none."""

from collections import Counter
from random import Random

import numpy as np
import pytest

from saccade.data.augment import NegativeSampler, shared_words
from saccade.data.scenes import caption_is_true, facts
from saccade.data.scenes.captions import caption
from saccade.data.scenes.edit import edit_scene
from saccade.data.scenes.sample import sample_scene
from saccade.errors import SaccadeError


def rng(*seed) -> np.random.Generator:
    return np.random.default_rng(seed)


CAPTIONS = {
    1: ["a dog on a bed", "a dog sleeps"],
    2: ["A dog on a bed.", "a cat on a bed"],
    3: ["two birds", "a cat on a sofa"],
    4: [],
}


def test_captions_of_the_image_and_equal_ones_are_never_drawn():
    sampler = NegativeSampler(CAPTIONS)
    drawn = Counter(sampler(rng(seed), 1)[0] for seed in range(300))
    assert set(drawn) == {"a cat on a bed", "two birds", "a cat on a sofa"}
    assert min(drawn.values()) > 60
    assert set(sampler(rng(0), 4, 5)) <= {text for texts in CAPTIONS.values() for text in texts}


def test_several_are_different():
    found = NegativeSampler(CAPTIONS)(rng(0), 1, 3)
    assert len(set(found)) == 3
    assert NegativeSampler(CAPTIONS)(rng(0), 1, 3) == found
    with pytest.raises(SaccadeError, match="image 1 has 3 captions of others that are false of it, 4 were"):
        NegativeSampler(CAPTIONS)(rng(0), 1, 4)
    # "a dog on a bed" is there twice, and counts once.
    with pytest.raises(SaccadeError, match="has 5 captions"):
        NegativeSampler(CAPTIONS)(rng(0), 4, 6)


def test_a_key_says_what_is_the_same():
    sampler = NegativeSampler(CAPTIONS, key=lambda text: text.split()[1])  # dog, cat, birds
    assert {sampler(rng(seed), 1)[0] for seed in range(60)} == {
        "a cat on a bed",
        "two birds",
        "a cat on a sofa",
    }
    assert {sampler(rng(seed), 2)[0] for seed in range(60)} == {"two birds"}
    assert len(sampler(rng(0), 1, 2)) == 2
    with pytest.raises(SaccadeError, match="has 2 captions"):
        sampler(rng(0), 1, 3)  # two of the three are of cats


def test_what_is_true_is_never_drawn():
    sampler = NegativeSampler(CAPTIONS, is_true=lambda image, text: image == 1 and "bed" in text)
    assert {sampler(rng(seed), 1)[0] for seed in range(60)} == {"two birds", "a cat on a sofa"}


def test_the_only_negative_is_found_among_many_truths():
    captions = {0: ["mine"], **{i: [f"true {i}"] for i in range(1, 2000)}, 2000: ["false"]}
    sampler = NegativeSampler(captions, is_true=lambda _, text: text.startswith("true"), nearest_of=7)
    assert [sampler(rng(seed), 0) for seed in range(5)] == [("false",)] * 5


def test_hard_negatives_share_words():
    captions = {
        i: [f"{color} {thing} here"]
        for i, (color, thing) in enumerate(
            (color, thing)
            for color in ("red", "blue", "green", "gray")
            for thing in ("ball", "cube", "star", "cone")
        )
    }
    easy, hard = NegativeSampler(captions), NegativeSampler(captions, nearest_of=16)
    mine = captions[5][0]
    scores = [np.mean([shared_words(mine, s(rng(i), 5)[0]) for i in range(100)]) for s in (easy, hard)]
    assert scores[1] > 0.49 > 0.4 > scores[0]


def test_a_similarity_of_ones_own():
    captions = {i: ["x" * (i + 1)] for i in range(20)}
    sampler = NegativeSampler(captions, nearest_of=200, similarity=lambda a, b: -abs(len(a) - len(b)))
    assert {sampler(rng(seed), 0) for seed in range(20)} == {("xx",)}


def test_shared_words():
    assert shared_words("A red ball.", "a red cube") == 0.5
    assert shared_words("", "") == 0
    assert shared_words("red on blue", "blue on red") == 1


@pytest.mark.parametrize(
    ("captions", "image"),
    [
        ({1: ["a dog"]}, 1),
        ({1: ["a dog"], 2: ["A  dog!"]}, 1),
        ({1: ["a dog"], 2: []}, 1),
        ({1: []}, 1),
    ],
)
def test_no_negative_is_an_error(captions, image):
    with pytest.raises(SaccadeError, match=r"image 1 has 0 captions of others .* give more images"):
        NegativeSampler(captions)(rng(0), image)


def test_wrong_arguments():
    with pytest.raises(SaccadeError, match="image 'x' has no captions here"):
        NegativeSampler(CAPTIONS)(rng(0), "x")
    with pytest.raises(SaccadeError, match="one string"):
        NegativeSampler({1: "a dog"})
    with pytest.raises(SaccadeError, match="nearest_of is 0"):
        NegativeSampler(CAPTIONS, nearest_of=0)


@pytest.mark.parametrize("nearest_of", [1, 8])
def test_no_negative_of_a_scene_is_true_of_it(nearest_of):
    scenes = []
    for seed in range(
        20
    ):  # each with five twins that differ in one thing, so much that is said is true of several
        scene = sample_scene(rng(seed), num_objects=4)
        scenes += [scene, *(edit_scene(rng(seed, i), scene) for i in range(5))]
    captions = {image: [caption(Random(image), scene)[1]] for image, scene in enumerate(scenes)}

    def is_true(image, text):
        return caption_is_true(text, scenes[image])

    draws = [(seed, seed % len(scenes)) for seed in range(2000)]
    blind = NegativeSampler(captions, nearest_of=nearest_of)
    assert sum(is_true(image, blind(rng(seed), image)[0]) for seed, image in draws) > 20  # so it is needed
    sampler = NegativeSampler(captions, key=facts, is_true=is_true, nearest_of=nearest_of)
    for seed, image in draws:
        for text in sampler(rng(seed), image, 2):
            assert not caption_is_true(text, scenes[image])
            assert facts(text) != facts(captions[image][0])
