"""The evaluator against plain NumPy, and the pictures it draws."""

import json

import numpy as np
import pytest
from PIL import Image

from saccade.draw import ACCENT, draw_histogram, draw_matrix, heat_colors
from saccade.errors import SaccadeError
from saccade.evaluation.representations import VisionLanguageEvaluator, text_encoder

N, D = 7, 5


def pairs(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(N, D))
    return images, images + 0.3 * rng.normal(size=(N, D))


def normed(x):
    return x / np.sqrt((x**2).sum(1, keepdims=True))


def test_embeddings_against_numpy():
    images, texts = pairs()
    a, b = normed(images), normed(texts)
    found = VisionLanguageEvaluator(temperature=0.5).embeddings(images, texts)
    squares = [((x - y) ** 2).sum() for x, y in zip(a, b, strict=True)]
    assert found["alignment"] == pytest.approx(np.mean(squares))
    for side, vectors in (("images", a), ("texts", b)):
        near = [
            np.exp(-2 * ((vectors[i] - vectors[j]) ** 2).sum()) for i in range(N) for j in range(N) if i < j
        ]
        assert found[f"uniformity_{side}"] == pytest.approx(np.log(np.mean(near)))
    cosine = a @ b.T
    rows = np.exp(cosine / 0.5) / np.exp(cosine / 0.5).sum(1, keepdims=True)
    assert found["row_entropy"] == pytest.approx(-(rows * np.log(rows)).sum(1).mean())
    ranks = [1 + sum(cosine[i, j] >= cosine[i, i] for j in range(N) if j != i) for i in range(N)]
    assert found["image_to_text"]["mean_rank"] == pytest.approx(np.mean(ranks))
    assert found["image_to_text"]["r@1"] == pytest.approx(np.mean([r == 1 for r in ranks]))
    columns = [1 + sum(cosine[j, i] >= cosine[i, i] for j in range(N) if j != i) for i in range(N)]
    assert found["text_to_image"]["mean_rank"] == pytest.approx(np.mean(columns))


def test_predictions_and_attention():
    found = VisionLanguageEvaluator().predictions([[0.5, 0.5, 0], [0, 2.0, 0], [0.2, 0.7, 0.1]])
    assert found["confidence"] == pytest.approx((0.5 + 1 + 0.7) / 3)
    assert found["answers"] == pytest.approx(2 / 3)
    weights, mask = np.ones((2, 3, 4)), np.array([True, True, False, False])
    looked = VisionLanguageEvaluator().attention(weights, mask)
    assert looked == pytest.approx({"entropy_mean": np.log(2), "entropy_std": 0, "spread": 1})


def letters(texts):
    """An encoder: how often each of five letters occurs."""
    return np.array([[text.count(letter) + 0.1 for letter in "abcde"] for text in texts])


def test_texts():
    predictions, references = ["a b", "a b c"], [["a b"], ["d e", "a b c"]]
    found = VisionLanguageEvaluator(letters, "letters").texts(predictions, references)
    assert found["distinct_1"] == pytest.approx(3 / 5)
    assert found["distinct_2"] == pytest.approx(2 / 3)
    assert found["embedding_similarity"] == pytest.approx(1)  # the nearest reference counts
    assert found["encoder"] == "letters"
    assert found["bleu_1"] == pytest.approx(1)
    far = VisionLanguageEvaluator(letters, "letters").texts(["a a"], [["d d"]])
    vectors = normed(letters(["a a", "d d"]))
    assert far["embedding_similarity"] == pytest.approx(vectors[0] @ vectors[1])
    assert "embedding_similarity" not in VisionLanguageEvaluator().texts(predictions, references)


def test_an_encoder_must_have_a_name():
    with pytest.raises(SaccadeError, match="give encoder_name"):
        VisionLanguageEvaluator(letters)


def test_no_texts_are_refused():
    with pytest.raises(ValueError, match="there are no predictions"):
        VisionLanguageEvaluator().texts([], [])


def test_the_report_is_written(tmp_path):
    images, texts = pairs()
    evaluator = VisionLanguageEvaluator()
    looked = evaluator.attention(np.ones((2, 3)))
    scores = evaluator.report(tmp_path, images, texts, attention=looked)
    assert json.loads((tmp_path / "representations.json").read_text()) == scores
    assert scores["attention"] == looked
    for name in ("similarity.png", "histogram.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
    with pytest.raises(SaccadeError, match="does not exist"):
        evaluator.draw(tmp_path / "no", images, texts)


def test_a_matrix_is_drawn_row_by_row():
    values = np.array([[0.0, 1.0], [0.5, 0.0]])
    sheet = np.asarray(draw_matrix(values, "t", "rows", "columns"))
    side, margin = 320, 16
    top = sheet.shape[0] - 26 - 4 - 2 * side
    for row in range(2):
        for column in range(2):
            y, x = top + row * side + 100, margin + column * side + 100
            wanted = heat_colors(values)[row, column].round().tolist()
            assert sheet[y, x].tolist() == pytest.approx(wanted, abs=1)
    assert np.asarray(draw_matrix(np.ones((2, 3)), "flat")).shape[2] == 3  # no range, no division by it
    assert draw_matrix(np.random.default_rng(0).random((1000, 3)), "long").height < 800


def test_a_histogram_has_its_highest_bar_where_most_values_are():
    sheet = np.asarray(draw_histogram({"a": np.array([0.0] * 9 + [1.0])}, "t", bins=10))
    inked = (sheet == ACCENT).all(-1)
    columns = inked[: sheet.shape[0] - 40].sum(0)
    first, last = columns[16:30].max(), columns[16 + 9 * 14 : 16 + 10 * 14].max()
    assert first > 8 * last > 0
    for series in ({}, {"a": np.array([])}, {k: np.ones(2) for k in "abc"}):
        with pytest.raises(ValueError, match="give 1 or 2, with values"):
            draw_histogram(series, "t")


def test_texts_are_embedded_by_a_model_that_has_learned_it():
    class Pipeline:
        class model:
            tasks = ("vqa",)

    with pytest.raises(SaccadeError, match="has not learned 'retrieve'"):
        text_encoder(Pipeline)


def test_the_bundled_models_text_encoder():
    import saccade

    encode = text_encoder(saccade.load())
    vectors = encode(["a red cube.", "a blue star.", "a red cube."])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[2] > 0.999 > vectors[0] @ vectors[1]
