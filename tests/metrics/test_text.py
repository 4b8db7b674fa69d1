import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.metrics.captions import caption_scores
from saccade.metrics.cider import cider, cider_d, document_frequencies
from saccade.metrics.meteor import align, meteor_exact_stem
from saccade.metrics.ptb import tokenize
from saccade.metrics.text import bleu, common_length, distinct, rouge_l

relaxed = settings(deadline=None, max_examples=40)  # the machine may be busy
text = st.lists(st.sampled_from("a b c dog dogs the".split()), max_size=9)
corpus = st.lists(st.tuples(text, st.lists(text, min_size=1, max_size=3)), min_size=1, max_size=5)
METRICS = {"bleu": bleu, "rouge_l": rouge_l, "cider_d": cider_d, "cider": cider, "meteor": meteor_exact_stem}
LIMITS = {"cider_d": 10, "cider": 10}
every_metric = pytest.mark.parametrize("name", METRICS)


def split(*texts):
    return [text.split() for text in texts]


def test_bleu_by_hand():
    # Papineni's example: "the" is allowed twice. 2/7; the nearest reference has 7 words: no penalty.
    found = bleu(
        split("the the the the the the the"), [split("the cat is on the mat", "there is a cat on the mat")]
    )
    assert found.corpus[0] == pytest.approx(2 / 7)
    # 3 of 3 words and 2 of 2 pairs, but 3 words for 6: exp(1 - 6/3).
    found = bleu(split("the cat is"), [split("the cat is on the mat")], orders=2)
    assert found.corpus.tolist() == pytest.approx([math.exp(-1)] * 2)
    # Counts of two sentences are pooled: (2 + 0) / (2 + 4) words.
    found = bleu(split("a b", "x x x x"), [split("a b"), split("c d e f")], orders=1)
    assert found.corpus[0] == pytest.approx(1 / 3)
    assert found.each[:, 0].tolist() == pytest.approx([1, 0])


def test_of_two_lengths_equally_near_bleu_takes_the_shorter():
    assert bleu(split("a a a"), [split("a a", "a a a a")], orders=1).corpus[0] == pytest.approx(1)


def test_rouge_by_hand():
    # LCS "police the gunman" of 4 and 4 words: precision and recall 3/4, so F too.
    assert rouge_l(
        split("police kill the gunman"), [split("police killed the gunman")]
    ).corpus == pytest.approx(0.75)
    # Precision 1 of the first, recall 1 of the second: each at its best.
    assert rouge_l(split("a b"), [split("a b c d", "a")]).corpus == pytest.approx(1)
    # Precision 1, recall 1/2: (1 + 1.44) * .5 / (.5 + 1.44).
    assert rouge_l(split("a b"), [split("a b c d")]).corpus == pytest.approx(1.22 / 1.94)


def test_cider_by_hand():
    # Two images, no common n-gram: all weights are log 2; one prediction is right, one shares a word of two.
    predictions, references = split("a b", "c x"), [split("a b"), split("c d")]
    found = cider_d(predictions, references)
    # Orders 1 and 2 agree entirely, 3 and 4 do not exist: (1 + 1 + 0 + 0) / 4 * 10.
    assert found.each.tolist() == pytest.approx([5, 10 * 0.5 / 4])
    assert cider(predictions, references).each.tolist() == pytest.approx([5, 10 * 0.5 / 4])


def test_cider_d_punishes_length_and_repetition():
    references = [split("a b c d"), split("x y z w")]
    long = split("a b c d a b c d", "x y z w")
    assert cider_d(long, references).each[0] < cider(long, references).each[0] < 10
    # The same n-grams with twice the counts: their cosine is 1, CIDEr-D leaves the clipped half of it.
    doubled = cider_d(split("a a", "x"), [split("a"), split("x")]).each[0]
    assert doubled == pytest.approx(10 / 4 * 0.5 * math.exp(-1 / 72))
    assert cider(split("a a", "x"), [split("a"), split("x")]).each[0] == pytest.approx(10 / 4)


def test_given_frequencies_replace_those_of_the_references():
    one, references = split("a b c d"), [split("a b c d")]
    assert cider_d(one, references).corpus == 0  # every n-gram is in every image
    frequencies = document_frequencies([split("a b c d", "a b"), split("x y"), split("z a")])
    assert frequencies.images == 3
    assert frequencies.counts[("a",)] == 2
    assert frequencies.counts[("a", "b")] == 1
    assert cider_d(one, references, frequencies).corpus == pytest.approx(10)


def test_meteor_by_hand():
    # One of two content words, by its stem: P = .75 * .6 / 1.5 = R; chunk 1 of 1 match: penalty .6.
    assert meteor_exact_stem(split("dogs bark"), [split("dog barked loudly")]).corpus == pytest.approx(
        _meteor(matched=0.75 * 0.6 * 2, ours=0.75 * 2, theirs=0.75 * 3, chunks=1, matches=2)
    )
    assert meteor_exact_stem(split("red dogs"), [split("dog blue")]).corpus == pytest.approx(
        _meteor(matched=0.75 * 0.6, ours=0.75 * 2, theirs=0.75 * 2, chunks=1, matches=1)
    )
    # "the" is a function word: a quarter.
    assert meteor_exact_stem(split("the dog"), [split("dog the")]).corpus == pytest.approx(
        _meteor(matched=1.0, ours=1.0, theirs=1.0, chunks=2, matches=2)
    )


def _meteor(matched, ours, theirs, chunks, matches):
    precision, recall = matched / ours, matched / theirs
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    return mean * (1 - 0.6 * (chunks / matches) ** 0.2)


def test_alignment_prefers_few_chunks():
    assert align("the dog sees the cat".split(), "the cat".split()) == [(3, 0), (4, 1)]
    assert align("a b a".split(), "b a".split()) == [(1, 0), (2, 1)]
    assert align([], ["a"]) == align(["a"], []) == []


def test_tokens_by_hand():
    assert tokenize("A man's dog doesn't BARK.") == ["a", "man", "'s", "dog", "does", "n't", "bark"]
    assert tokenize(" \n ") == tokenize("...!") == []
    assert tokenize("\ufeffit’s\u00a0“fine”") == ["it", "'s", "fine"]


@relaxed
@given(st.text(max_size=60))
def test_any_text_has_tokens_without_spaces(raw):
    tokens = tokenize(raw)
    assert all(token and token == token.lower() and not any(map(str.isspace, token)) for token in tokens)


def test_distinct_by_hand():
    assert distinct(split("a b a", "a b")) == pytest.approx(2 / 5)
    assert distinct(split("a b a", "a b"), 2) == pytest.approx(2 / 3)
    assert distinct([[]]) == 0


@relaxed
@given(text, text)
def test_longest_common_subsequence_by_brute_force(a, b):
    def longest(a, b):
        if not a or not b:
            return 0
        return max(longest(a[1:], b), longest(a, b[1:]), (a[0] == b[0]) + longest(a[1:], b[1:]))

    assert common_length(a[:6], b[:6]) == longest(a[:6], b[:6])


@every_metric
@relaxed
@given(corpus)
def test_bounds(name, pairs):
    found = METRICS[name](*zip(*pairs, strict=True))
    limit = LIMITS.get(name, 1) + 1e-9
    assert np.shape(found.each)[0] == len(pairs)
    for scores in (np.asarray(found.corpus), found.each):
        assert ((scores >= 0) & (scores <= limit)).all()


@every_metric
@relaxed
@given(corpus, st.integers(0, 99))
def test_order_of_images_and_references_does_not_matter(name, pairs, seed):
    rng = random.Random(seed)
    order = rng.sample(range(len(pairs)), len(pairs))
    shuffled = [(pairs[i][0], rng.sample(pairs[i][1], len(pairs[i][1]))) for i in order]
    first, second = (METRICS[name](*zip(*rows, strict=True)) for rows in (pairs, shuffled))
    if name == "meteor":  # of references equally good the first counts, and the corpus sums its counts
        np.testing.assert_allclose(second.each, first.each[order])
        return
    np.testing.assert_allclose(second.corpus, first.corpus, atol=1e-12)
    np.testing.assert_allclose(second.each, first.each[order], atol=1e-12)


@every_metric
@relaxed
@given(corpus)
def test_a_reference_given_twice_changes_nothing(name, pairs):
    doubled = [(prediction, texts * 2) for prediction, texts in pairs]
    first, second = (METRICS[name](*zip(*rows, strict=True)) for rows in (pairs, doubled))
    np.testing.assert_allclose(second.each, first.each, atol=1e-12)


@every_metric
def test_empty_and_perfect_predictions(name):
    references = [split("a b c d e"), split("v w x y z"), split("k l m n o", "p")]
    limit = LIMITS.get(name, 1)
    perfect = METRICS[name]([texts[0] for texts in references[:2]], references[:2])
    assert np.allclose(perfect.corpus, limit)
    assert np.allclose(perfect.each, limit)
    empty = METRICS[name]([[], [], []], references)
    assert np.allclose(empty.each, 0, atol=1e-5)
    assert np.allclose(empty.corpus, 0, atol=1e-5)


@every_metric
def test_errors_say_what_is_wrong(name):
    with pytest.raises(ValueError, match="1 predictions and 2 lists"):
        METRICS[name]([["a"]], [[["a"]], [["b"]]])
    with pytest.raises(ValueError, match="0 predictions"):
        METRICS[name]([], [])
    with pytest.raises(ValueError, match="prediction 1 has references"):
        METRICS[name]([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(ValueError, match="are strings"):
        METRICS[name](["a b"], [["a b"]])


def test_caption_scores_want_lists_of_captions():
    with pytest.raises(ValueError, match="prediction 0 has references 'a dog'"):
        caption_scores(["a dog"], ["a dog"])
