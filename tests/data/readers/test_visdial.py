"""VisDial v1.0: texts by number, 100 candidates a round, dense annotations of one round a dialogue."""

import pytest
from reader_files import check_broken, fault, picture, write

from saccade.data.readers import open_rows

FILE, DENSE = "visdial_1.0_val.json", "visdial_1.0_val_dense_annotations.json"


def dialogs():
    def round_(question, answer, shift):
        options = [(shift + i) % 120 for i in range(100)]
        return {
            "question": question,
            "answer": answer,
            "answer_options": options,
            "gt_index": options.index(answer),
        }

    return {
        "version": "1.0",
        "split": "val2018",
        "data": {
            "questions": [f"is it {i}" for i in range(5)],
            "answers": [f"answer {i}" for i in range(120)],
            "dialogs": [
                {
                    "image_id": 185565,
                    "caption": "a dog on a sofa",
                    "dialog": [round_(4, 7, 0), round_(0, 119, 60), round_(2, 3, 1)],
                },
                {"image_id": 284024, "caption": "a cat", "dialog": [round_(1, 50, 50)]},
            ],
        },
    }


def dense(key="gt_relevance"):
    relevance = [0.0] * 100
    relevance[59], relevance[4] = 1.0, 0.25
    return [{"image_id": 185565, "round_id": 2, key: relevance}]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / FILE, dialogs())
    write(tmp_path / DENSE, dense())
    for number in (185565, 284024):
        picture(tmp_path / f"VisualDialog_val2018/VisualDialog_val2018_{number:012d}.jpg")
    return tmp_path


def test_rounds(folder):
    rows = open_rows("visdial", folder)
    assert [row.id for row in rows] == ["185565-1", "185565-2", "185565-3", "284024-1"]
    row = rows[1]
    assert (row.group, row.split, row.context) == ("185565", "val", "a dog on a sofa")
    assert row.text == "is it 0"
    assert row.turns == (("is it 4", "answer 7"),)
    assert len(row.candidates) == len(row.relevance) == 100
    assert (row.candidates[0], row.candidates[-1]) == ("answer 60", "answer 39")
    assert (row.answers, row.answer_index) == (("answer 119",), 59)
    assert (row.relevance[59], row.relevance[4], sum(row.relevance)) == (1, 0.25, 1.25)
    assert row.picture == folder / "VisualDialog_val2018/VisualDialog_val2018_000000185565.jpg"
    assert row.where == f"{folder / FILE}: row 0"
    assert rows[2].turns == (("is it 4", "answer 7"), ("is it 0", "answer 119"))
    assert (rows[0].turns, rows[0].relevance, rows[2].relevance) == ((), (), ())
    assert (rows[3].answer_index, rows[3].image.shape) == (0, (4, 8, 3))


def test_without_dense_annotations(folder):
    (folder / DENSE).unlink()
    assert all(row.relevance == () for row in open_rows("visdial", folder))


def test_train_has_pictures_of_coco_and_a_dense_sample(folder):
    write(folder / "visdial_1.0_train.json", dialogs())
    write(folder / "visdial_1.0_train_dense_sample.json", dense("relevance"))
    picture(folder / "train2014/COCO_train2014_000000185565.jpg")
    picture(folder / "val2014/COCO_val2014_000000284024.jpg")
    rows = open_rows("visdial", folder, split="train")
    assert rows[1].relevance[59] == 1
    assert [rows[i].picture.name for i in (0, 3)] == [
        "COCO_train2014_000000185565.jpg",
        "COCO_val2014_000000284024.jpg",
    ]


def test_test_asks_the_last_round_and_keeps_its_answer(folder):
    made = dialogs()
    rounds = made["data"]["dialogs"][0]["dialog"]
    for turn in rounds[:2]:
        del turn["answer_options"], turn["gt_index"]
    del rounds[2]["answer"], rounds[2]["gt_index"]
    del made["data"]["dialogs"][1]
    write(folder / "visdial_1.0_test.json", made)
    picture(folder / "VisualDialog_test2018/VisualDialog_test2018_000000185565.jpg")
    [row] = open_rows("visdial", folder, split="test")
    assert (row.id, row.text, row.answers, row.answer_index) == ("185565-3", "is it 2", (), None)
    assert row.turns[1] == ("is it 0", "answer 119")
    assert row.candidates[0] == "answer 1"


@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        (lambda d, r: r.pop("question"), "missing", "dialog[0].question: missing"),
        (lambda d, r: r.update(question=5), "unknown", "dialog[0].question: 5, there are 5 texts"),
        (lambda d, r: r.update(question=-1), "unknown", "dialog[0].question: -1, there are 5 texts"),
        (lambda d, r: r.update(question="1"), "type", "dialog[0].question: a text, not a whole number"),
        (lambda d, r: r.pop("answer_options"), "missing", "dialog[0].answer_options: missing"),
        (lambda d, r: r["answer_options"].pop(), "answers", "dialog[0].answer_options: 99, not 100"),
        (lambda d, r: r["answer_options"].__setitem__(8, 120), "unknown", "dialog[0].answer_options[8]: 120"),
        (lambda d, r: r["answer_options"].__setitem__(8, None), "type", "dialog[0].answer_options[8]: null"),
        (lambda d, r: r.pop("gt_index"), "missing", "dialog[0].gt_index: missing"),
        (lambda d, r: r.update(gt_index=100), "answers", "dialog[0].gt_index: 100, there are 100"),
        (lambda d, r: r.update(gt_index=1), "answers", "dialog[0].gt_index: candidate 1 is not the answer"),
        (lambda d, r: r.pop("answer"), "missing", "dialog[0].answer: missing"),
        (lambda d, r: d.pop("caption"), "missing", "caption: missing"),
        (lambda d, r: d.update(dialog=[]), "text", "dialog: an empty list"),
        (lambda d, r: d.update(dialog={}), "type", "dialog: an object, not a list"),
        (lambda d, r: d.update(dialog=[3]), "type", "dialog[0]: a whole number, not an object"),
        (lambda d, r: d.pop("image_id"), "missing", "image_id: missing"),
        (lambda d, r: d.update(image_id=185565), "duplicate", "id: 185565-1 is that of row 0 too"),
        (
            lambda d, r: d.update(image_id=7),
            "image",
            "image_id: no file VisualDialog_val2018_000000000007.jpg",
        ),
    ],
)
def test_broken_rounds(folder, change, cause, message):
    made = dialogs()
    dialog = made["data"]["dialogs"][1]
    change(dialog, dialog["dialog"][0])
    write(folder / FILE, made)
    check_broken("visdial", folder, f"{FILE}: row 1", cause, message)


def test_a_broken_text_breaks_the_rounds_that_use_it(folder):
    made = dialogs()
    made["data"]["questions"][4] = ""
    write(folder / FILE, made)
    rows = open_rows("visdial", folder)
    assert fault(rows, 0) == ("text", f"{folder / FILE}: row 0: dialog[0].question, text 4: empty")
    assert fault(rows, 1)[1].endswith("dialog[0].question, text 4: empty")
    assert rows[3].text == "is it 1"


@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        (lambda e: e.pop("gt_relevance"), "missing", "gt_relevance: missing; there are image_id, round_id"),
        (lambda e: e["gt_relevance"].pop(), "type", "gt_relevance: 99 values for 100 candidates"),
        (lambda e: e["gt_relevance"].__setitem__(3, "1"), "type", "gt_relevance[3]: a text, not a number"),
        (lambda e: e["gt_relevance"].__setitem__(3, 1.5), "type", "gt_relevance: a value outside [0, 1]"),
    ],
)
def test_broken_dense_annotations(folder, change, cause, message):
    made = dense()
    change(made[0])
    write(folder / DENSE, made)
    check_broken("visdial", folder, f"{FILE}: row 0: {folder / DENSE}: row 0", cause, message)


def test_dense_annotations_of_no_round(folder):
    entry = dense()[0]
    odd = [{**entry, "round_id": 4}, {**entry, "image_id": 9}, {**entry, "image_id": None}, {**entry}]
    write(folder / DENSE, [entry, *odd])
    rows = open_rows("visdial", folder, max_bad=4)
    assert len(list(rows)) == 3
    assert rows.tally.examples == [
        f"{folder / FILE}: row 0: {folder / DENSE}: row 0: round 185565-2 is row 4 too",
        f"{folder / DENSE}: row 1: round_id: 4 belongs to no row",
        f"{folder / DENSE}: row 2: image_id: 9 belongs to no row",
        f"{folder / DENSE}: row 3: image_id: missing; there are image_id, round_id, gt_relevance",
    ]
