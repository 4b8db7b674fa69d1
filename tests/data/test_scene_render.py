from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from saccade.data.scenes.render import BACKGROUNDS, NUM_VARIANTS, render
from saccade.data.scenes.sample import sample_scene
from saccade.data.scenes.scene import COLORS, MATERIALS, SHAPES, Scene, SceneObject
from saccade.data.scenes.sprites import extent, silhouette
from saccade.errors import SaccadeError

# A shadow may fall outside the box. It is fainter than these differences, which an object's edge exceeds.
SHADOW_LEVELS = {"paper": 56, "night": 14}


def alone(shape, color, material, height, background, corner=(19, 23)):
    width, height = extent(shape, height)
    x, y = corner
    item = SceneObject(shape, color, "small", material, (x, y, x + width, y + height))
    return Scene((item,), 96, 101, background)


def difference(scene):
    empty = replace(scene, objects=())
    return np.abs(render(scene).astype(int) - render(empty)).max(-1)


@pytest.mark.parametrize("height", [10, 14, 20, 29, 45])
def test_visible_extent_is_the_box(height):
    for shape in SHAPES:
        for material in MATERIALS:
            for color, background in (
                ("red", "paper"),
                ("gray", "paper"),
                ("yellow", "night"),
                ("cyan", "night"),
            ):
                scene = alone(shape, color, material, height, background)
                ys, xs = np.nonzero(difference(scene) > SHADOW_LEVELS[background])
                seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                assert np.abs(seen - scene.objects[0].box_px).max() <= 1, (shape, material, color, height)


def test_shadow_stays_near_and_faint():
    for shape in SHAPES:
        scene = alone(shape, "red", "rubber", 40, "paper")
        x0, y0, x1, y1 = scene.objects[0].box_px
        change = difference(scene)
        change[y0:y1, x0:x1] = 0
        assert 8 < change.max() <= SHADOW_LEVELS["paper"]
        change[y0 - 4 : y1 + 4, x0 - 4 : x1 + 4] = 0
        assert change.max() == 0


def small_pictures(background):
    """14 px objects: {(shape, color, material): (pixels, silhouette)}."""
    found = {}
    for shape in SHAPES:
        for color in COLORS:
            for material in MATERIALS:
                scene = alone(shape, color, material, 14, background)
                x0, y0, x1, y1 = scene.objects[0].box_px
                mask = silhouette(shape, x1 - x0, y1 - y0)
                found[shape, color, material] = render(scene)[y0:y1, x0:x1].astype(float), mask
    return found


@pytest.mark.parametrize("background", ["paper", "slate", "sand", "night", "grid"])
def test_small_objects_are_distinguishable(background):
    pictures = small_pictures(background)

    def distance(a, b):
        (one, mask), (two, _) = pictures[a], pictures[b]
        return np.abs(one - two)[mask].mean()

    for shape in SHAPES:
        for material in MATERIALS:
            for a, b in combinations(COLORS, 2):
                assert distance((shape, a, material), (shape, b, material)) > 12
        for color in COLORS:
            for a, b in combinations(MATERIALS, 2):
                assert distance((shape, color, a), (shape, color, b)) > 20


def test_objects_stand_out_from_every_background():
    for background in BACKGROUNDS:
        for shape in SHAPES:
            for color in COLORS:
                for material in MATERIALS:
                    scene = alone(shape, color, material, 14, background)
                    x0, y0, x1, y1 = scene.objects[0].box_px
                    inside = difference(scene)[y0:y1, x0:x1][silhouette(shape, x1 - x0, y1 - y0)]
                    assert inside.mean() > 22, (background, shape, color, material)


def test_glass_shows_the_background_and_rubber_hides_it():
    board = np.zeros(2)
    for i, material in enumerate(("glass", "rubber")):
        pictures = [render(alone("ball", "blue", material, 40, name)) for name in ("paper", "night")]
        middle = [p[23 + 24 : 23 + 30, 19 + 14 : 19 + 26].astype(float) for p in pictures]
        board[i] = np.abs(middle[0] - middle[1]).mean()
    assert board[0] > 50
    assert board[1] == 0


def test_higher_layer_hides_lower():
    red = SceneObject("ball", "red", "large", "rubber", (20, 20, 60, 60), 0, 1)
    blue = SceneObject("ball", "blue", "large", "rubber", (34, 26, 74, 66), 0, 0)
    pixels = {}
    for order in ((red, blue), (blue, red)):
        pixels[order] = render(Scene(order, 96, 96, "paper"))
        assert pixels[order][43, 47, 0] > 120 > pixels[order][43, 47, 2]
    assert np.array_equal(*pixels.values())
    swapped = render(Scene((replace(red, layer=0), replace(blue, layer=1)), 96, 96, "paper"))
    assert swapped[43, 47, 2] > 120 > swapped[43, 47, 0]


def test_every_background_renders_and_varies():
    pictures = {}
    for name in BACKGROUNDS:
        scene = Scene((), 70, 45, name)
        image = render(scene)
        assert image.shape == (45, 70, 3)
        assert image.dtype == np.uint8
        assert np.array_equal(image, render(scene))
        pictures[name] = image.astype(float)
        variants = {render(replace(scene, background=f"{name}:{i}")).tobytes() for i in range(NUM_VARIANTS)}
        assert len(variants) >= 4
    for a, b in combinations(BACKGROUNDS, 2):
        assert np.abs(pictures[a] - pictures[b]).mean() > 8


def test_rendering_is_a_function_of_the_scene():
    rng = np.random.default_rng(4)
    for scene in [sample_scene(rng, occlusion=True) for _ in range(10)]:
        first = render(scene)
        assert first.shape == (scene.height_px, scene.width_px, 3)
        first_copy = first.copy()
        first[:] = 0  # the caller owns the array: caches must not be reached through it
        assert np.array_equal(render(scene), first_copy)


@pytest.mark.parametrize("style", ["world", "nlvr"])
def test_scale_keeps_the_layout(style):
    scene = sample_scene(
        np.random.default_rng(6), style=style, **({"background": "paper"} if style == "world" else {})
    )
    large = render(scene, scale=3)
    assert large.shape == (3 * scene.height_px, 3 * scene.width_px, 3)
    reduced = large.reshape(scene.height_px, 3, scene.width_px, 3, 3).mean((1, 3))
    assert np.abs(reduced - render(scene)).mean() < 3


def test_backgrounds_of_an_edit_are_equal():
    scene = sample_scene(np.random.default_rng(7), num_objects=4, background="noise")
    fewer = replace(scene, objects=scene.objects[:-1])
    x0, y0, x1, y1 = scene.objects[-1].box_px
    changed = (render(scene) != render(fewer)).any(-1)
    margin = 6
    assert changed[y0:y1, x0:x1].any()
    changed[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("change", "scale", "message"),
    [
        ({"style": "photo"}, 1, 'style "photo"'),
        ({"background": "lava"}, 1, 'background "lava"'),
        ({}, 0, "scale=0"),
        ({}, 1.5, "scale=1.5"),
    ],
)
def test_bad_scenes_are_refused(change, scale, message):
    scene = replace(Scene((), 64, 48, "paper"), **change)
    with pytest.raises(SaccadeError, match=message):
        render(scene, scale)


def test_unknown_attributes_are_refused():
    scene = alone("ball", "red", "rubber", 14, "paper")
    for name in ("shape", "color", "material"):
        broken = replace(scene, objects=(replace(scene.objects[0], **{name: "odd"}),))
        with pytest.raises(SaccadeError, match="odd"):
            render(broken)
    flat = SceneObject("circle", "pink", "small", "rubber", (5, 5, 15, 15))
    with pytest.raises(SaccadeError, match="pink circle"):
        render(Scene((flat,), 400, 100, "grey", "nlvr", 3))
