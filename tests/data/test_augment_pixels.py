"""Colors change within their limits, and erasing spares boxes."""

import numpy as np
import pytest

from saccade.data.augment import ColorJitter, Erasing, Item
from saccade.data.augment.pixels import adjust, mean_color


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


# Colors.


def reference(image, brightness, contrast, saturation):
    """Step by step in float64, as the docstring says."""
    luma = np.array([0.299, 0.587, 0.114])
    image = image * brightness
    mean = (image @ luma).mean()
    image = (image - mean) * contrast + mean
    gray = (image @ luma)[..., None]
    return np.clip(gray + (image - gray) * saturation, 0, 255)


@pytest.mark.parametrize(
    "factors", [(1, 1, 1), (1.3, 1, 1), (0.6, 1, 1), (1, 1.4, 1), (1, 1, 0), (1, 1, 1.5), (1.2, 0.7, 1.3)]
)
def test_factors_against_a_reference(factors):
    image = noise(21, 34)
    found = adjust(image, *factors)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(float) - reference(image.astype(float), *factors)).max() < 1.1


def test_a_third_of_a_turn_moves_red_to_a_neighbour_and_keeps_gray_and_luma():
    red = np.full((3, 4, 3), (150, 70, 70), np.uint8)
    third = adjust(red, turn=1 / 3)[0, 0].astype(float)
    other = adjust(red, turn=-1 / 3)[0, 0].astype(float)
    assert sorted((third.argmax(), other.argmax())) == [1, 2]
    luma = np.array([0.299, 0.587, 0.114])
    assert abs(third @ luma - red[0, 0] @ luma) < 1
    gray = np.full((3, 4, 3), 77, np.uint8)
    np.testing.assert_array_equal(adjust(gray, turn=0.2), gray)


def test_colors_change_within_their_limits():
    image = np.full((8, 9, 3), (100, 120, 140), np.uint8)
    step = ColorJitter(brightness=0.5, contrast=0, saturation=0, hue=0)
    means = [step(rng(seed), Item(image)).image[0, 0, 0] for seed in range(200)]
    assert 50 <= min(means) < 55
    assert 145 < max(means) <= 150


@pytest.mark.parametrize("where", ["text", "answer", "phrases"])
def test_where_colors_are_named_the_change_is_small_or_refused(where):
    image = np.full((8, 9, 3), (180, 60, 60), np.uint8)
    item = Item(
        image, boxes([0, 0, 1, 1]), **{where: ("a RED ball",) if where == "phrases" else "a RED ball"}
    )
    step = ColorJitter(brightness=0.9, contrast=0.9, saturation=0.9, hue=0.5)
    for seed in range(50):
        pixel = step(rng(seed), item).image[0, 0].astype(float)
        assert pixel[1] == pixel[2]  # the hue is as it was
        assert np.abs(pixel / image[0, 0] - 1).max() < 0.3
    found = ColorJitter(if_named="refuse")(rng(0), item)
    assert found.refused == ("color: the text names colors",)
    assert found.image is image
    ignored = ColorJitter(hue=0.5, if_named="ignore")(rng(0), item)
    assert ignored.image[0, 0, 1] != ignored.image[0, 0, 2]


def test_words_that_contain_a_color_are_none():
    item = Item(noise(8, 9), text="a redundant, tanned greenhouse", answer="Rosemary")
    assert not ColorJitter(if_named="refuse")(rng(0), item).refused


# Erasing.


@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_one_rectangle_is_erased(fill):
    for seed in range(30):
        item = Item(np.full((40, 50, 3), (9, 99, 199), np.uint8) + noise(40, 50, seed) % 5)
        found = Erasing(area=(0.1, 0.3), fill=fill)(rng(seed), item)
        rows, columns = np.nonzero((found.image != item.image).any(2))
        window = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert 0.09 < found.image[window][..., 0].size / 2000 < 0.31
        outside = np.ones((40, 50), bool)
        outside[window] = False
        np.testing.assert_array_equal(found.image[outside], item.image[outside])
        patch = found.image[window].reshape(-1, 3)
        if fill == "mean":
            np.testing.assert_array_equal(
                patch, np.broadcast_to(np.rint(mean_color(item.image)), patch.shape)
            )
        else:
            assert patch.std(0).min() > 50


@pytest.mark.parametrize("max_covered", [0.0, 0.25])
def test_no_box_is_covered_too_much(max_covered):
    covered = []
    for seed in range(150):
        item = painted(60, 60, (10, 20, 40, 50))
        found = Erasing(area=(0.1, 0.4), max_covered=max_covered)(rng(seed), item)
        covered.append(1 - (found.image == 255).all(2).sum() / 900)
    assert max(covered) <= max_covered + 1e-9
    assert max_covered == 0 or max(covered) > 0.1


def test_a_point_is_not_covered():
    item = Item(np.zeros((20, 20, 3), np.uint8), boxes([0.525, 0.525, 0.525, 0.525]))
    step = Erasing(area=(0.3, 0.6), fill="noise")
    found = [step(rng(seed), item) for seed in range(100)]
    assert all((one.image[10, 10] == 0).all() for one in found)
    assert any(one.image.any() for one in found)


def test_erasing_gives_up_where_boxes_are_everywhere():
    item = Item(
        noise(20, 20),
        boxes([0, 0, 0.01, 0.01], *([i / 10, j / 10] * 2 for i in range(11) for j in range(11))),
    )
    found = Erasing(area=(0.3, 0.4))(rng(0), item)
    assert found.refused == ("erasing: no place in 10 tries spares the boxes",)
    assert found.image is item.image


def test_the_mean_color():
    image = noise(33, 21)
    np.testing.assert_allclose(mean_color(image), image.mean((0, 1)))
    assert mean_color(np.full((700, 900, 3), 255, np.uint8)).tolist() == [255, 255, 255]
