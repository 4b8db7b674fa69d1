import gzip
import io
import itertools
import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from saccade.data.readers import open_rows
from saccade.data.scenes.nlvr import (
    IMAGE_ORDERS,
    permute_groups,
    read_train,
    scene_from_boxes,
    scene_from_structured,
)
from saccade.data.scenes.render import render
from saccade.data.scenes.sample import sample_scene
from saccade.errors import SaccadeError

STRUCTURED = [
    [{"type": "circle", "color": "#0099ff", "size": 10, "x_loc": 3, "y_loc": 90}],
    [],
    [
        {"type": "square", "color": "Yellow", "size": 30, "x_loc": 70, "y_loc": 1},
        {"type": "triangle", "color": "Black", "size": 20, "x_loc": 12, "y_loc": 40},
    ],
]
BOXES = [[[0, 1, 10, 3, 90]], [], [[1, 2, 30, 70, 1], [2, 0, 20, 12, 40]]]


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "data" / "nlvr"


def real_pixels(png):
    return np.asarray(Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB")).astype(int)


def test_both_formats_give_the_same_scene():
    scene = scene_from_structured(STRUCTURED)
    assert scene == scene_from_boxes(BOXES)
    assert (scene.style, scene.background, scene.num_groups) == ("nlvr", "grey", 3)
    first, second, third = scene.objects
    assert (first.shape, first.color, first.size, first.material) == ("circle", "blue", "small", "rubber")
    assert first.box_px == (3, 90, 13, 100)
    assert (second.size, second.group, second.box_px) == ("large", 2, (370, 1, 400, 31))
    assert (third.shape, third.color, third.box_px) == ("triangle", "black", (312, 40, 332, 60))


def test_permuting_panels():
    scene = scene_from_boxes(BOXES)
    moved = permute_groups(scene, (2, 0, 1))
    assert [(o.shape, o.group, o.box_px[0]) for o in moved.objects] == [
        ("square", 0, 70),
        ("triangle", 0, 12),
        ("circle", 1, 153),
    ]
    assert Counter(permute_groups(moved, (1, 2, 0)).objects) == Counter(scene.objects)
    image, panels = render(moved), render(scene)
    assert np.array_equal(image[:, :100], panels[:, 300:])
    assert np.array_equal(image[:, 150:250], panels[:, :100])
    with pytest.raises(SaccadeError, match="permutation"):
        permute_groups(scene, (0, 0, 1))


def test_flat_shapes_fill_their_boxes():
    image = render(scene_from_boxes(BOXES)).astype(int)
    assert (image[50, 120] == 128).all()
    assert (image[50, 50] == 211).all()
    for item in scene_from_boxes(BOXES).objects:
        panel = 150 * item.group
        x0, y0, x1, y1 = item.box_px
        changed = np.abs(image[y0:y1, x0:x1] - 211).max(-1) > 20
        assert changed.any(0).all()
        assert changed.any(1).all()
        assert panel <= x0


def test_every_published_dev_image_is_reproduced(folder):
    rows = open_rows("nlvr", folder)
    errors = [
        np.abs(real_pixels(row.picture) - render(row.scene)).mean()
        for row in (rows[at] for at in range(0, len(rows), 6))
    ]
    assert len(errors) == 989
    assert max(errors) < 0.01
    assert np.mean(errors) < 0.001


def test_image_orders_are_those_of_the_published_permutations(folder):
    rows = open_rows("nlvr", folder)
    scenes = [rows[at // 6 * 6].scene for at in range(240)]
    matches = [
        np.abs(real_pixels(row.picture) - render(permute_groups(scene, order))).mean() < 0.05
        for row, scene, order in zip(rows, scenes, itertools.cycle(IMAGE_ORDERS), strict=False)
    ]
    assert len(matches) == 240
    assert np.mean(matches) == 1


def test_reading_the_real_training_scenes(folder):
    train = list(islice(read_train(folder), 3000))
    assert all(record.scene.style == "nlvr" and record.sentence for record in train)
    assert {o.color for record in train for o in record.scene.objects} == {"black", "blue", "yellow"}


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        (STRUCTURED[:2], "three lists"),
        ([[{"type": "circle"}], [], []], "needs type"),
        ([[{**STRUCTURED[0][0], "size": 11}], [], []], "size not 10"),
        ([[{**STRUCTURED[0][0], "x_loc": 95}], [], []], "outside"),
    ],
)
def test_broken_scenes(panels, message):
    with pytest.raises(SaccadeError, match=message):
        scene_from_structured(panels)


def test_broken_training_files(tmp_path):
    path = tmp_path / "train_scenes.jsonl.gz"
    row = {"id": "t-1", "sentence": "s", "label": False, "boxes": BOXES}
    for change, message in (
        ({"boxes": [[[0, 3, 10, 1, 1]], [], []]}, "color 0..2"),
        ({"boxes": [[[0, -1, 10, 1, 1]], [], []]}, "color 0..2"),
        ({"boxes": BOXES[:2]}, "three lists"),
        ({"label": "false"}, "label"),
        ({"sentence": None}, "sentence"),
    ):
        with gzip.open(path, "wt") as lines:
            lines.write(json.dumps(row) + "\n\n" + json.dumps({**row, **change}) + "\n")
        with pytest.raises(SaccadeError, match=rf"train_scenes\.jsonl\.gz, line 3: .*{message}"):
            list(read_train(tmp_path))
    del row["boxes"]
    with gzip.open(path, "wt") as lines:
        lines.write(json.dumps(row))
    with pytest.raises(SaccadeError, match="line 1: missing or broken field: 'boxes'"):
        list(read_train(tmp_path))
    row["boxes"] = BOXES
    whole = gzip.compress(b"".join(json.dumps({**row, "id": str(i)}).encode() + b"\n" for i in range(50)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SaccadeError, match="cannot be read"):
        list(read_train(tmp_path))
    path.unlink()
    with pytest.raises(SaccadeError, match="no such file"):
        list(read_train(tmp_path))


def test_random_scenes_look_like_the_published_ones():
    rng = np.random.default_rng(0)
    towers, walls, counts = 0, [], Counter()
    for _ in range(300):
        scene = sample_scene(rng, style="nlvr")
        panels = [[o for o in scene.objects if o.group == g] for g in range(3)]
        assert all(1 <= len(p) <= 8 for p in panels)
        places = [sorted((o.box_px[1] for o in p), reverse=True) for p in panels]
        tower = all(o.shape == "square" and o.box_px[0] == 40 + 150 * o.group for o in scene.objects)
        if tower and all(p == [80, 59, 38, 17][: len(p)] for p in places):
            towers += 1
            continue
        for panel in panels:
            counts[len(panel)] += 1
            for a, b in itertools.combinations(panel, 2):
                apart = max(
                    max(a.box_px[i], b.box_px[i]) - min(a.box_px[i + 2], b.box_px[i + 2]) for i in (0, 1)
                )
                assert apart >= 1
            for o in panel:
                x0, y0, x1, y1 = o.box_px
                left = 150 * o.group
                assert left <= x0 < x1 <= left + 100
                walls.append(x0 == left or x1 == left + 100 or y0 == 0 or y1 == 100)
    assert 150 < towers < 250
    assert set(counts) == set(range(1, 9))
    assert 0.2 < np.mean(walls) < 0.5
    fixed = sample_scene(rng, style="nlvr", num_objects=6)
    assert Counter(o.group for o in fixed.objects) == {0: 6, 1: 6, 2: 6}
