"""A row as The Cauldron and FineVision write it: what is kept, and what each fault is called."""

import numpy as np
import pytest
import talk_files
from PIL import Image

from saccade.data.conversations import RowError, RowFormat
from saccade.errors import SaccadeError

TURN = {"user": "What is this?", "assistant": " A cube.\n"}
ROW = {"images": [{"bytes": b"png", "path": "a.png"}], "texts": [{**TURN, "source": "vqa"}]}


def read(row, folder=None, **limits):
    return RowFormat(**limits).conversation(row, "f.jsonl, row 3", folder)


def users(conversation):
    return [m["content"] for m in conversation.messages if m["role"] == "user"]


def rated(**ratings):
    texts = [{"user": f"q{i}", "assistant": f"a{i}"} for i in range(4)]
    return {"images": [], "texts": texts, **ratings}


def test_a_row_of_the_cauldron():
    found = read(
        {"images": [{"bytes": b"a", "path": None}, {"bytes": b"b", "path": "x"}], "texts": [TURN] * 2}
    )
    assert found.images == (b"a", b"b")
    assert (
        found.messages
        == (
            {"role": "user", "content": "What is this?"},
            {"role": "assistant", "content": "A cube."},
        )
        * 2
    )
    assert found.where == "f.jsonl, row 3"


def test_turns_below_a_limit_go():
    row = rated(relevance_ratings=[5, 2, None, 3], formatting_ratings=[4, 5, 4, 1])
    assert users(read(row)) == ["q0", "q1", "q2", "q3"]
    assert users(read(row, relevance_min=3)) == ["q0", "q2", "q3"]
    assert users(read(row, relevance_min=3, formatting_min=2)) == ["q0", "q2"]
    assert users(read(row, visual_dependency_min=5)) == ["q0", "q1", "q2", "q3"]  # nobody rated it
    with pytest.raises(RowError, match=r"f.jsonl, row 3: no turn reaches the rating limits") as error:
        read(rated(relevance_ratings=[1, 1, 1, 1]), relevance_min=2)
    assert error.value.cause == "rating"


def test_ratings_may_be_arrays_and_the_smallest_stands_for_a_missing_list():
    assert users(read(rated(relevance_ratings=np.array([1, 4, 4, 1])), relevance_min=2)) == ["q1", "q2"]
    assert len(users(read(rated(relevance_min=3), relevance_min=3))) == 4
    with pytest.raises(RowError, match="rating limits"):
        read(rated(relevance_min=3), relevance_min=4)
    # the list says more
    assert users(read(rated(relevance_min=1, relevance_ratings=[5, 1, 1, 1]), relevance_min=4)) == ["q0"]


def test_the_first_turns_only():
    assert users(read(rated(), max_turns=1)) == ["q0"]
    assert users(read(rated(relevance_ratings=[1, 5, 5, 5]), relevance_min=2, max_turns=2)) == ["q1", "q2"]
    with pytest.raises(SaccadeError, match="max_turns is 0"):
        RowFormat(max_turns=0)


def test_messages_in_place_of_texts():
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "unanswered"},
    ]
    found = read({"messages": talk, "image": b"one"})
    assert found.messages == tuple(talk[:3])
    assert found.images == (b"one",)


def test_pictures_may_be_decoded_already():
    picture = Image.fromarray(talk_files.pixels(0))
    array = talk_files.pixels(1)
    assert read({**ROW, "images": [picture, array]}).images == (picture, array)
    assert read({**ROW, "images": None}).images == ()
    assert read({"texts": [TURN], "image": None}).images == ()


@pytest.mark.parametrize(
    ("row", "cause", "message"),
    [
        ([], "type", "the row is a list"),
        ({"texts": [TURN]}, "missing", "there is no `images`"),
        ({"images": [], "text": "x"}, "missing", "there is no `texts`; it has images, text"),
        ({**ROW, "texts": []}, "text", "texts is empty"),
        ({**ROW, "texts": "x"}, "type", "texts is a str, not a list"),
        ({**ROW, "texts": ["x"]}, "type", "a turn is a str"),
        ({**ROW, "texts": [{"user": "x"}]}, "missing", "there is no `assistant`"),
        ({**ROW, "texts": [{**TURN, "assistant": 3}]}, "type", "what the assistant says is a int"),
        ({**ROW, "texts": [TURN, {**TURN, "user": " \n"}]}, "text", "the user says nothing"),
        ({**ROW, "images": "x.png"}, "type", "images is a str, not a list"),
        ({**ROW, "images": [3]}, "image", "an image is a int"),
        ({**ROW, "images": [{"bytes": None, "path": None}]}, "image", "an image is a NoneType"),
        ({**ROW, "images": ["x.png"]}, "image", "x.png is a path, but no folder of images is given"),
        ({**ROW, "relevance_ratings": [1, 2]}, "type", "relevance_ratings has 2 values for 1 turns"),
        ({**ROW, "relevance_ratings": ["good"]}, "type", "relevance_ratings holds a str"),
        ({**ROW, "relevance_ratings": 4}, "type", "relevance_ratings is a int"),
        ({"images": [], "messages": []}, "text", "the conversation is empty"),
        ({"images": [], "messages": [{"role": "tool", "content": "x"}]}, "type", "has role 'tool'"),
        ({"image": None, "messages": [{"role": "user", "content": "x"}]}, "text", "assistant says nothing"),
    ],
)  # fmt: skip
def test_faults(row, cause, message):
    with pytest.raises(RowError, match=f"f.jsonl, row 3: .*{message}") as error:
        read(row, relevance_min=1)
    assert error.value.cause == cause
    assert "\n" not in str(error.value)


def test_a_path_stays_in_its_folder(tmp_path):
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(talk_files.png(0))
    (tmp_path / "secret.png").write_bytes(talk_files.png(1))
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "deep" / "in.png").symlink_to(folder / "a.png")

    def image(name):
        return read({**ROW, "images": [name]}, folder).images[0]

    assert image("a.png") == image("deep/../a.png") == image("deep/in.png") == folder / "a.png"
    for name in ("../secret.png", "deep/../../secret.png", "out.png", str(folder / "a.png"), "/etc/passwd"):
        with pytest.raises(RowError, match="leads out of") as error:
            image(name)
        assert error.value.cause == "image"
    with pytest.raises(RowError, match=r"a\\x00b is no path"):
        image("a\0b")


def test_an_error_travels_between_processes():
    import pickle

    again = pickle.loads(pickle.dumps(RowError("image", "no picture")))
    assert (again.cause, str(again)) == ("image", "no picture")
