"""The command classify: what it prints, and what it says when it cannot."""

import json

import clip_parts
import pytest
from PIL import Image
from typer.testing import CliRunner

import saccade
from saccade import pipeline
from saccade.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP that was saved, beside a picture."""
    folder = tmp_path_factory.mktemp("cli")
    clip_parts.pipeline().save(folder / "clip")
    Image.fromarray(clip_parts.picture()).save(folder / "image.png")
    return folder


def run(folder, *words, model="clip", image="image.png"):
    result = CliRunner().invoke(
        app, ["classify", str(folder / image), *words, "--model", str(folder / model)]
    )
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_a_ranked_table(folder):
    result = run(folder, "a red cube", "a blue ball", "3 cones", "--template", "a photo of {}")
    assert result.exit_code == 0, result.output
    rows = result.output.strip().splitlines()
    expected = saccade.load(folder / "clip").classify(
        [clip_parts.picture()], ["a red cube", "a blue ball", "3 cones"], "a photo of {}"
    )[0]
    assert len(rows) == 3
    for row, label in zip(rows, expected.labels, strict=True):
        assert row.startswith(label.text)
        assert f"{label.probability:.1%}" in row
        assert f"similarity {label.similarity:.3f}" in row
    assert len({row.index("similarity") for row in rows}) == 1  # columns


def test_json(folder):
    result = run(folder, "a red cube", "a blue ball", "--json")
    told = json.loads(result.stdout)["labels"]
    assert sum(row["probability"] for row in told) == pytest.approx(1, abs=1e-3)
    assert told[0]["probability"] >= told[1]["probability"]


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["a"], {}, "a single label, 'a', is always right"),
        (["a", "a"], {}, "the label 'a' is there twice"),
        (["a", "  "], {}, "label 2 of 2 is empty; write what the image may show"),
        ([""], {}, "label 1 of 1 is empty"),
        (["a cube", "A cube"], {}, "the labels 'a cube' and 'A cube' are the same text to this model"),
        (["a", "red cube " * 20], {}, "tokens, the limit is 16; shorten it"),
        (["a", "b", "--template", "photo"], {}, "the template 'photo' has no single {}"),
        (["a", "b"], {"image": "nothing.png"}, "nothing.png does not exist; check the path"),
        (["a", "b"], {"image": "clip/config.json"}, "is not a PNG, JPEG or WEBP image"),
        (["a", "b"], {"image": "clip"}, "is a directory"),
        (["a", "b"], {"model": "nothing"}, "no model or directory is called"),
    ],
)
def test_what_is_refused(folder, words, options, message):
    result = run(folder, *words, **options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_bundled_one_is_the_default(folder, monkeypatch, tmp_path):
    words = ["classify", str(folder / "image.png"), "a red cube", "a blue ball", "--json"]
    monkeypatch.setattr(pipeline, "BUNDLED", tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "no model or directory is called 'clip_scenes'" in json.loads(result.stdout)["error"]
    clip_parts.pipeline().save(tmp_path / "clip_scenes")
    assert [info.name for info in pipeline.available()] == ["clip_scenes"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert result.stdout == run(folder, "a red cube", "a blue ball", "--json").stdout


def test_no_labels(folder):
    assert run(folder).exit_code == 2


def test_a_directory_of_another_kind(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    result = run(folder, "a", "b", model=str(tmp_path / "empty"))
    assert (result.exit_code, "is not a model directory" in result.stderr) == (2, True)
    image = str(folder / "image.png")
    asked = ["classify", image, "a", "b", "--model", "vlm_hrm_scenes", "--json"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2
    assert "answers questions, but has no 'classify'" in json.loads(result.stdout)["error"]
    result = CliRunner().invoke(app, ["ask", image, "what?", "--model", str(folder / "clip")])
    assert result.exit_code == 2
    assert "compares images and texts, but has no 'ask'; use `saccade classify`" in result.stderr


def test_evaluate_names_the_task_that_works(folder):
    result = CliRunner().invoke(app, ["evaluate", str(folder / "clip"), "--num", "4"])
    assert result.exit_code == 2
    assert "use scenes, task retrieve" in result.stderr
