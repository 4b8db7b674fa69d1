"""NLVR: the development split, made small here and real where it is present."""

import json
import pickle
import zipfile
from collections import Counter

import numpy as np
import pytest
from reader_files import check_broken, fault, picture, write_lines

from saccade.data.readers import open_rows
from saccade.data.scenes.render import render
from saccade.errors import SaccadeError

SQUARE = {"type": "square", "color": "Yellow", "size": 20, "x_loc": 10, "y_loc": 40}
CIRCLE = {"type": "circle", "color": "#0099ff", "size": 10, "x_loc": 3, "y_loc": 90}


def examples():
    return [
        {
            "id": name,
            "sentence": f"There is atleast one box {name[0]}",
            "label": name != "1-1",
            "images": [f"dev-{name}-{k}.png" for k in range(6)],
            "structured_rep": [[SQUARE], [CIRCLE], []],
        }
        for name in ("1-0", "1-1", "2-0")
    ]


def save(folder, made, without=()):
    write_lines(folder / "dev.jsonl", made)
    with zipfile.ZipFile(folder / "dev_images.zip", "w") as archive:
        for number, example in enumerate(examples()):
            for k, name in enumerate(example["images"]):
                png = picture(folder / "made.png", level=10 * number + k).read_bytes()
                if name not in without:
                    archive.writestr(name, png)


def test_a_row_is_a_picture(tmp_path):
    save(tmp_path, examples())
    rows = open_rows("nlvr", tmp_path)
    assert len(rows) == 18
    row = rows[10]
    assert (row.id, row.group, row.split) == ("1-1-4", "1", "dev")
    assert (row.text, row.answers) == ("There is atleast one box 1", ("false",))
    assert row.where == f"{tmp_path / 'dev.jsonl'}: row 1"
    assert (row.image.shape, int(row.image[0, 0, 0])) == ((4, 8, 3), 14)
    # Order 4 is (2, 0, 1): the first box comes second.
    assert [(o.shape, o.group) for o in row.scene.objects] == [("square", 1), ("circle", 2)]
    assert [(o.shape, o.group) for o in rows[0].scene.objects] == [("square", 0), ("circle", 1)]
    assert rows[0].answers == ("true",)
    again = pickle.loads(pickle.dumps(rows))
    assert again[10] == row


@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        ({"label": "true"}, "type", "label: a text, not true or false"),
        ({"label": None}, "missing", "label: missing"),
        ({"sentence": ""}, "text", "sentence: empty"),
        ({"id": None}, "missing", "id: missing"),
        ({"id": "1-0"}, "duplicate", "id: 1-0-0 is that of row 0 too"),
        ({"images": [3]}, "type", "images[0]: a whole number, not a text"),
        ({"images": ["gone.png"]}, "image", "images[0]: gone.png is not in "),
        ({"images": []}, "image", "images: 0 of them; an example has 1 to 6"),
        ({"images": ["x.png"] * 7}, "image", "images: 7 of them; an example has 1 to 6"),
        ({"images": "x.png"}, "type", "images: a text, not a list"),
        ({"structured_rep": None}, "missing", "structured_rep: missing"),
        ({"structured_rep": [[], []]}, "type", "structured_rep: an NLVR scene must be a list of three"),
        ({"structured_rep": [[{"type": "circle"}], [], []]}, "type", "structured_rep: NLVR object"),
        ({"structured_rep": [[{**SQUARE, "size": 11}], [], []]}, "type", "structured_rep: NLVR object"),
        ({"structured_rep": [[{**SQUARE, "x_loc": 95}], [], []]}, "type", "structured_rep: NLVR object"),
    ],
)
def test_broken_examples(tmp_path, change, cause, message):
    made = examples()
    made[2] |= {"images": made[2]["images"][:1], **change}
    save(tmp_path, made)
    check_broken("nlvr", tmp_path, "dev.jsonl: row 2", cause, message)


def test_damaged_files(tmp_path):
    with pytest.raises(SaccadeError, match=r"holds no dev\.jsonl; give the folder"):
        open_rows("nlvr", tmp_path)
    save(tmp_path, examples(), without=["dev-1-1-2.png"])
    rows = open_rows("nlvr", tmp_path)
    assert fault(rows, 8)[0] == "image"
    data = bytearray((tmp_path / "dev_images.zip").read_bytes())
    at = data.index(b"IDAT")
    data[at : at + 8] = bytes(8)  # of the first picture
    (tmp_path / "dev_images.zip").write_bytes(data)
    cause, message = fault(open_rows("nlvr", tmp_path), 0)
    assert (cause, "dev-1-0-0.png: Bad CRC" in message) == ("image", True)
    write_lines(tmp_path / "dev.jsonl", ["no json", json.dumps(examples()[1])])
    assert fault(open_rows("nlvr", tmp_path), 0)[0] == "unreadable"
    (tmp_path / "dev_images.zip").write_bytes(b"no zip")
    with pytest.raises(SaccadeError, match=r"dev_images\.zip cannot be read"):
        open_rows("nlvr", tmp_path)
    (tmp_path / "dev_images.zip").unlink()
    with pytest.raises(SaccadeError, match=r"holds no dev_images\.zip"):
        open_rows("nlvr", tmp_path)


def test_the_published_split(shared):
    rows = open_rows("nlvr", shared / "data" / "nlvr")
    assert len(rows) == 6 * 989
    first = [rows[i] for i in range(0, len(rows), 6)]
    assert len({row.group for row in first}) == 267
    assert Counter(row.answers for row in first).keys() == {("true",), ("false",)}
    assert 0.4 < np.mean([row.answers == ("true",) for row in first]) < 0.6
    # Each picture shows its own scene, whichever way round the boxes are.
    for row in [rows[i] for i in range(0, len(rows), 313)]:
        assert np.abs(row.image.astype(int) - render(row.scene)).mean() < 0.1, row.id
