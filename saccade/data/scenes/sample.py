"""Random scenes. The layout rules are in `layout`, minimal edits in `edit`."""

from bisect import bisect_right

import numpy as np

from saccade.data.scenes.edit import edit_scene
from saccade.data.scenes.layout import MAX_OBJECTS, Layout, count_range, height_px
from saccade.data.scenes.nlvr import sample_nlvr
from saccade.data.scenes.render import BACKGROUNDS, NUM_VARIANTS, split_background
from saccade.data.scenes.scene import COLORS, MATERIALS, SHAPES, SIZES, Scene, SceneObject
from saccade.data.scenes.sprites import extent
from saccade.errors import SaccadeError

__all__ = ["edit_scene", "sample_scene"]

DEFAULT_OBJECTS = (2, 8)
MIN_CANVAS_PX, MAX_CANVAS_PX = 32, 4096

CANVASES_PX = ((128, 128), (160, 120), (120, 160), (192, 192), (96, 96), (192, 128), (256, 256))
_CANVAS_ODDS = (0.52, 0.64, 0.76, 0.82, 0.90, 0.98)  # cumulated, the last canvas up to 1
_RESTARTS = 60


def sample_scene(
    rng: np.random.Generator,
    *,
    style: str = "world",
    num_objects: int | tuple[int, int] | None = None,
    size_px: tuple[int, int] | None = None,
    occlusion: bool = False,
    background: str | None = None,
) -> Scene:
    """Draw a random scene; equal generators give equal scenes.

    Attributes are uniform and independent. On a canvas too crowded for the sizes drawn, all objects are drawn
    again, so a crowded canvas holds more small objects than others.

    Args:
        style: "world", or "nlvr" for three grey panels as in the published data.
        num_objects: how many, or (least, most) for a uniform count. World: 0..10, by default 2..8.
            NLVR: objects in each panel, 1..8; by default towers of 1..4 squares or 1..8 scattered shapes.
        size_px: (width, height); default: a mix of seven canvases. NLVR images are always 400 x 100.
        occlusion: objects may hide parts of others; `layer` says which is in front.
        background: one of `render.BACKGROUNDS`, with or without ":variant"; default: any.
    Raises: SaccadeError: a bad argument, or no room for that many objects on that canvas.
    """
    if style == "nlvr":
        if size_px not in (None, (400, 100)):
            raise SaccadeError(f"size_px={size_px}: NLVR images are 400 x 100; leave size_px out")
        if occlusion:
            raise SaccadeError('occlusion=True: shapes never overlap in style "nlvr"; use style "world"')
        if background not in (None, "grey"):
            raise SaccadeError(f'background "{background}": style "nlvr" has only "grey"')
        return sample_nlvr(rng, num_objects)
    if style != "world":
        raise SaccadeError(f'style "{style}": must be "world" or "nlvr"')
    least, most = count_range(num_objects, DEFAULT_OBJECTS, 0, MAX_OBJECTS)
    width, height = _canvas(rng, size_px)
    background = _background(rng, background)
    count = least + int(rng.random() * (most - least + 1))
    for _ in range(_RESTARTS):
        objects = _draw_objects(rng, count, width, height, occlusion)
        if objects is not None:
            return Scene(objects, width, height, background)
    raise SaccadeError(
        f"num_objects={count} on {width} x {height} px: no room after {_RESTARTS} attempts; "
        "ask for fewer objects or a squarer canvas"
    )


def _canvas(rng, size_px):
    if size_px is None:
        return CANVASES_PX[bisect_right(_CANVAS_ODDS, rng.random())]
    if not isinstance(size_px, (tuple, list)) or len(size_px) != 2:
        raise SaccadeError(f"size_px={size_px!r}: must be (width, height)")
    width, height = (int(v) for v in size_px)
    if min(width, height) < MIN_CANVAS_PX or max(width, height) > MAX_CANVAS_PX:
        raise SaccadeError(f"size_px={size_px}: each side must be {MIN_CANVAS_PX}..{MAX_CANVAS_PX} px")
    return width, height


def _background(rng, name):
    if name is None:
        name = BACKGROUNDS[int(rng.random() * len(BACKGROUNDS))]
    if split_background(name)[1] is None:
        name = f"{name}:{int(rng.random() * NUM_VARIANTS)}"
    return name


def _draw_objects(rng, count, width, height, occlusion):
    draws = rng.random((count, 6)).tolist()
    kinds = [
        (SHAPES[int(a * 5)], COLORS[int(b * 8)], SIZES[int(c * 3)], MATERIALS[int(d * 3)])
        for a, b, c, d, _, _ in draws
    ]
    extents = [extent(k[0], height_px(k[2], width, height, d[4])) for k, d in zip(kinds, draws, strict=True)]
    layers = _ranks([d[5] for d in draws]) if occlusion else [0] * count
    layout = Layout(width, height)
    # Large objects first: they find room more easily on an empty canvas. The order of the objects in the
    # scene is the order of `kinds`, so it tells nothing about the sizes.
    for i in sorted(range(count), key=lambda i: -extents[i][0] * extents[i][1]):
        box = None
        if occlusion and layout.boxes and rng.random() < 0.65:
            box = layout.overlapping_place(rng, kinds[i][0], *extents[i], layers[i])
        box = box or layout.free_place(rng, *extents[i])
        if box is None:
            return None
        layout.add(i, kinds[i][0], box, layers[i])
    boxes = dict(zip(layout.keys, layout.boxes, strict=True))
    return tuple(SceneObject(*kinds[i], boxes[i], 0, layers[i]) for i in range(count))


def _ranks(values):
    ranks = [0] * len(values)
    for rank, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        ranks[i] = rank
    return ranks
