"""The reference implementations themselves, on random texts and boxes."""

import json
import random
import shutil

import numpy as np
import pytest

from saccade.metrics.cider import cider_d
from saccade.metrics.detection import Detections, Truth, box_ap
from saccade.metrics.meteor import meteor_exact_stem
from saccade.metrics.ptb import tokenize
from saccade.metrics.stem import stem
from saccade.metrics.text import bleu, rouge_l

pytestmark = [pytest.mark.oracle]
WORDS = """a the of man men dog dogs run runs running is on with red blue ball balls standing stands two
    surfing surfer wave waves 's in and has have year years""".split()


@pytest.fixture(scope="module")
def oracle():
    pytest.importorskip("pycocoevalcap")
    from golden import make_metrics

    return make_metrics


@pytest.fixture
def needs_java():
    if not (shutil.which("java") and shutil.which("javac")):
        pytest.skip("no Java")


def texts(seed: int, number: int, references: int) -> tuple[list, list]:
    rng = random.Random(seed)

    def text():
        return [rng.choice(WORDS) for _ in range(rng.randint(1, 14))]

    truth = [[text() for _ in range(references)] for _ in range(number)]
    kept = [[word for word in rows[0] if rng.random() < 0.8] or text() for rows in truth]
    return [row if rng.random() < 0.5 else text() for row in kept], truth


@pytest.mark.parametrize("seed", range(3))
def test_bleu_rouge_and_cider(oracle, seed):
    predictions, references = texts(seed, 200, 3)
    expected = oracle.reference_scores(predictions, references)
    for name, metric in (("bleu", bleu), ("rouge_l", rouge_l), ("cider_d", cider_d)):
        found = metric(predictions, references)
        np.testing.assert_allclose(found.corpus, expected[name][0], rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(found.each, expected[name][1], rtol=1e-9, atol=1e-12, err_msg=name)


def test_bleu_is_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu")
    predictions, references = texts(3, 100, 2)
    streams = [[" ".join(rows[i]) for rows in references] for i in range(2)]
    options = {"tokenize": "none", "smooth_method": "none", "force": True}
    expected = sacrebleu.corpus_bleu([" ".join(row) for row in predictions], streams, **options).score / 100
    assert bleu(predictions, references).corpus[3] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.usefixtures("needs_java")
def test_meteor(oracle, references):
    predictions, truth = texts(references, 300, references)
    corpus, each = oracle.reference_meteor(predictions, truth)
    found = meteor_exact_stem(predictions, truth)
    assert found.corpus == pytest.approx(corpus, rel=1e-9)
    np.testing.assert_allclose(found.each, each, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("needs_java")
def test_tokens_and_stems(oracle, shared):
    """Every sentence of NLVR, by people, misspellings included."""
    lines = (shared / "data/nlvr/dev.jsonl").read_text(encoding="utf-8").splitlines()
    sentences = sorted({json.loads(line)["sentence"].strip() for line in lines})
    expected = oracle.reference_tokens(sentences)
    assert [tokenize(sentence) for sentence in sentences] == expected
    words = sorted({token for row in expected for token in row})
    assert [stem(word) for word in words] == oracle.reference_stems(words)


WRITTEN = """don't it's dogs' "STOP" (left) 10:30 3.5 1,000 t-shirt and/or U.S. Mr. St. can't $5 50% A&W
    -- ... ! ? ; #1 12th o'clock 'hello' 7-Eleven a.m. B&B C'mon y'all e.g. 2x4 & @home wi-fi 1990s '90s 5'10"
    T.V. gonna cannot 1/2""".split()


@pytest.mark.usefixtures("needs_java")
def test_tokens_with_whatever_people_write_put_in(oracle):
    rng = random.Random(0)
    captions = [text for prediction, references in oracle.CAPTIONS for text in (prediction, *references)]
    written = []
    for _ in range(3000):
        words = rng.choice(captions).split()
        for _ in range(rng.randint(1, 2)):
            words.insert(rng.randint(0, len(words)), rng.choice(WRITTEN))
        written.append(" ".join(words))
    written = sorted(set(written))
    assert len(written) > 2500
    assert [tokenize(text) for text in written] == oracle.reference_tokens(written)


@pytest.mark.parametrize("seed", range(4))
def test_box_ap(oracle, seed):
    pytest.importorskip("pycocotools")
    images = oracle.boxes_of_images(seed + 10, images=25)
    detections = [Detections(image["boxes"], image["scores"], image["guesses"]) for image in images]
    truths = [Truth(image["truth"], image["categories"], image["crowd"]) for image in images]
    assert box_ap(detections, truths) == pytest.approx(oracle.reference_box_ap(images), abs=1e-12)
