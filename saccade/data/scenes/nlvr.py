"""NLVR (Suhr et al. 2017): three grey panels of flat shapes, read from files or drawn at random.

Positions in the files count from the upper left corner of a panel; a `Scene` has them on the whole image.
"""

import gzip
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.scenes.layout import count_range
from saccade.data.scenes.render import NLVR_PANEL_PX, NLVR_PANEL_X_PX
from saccade.data.scenes.scene import NLVR_COLORS, NLVR_SHAPES, SIZES, Scene, SceneObject
from saccade.errors import SaccadeError

SIZES_PX = {10: "small", 20: "medium", 30: "large"}
TOWER_X_PX, TOWER_Y_PX, TOWER_SIZE_PX = 40, (80, 59, 38, 17), 20
MAX_IN_PANEL = 8
TOWER_SHARE = 2 / 3  # of the published images
# Image k of an example, "dev-...-k.png", shows permute_groups(scene, IMAGE_ORDERS[k]).
IMAGE_ORDERS = tuple((a, b, c) for a, b, c in itertools.permutations(range(3)))
_WALL_SHARE = 0.3  # of scattered objects that a wall is chosen for
_COLOR_NAMES = {
    "Black": "black",
    "#000000": "black",
    "#0099ff": "blue",
    "Yellow": "yellow",
    "#ffff00": "yellow",
}
_BOX_SHAPES = ("circle", "square", "triangle")
_BOX_COLORS = ("black", "blue", "yellow")


@dataclass(frozen=True, slots=True)
class NlvrRecord:
    """A sentence, and a scene that it is true or false of."""

    id: str
    sentence: str
    label: bool
    scene: Scene


def scene_from_structured(structured_rep: list) -> Scene:
    """The scene of a `structured_rep` field: three lists of {type, color, size, x_loc, y_loc}.

    Raises: SaccadeError: another number of panels, or an unknown shape, color or size.
    """
    return _scene([[_from_dict(item) for item in panel] for panel in _panels(structured_rep)])


def scene_from_boxes(boxes: list) -> Scene:
    """The scene of a `boxes` field: three lists of [shape, color, size_px, x, y].

    Shapes count circle, square, triangle from 0; colors black, blue, yellow.
    Raises: SaccadeError: another number of panels, or an unknown shape, color or size.
    """
    return _scene([[_from_list(item) for item in panel] for panel in _panels(boxes)])


def _panels(panels):
    if not isinstance(panels, list) or len(panels) != 3 or not all(isinstance(p, list) for p in panels):
        raise SaccadeError("an NLVR scene must be a list of three lists of objects")
    return panels


def _from_dict(item):
    try:
        return item["type"], _COLOR_NAMES[item["color"]], item["size"], item["x_loc"], item["y_loc"]
    except (KeyError, TypeError) as error:
        raise SaccadeError(f"NLVR object {item}: needs type, color (known), size, x_loc, y_loc") from error


def _from_list(item):
    try:
        shape, color, size, x, y = item
        if min(shape, color) < 0:
            raise IndexError
        return _BOX_SHAPES[shape], _BOX_COLORS[color], size, x, y
    except (ValueError, IndexError, TypeError) as error:
        raise SaccadeError(f"NLVR object {item}: must be [shape 0..2, color 0..2, size_px, x, y]") from error


def _scene(panels):
    objects = []
    for group, panel in enumerate(panels):
        for shape, color, size, x, y in panel:
            whole = all(isinstance(v, int) for v in (size, x, y))
            if shape not in NLVR_SHAPES or not whole or size not in SIZES_PX:
                raise SaccadeError(
                    f"NLVR object {(shape, color, size, x, y)}: unknown shape, or size not 10, 20, 30"
                )
            if not (0 <= x <= NLVR_PANEL_PX - size and 0 <= y <= NLVR_PANEL_PX - size):
                raise SaccadeError(f"NLVR object {(shape, color, size, x, y)}: outside its 100 x 100 panel")
            objects.append(make_object(shape, color, size, group, x, y))
    return Scene(tuple(objects), 400, 100, "grey", "nlvr", 3)


def make_object(shape: str, color: str, size_px: int, group: int, x_px: int, y_px: int) -> SceneObject:
    """An object at a place inside panel `group`."""
    left = NLVR_PANEL_X_PX[group] + x_px
    box = (left, y_px, left + size_px, y_px + size_px)
    return SceneObject(shape, color, SIZES_PX[size_px], "rubber", box, group)


def permute_groups(scene: Scene, order: tuple[int, int, int]) -> Scene:
    """The same panels in another order: panel i of the result is panel order[i] of `scene`.

    Raises: SaccadeError: `order` is not a permutation of 0, 1, 2.
    """
    if sorted(order) != [0, 1, 2] or scene.num_groups != 3:
        raise SaccadeError(f"order={order}: must be a permutation of (0, 1, 2), of a scene of three panels")
    objects = []
    for group, old in enumerate(order):
        shift = NLVR_PANEL_X_PX[group] - NLVR_PANEL_X_PX[old]
        for item in scene.objects:
            if item.group == old:
                x0, y0, x1, y1 = item.box_px
                objects.append(replace(item, group=group, box_px=(x0 + shift, y0, x1 + shift, y1)))
    return replace(scene, objects=tuple(objects))


def read_train(folder: str | Path) -> Iterator[NlvrRecord]:
    """Read the labelled training scenes, `train_scenes.jsonl.gz` of a folder.

    The development split, which has pictures, is read by `saccade.data.readers.open_rows("nlvr", ...)`.
    Raises: SaccadeError: the file is missing, or a row is broken (names file and line).
    """
    path = Path(folder) / "train_scenes.jsonl.gz"
    if not path.is_file():
        raise SaccadeError(f"{path}: no such file; point to the folder of the NLVR data")
    for where, row in json_rows(path):
        yield _record(where, row)


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(file and line, the row) of a compressed file of JSON lines. Raises: SaccadeError: it cannot be
    read."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}, line {number}", json.loads(line)
    except (ValueError, OSError, EOFError) as error:
        raise SaccadeError(f"{path}, line {number}: cannot be read: {error}") from error


def _record(where, row):
    try:
        if not isinstance(row["sentence"], str) or not isinstance(row["label"], bool):
            raise SaccadeError('"sentence" must be text and "label" true or false')
        return NlvrRecord(str(row["id"]), row["sentence"], row["label"], scene_from_boxes(row["boxes"]))
    except SaccadeError as error:
        raise SaccadeError(f"{where}: {error}") from error
    except (KeyError, TypeError) as error:
        raise SaccadeError(f"{where}: missing or broken field: {error}") from error


def sample_nlvr(
    rng: np.random.Generator, num_objects: int | tuple[int, int] | None = None, *, towers: bool | None = None
) -> Scene:
    """A random scene: three towers, or three panels of scattered shapes. See `sample.sample_scene`.

    towers: which of the two; None = as often as in the published images.
    """
    low, high = count_range(num_objects, (1, MAX_IN_PANEL), 1, MAX_IN_PANEL)
    if towers is None:
        towers = rng.random() < TOWER_SHARE and (num_objects is None or high <= len(TOWER_Y_PX))
    if towers:
        high = min(high, len(TOWER_Y_PX))
    objects = []
    for group in range(3):
        count = low + int(rng.random() * (high - low + 1))
        objects += _tower(rng, group, count) if towers else _scattered(rng, group, count)
    return Scene(tuple(objects), 400, 100, "grey", "nlvr", 3)


def _tower(rng, group, count):
    colors = (rng.random(count) * len(NLVR_COLORS)).astype(int).tolist()
    return [
        make_object("square", NLVR_COLORS[c], TOWER_SIZE_PX, group, TOWER_X_PX, TOWER_Y_PX[level])
        for level, c in enumerate(colors)
    ]


def _scattered(rng, group, count):
    for _ in range(60):
        objects = []
        for a, b, c in rng.random((count, 3)).tolist():
            size = (10, 20, 30)[int(a * len(SIZES))]
            place = free_place(rng, [item.box_px for item in objects], group, size)
            if place is None:
                break
            objects.append(make_object(NLVR_SHAPES[int(b * 3)], NLVR_COLORS[int(c * 3)], size, group, *place))
        else:
            return objects
    raise SaccadeError(
        f"num_objects={count}: no room for that many shapes in a 100 x 100 panel; ask for fewer"
    )


def free_place(rng, boxes_px: list, group: int, size_px: int) -> tuple[int, int] | None:
    """A place in a panel, often at a wall, at least one pixel from the given boxes; None if guesses fail."""
    room = NLVR_PANEL_PX - size_px
    for guesses in (4, 36):  # the first few mostly do
        for a, b, wall, side in rng.random((guesses, 4)).tolist():
            x, y = int(a * (room + 1)), int(b * (room + 1))
            if wall < _WALL_SHARE:
                x, y = ((0, y), (room, y), (x, 0), (x, room))[int(side * 4)]
            if is_clear(boxes_px, group, size_px, x, y):
                return x, y
    return None


def is_clear(boxes_px: list, group: int, size_px: int, x_px: int, y_px: int) -> bool:
    """Whether a square at a place in a panel lies inside it and at least one pixel from the given boxes."""
    room = NLVR_PANEL_PX - size_px
    if not (0 <= x_px <= room and 0 <= y_px <= room):
        return False
    x0 = NLVR_PANEL_X_PX[group] + x_px
    x1, y1 = x0 + size_px, y_px + size_px
    return all(x0 > a1 or a0 > x1 or y_px > b1 or b0 > y1 for a0, b0, a1, b1 in boxes_px)
