"""COCO captions, in COCO's and Karpathy's files, and Flickr30k."""

import pytest
from reader_files import check_broken, fault, picture, write

from saccade.data.readers import open_rows
from saccade.errors import SaccadeError

NAME = "annotations/captions_val2014.json"


def coco():
    image = {"license": 3, "coco_url": "http://images", "height": 4, "width": 8, "flickr_url": "http://f"}
    return {
        "info": {"year": 2014},
        "images": [
            {**image, "file_name": "COCO_val2014_000000391895.jpg", "id": 391895},
            {**image, "file_name": "COCO_val2014_000000060623.jpg", "id": 60623},
        ],
        "licenses": [],
        "annotations": [  # not in the order of the images
            {"image_id": 60623, "id": 1, "caption": "A girl eats cake."},
            {"image_id": 391895, "id": 2, "caption": "A man on a motorcycle.\n"},
            {"image_id": 60623, "id": 3, "caption": "A young girl with a cake"},
        ],
    }


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / NAME, coco())
    for number in (391895, 60623):
        picture(tmp_path / f"val2014/COCO_val2014_{number:012d}.jpg")
    return tmp_path


def test_coco(folder):
    rows = open_rows("coco_captions", folder)
    assert [row.id for row in rows] == ["391895", "60623"]
    row = rows[1]
    assert row.answers == ("A girl eats cake.", "A young girl with a cake")
    assert rows[0].answers == ("A man on a motorcycle.\n",)  # as published
    assert (row.text, row.group, row.split) == ("", "60623", "val2014")
    assert row.picture == folder / "val2014/COCO_val2014_000000060623.jpg"
    assert row.where == f"{folder / NAME}: row 1"
    assert row.image.shape == (4, 8, 3)
    (folder / NAME).rename(folder / "captions_val2014.json")
    assert len(open_rows("coco_captions", folder, split="val2014")) == 2


def test_coco_2017(folder):
    data = coco()
    data["images"][0]["file_name"] = "000000391895.jpg"
    write(folder / "captions_val2017.json", data)
    picture(folder / "val2017/000000391895.jpg")
    row = open_rows("coco_captions", folder, split="val2017")[0]
    assert row.picture == folder / "val2017/000000391895.jpg"


@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        (lambda d: d["images"][1].pop("file_name"), "missing", "file_name: missing; there are license"),
        (lambda d: d["images"][1].update(file_name=5), "type", "file_name: a whole number, not a text"),
        (lambda d: d["images"][1].update(file_name="gone.jpg"), "image", "file_name: no file gone.jpg in "),
        (
            lambda d: d["images"][1].update(file_name="../../x.jpg"),
            "image",
            "file_name: ../../x.jpg leads out",
        ),
        (lambda d: d["images"][1].update(file_name="a\0b"), "image", "file_name: a\\x00b is no path"),
        (lambda d: d["images"][1].update(file_name="a" * 300), "image", "file_name: "),
        (lambda d: d["annotations"][2].pop("caption"), "missing", "annotations[2].caption: missing"),
        (lambda d: d["annotations"][2].update(caption=""), "text", "annotations[2].caption: empty"),
        (lambda d: d["annotations"][2].update(caption=1.5), "type", "annotations[2].caption: a number, not"),
        (
            lambda d: d.update(annotations=d["annotations"][1:2]),
            "answers",
            "id: no caption has the image_id 60623",
        ),
    ],
)
def test_broken_pictures_and_captions(folder, change, cause, message):
    data = coco()
    change(data)
    write(folder / NAME, data)
    check_broken("coco_captions", folder, f"{NAME}: row 1", cause, message)


def test_captions_of_no_picture_and_pictures_without_id(folder):
    data = coco()
    data["images"] += [{"file_name": "x.jpg"}, dict(data["images"][0])]
    data["annotations"] += [{"image_id": 7, "id": 9, "caption": "?"}, {"id": 9, "caption": "?"}]
    write(folder / NAME, data)
    rows = open_rows("coco_captions", folder, max_bad=4)
    assert len(list(rows)) == 2
    assert rows.tally.examples == [
        f"{folder / NAME}: row 2: id: missing; there are file_name",
        f"{folder / NAME}: row 3: id: 391895 is that of row 0 too",
        f"{folder / NAME}, annotations: row 3: image_id: 7 belongs to no row",
        f"{folder / NAME}, annotations: row 4: image_id: missing; there are id, caption",
    ]


def karpathy(dataset, **more):
    def image(number, split, *captions):
        sentences = [
            {"tokens": c.lower().split(), "raw": c, "imgid": number, "sentid": 5 * number + i}
            for i, c in enumerate(captions)
        ]
        return {
            **{
                key: value.format(number) if isinstance(value, str) else number for key, value in more.items()
            },
            "sentids": [s["sentid"] for s in sentences],
            "imgid": number,
            "sentences": sentences,
            "split": split,
        }

    images = [image(1, "train", "A dog."), image(2, "test", "Two men.", "Men."), image(3, "val", "Snow.")]
    return {"images": [*images, image(4, "test", "A hat.")], "dataset": dataset}


def test_karpathy_splits_of_coco(folder):
    made = karpathy("coco", cocoid=0, filepath="val2014", filename="COCO_val2014_{:012d}.jpg")
    made["images"][0]["split"] = "restval"
    write(folder / "dataset_coco.json", made)
    for number in range(1, 5):
        picture(folder / f"val2014/COCO_val2014_{number:012d}.jpg", level=10 * number)
    rows = open_rows("coco_captions", folder, split="test")
    assert [(row.id, row.group, row.answers) for row in rows] == [
        ("2", "2", ("Two men.", "Men.")),
        ("4", "4", ("A hat.",)),
    ]
    assert rows[1].picture == folder / "val2014/COCO_val2014_000000000004.jpg"
    assert rows[1].where.endswith("dataset_coco.json: row 3")
    assert [len(open_rows("coco_captions", folder, split=s)) for s in ("val", "restval")] == [1, 1]
    with pytest.raises(SaccadeError, match="no rows of coco_captions, split 'train'"):
        open_rows("coco_captions", folder, split="train")


@pytest.fixture
def flickr(tmp_path):
    write(tmp_path / "dataset_flickr30k.json", karpathy("flickr30k", filename="100{}.jpg"))
    for number in range(1, 5):
        picture(tmp_path / f"flickr30k-images/100{number}.jpg")
    lines = ["1002.jpg#0\tTwo men .", "1002.jpg#1\tMen .", "1001.jpg#0\tA dog ."]
    (tmp_path / "results_20130124.token").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_flickr30k(flickr):
    rows = open_rows("flickr30k", flickr)
    assert [(row.id, row.answers) for row in rows] == [("1002", ("Two men.", "Men.")), ("1004", ("A hat.",))]
    row = rows[1]
    assert (row.group, row.split, row.where) == (
        "1004",
        "test",
        f"{flickr / 'dataset_flickr30k.json'}: row 3",
    )
    assert row.image.shape == (4, 8, 3)
    assert [row.id for row in open_rows("flickr30k", flickr, split="train")] == ["1001"]
    rows = open_rows("flickr30k", flickr, split="all")
    assert [(row.id, row.answers) for row in rows] == [
        ("1002", ("Two men .", "Men .")),
        ("1001", ("A dog .",)),
    ]
    assert rows[1].where == f"{flickr / 'results_20130124.token'}: row 2"
    assert rows[1].picture == flickr / "flickr30k-images/1001.jpg"
    (flickr / "flickr30k-images").rename(flickr / "flickr30k_images")
    assert rows[1].picture == flickr / "flickr30k_images/1001.jpg"


@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        (lambda e: e.pop("sentences"), "missing", "sentences: missing"),
        (lambda e: e.update(sentences=[]), "answers", "sentences: an empty list"),
        (lambda e: e.update(sentences={}), "type", "sentences: an object, not a list"),
        (lambda e: e["sentences"][0].update(raw=None), "missing", "sentences[0].raw: missing"),
        (lambda e: e.update(filename="gone.jpg"), "image", "filename: no file gone.jpg"),
        (lambda e: e.pop("split"), "missing", "split: missing"),
        (lambda e: e.update(split="dev"), "unknown", "split: 'dev', not one of test, val, train, restval"),
        (lambda e: e.update(split=["test"]), "type", "split: a list, not a text"),
        (lambda e: e.pop("filename"), "missing", "filename: missing"),
    ],
)
def test_broken_karpathy_rows(flickr, change, cause, message):
    made = karpathy("flickr30k", filename="100{}.jpg")
    change(made["images"][3])
    write(flickr / "dataset_flickr30k.json", made)
    check_broken("flickr30k", flickr, "dataset_flickr30k.json: row 3", cause, message)


def test_broken_lines_of_the_token_file(flickr):
    path = flickr / "results_20130124.token"
    lines = [
        "1001.jpg#0\tA dog .",
        "1002.jpg\tTwo",
        "1003.jpg#0 Three",
        "",
        "1004.jpg#0\t ",
        "1002.jpg#0\tB .",
    ]
    path.write_text("\n".join([*lines, "1002.jpg#0\tC .", "gone.jpg#0\tD ."]))
    rows = open_rows("flickr30k", flickr, split="all", max_bad=5)
    assert [row.id for row in rows] == ["1001"]
    assert sorted(rows.tally.examples) == sorted(
        [
            f"{path}: row 1: 1002.jpg\\tTwo: not name#number, a tab and a caption",
            f"{path}: row 2: 1003.jpg#0 Three: not name#number, a tab and a caption",
            f"{path}: row 4: row 4: caption: empty",
            f"{path}: row 5: row 6: 1002.jpg#0 is row 5 too",
            f"{path}: row 7: picture: no file gone.jpg in {flickr}, nor in its flickr30k-images, "
            f"flickr30k_images, images",
        ]
    )
    assert dict(rows.tally.causes) == {"unreadable": 2, "text": 1, "duplicate": 1, "image": 1}
    path.write_bytes(b"1001.jpg#0\t\xff")
    with pytest.raises(SaccadeError, match=r"token is not UTF-8"):
        open_rows("flickr30k", flickr, split="all")


def test_pictures_never_leave_their_folder(flickr):
    picture(flickr.parent / "outside.jpg")
    for name in ("../outside.jpg", str(flickr.parent / "outside.jpg")):
        (flickr / "results_20130124.token").write_text(f"{name}#0\tA dog .")
        cause, message = fault(open_rows("flickr30k", flickr, split="all"), 0)
        assert cause == "image"
        assert "leads out of" in message
