"""One's own data, a Row a line."""

import pytest
from reader_files import check_broken, fault, picture, write_lines

from saccade.data.readers import open_rows
from saccade.errors import SaccadeError

ROW = {"image": "img/0.png", "text": "What is it?", "answers": ["a cat", "cat"], "id": "a", "split": "val"}
FULL = {
    "image": "img/0.png",
    "id": 7,
    "text": "Which?",
    "answers": "left",
    "answer_type": "other",
    "answer_index": 1,
    "boxes": [[0, 0.25, 0.5, 1], [0.1, 0.2, 0.3, 0.4]],
    "candidates": ["right", "left"],
    "relevance": [0, 1.0],
    "context": "Two hands.",
    "turns": [["Whose?", "Mine."]],
    "kind": "place",
    "axis": "side",
    "group": "hands",
    "split": "test",
}


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path / "img/0.png", level=12)
    write_lines(tmp_path / "rows.jsonl", [ROW, "", FULL, {"image": "img/0.png"}])
    return tmp_path


def test_every_key(folder):
    rows = open_rows("jsonl", folder)
    assert len(rows) == 3
    row = rows[1]
    assert (row.id, row.text, row.answers) == ("7", "Which?", ("left",))
    assert (row.answer_type, row.answer_index) == ("other", 1)
    assert row.boxes == ((0, 0.25, 0.5, 1), (0.1, 0.2, 0.3, 0.4))
    assert (row.candidates, row.relevance) == (("right", "left"), (0, 1))
    assert (row.context, row.turns) == ("Two hands.", (("Whose?", "Mine."),))
    assert (row.kind, row.axis, row.group, row.split) == ("place", "side", "hands", "test")
    assert row.where == f"{folder / 'rows.jsonl'}: row 1"
    assert (row.picture, int(row.image[0, 0, 0])) == (folder / "img/0.png", 12)
    assert rows[0].answers == ("a cat", "cat")
    bare = rows[2]
    assert (bare.id, bare.text, bare.answers, bare.split) == ("2", "", (), "")


def test_splits(folder):
    rows = open_rows("jsonl", folder / "rows.jsonl", split="test")
    assert [(row.id, row.where[-5:]) for row in rows] == [("7", "row 1")]
    with pytest.raises(SaccadeError, match="no row of split 'dev'; there are rows without one, test, val"):
        open_rows("jsonl", folder, split="dev")
    # What may belong to a split is not left out of it without a word.
    write_lines(
        folder / "rows.jsonl", [ROW, "no json", '"b"', {**ROW, "id": 1, "split": 3}, {**ROW, "split": "b"}]
    )
    rows = open_rows("jsonl", folder, split="val", max_bad=3)
    assert len(list(rows)) == 1
    assert dict(rows.tally.causes) == {"unreadable": 1, "type": 2}


def test_where_the_file_and_the_pictures_are(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    picture(other / "img/0.png", level=200)
    assert open_rows("jsonl", folder / "rows.jsonl")[0].image[0, 0, 0] == 12
    assert open_rows("jsonl", folder / "rows.jsonl", images=other)[0].image[0, 0, 0] == 200
    write_lines(folder / "more.jsonl", [ROW])
    with pytest.raises(SaccadeError, match=r"holds 2 \.jsonl files; give the path"):
        open_rows("jsonl", folder)


@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        ({"image": None}, "missing", "image: missing"),
        ({"image": 5}, "type", "image: a whole number, not a text"),
        ({"image": "img/1.png"}, "image", "image: no file img/1.png in "),
        ({"image": "img"}, "image", "image: no file img in "),
        ({"image": "../x.png"}, "image", "image: ../x.png leads out of "),
        ({"image": "/etc/hosts"}, "image", "image: /etc/hosts leads out of "),
        ({"txet": "?"}, "unknown", "txet: unknown; the keys are id, image"),
        ({"text": ""}, "text", "text: empty"),
        ({"text": "a\ud800"}, "unreadable", "text: 'a\\ud800' has half a character"),
        ({"text": ["?"]}, "type", "text: a list, not a text"),
        ({"answers": []}, "answers", "answers: an empty list"),
        ({"answers": ["a", 1]}, "type", "answers[1]: a whole number, not a text"),
        ({"answers": {"a": 1}}, "type", "answers: an object, not a list"),
        ({"boxes": [0, 0, 1, 1]}, "type", "boxes[0]: a whole number, not a list"),
        ({"boxes": [[0, 0, 1]]}, "box", "boxes[0]: 3 numbers, not 4"),
        ({"boxes": [[0, 0, 1, "1"]]}, "type", "boxes[0][3]: a text, not a number"),
        ({"boxes": [[0, 0, 1, 1], [0.5, 0, 0.4, 1]]}, "box", "boxes[1]: 0.5 0 0.4 1 must be x0 < x1"),
        ({"boxes": [[0, 0.4, 1, 0.4]]}, "box", "boxes[0]: 0 0.4 1 0.4 must be"),
        ({"boxes": [[0, 0, 1, 1.01]]}, "box", "boxes[0]: 0 0 1 1.01 must be"),
        ({"boxes": [[-0.1, 0, 1, 1]]}, "box", "boxes[0]: -0.1 0 1 1 must be"),
        ({"candidates": []}, "answers", "candidates: an empty list"),
        ({"relevance": [0.5]}, "type", "relevance: 1 values for 0 candidates"),
        ({"relevance": [2, 0], "candidates": ["a", "b"]}, "type", "relevance: a value outside [0, 1]"),
        ({"turns": [["a"]]}, "type", "turns[0]: 1 values, not a question and an answer"),
        ({"turns": [["a", ""]]}, "text", "turns[0][1]: empty"),
        ({"answer_index": 0}, "answers", "answer_index: 0, there are 0 candidates"),
        ({"answer_index": 0, "candidates": ["b"]}, "answers", "answer_index: candidate 0 is not answers[0]"),
        ({"answer_index": "A"}, "type", "answer_index: a text, not a whole number"),
        ({"id": "a"}, "duplicate", "id: a is that of row 0 too"),
        ({"id": 1.5}, "type", "id: a number, not a whole number"),
        ({"split": 3}, "type", "split: a whole number, not a text"),
    ],
)
def test_broken_rows(folder, change, cause, message):
    write_lines(folder / "rows.jsonl", [ROW, {**ROW, "id": "b", **change}])
    check_broken("jsonl", folder, "rows.jsonl: row 1", cause, message)


def test_lines_that_are_no_rows(folder):
    write_lines(folder / "rows.jsonl", ["{", '"text"', "[" * 100_000, '{"image": "\\ud800.png"}'])
    rows = open_rows("jsonl", folder)
    assert [fault(rows, i)[0] for i in range(4)] == ["unreadable", "type", "unreadable", "unreadable"]
    assert fault(rows, 1)[1] == f"{folder / 'rows.jsonl'}: row 1: the row: a text, not an object"
    assert all("\n" not in fault(rows, i)[1] for i in range(4))
