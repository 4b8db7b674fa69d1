"""Files of conversations: every format gives the same rows, by number, and says which row is damaged."""

import json
import pickle
import sys

import numpy as np
import pytest
import talk_files

from saccade.data.conversations import Conversations, RowError, RowFormat
from saccade.data.conversations.files import TEXT_QUESTION, find
from saccade.data.image import read_image
from saccade.errors import SaccadeError

ROWS = talk_files.rows(7)
WRITERS = {
    "jsonl": talk_files.write_jsonl,
    "tar": talk_files.write_tar,
    "parquet": talk_files.write_parquet,
}


def written(kind, folder, rows=ROWS, name="rows"):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    return WRITERS[kind](folder / f"{name}.{kind}", rows)


def same(found, row):
    said = [m["content"] for m in found.messages]
    assert said == [turn[role].strip() for turn in row["texts"] for role in ("user", "assistant")]
    assert len(found.images) == len(row["images"])
    for ours, theirs in zip(found.images, row["images"], strict=True):
        np.testing.assert_array_equal(read_image(ours), read_image(theirs["bytes"]))


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_by_number(kind, tmp_path):
    rows = Conversations.open(written(kind, tmp_path))
    assert len(rows) == 7
    for i in (6, 0, 3, 2, 5, 4, 1, 3):
        same(rows[i], ROWS[i])
        assert rows[i].where.endswith(f"rows.{kind}, row {i}")
    again = pickle.loads(pickle.dumps(rows))
    same(again[4], ROWS[4])
    for outside in (-1, 7):
        with pytest.raises(IndexError, match="rows 0 to 6"):
            rows[outside]


@pytest.mark.parametrize("kind", WRITERS)
def test_ratings_are_read(kind, tmp_path):
    rows = Conversations.open(written(kind, tmp_path), row_format=RowFormat(relevance_min=2))
    for i, row in enumerate(ROWS):
        pairs = zip(row["texts"], row["relevance_ratings"], strict=True)
        kept = [turn for turn, rating in pairs if rating in (5, None)]
        if kept:
            same(rows[i], {**row, "texts": kept})
        else:
            with pytest.raises(RowError, match="rating limits"):
                rows[i]


def test_several_files_follow_each_other(tmp_path):
    (tmp_path / "b").mkdir()
    talk_files.write_jsonl(tmp_path / "b" / "two.jsonl", ROWS[:2])
    talk_files.write_tar(tmp_path / "one.tar", ROWS[2:])
    (tmp_path / "readme.txt").write_text("no rows")
    rows = Conversations.open(tmp_path)  # b/ comes before one.tar
    assert len(rows) == 7
    for i in range(7):
        same(rows[i], ROWS[i])
    assert rows[3].where.endswith("one.tar, row 1")
    assert rows.blocks is None
    assert find([tmp_path / "one.tar", f"{tmp_path}/*.tar", f"{tmp_path}/**/*.jsonl"]) == [
        tmp_path / "one.tar",
        tmp_path / "b" / "two.jsonl",
    ]


def test_images_elsewhere(tmp_path):
    talk_files.write_jsonl(tmp_path / "rows.jsonl", ROWS[:2])
    (tmp_path / "texts").mkdir()
    (tmp_path / "rows.jsonl").rename(tmp_path / "texts" / "rows.jsonl")
    same(Conversations.open(tmp_path / "texts", images=tmp_path)[0], ROWS[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [("*.jsonl", "no file matches"), ("gone.tar", "no file matches"), ("a.csv", "no file of conversations")],
)
def test_what_cannot_be_opened(name, message, tmp_path):
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(SaccadeError, match=message):
        Conversations.open(tmp_path / name)


def fault(rows, i):
    with pytest.raises(RowError) as error:
        rows[i]
    return error.value.cause, str(error.value)


def test_damaged_lines(tmp_path):
    path = talk_files.write_jsonl(tmp_path / "rows.jsonl", ROWS[:1])
    good = path.read_bytes()
    lines = [good, b'{"images": [', b"\xff\xfe{}", b"[" * 100_000, b"3", b"  ", good]
    path.write_bytes(b"\r\n".join(lines) + b"\r\n")
    rows = Conversations.open(path)
    assert len(rows) == 6
    for i in (1, 2, 3):
        cause, message = fault(rows, i)
        assert cause == "unreadable"
        assert f"rows.jsonl, row {i}: no JSON" in message
    assert fault(rows, 4)[0] == "type"
    same(rows[5], ROWS[0])
    path.write_bytes(path.read_bytes()[:-20])
    assert "the file ends" in fault(rows, 5)[1]
    path.unlink()
    assert "No such file" in fault(rows, 0)[1]


def test_a_tar_of_all_sorts(tmp_path):
    turn = ROWS[0]["texts"]
    members = {
        "a/1.jpg": talk_files.png(1),
        "a/1.txt": b"a red cube",
        "b/1.json": json.dumps(turn).encode(),  # another key: another folder
        "2.png": talk_files.png(2),
        "3.txt": b"\xff",
        "4.json": b"{",
        "5.json": json.dumps(turn).encode(),
        "5.txt": b"x",
        ".hidden": b"x",
        "noextension": b"x",
        "6.json": json.dumps({"texts": turn, "images": ["../../etc/passwd"]}).encode(),
        "6.1.png": talk_files.png(4),
        "6.0.png": talk_files.png(3),
    }
    rows = Conversations.open(talk_files.add_members(tmp_path / "all.tar", members))
    assert len(rows) == 7
    assert [m["content"] for m in rows[0].messages] == [TEXT_QUESTION, "a red cube"]
    assert rows[0].images == (talk_files.png(1),)
    assert rows[1].images == ()
    assert [m["content"] for m in rows[1].messages] == ["0 what?", "0 that é 0"]
    assert fault(rows, 2) == (
        "missing",
        f"{tmp_path}/all.tar, row 2: it has 0 of .json and .txt; it needs one",
    )
    assert fault(rows, 3)[0] == fault(rows, 4)[0] == "unreadable"
    assert fault(rows, 5)[0] == "missing"
    assert rows[6].images == (talk_files.png(4), talk_files.png(3))  # in the order of the file


def test_tars_that_are_refused(tmp_path):
    path = talk_files.add_members(tmp_path / "packed.tar", {"1.txt": b"x" * 3000}, "w:gz")
    with pytest.raises(SaccadeError, match="no plain tar, or damaged"):
        Conversations.open(path)
    path = talk_files.write_tar(tmp_path / "cut.tar", ROWS)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SaccadeError, match="no plain tar, or damaged"):
        Conversations.open(path)


def test_parquet_keeps_row_groups_and_reads_what_it_needs(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    from saccade.data.conversations import files

    for part, rows in enumerate((ROWS[:4], ROWS[4:])):
        talk_files.write_parquet(tmp_path / f"{part}.parquet", rows)
    rows = Conversations.open(f"{tmp_path}/*.parquet")
    assert rows.blocks == [3, 1, 3]
    files._read_group.cache_clear()
    for i in range(7):
        same(rows[i], ROWS[i])
    assert files._read_group.cache_info().misses == 3
    table = files._read_group(tmp_path / "0.parquet", 0, rows.files[0]._columns)
    assert table.column_names == ["images", "texts"]


def test_damaged_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(SaccadeError, match="no parquet file, or damaged"):
        Conversations.open(path)
    talk_files.write_parquet(path, ROWS, write_page_checksum=True, compression="gzip")
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)  # within the first row group
    path.write_bytes(bytes(data))
    rows = Conversations.open(path)
    cause, message = fault(rows, 1)
    assert cause == "unreadable"
    assert "rows.parquet, row 1: its row group" in message
    same(rows[6], ROWS[6])


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(SaccadeError, match=r"pip install 'saccade\[data\]'"):
        Conversations.open(tmp_path / "rows.parquet")
