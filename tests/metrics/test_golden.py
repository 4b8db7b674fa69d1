"""What reference implementations say (golden/metrics.json, written by golden/make_metrics.py), we say too."""

import json
from pathlib import Path

import numpy as np
import pytest

from saccade.metrics.captions import caption_scores
from saccade.metrics.cider import cider_d
from saccade.metrics.detection import Detections, Truth, box_ap
from saccade.metrics.meteor import meteor_exact_stem
from saccade.metrics.ptb import tokenize
from saccade.metrics.stem import stem
from saccade.metrics.text import bleu, rouge_l

GOLDEN = json.loads((Path(__file__).parent.parent / "golden/metrics.json").read_text(encoding="utf-8"))
PREDICTIONS = [GOLDEN["tokens"][prediction] for prediction, _ in GOLDEN["captions"]]
REFERENCES = [[GOLDEN["tokens"][text] for text in texts] for _, texts in GOLDEN["captions"]]
METRICS = {"bleu": bleu, "rouge_l": rouge_l, "cider_d": cider_d, "meteor_exact_stem": meteor_exact_stem}


@pytest.mark.parametrize("text", GOLDEN["tokens"])
def test_tokens_are_those_of_stanford(text):
    assert tokenize(text) == GOLDEN["tokens"][text]


def test_stems_are_those_of_meteor():
    assert {word: stem(word) for word in GOLDEN["stems"]} == GOLDEN["stems"]


@pytest.mark.parametrize("name", METRICS)
def test_caption_scores(name):
    corpus, each = GOLDEN["scores"][name]
    found = METRICS[name](PREDICTIONS, REFERENCES)
    np.testing.assert_allclose(found.corpus, corpus, rtol=1e-9)
    np.testing.assert_allclose(found.each, each, rtol=1e-9, atol=1e-12)


def test_raw_captions_score_as_their_tokens_do():
    predictions, references = zip(*GOLDEN["captions"], strict=True)
    found = caption_scores(predictions, references)
    expected = {name: GOLDEN["scores"][name][0] for name in ("rouge_l", "cider_d", "meteor_exact_stem")}
    expected |= {f"bleu_{order}": score for order, score in enumerate(GOLDEN["scores"]["bleu"][0], 1)}
    assert found == pytest.approx(expected, rel=1e-9)


def test_box_ap():
    images = GOLDEN["images"]
    detections = [Detections(image["boxes"], image["scores"], image["guesses"]) for image in images]
    truths = [Truth(image["truth"], image["categories"], image["crowd"]) for image in images]
    assert box_ap(detections, truths) == pytest.approx(GOLDEN["box_ap"], abs=1e-12)
    assert any(any(image["crowd"]) for image in images)
