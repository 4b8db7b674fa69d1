"""The verbs of a CLIP: classify, retrieve, and how it is saved, loaded and measured."""

import json

import clip_parts
import numpy as np
import pytest

import saccade
from saccade import clip
from saccade.errors import SaccadeError
from saccade.evaluation import evaluate
from saccade.models.clip import OPENAI_MEAN

LABELS = ["a red cube", "a blue ball", "3 green cones"]


@pytest.fixture(scope="module")
def pipeline():
    return clip_parts.pipeline()


def test_probabilities_are_the_softmax_of_scaled_cosines(pipeline):
    image = clip_parts.picture()
    (result,) = pipeline.classify([image], LABELS)
    seen, read = pipeline.embed_images([image])[0], pipeline.embed_texts(LABELS)
    logits = np.exp(float(pipeline.model.logit_scale)) * (read @ seen).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [label.text for label in result.labels] == [LABELS[i] for i in np.argsort(-expected)]
    assert [label.probability for label in result.labels] == pytest.approx(sorted(expected)[::-1], abs=1e-5)
    assert result.text == result.labels[0].text
    told = result.to_json()["labels"]
    assert [set(row) for row in told] == [{"text", "probability", "similarity"}] * 3


def test_a_sigmoid_model_judges_each_label_alone():
    pipeline = clip_parts.pipeline(sigmoid=True)
    image = clip_parts.picture()
    among = {label.text: label for label in pipeline.classify([image], LABELS)[0].labels}
    for text in LABELS:
        (alone,) = pipeline.classify([image], [text])[0].labels
        assert alone.probability == pytest.approx(among[text].probability, abs=1e-6)
        scale, bias = np.exp(float(pipeline.model.logit_scale)), float(pipeline.model.logit_bias)
        expected = 1 / (1 + np.exp(-(scale * alone.similarity + bias)))
        assert alone.probability == pytest.approx(expected, abs=1e-5)


def test_the_template_is_what_is_read(pipeline):
    image = clip_parts.picture()
    (result,) = pipeline.classify([image], LABELS, "a photo of {}")
    (whole,) = pipeline.classify([image], [f"a photo of {label}" for label in LABELS])
    for short, long in zip(result.labels, whole.labels, strict=True):
        assert long.text == f"a photo of {short.text}"
        assert short.probability == pytest.approx(long.probability, abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 65])
def test_batches_of_any_size_are_rows_alone(pipeline, count, monkeypatch):
    monkeypatch.setattr(clip, "BATCH", 4)
    images = [clip_parts.picture(seed, (8, 8)) for seed in range(count)]
    together = pipeline.embed_images(images)
    assert together.shape == (count, 18)
    for row in {0, count - 1}:
        np.testing.assert_allclose(pipeline.embed_images([images[row]])[0], together[row], atol=1e-5)


def test_retrieval(pipeline):
    images, texts = [clip_parts.picture(seed) for seed in range(4)], LABELS
    found = pipeline.retrieve(images, texts, k=2)
    np.testing.assert_allclose(found.similarity, found.images @ found.texts.T, atol=1e-6)
    assert found.images_of.shape == (3, 2)
    assert found.texts_of.shape == (4, 2)
    for row, best in enumerate(found.texts_of):
        assert best.tolist() == np.argsort(-found.similarity[row])[:2].tolist()
    for row, best in enumerate(found.images_of):
        assert best.tolist() == np.argsort(-found.similarity[:, row])[:2].tolist()
    assert pipeline.retrieve(images, texts, k=9).images_of.shape == (3, 4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "there are no labels"),
        (["a cube"], "a single label, 'a cube', is always right.*give at least two"),
        (["a cube", "red cube " * 20], "tokens, the limit is 16"),
        (["a", "a"], "there twice"),
        (["a", ""], "label 2 of 2 is empty"),
        (
            ["a ball", "red", "A  BALL"],
            "labels 'a ball' and 'A BALL' are the same text to this model; give one",
        ),
    ],
)
def test_labels_that_are_refused(pipeline, labels, message):
    with pytest.raises(SaccadeError, match=message):
        pipeline.classify([clip_parts.picture()], labels)


def test_nothing_to_embed(pipeline):
    for call in (lambda: pipeline.embed_images([]), lambda: pipeline.embed_texts("red")):
        with pytest.raises(SaccadeError, match="nothing to embed"):
            call()
    with pytest.raises(SaccadeError, match="k is 0"):
        pipeline.retrieve([clip_parts.picture()], LABELS, k=0)


def test_saving_and_loading(pipeline, tmp_path):
    pipeline.save(tmp_path / "m")
    again = saccade.load(tmp_path / "m")
    assert isinstance(again, saccade.CLIPPipeline)
    image = clip_parts.picture()
    assert again.classify([image], LABELS) == pipeline.classify([image], LABELS)


@pytest.mark.parametrize("variant", ["clip_quick", "siglip"])
def test_a_published_directory(variant, tmp_path):
    folder = clip_parts.write_published(tmp_path / "m", variant, text_config__eos_token_id=2)
    pipeline = saccade.load(folder)
    assert pipeline.processor.config.max_length == 11
    assert len(pipeline.classify([clip_parts.picture()], ["red", "a ball"], "{}!")[0].labels) == 2
    if variant == "clip_quick":
        assert pipeline.model.config.vision.pixel_mean == OPENAI_MEAN
    pixels = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    vision = saccade.load(folder).model.config.vision
    assert (vision.pixel_mean, vision.pixel_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SaccadeError, match=r"has no tokenizer\.json"):
        saccade.load(folder)


def test_a_tokenizer_that_does_not_belong_to_it(tmp_path):
    folder = clip_parts.write_published(tmp_path / "m")
    record = json.loads((folder / "config.json").read_text())
    pipeline = saccade.load(folder)
    words = pipeline.processor.tokenizer
    words.add([f"<more{i}>" for i in range(record["text_config"]["vocab_size"])])
    with pytest.raises(SaccadeError, match="the tokenizer's vocabulary is"):
        clip.CLIPPipeline(pipeline.model, pipeline.processor)


def test_retrieval_scores():
    pipeline = clip_parts.pipeline(max_length=16)
    pipeline.processor = clip_parts.processor(max_length=16)
    pipeline.embed_texts = lambda texts: _hashed(texts)
    scores = evaluate(pipeline, task="retrieve", num=8, progress=False, num_objects=(3, 3))
    for way in ("text_to_image", "image_to_text"):
        assert set(scores[way]) == {"dual"}
        assert {"r@1", "r@5", "r@10", "median_rank", "mean_rank", "before_twin"} == set(scores[way]["dual"])
    assert scores["r@1"] == np.mean(
        [scores[way]["dual"]["r@1"] for way in ("text_to_image", "image_to_text")]
    )
    assert scores["num"] == 8
    assert scores["threshold"] is None  # it reasons in no steps
    assert scores["decoding"] == "by the dual encoder"
    with pytest.raises(SaccadeError, match="cannot be measured by scenes, task vqa"):
        evaluate(pipeline, task="vqa", num=4)


def _hashed(texts):
    rows = [np.random.default_rng(len(text)).normal(size=18) for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)
