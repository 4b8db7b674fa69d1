"""Overlays and boxes land where they should."""

import numpy as np
import pytest
from PIL import Image

from saccade.draw import Panel, check_output, draw_box, draw_steps, heat_overlay, save_image
from saccade.errors import SaccadeError


def test_heat_is_where_attention_is():
    image = np.full((60, 90, 3), 128, np.uint8)
    attention = np.zeros((4, 6), np.float32)
    attention[1, 4] = 0.02  # the scale does not matter
    changed = np.abs(heat_overlay(image, attention).astype(int) - heat_overlay(image, attention * 0)).sum(
        axis=2
    )
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    assert 15 <= row < 30
    assert 60 <= column < 75
    assert changed[45:, :40].max() == 0


def test_an_even_look_leaves_the_image_plain():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    attention = np.full((4, 6), 0.04, np.float32)
    plain = heat_overlay(image, attention * 0)
    np.testing.assert_array_equal(heat_overlay(image, attention), plain)
    attention[1, 4] = 0.2
    changed = heat_overlay(image, attention) != plain
    assert changed[15:30, 60:75].any()
    assert not changed[:, :30].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_heat_survives_odd_numbers(bad):
    overlay = heat_overlay(np.zeros((9, 9, 3), np.uint8), np.full((3, 3), bad, np.float32))
    assert overlay.dtype == np.uint8


@pytest.mark.parametrize("shape", [(2, 900), (30, 20), (1200, 900), (64, 256)])
@pytest.mark.parametrize("count", [1, 9])
def test_steps_of_any_shape(shape, count):
    panels = [Panel(f"step {i}", "an answer " * 9, i / 8, np.ones((3, 4), np.float32)) for i in range(count)]
    sheet = draw_steps(np.zeros((*shape, 3), np.uint8), panels, "why " * 200)
    assert sheet.width < 4000
    assert sheet.height < 4000
    assert len(sheet.getcolors(1 << 22)) > 2


@pytest.mark.parametrize(
    "box", [(10, 10, 40, 20), (40, 20, 10, 10), (-5, -5, 500, 500), (0, 0, 0, 0), (99, 49, 100, 50)]
)
def test_any_box_is_drawn(box):
    image = np.full((50, 100, 3), 255, np.uint8)
    picture = draw_box(image, box, "a label")
    assert (np.asarray(picture) != 255).any()


def test_a_box_is_scaled_with_a_small_image():
    picture = np.asarray(draw_box(np.zeros((56, 112, 3), np.uint8), (50, 30, 60, 40), ""))
    assert picture.shape == (112, 224, 3)
    assert (picture[60:80, 100] == 255).all()


@pytest.mark.parametrize("ending", ["png", "JPG", "webp"])
def test_save(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    save_image(Image.new("RGB", (8, 6)), path)
    with Image.open(path) as image:
        assert image.size == (8, 6)


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *arguments: False)
    with pytest.raises(SaccadeError, match="cannot be written to"):
        check_output(tmp_path / "x.png")
