"""Runs that are cut off, split, merged and mixed up."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import answering
import numpy as np
import pytest
from answering import BATCH, NUM, Script, run, write_rows

from saccade.errors import SaccadeError
from saccade.evaluation import merge
from saccade.evaluation.record import Shard, short

FILES = ("predictions.jsonl", "run.json", "scores.json")


@pytest.fixture
def folder(tmp_path):
    return write_rows(tmp_path / "data")


@pytest.fixture
def whole(folder, tmp_path):
    """What an uninterrupted run writes: name -> bytes."""
    run(Script(), folder, tmp_path / "whole")
    return contents(tmp_path / "whole")


def contents(folder: Path) -> dict:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_scores_by_hand(folder, whole):
    scores = json.loads(whole["scores.json"])
    right = [i % 3 == i // 2 % 3 for i in range(NUM)]
    assert scores["accuracy"] == pytest.approx(np.mean(right))
    assert scores["by_kind"] == {f"k{k}": pytest.approx(np.mean(right[k::2])) for k in (0, 1)}
    told = {"model": "script", "data": "jsonl", "split": "all", "num": NUM, "harness": "exact"}
    assert told.items() <= scores.items()
    assert {"rule", "prompt", "decoding", "versions"} <= scores.keys()
    rows = [json.loads(line) for line in whole["predictions.jsonl"].splitlines()]
    assert [row["index"] for row in rows] == list(range(NUM))
    assert run(Script(), folder)["accuracy"] == scores["accuracy"]


def killed(folder, out, batches, shard="-"):
    command = [sys.executable, answering.__file__, str(folder), str(out), str(batches), shard]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_a_killed_run_continues_where_it_was(folder, whole, tmp_path):
    out = tmp_path / "out"
    done = killed(folder, out, 2)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "scores.json").exists()
    assert len((out / "predictions.jsonl").read_bytes().splitlines()) == 2 * BATCH
    again = Script()
    run(again, folder, out)
    assert again.asked == [str(i) for i in range(2 * BATCH, NUM)]
    assert contents(out) == whole
    idle = Script()
    run(idle, folder, out)  # nothing is left to do
    assert idle.asked == []
    assert contents(out) == whole


def test_a_file_torn_anywhere_gives_the_same_scores(folder, whole, tmp_path):
    content = whole["predictions.jsonl"]
    cuts = sorted({0, 1, content.index(b"\n"), content.index(b"\n") + 1, len(content) - 1})
    cuts += random.Random(0).sample(range(len(content)), 12)
    for number, cut in enumerate(cuts):
        out = tmp_path / f"cut{number}"
        out.mkdir()
        (out / "run.json").write_bytes(whole["run.json"])
        (out / "predictions.jsonl").write_bytes(content[:cut])
        again = Script()
        run(again, folder, out)
        kept = min(content[:cut].count(b"\n") // BATCH * BATCH, NUM)
        assert again.asked == [str(i) for i in range(kept, NUM)]
        assert contents(out) == whole


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shards_merge_to_the_same_files(folder, whole, tmp_path, count):
    out, asked = tmp_path / "out", []
    for number in random.Random(count).sample(range(1, count + 1), count):
        script = Script()
        told = run(script, folder, out, shard=f"{number}/{count}")
        assert told == {"shard": f"{number}/{count}", "num": len(script.asked), "of": NUM, "out": str(out)}
        assert (out / f"predictions-{number}of{count}.jsonl").exists()
        asked += script.asked
    assert sorted(asked, key=int) == [str(i) for i in range(NUM)]
    scores = merge(out)
    assert contents(out) == whole
    assert scores == json.loads(whole["scores.json"])
    assert merge(out) == scores
    for path in out.glob("*of*"):
        path.unlink()
    assert merge(out) == scores  # a run that was not split is scored again, too


def test_a_killed_shard_continues(folder, whole, tmp_path):
    out = tmp_path / "out"
    assert killed(folder, out, 1, "1/2").returncode == -signal.SIGKILL
    run(Script(), folder, out, shard="2/2")
    with pytest.raises(
        SaccadeError, match=r"3 is missing|holds 8 of 11 rows|rows, the first that is missing"
    ):
        merge(out)
    again = Script()
    run(again, folder, out, shard="1/2")
    assert again.asked == ["6", "7", "8"]
    merge(out)
    assert contents(out) == whole


def test_the_order_of_the_rows_in_a_shard_does_not_matter(folder, whole, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    lines = whole["predictions.jsonl"].splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    (out / "run.json").write_bytes(whole["run.json"])
    (out / "predictions.jsonl").write_bytes(b"".join(lines))
    merge(out)
    assert contents(out) == whole


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("5/5", "5 shards of 4 batches of 3 rows.*at most 4 shards, or a smaller batch_size"),
        ("0/2", "give i/n with i from 1 to n"),
        ("3/2", "give i/n with i from 1 to n"),
        ("1:2", "give i/n with i from 1 to n"),
        ("-1/2", "give i/n with i from 1 to n"),
    ],
)
def test_shards_that_are_none(folder, tmp_path, shard, message):
    with pytest.raises(SaccadeError, match=message):
        run(Script(), folder, tmp_path / "out", shard=shard)
    assert not (tmp_path / "out").exists()


def test_a_shard_needs_a_folder(folder):
    with pytest.raises(SaccadeError, match="needs out"):
        run(Script(), folder, shard="1/2")
    assert list(Shard(2, 3).batches(8, 1)) == [1, 4, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2}, "batch_size 3, this one has 2"),
        ({"num": 5}, "num 11, this one has 5"),
        ({"rule": "statement"}, 'harness "exact", this one has "statement"'),
        ({"prompt": "Well, {text}"}, "prompt "),
        ({"name": "other"}, 'model "script", this one has "other"'),
    ],
)
def test_other_settings_are_refused(folder, whole, tmp_path, options, message):
    script = Script()
    script.judge = script.answer
    with pytest.raises(SaccadeError, match=message) as error:
        run(script, folder, tmp_path / "whole", **options)
    assert "\n" not in str(error.value)
    assert script.asked == []
    assert contents(tmp_path / "whole") == whole


@pytest.mark.parametrize(("key", "value"), [("answers", ["green"]), ("text", "q?"), ("kind", "k9")])
def test_other_data_is_refused(folder, whole, tmp_path, key, value):
    """As many rows of the same name: nothing but the rows tells them apart."""
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    lines[4][key] = value
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    script = Script()
    with pytest.raises(SaccadeError, match=f"row 4 has {key} .*, the data has .*{value[0]}") as error:
        run(script, folder, tmp_path / "whole")
    assert "\n" not in str(error.value)
    assert script.asked == []
    assert contents(tmp_path / "whole") == whole


def test_a_changed_model_is_refused(folder, tmp_path):
    import keras

    def script(value):
        found = Script()
        found.model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        found.model.set_weights([np.full((2, 1), value), np.zeros(1)])
        return found

    run(script(1.0), folder, tmp_path / "out")
    run(script(1.0), folder, tmp_path / "out")
    with pytest.raises(SaccadeError, match="with weights "):
        run(script(2.0), folder, tmp_path / "out")
    with pytest.raises(SaccadeError, match='decoding "scripted"'):
        run(Script(decoding="sampled"), write_rows(tmp_path / "more"), _made(tmp_path))


def _made(tmp_path):
    run(Script(), write_rows(tmp_path / "more"), tmp_path / "made")
    return tmp_path / "made"


def test_what_is_missing_is_named(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(SaccadeError, match="is no folder"):
        merge(out)
    run(Script(), folder, out, shard="2/3")
    with pytest.raises(SaccadeError, match="has 1 of 3 shards, 1/3 is missing"):
        merge(out)
    run(Script(), folder, out, shard="1/2")
    with pytest.raises(SaccadeError, match="shards of 2 and of 3"):
        merge(out)
    other = tmp_path / "other"
    run(Script(), folder, other, shard="1/2")
    run(Script(), folder, other, shard="2/2", name="another")
    with pytest.raises(SaccadeError, match='model "script", this one has "another"'):
        merge(other)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SaccadeError, match=r"run\.json does not exist"):
        merge(empty)


def test_damage_is_not_taken_for_predictions(folder, whole, tmp_path):
    path = tmp_path / "whole" / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{torn\n", *lines[2:]]))
    with pytest.raises(SaccadeError, match="line 2 is no prediction"):
        run(Script(), folder, tmp_path / "whole")
    path.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(SaccadeError, match="line 1 is of row 1"):
        run(Script(), folder, tmp_path / "whole")
    path.write_bytes(b"".join(lines)[:-4])
    with pytest.raises(SaccadeError, match="ends within a line"):
        merge(tmp_path / "whole")


def test_two_processes_do_not_write_one_file(folder, whole, tmp_path):
    with open(tmp_path / "whole" / "predictions.jsonl", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SaccadeError, match="being written by another process"):
            run(Script(), folder, tmp_path / "whole")


def test_nothing_to_evaluate(tmp_path):
    with pytest.raises(SaccadeError, match=r"holds no rows|has no row"):
        run(Script(), write_rows(tmp_path / "data", 0))


def test_floats_come_back_as_they_were():
    values = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    assert (np.array(json.loads(json.dumps(short(values))), np.float32) == values).all()
