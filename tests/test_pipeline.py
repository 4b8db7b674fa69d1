"""The verbs on a random tiny model: shapes, ranges, and that what is explained is what is answered."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from PIL import Image

from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.text import Tokenizer
from saccade.errors import SaccadeError
from saccade.models.vlm_hrm import VLMHRM
from saccade.pipeline import Pipeline, choose_task, crop_attention, load

QUESTION, STATEMENT = "what color is the small cube?", "the ball is red."
ANSWERS = ("no", "yes", "red", "blue", "3")
PICTURES = {"square": (40, 40), "wide": (130, 31), "tall": (23, 90)}  # width, height


@pytest.fixture(scope="module")
def pipeline():
    tokenizer = Tokenizer.train([QUESTION, STATEMENT], vocab_size=300)
    # Both canvases have six cells of 8 px, so that nothing compiles for one only.
    sizes = ((16, 24), (8, 48))
    processor = ProcessorConfig(image_sizes=sizes, answers=ANSWERS, max_length=32, target_length=20)
    config = replace(tiny.CONFIG, vocab_size=tokenizer.vocab_size, num_answers=len(ANSWERS), max_length=32)
    return Pipeline(tiny.fresh(config=config, seed=2), Processor(tokenizer, processor))


@pytest.fixture(params=PICTURES)
def picture(request):
    width, height = PICTURES[request.param]
    pixels = np.random.default_rng(width).integers(256, size=(height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("text", [QUESTION, STATEMENT])
def test_what_is_explained_is_what_is_answered(pipeline, picture, text):
    # A threshold between the steps' halting values, so that there is something to explain.
    values = [step.halting for step in pipeline.explain(picture, text, threshold=99.0).steps]
    assert len(values) == tiny.CONFIG.halt_max_steps
    middle = float(np.median(values))
    threshold = float(np.log(middle / (1 - middle)))
    answer = pipeline.ask(picture, text, threshold=threshold)
    explanation = pipeline.explain(picture, text, threshold=threshold)
    assert explanation.answer.text == answer.text == explanation.steps[-1].answer
    assert explanation.answer.steps == answer.steps == len(explanation.steps)
    assert explanation.answer.confidence == pytest.approx(answer.confidence, abs=1e-4)
    assert answer.text in (ANSWERS if text == QUESTION else ("true", "false"))
    assert bool(explanation.rationale) <= (text == QUESTION)
    for step in explanation.steps:
        assert 0 <= step.confidence <= 1
        assert 0 <= step.halting <= 1
        assert step.attention.min() >= 0
        assert step.attention.sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("verb", ["ask", "explain"])
def test_a_threshold_that_is_no_number_is_refused(pipeline, picture, verb):
    with pytest.raises(SaccadeError, match="threshold is nan"):
        getattr(pipeline, verb)(picture, QUESTION, threshold=float("nan"))


def test_fewer_steps_can_be_asked_for(pipeline, picture):
    assert pipeline.ask(picture, QUESTION, max_steps=2, threshold=99.0).steps == 2
    assert len(pipeline.explain(picture, QUESTION, max_steps=2, threshold=99.0).steps) == 2


def test_caption(pipeline, picture):
    caption = pipeline.caption(picture)
    assert isinstance(caption.text, str)
    assert 0 < caption.confidence <= 1
    assert 1 <= caption.steps <= tiny.CONFIG.halt_max_steps


def test_boxes_are_in_pixels_of_the_picture(pipeline, picture):
    found = pipeline.ground(picture, "the small cube")
    x0, y0, x1, y1 = found.box_px
    assert 0 <= x0 <= x1 <= picture.width
    assert 0 <= y0 <= y1 <= picture.height
    assert 0 < found.confidence <= 1


def test_match(pipeline, picture):
    match = pipeline.match(picture, STATEMENT)
    assert 0 <= match.probability <= 1
    assert -1.001 <= match.similarity <= 1.001


def test_results_are_plain_json(pipeline, picture):
    import json

    for result in (
        pipeline.ask(picture, QUESTION),
        pipeline.explain(picture, QUESTION),
        pipeline.caption(picture),
        pipeline.ground(picture, "the ball"),
        pipeline.match(picture, STATEMENT),
    ):
        assert json.loads(json.dumps(result.to_json())) == result.to_json()


def test_saved_and_loaded_it_answers_the_same(pipeline, picture, tmp_path):
    pipeline.save(tmp_path / "m")
    again = Pipeline(VLMHRM.load(tmp_path / "m"), Processor.load(tmp_path / "m"))
    assert again.ask(picture, QUESTION) == pipeline.ask(picture, QUESTION)


@pytest.mark.parametrize("max_steps", [0, 6, -1])
def test_steps_out_of_range_are_refused(pipeline, max_steps):
    with pytest.raises(SaccadeError, match=f"max_steps is {max_steps}; the model takes 1 to 5"):
        pipeline.ask(np.zeros((8, 8, 3), np.uint8), QUESTION, max_steps=max_steps)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("what is it", "vqa"),
        ("a cube?", "vqa"),
        ("Is there a cube", "vqa"),
        ("there is a cube", "statement"),
        ("island cubes are red", "statement"),
        ("  the ball is red. ", "statement"),
    ],
)
def test_questions_are_told_from_statements(text, task):
    assert choose_task(text) == task
    assert choose_task(text, "statement") == "statement"


def test_a_task_that_cannot_be_asked_is_refused():
    with pytest.raises(SaccadeError, match="task 'caption' cannot be asked; use auto, vqa or statement"):
        choose_task("what?", "caption")


def test_cropped_attention_covers_the_image_only():
    class Placement:
        canvas_size = (8, 16)
        left_px, top_px, width_px, height_px = 8, 0, 8, 8

    attention = np.zeros((2, 4), np.float32)
    attention[:, :2] = 0.2  # on the padding
    attention[0, 3] = 0.2
    cropped = crop_attention(attention, Placement())
    assert cropped.shape == (2, 4)
    np.testing.assert_allclose(cropped, [[0, 0, 0.5, 0.5], [0, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("name", ["nothing", "../nothing", "", "a b"])
def test_a_model_that_does_not_exist_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "":
        name = "no/such/folder"
    with pytest.raises(SaccadeError, match="no model or directory is called"):
        load(name)
