"""Steps that change pictures: boxes follow pixels, inputs stay, and whatever is refused is counted."""

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from saccade.data.augment import (
    SCENE_SYNONYMS,
    Augment,
    ColorJitter,
    Erasing,
    HorizontalFlip,
    Item,
    RandomCrop,
    SynonymReplacement,
    WordMasking,
)
from saccade.data.augment.geometry import Rectangles, in_window
from saccade.errors import SaccadeError

EVERY = Augment(
    (RandomCrop(if_whole="ignore"), 0.8),
    (HorizontalFlip(), 0.5),
    (ColorJitter(), 0.8),
    (Erasing(fill="noise"), 0.8),
    (SynonymReplacement(SCENE_SYNONYMS), 0.8),
    (WordMasking(), 0.5),
)


def rng(*seed) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def painted(height: int, width: int, window) -> Item:
    """A black picture with one white rectangle, and its box."""
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = window
    image[y0:y1, x0:x1] = 255
    return Item(image, boxes([x0 / width, y0 / height, x1 / width, y1 / height]))


def white_box(image: np.ndarray) -> np.ndarray:
    """Where the white pixels are, xyxy in [0, 1]."""
    rows, columns = np.nonzero((image > 127).all(2))
    height, width = image.shape[:2]
    return np.array(
        [
            columns.min() / width,
            rows.min() / height,
            (columns.max() + 1) / width,
            (rows.max() + 1) / height,
        ]
    )


@st.composite
def items(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    corners = st.floats(0, 1, width=32)
    rows = draw(st.lists(st.tuples(corners, corners, corners, corners), max_size=4))
    sorted_rows = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in rows]
    text = draw(
        st.sampled_from(
            ("", "a large ball left of the cube", "the right answer", "how many red balls are there?")
        )
    )
    phrases = tuple(f"ball {i}" for i in range(len(rows))) if draw(st.booleans()) else ()
    return Item(noise(height, width, draw(st.integers(0, 9))), boxes(*sorted_rows), text, "red", phrases)


def copy_of(item: Item) -> Item:
    return pickle.loads(pickle.dumps(item))


def assert_same(one: Item, other: Item) -> None:
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.boxes, other.boxes)
    for name in ("text", "answer", "phrases", "hidden", "refused"):
        assert getattr(one, name) == getattr(other, name)


@settings(deadline=None, max_examples=150)
@given(items(), st.integers(0, 2**32))
def test_any_item_stays_valid_and_is_not_touched(item, seed):
    before = copy_of(item)
    found = EVERY(rng(seed), item)
    assert_same(item, before)
    assert found.image.dtype == np.uint8
    assert found.image.ndim == 3
    assert found.image.shape[2] == 3
    assert found.boxes.dtype == np.float32
    assert found.boxes.shape == item.boxes.shape  # the crop retries, it drops nothing
    assert found.phrases == item.phrases
    assert found.answer == item.answer
    assert_same(found, EVERY(rng(seed), copy_of(item)))


@pytest.mark.parametrize("step", [RandomCrop(), HorizontalFlip(), ColorJitter(), Erasing()], ids=repr)
def test_a_new_picture_has_memory_of_its_own(step):
    item = Item(noise(31, 37), boxes([0.4, 0.4, 0.5, 0.5]))
    found = step(rng(0), item)
    assert not found.refused
    assert not np.shares_memory(found.image, item.image)
    assert found.image.flags.writeable
    assert found.image.flags.c_contiguous


def test_another_seed_gives_another_item():
    item = Item(noise(31, 37), boxes([0.4, 0.4, 0.5, 0.5]))
    assert len({EVERY(rng(seed), item).image.tobytes() for seed in range(20)}) > 10


@pytest.mark.parametrize("seed", range(40))
def test_the_box_follows_the_pixels(seed):
    source = rng(seed, 1)
    height, width = int(source.integers(20, 90)), int(source.integers(20, 90))
    x0, y0 = int(source.integers(0, width - 4)), int(source.integers(0, height - 4))
    x1, y1 = int(source.integers(x0 + 2, width + 1)), int(source.integers(y0 + 2, height + 1))
    item = painted(height, width, (x0, y0, x1, y1))
    augment = Augment((RandomCrop(area=(0.2, 1.0)), 1), (HorizontalFlip(), 0.5))
    found = augment(rng(seed), item)
    np.testing.assert_allclose(found.boxes[0], white_box(found.image), atol=1e-6)


def test_crops_keep_to_their_area_and_ratio_and_differ():
    item = Item(noise(60, 90))
    step = RandomCrop(area=(0.3, 0.6), ratio=(0.5, 2.0))
    shapes = [step(rng(seed), item).image.shape[:2] for seed in range(200)]
    area = np.array([h * w for h, w in shapes]) / (60 * 90)
    ratio = np.array([w / h for h, w in shapes]) / 1.5
    assert 0.29 < area.min() < 0.32
    assert 0.58 < area.max() < 0.61
    assert 0.48 < ratio.min() < 0.65
    assert 1.5 < ratio.max() < 2.1


def test_a_crop_is_a_part_of_the_picture():
    item = Item(noise(50, 40))
    crop = RandomCrop(area=(0.2, 0.3))(rng(4), item).image
    height, width = crop.shape[:2]
    places = [
        (y, x)
        for y in range(51 - height)
        for x in range(41 - width)
        if np.array_equal(item.image[y : y + height, x : x + width], crop)
    ]
    assert len(places) == 1


@pytest.mark.parametrize("max_lost", [0.0, 0.3, 0.8])
def test_no_box_loses_more_than_its_share(max_lost):
    sizes = []
    for seed in range(100):
        item = painted(80, 100, (10, 10, 40, 50))
        found = RandomCrop(area=(0.3, 0.8), max_lost=max_lost, tries=50)(rng(seed), item)
        if not found.refused:
            sizes.append((found.image > 0).all(2).sum() / (30 * 40))
    assert len(sizes) > 50
    assert min(sizes) >= 1 - max_lost - 1e-6
    assert max_lost == 0 or min(sizes) < 1  # boxes are cut, too


def test_a_box_that_loses_too_much_goes_with_its_phrase():
    item = Item(
        noise(80, 80),
        boxes([0, 0, 0.2, 0.2], [0.4, 0.4, 0.6, 0.6], [0.9, 0.9, 1, 1]),
        phrases=("a", "b", "c"),
    )
    step = RandomCrop(area=(0.3, 0.4), max_lost=0.5, if_lost="drop")
    kept = Counter()
    for seed in range(100):
        found = step(rng(seed), item)
        assert not found.refused
        assert len(found.phrases) == len(found.boxes)
        assert ("a" in found.phrases) + ("c" in found.phrases) < 2  # they are too far apart
        kept.update(found.phrases)
    assert kept["b"] > kept["a"] > 0
    assert kept["c"] > 0


def test_the_whole_picture_is_kept_where_no_crop_keeps_the_boxes():
    item = Item(noise(30, 30), boxes([0, 0, 1, 1]))
    found = RandomCrop(area=(0.2, 0.5))(rng(0), item)
    assert found.refused == ("crop: no crop in 10 tries keeps the boxes",)
    assert_same(found.change(refused=()), item)


@pytest.mark.parametrize(
    "text",
    [
        "how many balls are there?",
        "there are no cubes",
        "is there a dog?",
        "two dogs",
        "The LEFTMOST ball",
        "the dog on the left",
        "a lamp in the corner",
        "the second cube from the top",
        "all balls are red",
        "left of the picture",
    ],
)
def test_texts_about_the_whole_picture_are_not_cropped(text):
    image = noise(30, 30)
    for item in (Item(image, text=text), Item(image, boxes([0, 0, 0.1, 0.1]), phrases=(text,))):
        assert RandomCrop()(rng(0), item).refused == ("crop: the text is about the whole picture",)
    assert not RandomCrop(if_whole="ignore")(rng(0), Item(image, text=text)).refused


@pytest.mark.parametrize(
    "text", ["", "a dog runs", "what color is the ball left of the cube?", "a stopped bus"]
)
def test_other_texts_are(text):
    assert RandomCrop()(rng(0), Item(noise(30, 30), text=text)).image.shape != (30, 30, 3)


def test_lines_and_points_count_by_what_is_left_of_them():
    rows = boxes([0.2, 0.5, 0.6, 0.5], [0.3, 0.3, 0.3, 0.3], [0.9, 0.1, 0.9, 0.1], [0, 0, 1, 1])
    found, share = in_window(rows, (20, 20, 40, 60), 100, 100)
    np.testing.assert_allclose(share, [0.5, 1, 0, 0.08], atol=1e-7)
    expected = [[0, 0.75, 1, 0.75], [0.5, 0.25, 0.5, 0.25], [1, 0, 1, 0], [0, 0, 1, 1]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(deadline=None)
@given(items())
def test_a_picture_flipped_twice_is_the_same(item):
    once = HorizontalFlip()(rng(0), item)
    if once.refused:
        assert item.text == "the right answer"
        return
    np.testing.assert_array_equal(once.image, item.image[:, ::-1])
    twice = HorizontalFlip()(rng(0), once)
    np.testing.assert_array_equal(twice.image, item.image)
    np.testing.assert_allclose(twice.boxes, item.boxes, rtol=0, atol=1e-7)
    assert twice.words == item.words


def test_what_is_refused_can_be_counted():
    texts = ["the right answer", "she left", "a sign", "left of the cube", "a dog"]
    augment = Augment((HorizontalFlip(), 1), (ColorJitter(), 1))
    found = [augment(rng(i), Item(noise(9, 7), text=text)) for i, text in enumerate(texts)]
    assert Counter(note for item in found for note in item.refused) == {
        "flip: left or right is not clearly a side": 2,
        "flip: it tells of writing, which would be mirrored": 1,
    }


def test_a_refused_flip_changes_nothing():
    item = Item(noise(9, 7), boxes([0, 0, 0.5, 1]), "the left cube", phrases=("the right answer",))
    assert_same(HorizontalFlip()(rng(0), item).change(refused=()), item)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 17), (17, 1), (2, 2)])
def test_the_smallest_pictures(height, width):
    item = Item(noise(height, width), boxes([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]), "a dog")
    for seed in range(30):
        found = EVERY(rng(seed), item)
        assert min(found.image.shape) >= 1
    assert Erasing()(rng(0), Item(noise(1, 1))).refused  # it would be all of it


# What is wrong is said.


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"image": np.zeros((4, 5), np.uint8)}, "uint8 (4, 5); give uint8 (H, W, 3)"),
        ({"image": np.zeros((4, 5, 1), np.uint8)}, "read_image"),
        ({"image": np.zeros((4, 5, 4), np.uint8)}, "(4, 5, 4)"),
        ({"image": np.zeros((4, 5, 3), np.float32)}, "float32"),
        ({"image": np.zeros((0, 5, 3), np.uint8)}, "(0, 5, 3)"),
        ({"image": Image.new("RGB", (4, 5))}, "is a Image"),
        ({"boxes": [[0, 0, 1, 1]]}, "boxes are list"),
        ({"boxes": np.zeros((1, 4))}, "float64 (1, 4)"),
        ({"boxes": np.zeros((4,), np.float32)}, "(4,)"),
        ({"boxes": boxes([0, 0, 1.5, 1])}, "1.5"),
        ({"boxes": boxes([0.5, 0, 0.25, 1])}, "box [0.5, 0.0, 0.25, 1.0] is not xyxy"),
        ({"boxes": boxes([0, np.nan, 1, 1])}, "nan"),
        ({"text": None}, "text is a NoneType"),
        ({"answer": 3}, "answer is a int"),
        ({"phrases": ("a",)}, "1 phrases for 0 boxes"),
    ],
)
def test_items_that_cannot_be(changes, part):
    with pytest.raises(SaccadeError) as caught:
        Item(**{"image": np.zeros((4, 5, 3), np.uint8), **changes})
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomCrop(area=(0.0, 0.5)),
        lambda: RandomCrop(area=(0.5, 1.1)),
        lambda: RandomCrop(ratio=(2.0, 1.0)),
        lambda: RandomCrop(ratio=(0.0, 1.0)),
        lambda: RandomCrop(max_lost=1.5),
        lambda: RandomCrop(if_lost="keep"),
        lambda: RandomCrop(if_whole="keep"),
        lambda: RandomCrop(tries=0),
        lambda: ColorJitter(brightness=-0.1),
        lambda: ColorJitter(hue=0.6),
        lambda: ColorJitter(if_named="keep"),
        lambda: Erasing(max_covered=float("nan")),
        lambda: Erasing(fill="black"),
        lambda: Augment((HorizontalFlip(), 1.5)),
        lambda: Augment(HorizontalFlip()),
        lambda: Augment(("flip", 0.5)),
        lambda: Augment((WordMasking(), 0.5), (HorizontalFlip(), 0.5)),
    ],
)
def test_steps_that_cannot_be(make):
    with pytest.raises(SaccadeError) as caught:
        make()
    assert "give" in str(caught.value) or "choose" in str(caught.value) or "put it last" in str(caught.value)


def test_chances_are_kept():
    def mark(_, item):
        return item.change(text=item.text + "x")

    augment = Augment((mark, 0.25), (mark, 1), (mark, 0))
    lengths = Counter(len(augment(rng(seed), Item(noise(2, 3))).text) for seed in range(1000))
    assert set(lengths) == {1, 2}
    assert 190 < lengths[2] < 310


def test_a_rectangle_fits_even_where_most_do_not():
    found = list(Rectangles((0.9, 1.0), (0.1, 10.0), 200).draw(rng(0), 7, 5))
    assert 0 < len(found) < 200
    assert all(0 <= x0 < x1 <= 5 and 0 <= y0 < y1 <= 7 for x0, y0, x1, y1 in found)


def test_steps_travel_to_other_processes():
    item = Item(noise(31, 37), boxes([0.4, 0.4, 0.5, 0.5]), "a large ball left of the cube")
    assert_same(EVERY(rng(3), item), pickle.loads(pickle.dumps(EVERY))(rng(3), item))
