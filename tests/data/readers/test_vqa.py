"""VQA v2: questions and annotations in two files, joined by question_id."""

from copy import deepcopy

import numpy as np
import pytest
from reader_files import check_broken, picture, write

from saccade.data.readers import open_rows
from saccade.errors import SaccadeError

QUESTIONS = {
    "info": {"version": "2.0"},
    "task_type": "Open-Ended",
    "data_type": "mscoco",
    "data_subtype": "val2014",
    "license": {"name": "CC BY 4.0"},
    "questions": [
        {"image_id": 42, "question": "Is it gray?", "question_id": 42001},
        {"image_id": 42, "question": "How many cats?", "question_id": 42002},
        {"image_id": 262148, "question": "What is shown?", "question_id": 262148000},
    ],
}
SAID = ("yes", "yes", "no", "yes", "yes", "maybe", "yes", "yes", "yes", "no")


def annotation(image_id, question_id, answers, answer_type, question_type):
    return {
        "question_type": question_type,
        "multiple_choice_answer": answers[0],
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": i}
            for i, answer in enumerate(answers, 1)
        ],
        "image_id": image_id,
        "answer_type": answer_type,
        "question_id": question_id,
    }


ANNOTATIONS = {
    **{key: value for key, value in QUESTIONS.items() if key != "questions"},
    "annotations": [  # in another order than the questions
        annotation(262148, 262148000, ("gray",) * 10, "other", "what is"),
        annotation(42, 42001, SAID, "yes/no", "is it"),
        annotation(42, 42002, ("2",) * 10, "number", "how many"),
    ],
}
Q_FILE = "v2_OpenEnded_mscoco_val2014_questions.json"
A_FILE = "v2_mscoco_val2014_annotations.json"


@pytest.fixture
def data(tmp_path):
    """(folder, questions, annotations, save): `save` writes both."""
    questions, annotations = deepcopy(QUESTIONS), deepcopy(ANNOTATIONS)
    picture(tmp_path / "val2014/COCO_val2014_000000000042.jpg", level=50)
    picture(tmp_path / "val2014/COCO_val2014_000000262148.jpg", level=200)

    def save():
        write(tmp_path / Q_FILE, questions)
        write(tmp_path / A_FILE, annotations)

    save()
    return tmp_path, questions["questions"], annotations["annotations"], save


def test_every_field(data):
    folder, *_ = data
    rows = open_rows("vqa_v2", folder)
    assert len(rows) == 3
    row = rows[0]
    assert (row.id, row.group, row.split) == ("42001", "42", "val2014")
    assert row.text == "Is it gray?"
    assert row.answers == SAID
    assert (row.answer_type, row.kind) == ("yes/no", "is it")
    assert row.picture == folder / "val2014/COCO_val2014_000000000042.jpg"
    assert row.where == f"{folder / Q_FILE}: row 0"
    assert row.image.shape == (4, 8, 3)
    assert np.abs(row.image.astype(int) - 50).max() <= 2
    assert [rows[i].answer_type for i in (1, 2)] == ["number", "other"]
    assert rows[2].answers == ("gray",) * 10
    assert rows[2].image.mean() > 190
    assert (row.boxes, row.candidates, row.turns, row.answer_index) == ((), (), (), None)


def test_pictures_elsewhere(data, tmp_path):
    folder, *_ = data
    (folder / "val2014").rename(folder / "loose")
    assert open_rows("vqa_v2", folder, images=folder / "loose")[0].image.shape == (4, 8, 3)
    (folder / "images").mkdir()
    (folder / "loose").rename(folder / "images/val2014")
    assert open_rows("vqa_v2", folder)[0].image.shape == (4, 8, 3)


def test_tests_have_no_answers(data):
    folder, *_ = data
    for split, year in (("test-dev2015", "test2015"), ("test2015", "test2015")):
        (folder / Q_FILE).with_name(f"v2_OpenEnded_mscoco_{split}_questions.json").write_bytes(
            (folder / Q_FILE).read_bytes()
        )
        picture(folder / f"{year}/COCO_{year}_000000000042.jpg")
        row = open_rows("vqa_v2", folder, split=split)[0]
        assert (row.text, row.answers, row.answer_type, row.split) == ("Is it gray?", (), "", split)
        assert row.picture.parent.name == year


@pytest.mark.parametrize(
    ("change", "cause", "message"),
    [
        (lambda q, a: q.pop("question"), "missing", "question: missing; there are image_id, question_id"),
        (lambda q, a: q.update(question=["Is it?"]), "type", "question: a list, not a text"),
        (lambda q, a: q.update(question=" "), "text", "question: empty"),
        (lambda q, a: q.update(image_id="42"), "type", "image_id: a text, not a whole number"),
        (lambda q, a: q.update(image_id=True), "type", "image_id: true or false, not a whole number"),
        (lambda q, a: a.pop("answers"), "missing", "annotation.answers: missing; there are question_type"),
        (lambda q, a: a.update(answers=[]), "answers", "annotation.answers: an empty list"),
        (lambda q, a: a["answers"][3].pop("answer"), "missing", "annotation.answers[3].answer: missing"),
        (
            lambda q, a: a["answers"][3].update(answer=3),
            "type",
            "annotation.answers[3].answer: a whole number",
        ),
        (lambda q, a: a.update(answers=["yes"]), "type", "annotation.answers[0]: a text, not an object"),
        (
            lambda q, a: a.update(answer_type="yes"),
            "unknown",
            "annotation.answer_type: 'yes', not one of yes/no",
        ),
        (lambda q, a: a.pop("question_type"), "missing", "annotation.question_type: missing"),
        (lambda q, a: a.update(image_id=7), "unknown", "annotation.image_id: 7, but the question's is 42"),
    ],
)
def test_broken_rows(data, change, cause, message):
    folder, questions, annotations, save = data
    change(questions[1], annotations[2])
    save()
    check_broken("vqa_v2", folder, f"{Q_FILE}: row 1", cause, message)


def test_an_annotator_may_have_said_nothing(data):
    folder, _, annotations, save = data
    annotations[0]["answers"][9]["answer"] = ""
    save()
    rows = {row.id: row.answers for row in open_rows("vqa_v2", folder)}
    assert "" in rows[str(annotations[0]["question_id"])]


def test_pictures_that_are_missing_or_damaged(data):
    folder, questions, _, save = data
    questions[1]["image_id"] = 43
    save()
    rows = open_rows("vqa_v2", folder, max_bad=2)
    assert len(list(rows)) == 2
    assert rows.tally.causes == {"unknown": 1}  # the annotation is of picture 42
    (folder / "val2014/COCO_val2014_000000262148.jpg").write_bytes(b"\xff\xd8\xff and no more")
    with pytest.raises(SaccadeError, match=r"questions\.json: row 2: .*262148\.jpg is damaged") as error:
        _ = rows[2].image
    rows.skip(error.value)
    assert rows.tally.causes == {"unknown": 1, "image": 1}
    (folder / "val2014/COCO_val2014_000000262148.jpg").unlink()
    with pytest.raises(
        SaccadeError,
        match=r"row 2: image_id: no file COCO_val2014_000000262148\.jpg in .*, nor in its train2014, val2014",
    ):
        rows[2]


def test_questions_and_annotations_without_each_other(data):
    folder, _, annotations, save = data
    del annotations[0]
    annotations += [annotation(1, 99, ("a",), "other", "what"), {"image_id": 1}, "text"]
    save()
    rows = open_rows("vqa_v2", folder, max_bad=4)
    assert [row.id for row in rows] == ["42001", "42002"]
    assert rows.tally.examples == [
        f"{folder / Q_FILE}: row 2: question_id: 262148000 is not in {folder / A_FILE}",
        f"{folder / A_FILE}: row 2: question_id: 99 belongs to no row",
        f"{folder / A_FILE}: row 3: question_id: missing; there are image_id",
        f"{folder / A_FILE}: row 4: the row: a text, not an object",
    ]


def test_ids_that_come_twice(data):
    folder, questions, annotations, save = data
    questions.append(dict(questions[0]))
    annotations.append(dict(annotations[2]))
    save()
    rows = open_rows("vqa_v2", folder, max_bad=2)
    assert [row.id for row in rows] == ["42001", "262148000"]
    assert rows.tally.causes == {"duplicate": 2}
    assert rows.tally.examples == [
        f"{folder / Q_FILE}: row 1: question_id: 42002 is 2 times in {folder / A_FILE}",
        f"{folder / Q_FILE}: row 3: id: 42001 is that of row 0 too",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds a list, not an object; is it the published file"),
        ("{", "is no JSON"),
        ('{"question": []}', "has no 'questions', only question"),
        ('{"questions": {}}', "'questions', holds a dict, not a list"),
        ('{"questions": []}', "holds no rows of vqa_v2"),
    ],
)
def test_damaged_files(data, content, message):
    folder, *_ = data
    write(folder / A_FILE, {"annotations": []})
    (folder / Q_FILE).write_text(content)
    with pytest.raises(SaccadeError, match=message):
        open_rows("vqa_v2", folder)
    (folder / A_FILE).unlink()
    (folder / Q_FILE).write_text('{"questions": []}')
    with pytest.raises(SaccadeError, match="holds no v2_mscoco_val2014_annotations"):
        open_rows("vqa_v2", folder)
