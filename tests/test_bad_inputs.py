"""What people give a model of statements besides what it was trained on: an answer, or one clear line."""

import io
from dataclasses import replace

import numpy as np
import pytest
import tiny
from PIL import Image
from typer.testing import CliRunner

import saccade
from saccade.cli import app
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes.panels import PanelStatements, panel_lexicon
from saccade.data.text import Tokenizer
from saccade.errors import SaccadeError, SaccadeWarning
from saccade.pipeline import Pipeline

TRUE = "there is a blue circle"


@pytest.fixture(scope="module")
def pipelines():
    """The same model with a lexicon, as the recipe makes one, and without."""
    tokenizer = Tokenizer.train([" ".join(panel_lexicon())] * 40, vocab_size=330)
    config = replace(tiny.CONFIG, vocab_size=tokenizer.vocab_size, max_length=48)
    model = tiny.fresh(config=config, seed=4)
    model.tasks = ("statement",)
    settings = ProcessorConfig(image_sizes=((8, 48),), max_length=48, lexicon=panel_lexicon())
    return (
        Pipeline(model, Processor(tokenizer, settings)),
        Pipeline(model, Processor(tokenizer, replace(settings, lexicon=()))),
    )


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(PanelStatements(1)[0].image)


def saved(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


FORMS = {
    "gray": lambda p: p.convert("L"),
    "gray with alpha": lambda p: p.convert("LA"),
    "alpha": lambda p: p.convert("RGBA"),
    "palette": lambda p: p.convert("P", palette=Image.Palette.ADAPTIVE, colors=8),
    "one bit": lambda p: p.convert("1"),
    "half size": lambda p: p.resize((200, 50)),
    "large": lambda p: p.resize((1600, 400)),
    "squashed": lambda p: p.resize((100, 100)),
    "upright": lambda p: p.resize((60, 300)),
    "gray array": lambda p: np.asarray(p.convert("L")),
    "floats": lambda p: np.asarray(p, np.float32) / 255,
    "png bytes": lambda p: saved(p, "PNG"),
    "jpeg bytes": lambda p: saved(p, "JPEG"),
}


@pytest.mark.parametrize("form", FORMS)
def test_pictures_of_any_form_are_answered(pipelines, picture, form):
    answer = pipelines[0].ask(FORMS[form](picture), TRUE)
    assert answer.text in ("true", "false")
    assert 0.5 <= answer.confidence <= 1


@pytest.mark.parametrize("form", ["alpha", "palette", "png bytes", "floats"])
def test_a_form_that_keeps_the_pixels_keeps_the_answer(pipelines, picture, form):
    one, two = pipelines[0].ask(picture, TRUE), pipelines[0].ask(FORMS[form](picture), TRUE)
    assert (one.text, one.steps) == (two.text, two.steps)
    assert two.confidence == pytest.approx(one.confidence, abs=1e-3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((100, 400, 2), np.uint8), "shape"),
        (np.full((100, 400, 3), np.nan, np.float32), "floats in"),
        (b"no picture", "image"),
        ("no_such_picture.png", "no_such_picture"),
    ],
)
def test_what_is_no_picture_is_one_line(pipelines, image, message):
    with pytest.raises(SaccadeError, match=message) as caught:
        pipelines[0].ask(image, TRUE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        (" \n ", "the text is empty"),
        ("...", "no words"),
        ("es gibt einen blauen Kreis", "does not know the word 'es'"),
        ("qwx zzv", "does not know the word 'qwx'"),
        ("存在一个蓝色的圆圈", "does not know the word"),
        ("there is a bleu circle", "did you mean blue"),
        ("a bllue circle", "did you mean blue"),
        ("there is a blue circle \N{LARGE BLUE CIRCLE}", "symbol"),
        ("blue " * 60, "tokens, the limit is 48"),
    ],
)
def test_what_the_model_never_read_is_one_line(pipelines, picture, text, message):
    with pytest.raises(SaccadeError, match=message) as caught:
        pipelines[0].ask(picture, text, task="statement")
    assert "\n" not in str(caught.value)


def test_a_misspelt_word_is_read_as_the_known_one_and_told(pipelines, picture):
    with pytest.warns(SaccadeWarning, match="'bllue' is read as 'blue'"):
        answer = pipelines[0].ask(picture, "there is a bllue circle")
    assert answer == pipelines[0].ask(picture, TRUE)


@pytest.mark.parametrize(
    "text", ["es gibt einen blauen Kreis", "qwx zzv", "存在蓝色", "there is a bleu circle"]
)
def test_without_a_lexicon_any_words_are_answered_with_a_confidence(pipelines, picture, text):
    answer = pipelines[1].ask(picture, text, task="statement")
    assert answer.text in ("true", "false")
    assert 0.5 <= answer.confidence <= 1


def test_the_threshold_of_a_command_is_between_0_and_1(pipelines, picture, monkeypatch, tmp_path):
    picture.save(tmp_path / "a.png")
    monkeypatch.setattr(saccade, "load", lambda name: pipelines[0])
    command = ["ask", str(tmp_path / "a.png"), TRUE, "--threshold"]
    for value in ("nan", "inf", "2"):
        refused = CliRunner().invoke(app, [*command, value])
        assert refused.exit_code == 2
        assert "Invalid value for '--threshold'" in refused.stderr
    assert "1 step," in CliRunner().invoke(app, [*command, "0"]).stdout


def test_numbers_in_either_form(pipelines, picture):
    one, two = (pipelines[0].ask(picture, f"there are {n} blue items") for n in ("2", "two"))
    assert {one.text, two.text} <= {"true", "false"}
