"""Reports of scripted and real models: numbers, page, figures, files."""

import io
import json
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from saccade.analysis import analyse, figures, write
from saccade.analysis.boards import collect_boards
from saccade.analysis.html import to_html
from saccade.analysis.marks import ROLES, framed, to_image, to_svg
from saccade.analysis.record import Board
from saccade.analysis.sheets import sheet
from saccade.cli import app
from saccade.data.puzzles import maze, sudoku
from saccade.data.scenes.nlvr import scene_from_structured
from saccade.data.scenes.render import render
from saccade.errors import SaccadeError
from saccade.evaluation import evaluate
from saccade.models.trm import TRM, preset
from saccade.puzzles import PuzzleModel
from saccade.solve import measure

NUM, BATCH = 23, 10  # the last batch is not full
VOID = {"meta", "img", "br", "link"}
EVIL = "Is <script>alert(1)</script> & \"x' there"


def look(pipeline, **options):
    return analyse(pipeline, num=options.pop("num", NUM), batch_size=BATCH, progress=False, **options)


class Page(HTMLParser):
    """Tags in balance; every attribute that could load something."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.tags, self.said = [], [], set(), []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "data", "action", "srcset")]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


def check_page(text):
    page = Page(text)
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert all(a.startswith(("data:image/", "#")) for a in page.addresses)
    assert not re.search(r"https?://|@import|url\(", text)
    return page


@pytest.mark.parametrize("task", ["vqa", "statement", "panels", "ground"])
def test_numbers_are_those_of_evaluate(scripted, task):
    wrong = (0, 7, 22)
    part = look(scripted(wrong), tasks=(task,)).parts[0]
    scores = evaluate(scripted(wrong), task=task, num=NUM, batch_size=BATCH, progress=False)
    for name in part.scores:
        assert part.scores[name] == scores[name], name
    assert part.operating["accuracy"] == scores["accuracy"] == pytest.approx(20 / NUM)
    assert list(part.accuracy_by_step) == scores["accuracy_by_step"]
    assert part.histogram.sum(axis=1).tolist() == [3, 20]
    for given in part.breakdowns:
        assert sum(group.num for group in given.groups) == NUM
    depth = {g.label: g.mean_steps for g in part.breakdowns[0].groups}
    assert depth == {k: pytest.approx(v["mean_steps"]) for k, v in scores["by_depth"].items()}
    assert sum(f.wrong for f in part.failures[1:]) == 3
    assert all(len(c.attention) == c.card.steps and c.halting.shape == (6,) for c in part.cases)


def test_a_real_model_agrees_with_evaluate(real):
    threshold = 0.2  # of random weights: some rows halt early, some never
    report = look(real, tasks=("statement",), threshold=threshold)
    scores = evaluate(real, task="statement", num=NUM, batch_size=BATCH, threshold=threshold, progress=False)
    part = report.parts[0]
    assert part.scores == {name: scores[name] for name in part.scores}
    assert 1 < part.scores["mean_steps"] < part.scores["max_steps"]
    check_page(to_html(report))


def test_cases_are_the_rows_they_say(scripted):
    part = look(scripted((3, 12)), tasks=("vqa",)).parts[0]
    by_id = {case.card.id: case for case in part.cases}
    assert not by_id["test-99-12"].correct
    for id, case in by_id.items():
        row = int(id.rpartition("-")[2])
        assert case.card.image.dtype == np.uint8
        assert case.card.steps == (6 if row in (3, 12) else case.card.steps)
        np.testing.assert_allclose(case.attention.sum(axis=(1, 2)), 1, atol=1e-5)
        assert case.answers[-1] == case.card.answer
        assert (case.card.answer == case.card.truth) == case.correct == (row not in (3, 12))
        assert case.paths[0].values.max() > 0.8
    pairs = {(p.truth, p.answer) for p in part.confusions}
    assert all(truth != answer for truth, answer in pairs)
    assert sum(p.count for p in part.confusions) == 2


def test_the_page_is_inert(scripted):
    report = look(scripted((0, 1)), tasks=("vqa", "statement"), name=EVIL, command="saccade <b>")
    part = report.parts[0]
    cases = tuple(
        replace(c, card=replace(c.card, text=EVIL, truth="<i>", answer="</svg><script>")) for c in part.cases
    )
    failures = tuple(
        replace(f, title=EVIL, cards=tuple(replace(c, text=EVIL) for c in f.cards)) for f in part.failures
    )
    confusions = tuple(replace(c, truth=EVIL) for c in part.confusions)
    evil = replace(part, cases=cases, failures=failures, confusions=confusions, notes=(EVIL,))
    text = to_html(replace(report, parts=(evil, report.parts[1])))
    page = check_page(text)
    assert "i" not in page.tags
    assert any(EVIL in said for said in page.said)
    for case in cases:
        ElementTree.fromstring(to_svg(framed(sheet(case, "x", heading=True), "x"), alone=True))


def test_the_page_fits_a_phone_prints_and_knows_the_dark(scripted):
    text = to_html(look(scripted(), tasks=("vqa",)))
    assert 'name="viewport" content="width=device-width' in text
    assert "@media print" in text
    assert "prefers-color-scheme:dark" in text
    assert "default-src 'none'" in text
    assert "No mistakes." in text
    tags = re.findall(r"<svg [^>]*>", text)
    assert len(tags) > 8
    assert all("viewBox" in tag and 'role="img"' in tag and "aria-label" in tag for tag in tags)
    assert not [tag for tag in tags if re.search(r'[" ]width=', tag)]  # CSS makes them fit


def luminance(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("role", ["ink", "faint", "right", "wrong", "third", "fourth"])
def test_contrast(role, which):
    low, high = sorted(luminance(ROLES[name][which]) for name in (role, "paper"))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_figures_are_svg_and_pictures(scripted):
    found = figures(look(scripted((2, 9)), tasks=("vqa", "ground")))
    assert len({figure.name for figure in found}) == len(found)
    for figure in found:
        text = to_svg(figure, alone=True)
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert text.count("http") == 1
        for mark in figure.marks:
            if hasattr(mark, "width"):
                assert mark.x >= -0.01, figure.name
                assert mark.x + mark.width <= figure.width + 0.01, figure.name
                assert mark.y + mark.height <= figure.height + 0.01, figure.name
    image = to_image(found[0])
    assert image.width == 2 * found[0].width
    assert len(image.getcolors(1 << 22)) > 3


def test_json_goes_there_and_back(scripted, tmp_path):
    report = look(scripted((5,)), tasks=("vqa", "ground"))
    record = report.to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    written = write(report, tmp_path / "r.html", ("html", "json", "svg", "png"))
    assert json.loads((tmp_path / "r.json").read_text()) == record
    assert record["schema"] == "saccade.analysis/1"
    assert record["parts"][0]["num"] == NUM
    assert "image" not in record["parts"][0]["cases"][0]["card"]
    assert written[-1] == tmp_path / "r.html"
    assert len(list((tmp_path / "r_figures").glob("*.svg"))) == len(figures(report))
    assert len(list((tmp_path / "r_figures").glob("*.png"))) == len(figures(report))


class Script:
    """Fills all cells but the last of a solved board at step 2; the last one at step 3, or never."""

    def __init__(self, answers, never=()):
        self.answers, self.never, self.row = answers, never, 0

    def trace(self, puzzles):
        rows = (self.row + np.arange(len(puzzles))) % len(self.answers)
        self.row += len(puzzles)
        first, full = puzzles.copy(), self.answers[rows]
        blank = [np.flatnonzero(p != a)[-1] for p, a in zip(puzzles, full, strict=True)]
        second = full.copy()
        second[np.arange(len(rows)), blank] = puzzles[np.arange(len(rows)), blank]
        last = np.where(np.isin(rows, self.never)[:, None], second, full)
        cells = np.stack([first, second, last, last]).astype(np.int8)
        q = np.where((cells == full).all(axis=2), 3.0, -3.0)
        return {"cells": cells, "halting": q, "q_halt": q}


def scripted_puzzles(kind, puzzles, answers, never):
    config = SimpleNamespace(halt_max_steps=4, halt_threshold=0.0, seq_len=puzzles.shape[1])
    model = SimpleNamespace(config=config, dtype_policy=SimpleNamespace(name="float32"))
    script = Script(answers, never)
    return SimpleNamespace(kind=kind, model=model, solver=script, solver_for=lambda cells: script)


@pytest.mark.parametrize("kind", ["sudoku", "maze"])
def test_boards(kind, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    if kind == "sudoku":
        puzzles, answers = map(np.stack, zip(*(sudoku.generate(rng, 2, 6) for _ in range(5)), strict=True))
    else:
        puzzles, answers = maze.generate_many(rng, 5, 6)
    monkeypatch.setattr("saccade.analysis.boards.make_puzzles", lambda *a: puzzles)
    report = analyse(scripted_puzzles(kind, puzzles, answers, (1,)), batch_size=3, progress=False)
    part = report.parts[0]
    assert part.scores["accuracy"] == 0.8
    assert part.scores["mean_steps"] == pytest.approx((4 * 3 + 4) / 5)
    assert part.histogram.tolist() == [[0, 0, 0, 1], [0, 0, 4, 0]]
    boards = {int(b.card.id.rpartition("-")[2]): b for b in part.cases}
    for row, board in boards.items():
        assert isinstance(board, Board)
        changed = (puzzles[row] != answers[row]).reshape(board.given.shape)
        assert (board.settled[~changed] == 1).all()
        last = np.flatnonzero(changed)[-1]
        expected = np.where(changed, 2, 1)
        expected.flat[last] = 1 if row == 1 else 3
        np.testing.assert_array_equal(board.settled, expected)
        assert (board.answer != board.truth).sum() == (1 if row == 1 else 0)
        assert board.correct == (row != 1)
    assert [(f.title, f.wrong) for f in part.failures] == [("out of steps", 1)]
    check_page(to_html(report))
    write(report, tmp_path / "b.html", ("json", "svg", "png"))
    assert json.loads((tmp_path / "b.json").read_text())["parts"][0]["task"] == kind


def test_sure_at_the_last_step_is_sure():
    puzzles, answers = map(
        np.stack, zip(*(sudoku.generate(np.random.default_rng(1), 2, 6) for _ in range(3)), strict=True)
    )
    model = scripted_puzzles("sudoku", puzzles, answers, (0, 1))
    trace = model.solver.trace

    def overconfident(some):
        found = trace(some)
        found["halting"][-1, 1] = found["q_halt"][-1, 1] = 2.0  # row 1, still wrong
        return found

    model.solver.trace = overconfident
    part = collect_boards(model, puzzles, None, 3, progress=False)
    assert [(f.title, f.wrong, f.num) for f in part.failures] == [
        ("out of steps", 1, 1),
        ("sure, and wrong", 1, 2),
    ]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A small model of 4 x 4 Sudokus, its weights random."""
    import reference

    small = {"dim": 16, "num_heads": 2, "multiple": 8, "h_cycles": 1, "l_cycles": 1, "halt_max_steps": 3}
    model = reference.randomize(TRM(preset("trm_sudoku_4x4", **small)), 0)
    folder = tmp_path_factory.mktemp("models") / "four"
    model.save(folder)
    return PuzzleModel(model), folder


def test_a_real_puzzle_model_agrees_with_measure(four):
    from saccade.analysis.boards import make_puzzles

    model, _ = four
    part = analyse(model, num=10, batch_size=4, threshold=0.1, progress=False).parts[0]
    puzzles = make_puzzles("sudoku", 16, 10, 99)
    expected = measure(model.solver, puzzles, lambda cells: sudoku.solved(puzzles, cells), threshold=0.1)
    assert part.scores["accuracy"] == expected["exact_halting"]
    assert part.scores["accuracy_all_steps"] == expected["exact"]
    assert part.scores["mean_steps"] == pytest.approx(expected["mean_steps"])
    assert part.num == 10


def test_the_command(four, tmp_path):
    _, folder = four
    (tmp_path / "p.txt").write_text("...1.....23..3..\n" * 3)
    out = tmp_path / "made" / "r.html"
    words = ["analyse", str(folder), "--file", str(tmp_path / "p.txt"), "--num", "2", "--out", str(out)]
    result = CliRunner().invoke(app, [*words, "--formats", "html, json"])
    assert result.exit_code == 0, result.output
    assert "of 2," in result.stdout
    text = out.read_text()
    check_page(text)
    assert "saccade analyse" in text
    assert json.loads(out.with_suffix(".json").read_text())["parts"][0]["num"] == 2


def refused(words):
    result = CliRunner().invoke(app, ["analyse", *words])
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    return result.output


def test_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("saccade.pipeline.load", lambda *a: pytest.fail("loaded"))
    assert "does not end in .html" in refused(["--out", "x.pdf"])
    assert "unknown format 'pdf'" in refused(["--formats", "html,pdf"])
    (tmp_path / "d.html").mkdir()
    assert "is a directory" in refused(["--out", str(tmp_path / "d.html")])


def test_puzzle_refusals(four, tmp_path):
    _, folder = four
    assert "a model of sudoku, not of maze" in refused([str(folder), "--data", "maze"])
    assert "has one task" in refused([str(folder), "--task", "vqa"])
    assert "folder x is of nlvr" in refused([str(folder), "--folder", "x"])
    (tmp_path / "none.txt").write_text("\n")
    assert "holds no puzzle" in refused([str(folder), "--file", str(tmp_path / "none.txt")])
    (tmp_path / "nine.txt").write_text("." * 81)
    assert "has 81 cells, the model was trained on 16" in refused(
        [str(folder), "--file", str(tmp_path / "nine.txt")]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "coco"}, "unknown data 'coco'"),
        ({"data": "sudoku"}, "a model of scenes, not of sudoku"),
        ({"tasks": ("sing",)}, "task 'sing' cannot be analysed"),
        ({"tasks": ("caption",)}, "task 'caption' cannot be analysed"),
        ({"num": 0}, "num is 0"),
        ({"data": "nlvr"}, "give folder"),
        ({"data": "nlvr", "tasks": ("vqa",), "folder": "."}, "statements only"),
        ({"data": "nlvr", "folder": ".", "orders": 7}, "orders is 7"),
        ({"file": "p.txt"}, "leave file out"),
        ({"folder": "nlvr"}, "folder nlvr is of nlvr, the data is scenes"),
        ({"orders": 2}, "orders 2 is of nlvr"),
        ({"threshold": float("nan")}, "threshold is nan; give a number"),
        ({"split": "dev"}, "unknown split 'dev'"),
    ],
)
def test_refusals(scripted, options, message):
    with pytest.raises(SaccadeError, match=message):
        look(scripted(), **options)


def test_a_model_without_steps_and_one_that_has_not_learned(scripted):
    nano = SimpleNamespace(model=type("NanoVLM", (), {})(), ask=None)
    with pytest.raises(SaccadeError, match="a NanoVLM has no reasoning steps"):
        look(nano)
    pipeline = scripted()
    pipeline.model.tasks = ("vqa",)
    with pytest.raises(SaccadeError, match="has not learned 'ground', only vqa"):
        look(pipeline, tasks=("ground",))
    pipeline.model.tasks = ("statement",)
    assert [part.task for part in look(pipeline, num=3).parts] == ["panels"]


def nlvr(folder, votes=True, images=True):
    """Four examples of two sentences, one picture each."""
    thing = {"type": "square", "color": "Yellow", "size": 20, "x_loc": 10, "y_loc": 40}
    panels = [[thing], [thing], []]
    buffer = io.BytesIO()
    Image.fromarray(render(scene_from_structured(panels))).save(buffer, "PNG")
    rows = []
    for number in range(4):
        id = f"{number // 2}-{number % 2}"
        row = {"id": id, "sentence": f"There is atleast one box {'ab'[number // 2]}", "label": True}
        row |= {"images": [f"dev-{id}-0.png"], "structured_rep": panels}
        rows.append(row | ({"evals": {"r0": "true", "r1": "false" if number else "true"}} if votes else {}))
    (folder / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if images:
        with zipfile.ZipFile(folder / "dev_images.zip", "w") as archive:
            for row in rows:
                archive.writestr(row["images"][0], buffer.getvalue())
    return folder


def test_nlvr(scripted, tmp_path):
    options = {"data": "nlvr", "folder": nlvr(tmp_path), "num": None}
    part = look(scripted((3,)), **options).parts[0]
    scores = evaluate(
        scripted((3,)), "nlvr", "statement", None, batch_size=BATCH, folder=tmp_path, progress=False
    )
    assert part.scores == {name: scores[name] for name in part.scores}
    assert part.scores["consistency"] == 0.5
    assert [b.name for b in part.breakdowns] == ["length", "kind", "raters"]
    raters = {g.label: (g.num, g.accuracy) for g in part.breakdowns[2].groups}
    assert raters == {"0% of raters disagree": (1, 1.0), "50% of raters disagree": (3, pytest.approx(2 / 3))}
    assert part.notes == ()
    part = look(scripted(), **options | {"folder": nlvr(tmp_path, votes=False)}).parts[0]
    assert [b.name for b in part.breakdowns] == ["length", "kind"]
    assert "no votes of raters" in part.notes[0]


def test_data_without_images_and_empty_data(scripted, tmp_path):
    with pytest.raises(SaccadeError, match=r"holds no dev_images\.zip"):
        look(scripted(), data="nlvr", folder=nlvr(tmp_path, images=False), num=None)
    nlvr(tmp_path)
    (tmp_path / "dev.jsonl").write_text("")
    with pytest.raises(SaccadeError, match="holds no rows"):
        look(scripted(), data="nlvr", folder=tmp_path, num=None)
