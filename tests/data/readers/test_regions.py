"""Pixel boxes to xyxy in [0, 1]: RefCOCO's pickles and instances.json, Visual Genome's regions."""

import os
import pickle

import pytest
from reader_files import check_broken, picture, write

from saccade.data.readers import open_rows
from saccade.data.readers.fields import box_from_px
from saccade.data.rows import RowError
from saccade.errors import SaccadeError

# A picture is 8 wide and 4 high.
FILE = "COCO_train2014_000000581857.jpg"


def refs():
    def ref(number, split, *expressions):
        sentences = [
            {"tokens": e.lower().split(), "raw": e, "sent_id": 10 * number + i, "sent": e.lower()}
            for i, e in enumerate(expressions)
        ]
        return {
            "sent_ids": [s["sent_id"] for s in sentences],
            "file_name": f"COCO_train2014_000000581857_{number}.jpg",  # of no picture
            "ann_id": 100 + number,
            "ref_id": number,
            "image_id": 581857,
            "split": split,
            "sentences": sentences,
            "category_id": 1,
        }

    return [
        ref(0, "train", "the Lady with the blue shirt"),
        ref(1, "val", "Left dog", "dog on the left"),
        ref(2, "testA", "man"),
        ref(3, "val", "cake"),
    ]


def instances():
    def object_(number, bbox):
        return {
            "segmentation": [[1.0, 2.0]],
            "area": 4.0,
            "iscrowd": 0,
            "image_id": 581857,
            "bbox": bbox,
            "category_id": 1,
            "id": number,
        }

    boxes = {100: [0, 0, 8, 4], 101: [2, 1, 4.0, 2.5], 102: [0, 0, 1, 1], 103: [6.5, 0.0, 2.0, 4.5]}
    return {
        "info": {},
        "images": [{"license": 1, "file_name": FILE, "height": 4, "width": 8, "id": 581857}],
        "licenses": [],
        "annotations": [object_(number, box) for number, box in boxes.items()],
        "categories": [{"supercategory": "person", "id": 1, "name": "person"}],
    }


def python2_pickle(value) -> bytes:
    """Protocol 0 as Python 2 wrote it: texts are S opcodes."""

    def opcodes(value) -> bytes:
        if isinstance(value, str):
            return b"S" + repr(value).encode() + b"\n"
        if isinstance(value, int):
            return b"I%d\n" % value
        if isinstance(value, list):
            return b"(l" + b"".join(opcodes(item) + b"a" for item in value)
        return b"(d" + b"".join(opcodes(k) + opcodes(v) + b"s" for k, v in value.items())

    return opcodes(value) + b"."


def save(folder, made=None, objects=None, name="refcoco/refs(unc).p"):
    path = folder / name
    write(path.parent / "instances.json", objects or instances())
    path.write_bytes(python2_pickle(made if made is not None else refs()))


@pytest.fixture
def folder(tmp_path):
    save(tmp_path)
    picture(tmp_path / "train2014" / FILE)
    return tmp_path


def test_refcoco(folder):
    rows = open_rows("refcoco", folder)
    assert [(row.id, row.group, row.text) for row in rows] == [
        ("10", "1", "left dog"),
        ("11", "1", "dog on the left"),
        ("30", "3", "cake"),
    ]
    row = rows[1]
    assert row.boxes == ((0.25, 0.25, 0.75, 0.875),)
    assert row.picture == folder / "train2014" / FILE
    assert row.image.shape == (4, 8, 3)
    assert (row.answers, row.split) == ((), "val")
    assert row.where == f"{folder / 'refcoco/refs(unc).p'}: row 1"
    # Half a pixel over the right and lower edges: rounding, cut there.
    assert rows[2].boxes == ((6.5 / 8, 0, 1, 1),)
    assert [row.text for row in open_rows("refcoco", folder, split="testA")] == ["man"]
    assert open_rows("refcoco", folder, split="train")[0].boxes == ((0, 0, 1, 1),)


def test_its_sisters_and_newer_pickles(folder):
    (folder / "refcoco").rename(folder / "refcoco+")
    assert [row.text for row in open_rows("refcoco+", folder, split="testA")] == ["man"]
    made = refs()
    made[2]["split"] = "test"
    save(folder, made, name="refs(umd).p")
    assert [row.text for row in open_rows("refcocog", folder, split="test")] == ["man"]
    assert len(open_rows("refcocog", folder)) == 3
    (folder / "refs(umd).p").write_bytes(pickle.dumps(tuple(made) and made, protocol=2))
    assert [row.text for row in open_rows("refcocog", folder, split="test")] == ["man"]
    with pytest.raises(SaccadeError, match=r"holds no refcoco/refs\(unc\)\.p or refs\(unc\)\.p; give"):
        open_rows("refcoco", folder)
    with pytest.raises(SaccadeError, match="unknown split 'testA' of refcocog; use one of val, test, train"):
        open_rows("refcocog", folder, split="testA")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_would_run_something_does_not(folder, protocol):
    made = refs()
    made[0]["tokens"] = Evil(folder / "ran")
    (folder / "refcoco/refs(unc).p").write_bytes(pickle.dumps(made, protocol=protocol))
    with pytest.raises(
        SaccadeError, match=r"no pickle of plain .* nothing of it was run: it asks for \w+\.mkdir;"
    ):
        open_rows("refcoco", folder)
    assert not (folder / "ran").exists()
    pickle.loads((folder / "refcoco/refs(unc).p").read_bytes())
    assert (folder / "ran").exists()  # so it would have


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Ran out of input"),
        (pickle.dumps(refs())[:-30], "truncated"),
        (b"\xff\xff", "no pickle of plain"),
        (pickle.dumps({1, 2}), "holds a set, not a list"),
        (pickle.dumps({"a": 1}), "holds a dict, not a list"),
        (pickle.dumps([frozenset, 1]), "it asks for builtins.frozenset"),
    ],
)
def test_damaged_pickles(folder, content, message):
    (folder / "refcoco/refs(unc).p").write_bytes(content)
    with pytest.raises(SaccadeError, match=message):
        open_rows("refcoco", folder)


@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        (lambda r, o: r.pop("split"), "missing", "split: missing; there are sent_ids"),
        (
            lambda r, o: r.update(split="testC"),
            "unknown",
            "split: 'testC', not one of val, testA, testB, train",
        ),
        (lambda r, o: r.pop("sentences"), "missing", "sentences: missing"),
        (lambda r, o: r.update(sentences=[]), "text", "sentences: an empty list"),
        (lambda r, o: r["sentences"][0].pop("sent_id"), "missing", "sentences[0].sent_id: missing"),
        (lambda r, o: r["sentences"][0].pop("sent"), "missing", "sentences[0].sent: missing"),
        (lambda r, o: r["sentences"][0].update(sent=""), "text", "sentences[0].sent: empty"),
        (lambda r, o: r["sentences"][0].update(sent_id=11), "duplicate", "id: 11 is that of row 1 too"),
        (
            lambda r, o: r["sentences"][0].update(sent_id=2**70),
            "type",
            "sentences[0].sent_id: a number of 71 bits",
        ),
        (lambda r, o: r.pop("ref_id"), "missing", "ref_id: missing"),
        (lambda r, o: r.update(ann_id=999), "missing", "ann_id: 999 is not in "),
        (lambda r, o: r.update(image_id=1), "missing", "image_id: 1 is not in "),
        (
            lambda r, o: o["annotations"][3].update(image_id=2),
            "unknown",
            "ann_id: 103 is an object of another",
        ),
        (lambda r, o: o["annotations"][3].update(id=101), "duplicate", "ann_id: 101 is 2 times in "),
        (lambda r, o: o["annotations"][3].pop("bbox"), "missing", "annotation.bbox: missing"),
        (lambda r, o: o["annotations"][3].update(bbox=[1, 2, 3]), "box", "annotation.bbox: 3 numbers, not 4"),
        (lambda r, o: o["annotations"][3].update(bbox=[1, 2, "3", 1]), "type", "annotation.bbox[2]: a text"),
        (
            lambda r, o: o["annotations"][3].update(bbox=[1, 2, -1, 1]),
            "box",
            "annotation.bbox: -1 x 1 pixels",
        ),
        (lambda r, o: o["annotations"][3].update(bbox=[1, 2, 1, 0]), "box", "annotation.bbox: 1 x 0 pixels"),
        (
            lambda r, o: o["annotations"][3].update(bbox=[5, 0, 5, 1]),
            "box",
            "annotation.bbox: x 5 to 10, y 0 to 1 leaves a picture of 8 x 4",
        ),
        (
            lambda r, o: o["annotations"][3].update(bbox=[0, -1.5, 5, 3]),
            "box",
            "annotation.bbox: x 0 to 5, y -1.5",
        ),
        (
            lambda r, o: o["annotations"][3].update(bbox=[0, float("nan"), 5, 3]),
            "type",
            "annotation.bbox[1]: nan",
        ),
    ],
)
def test_broken_references(folder, change, cause, message):
    made, objects = refs(), instances()
    change(made[3], objects)
    if message.startswith("ann_id: 101"):
        made[3]["ann_id"] = 101
        made[1]["split"] = "train"
        made[2]["split"] = "val"
    save(folder, made, objects)
    check_broken("refcoco", folder, "refcoco/refs(unc).p: row 3", cause, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.pop("height"), "image.height: missing"),
        (lambda image: image.update(width=0), "image.height, width: 4 x 0 pixels is no picture"),
        (lambda image: image.update(width=8.0), "image.width: a number, not a whole number"),
        (lambda image: image.pop("file_name"), "image.file_name: missing"),
        (lambda image: image.update(file_name="gone.jpg"), "image.file_name: no file gone.jpg in "),
    ],
)
def test_broken_pictures_of_instances(folder, change, message):
    objects = instances()
    change(objects["images"][0])
    save(folder, objects=objects)
    rows = open_rows("refcoco", folder, max_bad=3)
    assert list(rows) == []
    assert rows.tally.bad == 3
    assert message in rows.tally.examples[0]


def genome():
    def region(number, image, phrase, x, y, width, height):
        return {
            "region_id": number, "width": width, "height": height, "image_id": image, "phrase": phrase,
            "y": y, "x": x,
        }  # fmt: skip

    regions = [
        {
            "regions": [
                region(1382, 1, "the clock is green in colour", 2, 1, 4, 2),
                region(1383, 1, "shade is along the street ", -3, -1, 20, 3),
            ],
            "id": 1,
        },
        {"regions": [region(9, 2, "a red car", 0, 0, 4, 4)], "id": 2},
    ]
    images = [
        {
            "width": 8, "url": f"https://cs.stanford.edu/people/rak248/VG_100K_2/{i}.jpg", "height": 4,
            "image_id": i, "coco_id": None, "flickr_id": None,
        }
        for i in (2, 1)
    ]  # fmt: skip
    return regions, images


@pytest.fixture
def vg(tmp_path):
    regions, images = genome()
    write(tmp_path / "region_descriptions.json", regions)
    write(tmp_path / "image_data.json", images)
    picture(tmp_path / "VG_100K_2/1.jpg")
    picture(tmp_path / "VG_100K/2.jpg")
    return tmp_path


def test_visual_genome(vg):
    rows = open_rows("visual_genome", vg)
    row = rows[0]
    assert (row.id, row.group, row.split) == ("1", "1", "all")
    assert row.answers == ("the clock is green in colour", "shade is along the street ")
    assert row.boxes == ((0.25, 0.25, 0.75, 0.75), (0, 0, 1, 0.5))  # the second is cut at the edges
    assert row.where == f"{vg / 'region_descriptions.json'}: row 0"
    assert [row.picture for row in rows] == [vg / "VG_100K_2/1.jpg", vg / "VG_100K/2.jpg"]
    assert rows[1].boxes == ((0, 0, 0.5, 1),)


@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        (lambda r, i: r.pop("regions"), "missing", "regions: missing; there are id"),
        (lambda r, i: r.update(regions=[]), "answers", "regions: an empty list"),
        (lambda r, i: r["regions"][0].pop("phrase"), "missing", "regions[0].phrase: missing"),
        (lambda r, i: r["regions"][0].update(phrase="\n"), "text", "regions[0].phrase: empty"),
        (lambda r, i: r["regions"][0].update(x="1"), "type", "regions[0].x: a text, not a number"),
        (
            lambda r, i: r["regions"][0].update(width=0),
            "box",
            "regions[0]: 0 x 4 pixels; both must be above 0",
        ),
        (lambda r, i: r["regions"][0].update(x=8), "box", "regions[0]: x 8 to 12, y 0 to 4 leaves a picture"),
        (lambda r, i: i.pop("width"), "missing", "image.width: missing"),
        (lambda r, i: i.update(image_id=5), "missing", "id: 2 is not in "),
        (lambda r, i: r.pop("id"), "missing", "id: missing; there are regions"),
        (lambda r, i: r.update(id=1), "duplicate", "id: 1 is that of row 0 too"),
        (lambda r, i: (r.update(id=3), i.update(image_id=3)), "image", "id: no file 3.jpg in "),
    ],
)
def test_broken_regions(vg, change, cause, message):
    regions, images = genome()
    change(regions[1], images[0])
    write(vg / "region_descriptions.json", regions)
    write(vg / "image_data.json", images)
    check_broken("visual_genome", vg, "region_descriptions.json: row 1", cause, message)


def test_a_pixel_over_the_edge_is_rounding_and_more_is_not():
    assert box_from_px([-1, 0, 10, 4], (4, 8), "box") == (0, 0, 1, 1)
    with pytest.raises(RowError, match=r"box: x -1\.1 to 9, y 0 to 4 leaves"):
        box_from_px([-1.1, 0, 10.1, 4], (4, 8), "box")
    with pytest.raises(RowError, match="leaves"):  # within the tolerance, but nothing of it is left
        box_from_px([8, 0, 1, 4], (4, 8), "box")
