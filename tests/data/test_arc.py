import json

import numpy as np
import pytest

from saccade.data.puzzles import arc
from saccade.errors import SaccadeError

PAIR = {"input": [[1, 2, 3], [4, 5, 6]], "output": [[7], [8]]}
TASK = {"train": [PAIR, PAIR], "test": [PAIR]}


def test_reading(tmp_path):
    (tmp_path / "a1.json").write_text(json.dumps(TASK))
    task = arc.read_folder(tmp_path)[0]
    assert (task.name, len(task.train), len(task.test)) == ("a1", 2, 1)
    np.testing.assert_array_equal(task.train[0][0], PAIR["input"])
    secret = arc.parse_task({"train": [PAIR], "test": [{"input": [[0]]}]}, "s")
    assert secret.test[0][1] is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "no lists `train` and `test`"),
        ({"train": 1, "test": 2}, "no lists `train` and `test`"),
        ({"train": "ab", "test": [PAIR]}, "no lists `train` and `test`"),
        ({"train": [PAIR], "test": []}, "no lists `train` and `test`"),
        ({"train": [{"input": [[1]]}], "test": [PAIR]}, "train pair 1: no `output`"),
        ({"train": [PAIR, {"output": [[1]]}], "test": [PAIR]}, "train pair 2: no `input`"),
        ({"train": [{**PAIR, "input": [[1, 2], [3]]}], "test": [PAIR]}, "row 2 has 1 cells, row 1 has 2"),
        ({"train": [{**PAIR, "input": [[1, 10]]}], "test": [PAIR]}, "10 in row 1 is no color"),
        ({"train": [{**PAIR, "input": [[True]]}], "test": [PAIR]}, "True in row 1 is no color"),
        ({"train": [{**PAIR, "input": []}], "test": [PAIR]}, "a grid is a list of rows"),
        ({"train": [{**PAIR, "input": [[0] * 31]}], "test": [PAIR]}, "1 x 31 exceeds 30 x 30"),
    ],
)
def test_bad_tasks(record, message):
    with pytest.raises(SaccadeError, match=message):
        arc.parse_task(record, "bad")


def test_bad_files(tmp_path):
    with pytest.raises(SaccadeError, match=r"holds no \*.json"):
        arc.read_folder(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(SaccadeError, match="cannot read the ARC task"):
        arc.read_folder(tmp_path)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (30, 4), (3, 30), (30, 30)])
def test_a_canvas_gives_its_grid_back(shape):
    grid = np.random.default_rng(0).integers(10, size=shape).astype(np.int8)
    cells = arc.encode(grid)
    assert cells.shape == (900,)
    np.testing.assert_array_equal(arc.decode(cells), grid)


def test_decoding_nonsense():
    assert arc.decode(np.zeros(900, np.int8)).size == 0
    ragged = arc.encode(np.ones((3, 4), np.int8)).reshape(30, 30)
    ragged[1, 2] = arc.PAD  # 1 x 4 and 3 x 2 remain: the larger is taken
    assert arc.decode(ragged.ravel()).shape == (3, 2)


def test_views_are_undone_and_differ():
    grid = np.random.default_rng(1).integers(10, size=(3, 5)).astype(np.int8)
    views = arc.draw_views(np.random.default_rng(0), 60)
    assert views[0] == arc.PLAIN
    assert len(set(views)) == 60
    assert {view.turn for view in views} == set(range(8))
    for view in views:
        assert view.colors[0] == 0
        np.testing.assert_array_equal(view.undo(view.apply(grid)), grid)


def test_votes_and_score():
    rng = np.random.default_rng(2)
    tasks = [arc.generate(rng) for _ in range(3)]
    table = arc.make_table(tasks, 5, rng, side=6)
    assert table.num_puzzles == 15
    assert len(table.inputs) == 3 * 5 * 3
    right = np.stack(
        [
            arc.encode(t["view"].apply(next(k for k in tasks if k.name == t["task"]).test[t["test"]][1]), 6)
            for t in table.tests
        ]
    )
    sure = np.ones(len(right))
    assert arc.score(tasks, arc.vote(table.tests, right, sure)) == 1.0
    wrong = np.roll(right, 1, axis=0)
    wrong[5:] = right[5:]  # the first task's five views: one right, others of other views
    chosen = arc.vote(table.tests, wrong, sure)
    assert len(chosen[tasks[0].name, 0]) == 2
    assert arc.score(tasks, chosen) >= 2 / 3
    # Two views agree on a wrong answer, one, very sure, is right: it comes second, so pass@2 counts it.
    tests = [{"task": tasks[0].name, "test": 0, "view": arc.PLAIN}] * 3
    answer = arc.encode(tasks[0].test[0][1], 6)
    false = arc.encode(1 - np.minimum(tasks[0].test[0][1], 1), 6)
    chosen = arc.vote(tests, np.stack([false, false, answer]), np.array([0.1, 0.1, 9.0]))
    assert arc.score(tasks[:1], chosen) == 1.0
    assert (
        arc.score(tasks[:1], arc.vote(tests, np.stack([false, false, answer]), np.zeros(3), attempts=1))
        == 0.0
    )


def test_secret_tests_have_no_score():
    task = arc.parse_task({"train": [PAIR], "test": [{"input": [[0]]}]}, "s")
    with pytest.raises(SaccadeError, match="secret"):
        arc.score([task], {})


def test_a_canvas_too_small():
    with pytest.raises(SaccadeError, match="exceeds side 2"):
        arc.make_table([arc.parse_task(TASK, "t")], 1, np.random.default_rng(0), side=2)
