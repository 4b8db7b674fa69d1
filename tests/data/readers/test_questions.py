"""GQA, POPE and MMStar: one right answer each."""

import base64
import csv
import json

import pytest
from reader_files import check_broken, fault, picture, write, write_lines

from saccade.data.readers import open_rows
from saccade.errors import SaccadeError


def gqa():
    def entry(image, question, answer, structural, semantic):
        return {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "bird (2230)"}],
            "entailed": [],
            "equivalent": [],
            "question": question,
            "imageId": image,
            "isBalanced": True,
            "groups": {"global": "bird", "local": "14-bird"},
            "answer": answer,
            "semanticStr": "select: bird (2230)",
            "annotations": {"question": {"4": "2230"}, "answer": {}, "fullAnswer": {}},
            "types": {"detailed": "categoryThis", "semantic": semantic, "structural": structural},
            "fullAnswer": f"This is {answer}.",
        }

    return {
        "05515938": entry("2405722", "What is this bird called?", "parrot", "query", "cat"),
        "201307251": entry("n161313", "Is it a bird?", "yes", "verify", "obj"),
    }


GQA = "testdev_balanced_questions.json"


@pytest.fixture
def gqa_folder(tmp_path):
    write(tmp_path / GQA, gqa())
    for name in ("2405722", "n161313"):
        picture(tmp_path / f"images/{name}.jpg")
    return tmp_path


def test_gqa(gqa_folder):
    rows = open_rows("gqa", gqa_folder)
    row = rows[0]
    assert (row.id, row.group, row.split) == ("05515938", "2405722", "testdev_balanced")
    assert (row.text, row.answers) == ("What is this bird called?", ("parrot",))
    assert (row.kind, row.axis) == ("query", "cat")
    assert row.picture == gqa_folder / "images/2405722.jpg"
    assert row.where == f"{gqa_folder / GQA}: row 0"
    assert rows[1].image.shape == (4, 8, 3)
    secret = {"7": {"isBalanced": True, "question": "Why?", "imageId": "n161313"}}
    write(gqa_folder / "questions/test_balanced_questions.json", secret)
    [row] = open_rows("gqa", gqa_folder, split="test_balanced")
    assert (row.id, row.text, row.answers, row.kind) == ("7", "Why?", (), "")


@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        (lambda e: e.pop("answer"), "missing", "answer: missing"),
        (lambda e: e.update(answer=""), "text", "answer: empty"),
        (lambda e: e.update(question=None), "missing", "question: missing"),
        (lambda e: e.update(imageId=161313), "type", "imageId: a whole number, not a text"),
        (lambda e: e.update(imageId="n1"), "image", "imageId: no file n1.jpg in "),
        (lambda e: e.update(imageId="../../n1"), "image", "imageId: ../../n1.jpg leads out of"),
        (lambda e: e.pop("types"), "missing", "types: missing"),
        (lambda e: e["types"].pop("semantic"), "missing", "types.semantic: missing"),
    ],
)
def test_broken_gqa(gqa_folder, change, cause, message):
    made = gqa()
    change(made["201307251"])
    write(gqa_folder / GQA, made)
    check_broken("gqa", gqa_folder, f"{GQA}: row 1", cause, message)


def test_a_question_id_of_gqa_that_comes_twice(gqa_folder):
    first, second = (json.dumps(entry) for entry in gqa().values())
    (gqa_folder / GQA).write_text(f'{{"1": {first}, "1": {second}, "2": "text"}}')
    rows = open_rows("gqa", gqa_folder)
    assert rows[0].answers == ("parrot",)
    assert fault(rows, 1) == ("duplicate", f"{gqa_folder / GQA}: row 1: id: 1 is that of row 0 too")
    assert fault(rows, 2) == ("type", f"{gqa_folder / GQA}: row 2: the row: a text, not an object")
    write(gqa_folder / "test_all_questions.json", gqa())
    assert "answers of test_all are secret" in fault(open_rows("gqa", gqa_folder, split="test_all"), 0)[1]


POPE = "coco_pope_popular.json"


def pope():
    name = "COCO_val2014_000000016631.jpg"
    return [
        {"question_id": 1, "image": name, "text": "Is there a person in the image?", "label": "yes"},
        {"question_id": 2, "image": name, "text": "Is there a refrigerator in the image?", "label": "no"},
    ]


@pytest.fixture
def pope_folder(tmp_path):
    write_lines(tmp_path / POPE, pope())
    picture(tmp_path / "val2014/COCO_val2014_000000016631.jpg")
    return tmp_path


def test_pope(pope_folder):
    rows = open_rows("pope", pope_folder, split="popular")
    assert [row.answers for row in rows] == [("yes",), ("no",)]
    row = rows[1]
    assert (row.id, row.group, row.split) == ("2", "COCO_val2014_000000016631.jpg", "popular")
    assert (row.text, row.answer_type) == ("Is there a refrigerator in the image?", "yes/no")
    assert (row.where, row.image.shape) == (f"{pope_folder / POPE}: row 1", (4, 8, 3))
    with pytest.raises(SaccadeError, match=r"holds no coco_pope_random\.json or coco/coco_pope_random\.json"):
        open_rows("pope", pope_folder)


@pytest.mark.parametrize(
    ("line", "cause", "message"),
    [
        ("{no json", "unreadable", "no JSON: "),
        ("[1]", "type", "the row: a list, not an object"),
        ({"question_id": 1}, "duplicate", "id: 1 is that of row 0 too"),
        ({"question_id": None}, "missing", "question_id: missing"),
        ({"question_id": 2.5}, "type", "question_id: a number, not a whole number"),
        ({"image": "gone.jpg"}, "image", "image: no file gone.jpg in "),
        ({"text": ""}, "text", "text: empty"),
        ({"label": "maybe"}, "unknown", "label: 'maybe', not one of yes, no"),
        ({"label": True}, "type", "label: true or false, not a text"),
    ],
)
def test_broken_pope(pope_folder, line, cause, message):
    first, second = pope()
    second = {**second, **line} if isinstance(line, dict) else line
    write_lines(pope_folder / POPE, [first, second])
    check_broken("pope", pope_folder, f"{POPE}: row 1", cause, message, split="popular")


def mmstar(png):
    question = 'Which is right?\nOptions: A: "red", B: blue, C: green, D: gray'
    return [
        {
            "index": i,
            "question": question,
            "image": png,
            "answer": "DA"[i],
            "category": "coarse perception",
            "l2_category": ("image style & quality", "image topic")[i],
            "meta_info": {"source": "MMBench", "split": "val", "image_path": f"images/{i}.jpg"},
        }
        for i in range(2)
    ]


def write_tsv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [k for k in rows[0] if k != "meta_info"], "", "ignore", delimiter="\t")
        writer.writeheader()
        for row in rows:
            image = row["image"]
            writer.writerow(row | {"image": base64.b64encode(image).decode() if image else image})


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=1)


KINDS = pytest.mark.parametrize(
    ("save", "name"), [(write_tsv, "MMStar.tsv"), (write_parquet, "mmstar.parquet")], ids=["tsv", "parquet"]
)


@pytest.fixture
def png(tmp_path):
    return picture(tmp_path / "x.png", width=400, height=300, level=33).read_bytes()


@KINDS
def test_mmstar(tmp_path, png, save, name):
    # Longer than the 128 kB that csv allows by default.
    long = png + bytes(200_000)
    save(tmp_path / name, mmstar(long))
    limit = csv.field_size_limit()
    rows = open_rows("mmstar", tmp_path)
    assert csv.field_size_limit() == limit
    row = rows[1]
    assert (row.id, row.group, row.split) == ("1", "1", "val")
    assert row.text.endswith('Options: A: "red", B: blue, C: green, D: gray')
    assert (row.answers, row.kind, row.axis) == (("A",), "coarse perception", "image topic")
    assert row.picture == long
    assert (row.image.shape, int(row.image[0, 0, 0])) == ((300, 400, 3), 33)
    assert row.where == f"{tmp_path / name}: row 1"
    assert "x89PNG" not in repr(row)


def test_mmstar_parquet_with_a_column_of_structs(tmp_path, png):
    rows = mmstar({"bytes": png, "path": None})
    write_parquet(tmp_path / "mmstar.parquet", rows)
    assert open_rows("mmstar", tmp_path)[0].picture == png


@KINDS
@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        ({"answer": "E"}, "unknown", "answer: 'E', not one of A, B, C, D"),
        ({"answer": None}, "missing", "answer: missing"),
        ({"question": None}, "missing", "question: missing"),
        ({"category": " "}, "text", "category: empty"),
        ({"index": 0}, "duplicate", "id: 0 is that of row 0 too"),
        ({"image": None}, "missing", "image: missing"),
    ],
)
def test_broken_mmstar(tmp_path, png, save, name, change, cause, message):
    first, second = mmstar(png)
    save(tmp_path / name, [first, second | change])
    check_broken("mmstar", tmp_path, f"{name}: row 1", cause, message)


def test_damaged_mmstar(tmp_path, png):
    path = tmp_path / "MMStar.tsv"
    write_tsv(path, mmstar(png))
    lines = path.read_text().split("\n")
    text = "\n".join(lines).replace(base64.b64encode(png).decode(), "*no base64*", 1)
    path.write_text(text)
    assert fault(open_rows("mmstar", tmp_path), 0)[1].startswith(f"{path}: row 0: image: no base64: ")
    path.write_bytes(b"index\tquestion\n\xff\t")
    with pytest.raises(SaccadeError, match=r"MMStar\.tsv is not UTF-8"):
        open_rows("mmstar", tmp_path)
    path.unlink()
    (tmp_path / "mmstar.parquet").write_bytes(b"PAR1 and no more")
    pytest.importorskip("pyarrow")
    with pytest.raises(SaccadeError, match="no parquet file, or damaged"):
        open_rows("mmstar", tmp_path)
