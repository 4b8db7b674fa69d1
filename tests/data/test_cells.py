"""Dense labels: what stands in each cell of the canvas, worked out by hand."""

import pickle

import numpy as np
import pytest

from saccade.data.batching import ATTRIBUTES, Collate, cells
from saccade.data.image import letterbox
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import Scene, SceneObject, Source, parse
from saccade.data.scenes.referents import CHANNELS
from saccade.data.scenes.scene import Example
from saccade.data.text import Tokenizer

# On a square canvas of 36 px this scene of 36 x 18 lies 9 px down. Cells are 12 px: three rows of three.
CUBE = SceneObject("cube", "red", "small", "rubber", (0, 1, 6, 7))  # centre 3, 13: cell 3
STAR = SceneObject("star", "green", "medium", "glass", (16, 6, 22, 12), layer=2)  # 19, 18: cell 4, before
BALL = SceneObject("ball", "blue", "large", "metal", (14, 4, 24, 14), layer=1)  # the ball, which it hides
CONE = SceneObject("cone", "yellow", "medium", "metal", (30, 13, 36, 18))  # 33, 24.5: cell 8
SCENE = Scene((CUBE, STAR, BALL, CONE), 36, 18, "plain")
ANSWERS = {"no": 0, "yes": 1, "3": 2, "red": 3, "metal": 4}
SEEN = {3: CUBE, 4: STAR, 8: CONE}


def the(shape: str) -> str:
    return f"unique(filter(scene(),shape,{shape}))"


def example(program: str = "", scene: Scene = SCENE, **fields) -> Example:
    picture = np.zeros((scene.height_px, scene.width_px, 3), np.uint8)
    fields = {"text": "the ball", "answer": "red"} | fields
    return Example("vqa", picture, scene, program=parse(program) if program else None, **fields)


def labels(one: Example, canvas=(36, 36), grid=(3, 3)) -> dict:
    return cells(one, letterbox(one.image, canvas)[1], grid, ANSWERS)


def classes(item: SceneObject) -> list[int]:
    return [values.index(getattr(item, name)) for name, values in ATTRIBUTES.items()]


def test_objects_stand_where_their_centres_are_on_the_canvas():
    found = labels(example())
    assert {key: value.dtype.name for key, value in found.items()} == {
        "objects": "int8",
        "object_boxes": "float32",
        "referents": "int8",
        "told": "int8",
    }
    expected, boxes = np.full((9, 4), -1), np.zeros((9, 4))
    expected[3], expected[4], expected[8] = [0, 0, 0, 0], [4, 2, 1, 2], [2, 3, 1, 1]
    boxes[3] = np.array([0, 10, 6, 16]) / 36
    boxes[4] = np.array([16, 15, 22, 21]) / 36
    boxes[8] = np.array([30, 22, 36, 27]) / 36
    np.testing.assert_array_equal(found["objects"], expected)
    np.testing.assert_allclose(found["object_boxes"], boxes, atol=1e-6)


def test_of_two_in_one_cell_the_nearer_layer_counts_in_any_order():
    for objects in ((STAR, BALL), (BALL, STAR)):
        found = labels(example("count(filter(scene(),shape,ball))", Scene(objects, 36, 18, "plain")))
        assert found["objects"][4].tolist() == classes(STAR)
        assert found["referents"][4, 0] == 0  # the ball is meant, and not to be seen there
        assert (np.delete(found["objects"], 4, axis=0) == -1).all()


def test_referents_are_marked_among_objects_of_known_channels():
    found = labels(example(f"same_attribute({the('cube')},{the('cone')},color)"))
    expected = np.full((9, CHANNELS), -1)
    expected[[3, 4, 8], 0] = 1, 0, 0
    expected[[3, 4, 8], 1] = 0, 0, 1
    np.testing.assert_array_equal(found["referents"], expected)


def test_an_empty_set_marks_no_object_but_says_so():
    found = labels(example("exist(filter(scene(),shape,cylinder))"))
    expected = np.full((9, CHANNELS), -1)
    expected[[3, 4, 8], 0] = 0
    np.testing.assert_array_equal(found["referents"], expected)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (f"query({the('cube')},color)", {3: 3}),
        (f"same_attribute({the('cube')},{the('cone')},color)", {3: 3}),  # "yellow" is no answer
        (f"is({the('cone')},material,metal)", {8: 4}),
        (f"is({the('ball')},material,metal)", {}),  # hidden
        ("count(scene())", {}),
        ("", {}),
    ],
)
def test_told_is_the_answer_asked_of_what_is_seen(program, expected):
    wanted = np.full(9, -1)
    wanted[list(expected)] = list(expected.values())
    np.testing.assert_array_equal(labels(example(program))["told"], wanted)


def test_without_a_program_or_objects_all_is_minus_one():
    found = labels(example())
    assert (found["referents"] == -1).all()
    empty = labels(example(scene=Scene((), 36, 18, "plain")))
    for key in ("objects", "referents", "told"):
        assert (empty[key] == -1).all()
    assert not empty["object_boxes"].any()
    assert empty["objects"].shape == (9, 4)


def test_an_image_of_another_size_is_scaled_with_its_labels():
    """Drawn at three times the size, then shown on the same canvas."""
    big = [
        SceneObject(o.shape, o.color, o.size, o.material, tuple(3 * v for v in o.box_px), layer=o.layer)
        for o in SCENE.objects
    ]
    one, other = labels(example()), labels(example(scene=Scene(tuple(big), 108, 54, "plain")))
    for key in one:
        np.testing.assert_allclose(other[key], one[key], atol=1e-6)


def test_centres_on_the_far_edge_stay_on_the_grid():
    corner = SceneObject("ball", "red", "small", "metal", (36, 18, 36, 18))
    found = labels(example(scene=Scene((corner,), 36, 18, "plain")), canvas=(18, 36), grid=(2, 4))
    assert found["objects"][7].tolist() == classes(corner)


def test_shapes_and_colors_of_panels_have_classes_of_their_own():
    block = SceneObject("square", "black", "medium", "rubber", (1, 7, 9, 15))  # centre 5, 11: cell 6
    found = labels(example(scene=Scene((block,), 36, 18, "gray", "nlvr")), canvas=(18, 36), grid=(3, 6))
    assert found["objects"][6].tolist() == [6, 8, 1, 0]
    assert sum(len(set(values)) for values in ATTRIBUTES.values()) == 8 + 9 + 3 + 3


def test_a_batch_brings_them(processor):
    collate = Collate(processor, "vqa", image_size=(24, 36), cell_px=12)
    one = example(f"query({the('cube')},color)")
    batch = pickle.loads(pickle.dumps(collate))([one, example()])
    assert batch["objects"].shape == (2, 6, 4)  # 2 rows of 3
    assert batch["object_boxes"].shape == (2, 6, 4)
    assert batch["referents"].shape == (2, 6, CHANNELS)
    assert batch["told"].tolist() == [[3, -1, -1, -1, -1, -1], [-1] * 6]  # centre 3, 7: the first row
    alone = cells(one, letterbox(one.image, (24, 36))[1], (2, 3), {"red": 3})
    for key, value in alone.items():
        np.testing.assert_array_equal(batch[key][0], value)
    assert not Collate(processor, "vqa", image_size=(24, 36))([one]).keys() & alone.keys()


def test_a_captions_words_point_at_the_objects_they_fit():
    """Read the targets back: every token that points at a cell is of a phrase that fits what is there."""
    source = Source("caption", seed=3)
    examples = [source[i] for i in range(64)]
    words = Tokenizer.train([example.target for example in examples] * 20, 600)
    processor = Processor(words, ProcessorConfig(image_sizes=((128, 128),), target_length=96))
    batch = Collate(processor, "caption", image_size=(128, 128), cell_px=16)(examples)
    pointed = batch["mentions"].any(2)
    assert (pointed.any(1)).all()
    assert not pointed[~batch["loss_mask"]].any()
    for example, row, targets in zip(examples, batch["mentions"], batch["targets"], strict=True):
        assert row.any(0).sum() <= len(example.scene.objects)
        said = processor.tokenizer.decode(targets[row.any(1)])
        adjectives = {"a", "the", "is", "left", "right", "above", "below", "objects", "two", "three"}
        assert not adjectives & set(said.split()), said
