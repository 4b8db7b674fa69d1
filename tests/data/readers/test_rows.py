"""What all readers share: random access, counted skips, the one way in."""

import pickle
from dataclasses import FrozenInstanceError

import pytest
from reader_files import picture, write_lines

from saccade.data.readers import READERS, Row, RowError, open_rows
from saccade.errors import SaccadeError


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path / "0.png")
    good = {"image": "0.png", "text": "?", "answers": ["a"]}
    bad = [{**good, "text": ""}, {**good, "image": "1.png"}, {**good, "answers": []}]
    write_lines(tmp_path / "rows.jsonl", [good, bad[0], good, bad[1], bad[2], good])
    return tmp_path


def test_random_access(folder):
    rows = open_rows("jsonl", folder)
    assert len(rows) == 6
    assert [rows[i].id for i in (5, 0, 2)] == ["5", "0", "2"]
    for index in (6, -1):
        with pytest.raises(IndexError, match="there are rows 0 to 5"):
            rows[index]
    with pytest.raises(RowError, match=r"rows\.jsonl: row 1: text: empty") as error:
        rows[1]
    assert error.value.cause == "text"
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert rows.tally.rows == 0  # only iteration counts
    assert pickle.loads(pickle.dumps(rows))[5] == rows[5]


def test_nothing_is_skipped_unless_asked(folder):
    rows = iter(open_rows("jsonl", folder))
    assert next(rows).id == "0"
    with pytest.raises(SaccadeError, match=r"1 of 2 rows cannot be used, .*max_bad=0; .*row 1: text: empty"):
        next(rows)


def test_skips_are_counted_by_cause(folder):
    rows = open_rows("jsonl", folder, max_bad=3)
    for _ in range(2):  # the same rows again are no more different ones
        assert [row.id for row in rows] == ["0", "2", "5"]
    assert dict(rows.tally.causes) == {"text": 2, "image": 2, "answers": 2}
    assert len(rows.tally.examples) == 3
    assert str(rows.tally) == (
        "12 rows read, 6 used; an empty text: 2; an image that cannot be used: 2; no answer: 2"
    )
    with pytest.raises(SaccadeError, match="3 of 5 rows cannot be used, more than max_bad=2"):
        list(open_rows("jsonl", folder, max_bad=2))


def test_a_share_of_bad_rows(folder):
    assert len(list(open_rows("jsonl", folder, max_bad=0.003))) == 3  # of 1,000 rows: 3
    with pytest.raises(SaccadeError, match=r"3 of 5 rows .*max_bad=0\.002"):
        list(open_rows("jsonl", folder, max_bad=0.002))
    with pytest.raises(SaccadeError, match="max_bad is -1"):
        open_rows("jsonl", folder, max_bad=-1)


def test_a_picture_that_turns_out_damaged(folder):
    (folder / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    rows = open_rows("jsonl", folder, max_bad=4)
    first = next(iter(rows))
    with pytest.raises(RowError, match=r"rows\.jsonl: row 0: .*0\.png is damaged") as error:
        _ = first.image
    rows.skip(error.value)
    assert (rows.tally.rows, rows.tally.bad) == (1, 1)


def test_rows_are_frozen():
    row = Row("1", b"", text="?")
    with pytest.raises(FrozenInstanceError):
        row.text = "!"  # ty: ignore[invalid-assignment]
    assert row == Row("1", b"", text="?")


def test_the_way_in(tmp_path):
    with pytest.raises(SaccadeError) as error:
        open_rows("vqa", tmp_path)
    assert str(error.value).startswith("unknown data 'vqa'; use one of vqa_v2, coco_captions, refcoco, ")
    assert all(name in str(error.value) for name in READERS)
    with pytest.raises(SaccadeError, match="unknown split 'val' of pope; use one of random, popular, advers"):
        open_rows("pope", tmp_path, split="val")
    with pytest.raises(SaccadeError, match="gone does not exist; give the folder"):
        open_rows("pope", tmp_path / "gone")


@pytest.mark.parametrize("name", [name for name in READERS if name != "jsonl"])
def test_an_empty_folder_names_the_file_that_is_missing(name, tmp_path):
    for split in READERS[name].SPLITS:
        with pytest.raises(SaccadeError, match=r"holds no .*; give the folder that the files are in"):
            open_rows(name, tmp_path, split=split)


def test_a_hostile_text_stays_on_one_line(tmp_path):
    write_lines(tmp_path / "a\nb.jsonl", [{"image": "x\x1b[31m\n\ud800.png"}, {"\n": 1, "\x1b": 2}])
    rows = open_rows("jsonl", tmp_path)
    for index, part in enumerate(("x\\x1b[31m\\n\\ud800.png", "image: missing; there are \\n, \\x1b")):
        with pytest.raises(RowError) as error:
            rows[index]
        assert f"a\\nb.jsonl: row {index}: image: " in str(error.value)
        assert part in str(error.value)
        assert str(error.value).isprintable()
