from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from saccade.data.scenes import layout
from saccade.data.scenes.edit import edit_scene
from saccade.data.scenes.layout import visible_shares
from saccade.data.scenes.sample import CANVASES_PX, sample_scene
from saccade.data.scenes.scene import COLORS, MATERIALS, SHAPES, SIZES, Scene, SceneObject
from saccade.errors import SaccadeError


def scenes(count, seed=0, **options):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, **options) for _ in range(count)]


def gap_and_offsets(a, b):
    """Distance of two boxes (negative: they overlap) and of their centers in x and in y, in pixels."""
    gap = max(max(a[0], b[0]) - min(a[2], b[2]), max(a[1], b[1]) - min(a[3], b[3]))
    return gap, abs(a[0] + a[2] - b[0] - b[2]) / 2, abs(a[1] + a[3] - b[1] - b[3]) / 2


def overlap_share(a, b):
    across = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return across * down / min((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))


def assert_layout(scene):
    """The rules written out once more, independently of `Layout`."""
    side = max(scene.width_px, scene.height_px)
    occlusion = any(item.layer for item in scene.objects)
    for item in scene.objects:
        x0, y0, x1, y1 = item.box_px
        assert 0 <= x0 < x1 <= scene.width_px
        assert 0 <= y0 < y1 <= scene.height_px
        nearest = min(SIZES, key=lambda s: abs(layout.SIZE_FRACTION[s] * side - (y1 - y0)))
        assert nearest == item.size
    for a, b in combinations(scene.objects, 2):
        gap, across, down = gap_and_offsets(a.box_px, b.box_px)
        assert min(across, down) >= layout.CENTER_GAP * side
        if gap < layout.BOX_GAP * side:
            assert occlusion
            assert layout.MIN_OVERLAP <= overlap_share(a.box_px, b.box_px) <= layout.MAX_OVERLAP
    if scene.objects:
        assert min(visible_shares(scene)) >= layout.MIN_VISIBLE
    if occlusion:
        assert len({item.layer for item in scene.objects}) == len(scene.objects)


def test_equal_seeds_give_equal_scenes():
    for options in ({}, {"occlusion": True}, {"style": "nlvr"}):
        assert scenes(20, seed=3, **options) == scenes(20, seed=3, **options)
        assert scenes(20, seed=3, **options) != scenes(20, seed=4, **options)


@pytest.mark.parametrize("occlusion", [False, True])
def test_layout_rules(occlusion):
    for scene in scenes(400, occlusion=occlusion):
        assert_layout(scene)


def test_occlusion_happens_and_shows_in_visible_shares():
    shares = [share for scene in scenes(150, occlusion=True) for share in visible_shares(scene)]
    assert 0.1 < np.mean(np.array(shares) < 0.98) < 0.6
    assert all(share == 1 for scene in scenes(30) for share in visible_shares(scene))


def test_visible_share_of_a_known_overlap():
    back = SceneObject("cylinder", "red", "large", "metal", (10, 10, 40, 50), 0, 0)
    front = SceneObject("cylinder", "blue", "large", "metal", (25, 10, 55, 50), 0, 1)
    scene = Scene((back, front), 96, 96, "paper")
    shares = visible_shares(scene)
    assert shares[0] == pytest.approx(0.5, abs=0.06)
    assert shares[1] == 1
    assert visible_shares(replace(scene, objects=(replace(back, layer=2), front)))[0] == 1


@pytest.mark.parametrize("count", [0, 1, 7, 10])
def test_number_of_objects(count):
    for size in CANVASES_PX:
        assert len(sample_scene(np.random.default_rng(1), num_objects=count, size_px=size).objects) == count


def test_ranges_of_objects():
    assert {len(s.objects) for s in scenes(300)} == set(range(2, 9))
    assert {len(s.objects) for s in scenes(100, num_objects=(4, 6))} == {4, 5, 6}


def test_attributes_are_uniform_and_independent():
    items = [item for scene in scenes(1500, num_objects=(1, 3), size_px=(128, 128)) for item in scene.objects]
    for name, values in (("shape", SHAPES), ("color", COLORS), ("size", SIZES), ("material", MATERIALS)):
        counts = Counter(getattr(item, name) for item in items)
        assert set(counts) == set(values)
        for value in values:
            assert counts[value] == pytest.approx(len(items) / len(values), rel=0.15)
    pairs = Counter((item.shape, item.material) for item in items)
    assert len(pairs) == 15
    assert min(pairs.values()) > 0.75 * len(items) / 15


def test_object_order_tells_nothing_about_size():
    firsts = Counter(s.objects[0].size for s in scenes(900, num_objects=5, size_px=(160, 160)))
    assert min(firsts.values()) > 240


def test_default_canvases_and_backgrounds():
    found = scenes(600)
    sizes = Counter((s.width_px, s.height_px) for s in found)
    assert set(sizes) == set(CANVASES_PX)
    assert sizes.most_common(1)[0][0] == (128, 128)
    assert len({s.background for s in found}) > 30
    assert scenes(1, background="sand:5")[0].background == "sand:5"
    assert scenes(1, background="sand")[0].background.startswith("sand:")


@pytest.mark.parametrize("style", ["world", "nlvr"])
def test_json_round_trip(style):
    import json

    for scene in scenes(20, style=style, occlusion=style == "world"):
        assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "photo"}, 'style "photo"'),
        ({"size_px": (31, 64)}, "32..4096"),
        ({"size_px": (64, 5000)}, "32..4096"),
        ({"size_px": 64}, "width, height"),
        ({"num_objects": 11}, "0..10"),
        ({"num_objects": -1}, "0..10"),
        ({"num_objects": (5, 3)}, "0..10"),
        ({"num_objects": 2.5}, "whole number"),
        ({"num_objects": True}, "whole number"),
        ({"background": "lava"}, "paper"),
        ({"background": "sand:9"}, "sand:9"),
        ({"num_objects": 10, "size_px": (300, 40)}, "num_objects=10 on 300 x 40"),
        ({"style": "nlvr", "size_px": (128, 128)}, "400 x 100"),
        ({"style": "nlvr", "occlusion": True}, "occlusion"),
        ({"style": "nlvr", "background": "sand"}, "grey"),
        ({"style": "nlvr", "num_objects": 9}, "1..8"),
    ],
)
def test_bad_arguments_name_value_and_limit(options, message):
    with pytest.raises(SaccadeError, match=message.replace(".", r"\.")):
        sample_scene(np.random.default_rng(0), **options)


def looks(item):
    return item.shape, item.color, item.size, item.material


def edit_kind(before, after):
    """What an edit did; fails if it did more than one thing."""
    old, new = Counter(before.objects), Counter(after.objects)
    gone, come = list((old - new).elements()), list((new - old).elements())
    if len(gone) == 1 and not come:
        return "remove"
    if len(come) == 1 and not gone:
        return "add"
    if len(gone) == len(come) == 1:
        a, b = gone[0], come[0]
        names = [
            n
            for n in ("shape", "color", "size", "material", "group", "layer")
            if getattr(a, n) != getattr(b, n)
        ]
        assert len(names) == 1
        assert names[0] in ("shape", "color", "size", "material")
        assert max(gap_and_offsets(a.box_px, b.box_px)[1:]) <= 0.5
        if names[0] in ("color", "material"):
            assert a.box_px == b.box_px
        return names[0]
    assert len(gone) == len(come) == 2
    assert Counter(map(looks, gone)) == Counter(map(looks, come))
    a, b = gone
    assert looks(a) != looks(b)
    moved = come[0] if looks(come[0]) == looks(a) else come[1]
    assert max(gap_and_offsets(moved.box_px, b.box_px)[1:]) <= 0.5
    return "swap"


@pytest.mark.parametrize("occlusion", [False, True])
def test_edit_changes_exactly_one_thing(occlusion):
    rng = np.random.default_rng(11)
    kinds = Counter()
    for scene in scenes(500, seed=2, occlusion=occlusion):
        edited = edit_scene(rng, scene)
        assert replace(edited, objects=scene.objects) == scene
        kinds[edit_kind(scene, edited)] += 1
        assert_layout(edited)
    assert set(kinds) == {"color", "shape", "material", "size", "swap", "remove", "add"}
    assert min(kinds.values()) > 25


def test_edit_nlvr_changes_exactly_one_thing():
    rng = np.random.default_rng(12)
    kinds = Counter()
    for scene in scenes(400, seed=2, style="nlvr"):
        edited = edit_scene(rng, scene)
        assert replace(edited, objects=scene.objects) == scene
        kinds[edit_kind(scene, edited)] += 1
        assert {item.group for item in edited.objects} == {0, 1, 2}
        for a, b in combinations(edited.objects, 2):
            assert a.group != b.group or gap_and_offsets(a.box_px, b.box_px)[0] >= 1
        for item in edited.objects:
            x0, y0, x1, y1 = item.box_px
            assert 150 * item.group <= x0 < x1 <= 150 * item.group + 100
            assert 0 <= y0 < y1 <= 100
    assert set(kinds) == {"color", "shape", "size", "swap", "remove", "add"}


def test_edits_of_the_smallest_and_the_fullest_scene():
    rng = np.random.default_rng(5)
    empty = sample_scene(rng, num_objects=0)
    assert len(edit_scene(rng, empty).objects) == 1
    full = sample_scene(rng, num_objects=10, size_px=(192, 192))
    assert all(len(edit_scene(rng, full).objects) <= 10 for _ in range(60))
    assert edit_scene(np.random.default_rng(8), full) == edit_scene(np.random.default_rng(8), full)
