"""Parsing, output and errors of the command line, with a pipeline that needs no model."""

import errno
import json
import math
import subprocess
import sys
import types
from dataclasses import asdict, dataclass

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import saccade
from saccade.cli import app
from saccade.cli.output import bar
from saccade.errors import SaccadeError


class Record:
    def to_json(self):
        return asdict(self)


@dataclass
class Answer(Record):
    text: str = "3"
    confidence: float = 0.97
    steps: int = 2
    task: str = "vqa"


@dataclass
class Step:
    answer: str
    confidence: float
    halting: float
    attention: np.ndarray


@dataclass
class Explanation(Record):
    answer: Answer
    steps: tuple
    rationale: str = "there are 3 red cubes"


@dataclass
class Caption(Record):
    text: str = "a red cube"
    steps: int = 1
    confidence: float = 0.9


@dataclass
class Grounding(Record):
    box_px: tuple = (2.0, 3.0, 20.5, 15.0)
    confidence: float = 0.8
    steps: int = 2


@dataclass
class Match(Record):
    probability: float = 0.75
    similarity: float = 0.4
    steps: int = 3


class Stub:
    """Answers every call and remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def ask(self, image, text, **options):
        self.calls.append(("ask", image.shape, text, options))
        return Answer()

    def explain(self, image, text, **options):
        self.calls.append(("explain", image.shape, text, options))
        rng = np.random.default_rng(0)
        attention = [rng.random((5, 7), dtype=np.float32) for _ in range(2)]
        steps = (Step("2", 0.55, 0.12, attention[0]), Step("3", 0.97, 0.93, attention[1]))
        return Explanation(Answer(), steps)

    def caption(self, image):
        return Caption()

    def ground(self, image, phrase):
        self.calls.append(("ground", image.shape, phrase))
        return Grounding()

    def match(self, image, text):
        return Match()


@pytest.fixture
def stub(monkeypatch):
    pipeline = Stub()
    pipeline.names = []

    def load(name):
        pipeline.names.append(name)
        return pipeline

    monkeypatch.setitem(saccade.__dict__, "load", load)
    return pipeline


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.full((18, 34, 3), 90, np.uint8)).save(path)
    return str(path)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result, *parts):
    """Exit code 2, one line on stderr, no traceback."""
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr


def test_ask(stub, picture):
    result = run("ask", picture, " How many\tred cubes? ")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["3", "confidence 97.0%, 2 steps, vqa"]
    options = {"task": "auto", "max_steps": None, "threshold": None}
    assert stub.calls == [("ask", (18, 34, 3), "How many red cubes?", options)]
    assert stub.names == ["vlm_hrm_scenes"]


def test_ask_options_reach_the_pipeline(stub, picture):
    options = ["--task", "statement", "--max-steps", 5, "--threshold", 0.7, "--model", "mine"]
    assert run("ask", picture, "a red cube", *options).exit_code == 0
    logit = pytest.approx(math.log(0.7 / 0.3))  # people see the halting value as a share
    assert stub.calls[0][3] == {"task": "statement", "max_steps": 5, "threshold": logit}
    assert stub.names == ["mine"]


@pytest.mark.parametrize(("given", "passed"), [(0, -math.inf), (0.5, 0.0), (1, math.inf)])
def test_threshold_reaches_from_always_to_never(stub, picture, given, passed):
    assert run("ask", picture, "What?", "--threshold", given).exit_code == 0
    assert stub.calls[0][3]["threshold"] == passed


def test_explain_has_a_line_for_each_step(stub, picture):
    lines = run("ask", picture, "How many?", "--explain").stdout.splitlines()
    assert len(lines) == 6
    assert lines[0].split() == ["step", "answer", "confidence", "halting"]
    assert lines[1].split()[:2] == ["1", "2"]
    assert lines[2].split()[:2] == ["2", "3"]
    assert "97.0%" in lines[2]
    assert lines[2].endswith("0.930")
    assert lines[3] == "because: there are 3 red cubes"
    assert lines[4] == "3"


def test_an_answer_is_not_read_as_markup(stub, picture, monkeypatch):
    monkeypatch.setattr(Stub, "ask", lambda *a, **k: Answer(text="[red]x"))
    assert run("ask", picture, "What?").stdout.startswith("[red]x\n")


def test_json_is_one_object(stub, picture, tmp_path):
    answer = json.loads(run("ask", picture, "How many?", "--json").stdout)
    assert answer == {"text": "3", "confidence": 0.97, "steps": 2, "task": "vqa"}
    out = tmp_path / "seen.png"
    explained = json.loads(run("ask", picture, "How?", "--explain", "--attention", out, "--json").stdout)
    assert explained["answer"]["text"] == "3"
    assert [step["halting"] for step in explained["steps"]] == [0.12, 0.93]
    assert np.shape(explained["steps"][0]["attention"]) == (5, 7)
    assert explained["attention_image"] == str(out)
    assert json.loads(run("caption", picture, "--json").stdout)["text"] == "a red cube"
    assert json.loads(run("ground", picture, "it", "--json").stdout)["box_px"] == [2.0, 3.0, 20.5, 15.0]
    assert json.loads(run("match", picture, "it", "--json").stdout)["probability"] == 0.75


def test_attention_writes_one_panel_for_each_step(stub, picture, tmp_path):
    out = tmp_path / "seen.png"
    result = run("ask", picture, "How many?", "--attention", out)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "3"
    with Image.open(out) as image:
        assert image.width > 3 * 200
        assert len(image.getcolors(1 << 20)) > 50


def test_caption_ground_match(stub, picture, tmp_path):
    assert run("caption", picture).stdout.splitlines()[0] == "a red cube"
    out = tmp_path / "boxed.jpg"
    result = run("ground", picture, "the red cube", "--out", out)
    assert result.stdout.splitlines()[0] == "2.0 3.0 20.5 15.0"
    with Image.open(out) as image:
        assert image.format == "JPEG"
    result = run("match", picture, "a red cube")
    assert result.stdout.startswith("match ")
    assert "75.0%" in result.stdout


def test_list(monkeypatch):
    @dataclass
    class Info(Record):
        name: str = "vlm_hrm_scenes"
        kind: str = "vlm_hrm"
        parameters: int = 4_200_000
        bytes: int = 8_400_000
        tasks: tuple = ("vqa", "ground")
        path: str = "somewhere"

    @dataclass
    class Preset(Record):
        name: str = "nano_vlm_mini"
        kind: str = "NanoVLM"
        parameters: int = 38_056_704

    fake = types.SimpleNamespace(available=lambda: [Info()], presets=lambda: [Preset()])
    monkeypatch.setitem(sys.modules, "saccade.pipeline", fake)
    assert (
        run("list").stdout.splitlines()[1].split()
        == "vlm_hrm_scenes vlm_hrm 4,200,000 8.4 MB vqa ground".split()
    )
    assert json.loads(run("list", "--json").stdout)["models"][0]["parameters"] == 4_200_000
    assert run("list").stdout.splitlines()[-1].split() == ["nano_vlm_mini", "NanoVLM", "38,056,704"]
    assert json.loads(run("list", "--json").stdout)["presets"][0]["parameters"] == 38_056_704
    fake.available = list
    assert "no models" in run("list").stdout


def test_scene_is_a_function_of_its_seed(tmp_path):
    first, second, other = (tmp_path / f"{name}.png" for name in "abc")
    result = run("scene", "--seed", 7, "--out", first, "--objects", 5, "--json")
    assert result.exit_code == 0
    meaning = json.loads(result.stdout)
    assert len(meaning["scene"]["objects"]) == 5
    assert len(meaning["questions"]) == 3
    assert all(item["answer"] for item in meaning["questions"])
    run("scene", "--seed", 7, "--out", second, "--objects", 5)
    run("scene", "--seed", 8, "--out", other, "--objects", 5)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def test_scene_scale_style_and_default_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("scene", "--style", "nlvr", "--seed", 3, "--scale", 2, "--questions", 2)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("scene-3.png: ")
    assert len(lines) == 3
    assert all(line.endswith(("  true", "  false")) for line in lines[1:])
    with Image.open(tmp_path / "scene-3.png") as image:
        assert image.size == (800, 200)


def test_train_passes_everything_on(monkeypatch):
    @dataclass
    class Result:
        steps: int = 12
        loss: float = 0.5

    seen = []
    fake = types.SimpleNamespace(run_recipe=lambda *arguments: seen.append(arguments) or Result())
    monkeypatch.setitem(sys.modules, "saccade.train.recipe", fake)
    result = run("train", "scenes_vlm_hrm", "train.steps=3", "a=b", "--smoke", "--out", "there", "--json")
    assert json.loads(result.stdout) == {"steps": 12, "loss": 0.5}
    assert seen == [("scenes_vlm_hrm", ["train.steps=3", "a=b"], True, "there")]
    assert run("train", "scenes_vlm_hrm").exit_code == 0
    assert seen[1] == ("scenes_vlm_hrm", [], False, None)


def test_evaluate_prints_and_saves(stub, monkeypatch, tmp_path):
    seen = []

    def evaluate(pipeline, **options):
        seen.append(options)
        rows = [{"threshold": 0.0, "spearman": None}]
        return {"accuracy": 0.975, "num": 50, "by_depth": {"1": np.float32(1.0)}, "thresholds": rows}

    monkeypatch.setitem(sys.modules, "saccade.evaluation", types.SimpleNamespace(evaluate=evaluate))
    options = ["--data", "scenes", "--task", "ground", "--num", 50, "--seed", 3, "--out", tmp_path / "new"]
    options += ["--split", "val", "--threshold", 0.5, "--rerank", 8]
    result = run("evaluate", "mine", *options)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == ["accuracy", "0.9750"]
    assert "by_depth.1" in result.stdout
    assert result.stdout.splitlines()[-1].split() == ["thresholds", "threshold", "0.0000", "spearman", "-"]
    given = {"data": "scenes", "task": "ground", "num": 50, "seed": 3, "split": "val", "rerank": 8}
    given |= {"threshold": 0.0, "beams": 1, "batch_size": 250, "folder": None, "orders": 1, "name": "mine"}
    assert seen == [{**given, "out": str(tmp_path / "new")}]
    printed = run("evaluate", "mine", "--task", "panels", "--json").stdout
    assert json.loads(printed)["by_depth"] == {"1": 1.0}


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("", ["empty"]),
        ("q" * 100_000, ["100,000 characters", "limit is 2,000"]),
        ("how \x1b[2J many", ["control character", "U+001B"]),
    ],
)
@pytest.mark.parametrize("command", ["ask", "ground", "match"])
def test_bad_text(stub, picture, command, question, parts):
    assert_refused(run(command, picture, question), *parts)
    assert stub.names == []


def write_bad_image(path):
    if path.name == "text.png":
        path.write_text("not an image")
    elif path.name == "cut.png":
        pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[:900])
    elif path.name == "empty.png":
        path.touch()
    elif path.name == "moving.webp":
        frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif path.name == "thin.png":
        Image.new("RGB", (1, 9)).save(path)
    elif path.name == "huge.png":
        Image.new("1", (10_000, 10_000)).save(path, compress_level=1)
    elif path.name == "folder.png":
        path.mkdir()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("text.png", "not a PNG, JPEG or WEBP"),
        ("cut.png", "truncated"),
        ("empty.png", "is empty"),
        ("moving.webp", "animated"),
        ("thin.png", "1 x 9 pixels"),
        ("huge.png", "100 megapixels"),
        ("folder.png", "is a directory"),
        ("none.png", "does not exist"),
        ("new\nline\x1b[1m.png", "new\\nline\\x1b[1m.png does not exist"),
    ],
)
@pytest.mark.parametrize("command", ["ask", "caption"])
def test_bad_images(stub, tmp_path, command, name, part):
    write_bad_image(tmp_path / name)
    text = [] if command == "caption" else ["How many?"]
    assert_refused(run(command, tmp_path / name, *text), part)
    assert stub.names == []


def test_errors_are_json_too_when_asked(stub, tmp_path):
    result = run("ask", tmp_path / "none.png", "How many?", "--json")
    assert_refused(result, "does not exist")
    assert json.loads(result.stdout)["error"] in result.stderr


def test_an_error_of_the_pipeline_is_one_line(stub, picture, monkeypatch):
    def broken(name):
        raise SaccadeError("the weights are damaged:\n fetch them again")

    monkeypatch.setitem(saccade.__dict__, "load", broken)
    assert_refused(run("caption", picture), "the weights are damaged: fetch them again")


def test_a_bug_is_not_hidden(stub, picture, monkeypatch):
    monkeypatch.setattr(Stub, "caption", lambda *arguments: 1 / 0)
    assert isinstance(run("caption", picture).exception, ZeroDivisionError)


def test_interrupted(stub, picture, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Stub, "caption", interrupt)
    result = run("caption", picture)
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


@pytest.mark.parametrize(
    ("name", "part"),
    [("x.gif", "does not end in"), ("none/x.png", "make it first"), ("folder.png", "directory")],
)
def test_outputs_are_checked_before_the_model_is_loaded(stub, picture, tmp_path, name, part):
    (tmp_path / "folder.png").mkdir()
    out = tmp_path / name
    assert_refused(run("ask", picture, "How?", "--attention", out), part)
    assert_refused(run("ground", picture, "it", "--out", out), part)
    assert_refused(run("scene", "--out", out), part)
    assert stub.names == []


def test_disk_full_leaves_the_old_picture(stub, picture, tmp_path, monkeypatch):
    out = tmp_path / "boxed.png"
    out.write_bytes(b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert_refused(run("ground", picture, "it", "--out", out), "no space left", "free some disk space")
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxed.png", "picture.png"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full")
def test_redirected_to_a_full_disk(repository, tmp_path):
    command = [sys.executable, "-m", "saccade.cli", "scene", "--out", str(tmp_path / "s.png")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=repository, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: no space left for the output; free some disk space and run again\n"


@pytest.mark.parametrize(
    "arguments",
    [["ask"], ["ask", "a.png", "b?", "--task", "rhyme"], ["ask", "a.png", "b?", "--max-steps", "0"], ["asq"]],
)
def test_wrong_usage(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_version_and_help():
    assert run("--version").stdout == f"saccade {saccade.__version__}\n"
    result = run("--help")
    for command in ("ask", "caption", "ground", "match", "scene", "list", "train", "evaluate"):
        assert command in result.stdout
        assert "--json" in run(command, "--help").stdout
    assert "solve" in result.stdout


def test_completion_is_offered():
    result = CliRunner().invoke(
        app,
        [],
        env={"_SACCADE_COMPLETE": "complete_bash", "COMP_WORDS": "saccade ca", "COMP_CWORD": "1"},
        prog_name="saccade",
    )
    assert result.stdout.split() == ["caption"]


def test_bar():
    assert bar(0) == " " * 12
    assert bar(1) == "█" * 12
    assert bar(0.5, 4) == "██  "
    assert len(bar(0.33)) == 12
    assert bar(7.0) == bar(1)
