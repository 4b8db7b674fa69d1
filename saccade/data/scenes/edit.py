"""Minimal edits: two scenes that differ in exactly one thing."""

from dataclasses import replace

import numpy as np

from saccade.data.scenes import nlvr
from saccade.data.scenes.layout import MAX_OBJECTS, height_px, layout_of
from saccade.data.scenes.scene import (
    COLORS,
    MATERIALS,
    NLVR_COLORS,
    NLVR_SHAPES,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
)
from saccade.data.scenes.sprites import extent
from saccade.errors import SaccadeError


def edit_scene(rng: np.random.Generator, scene: Scene) -> Scene:
    """Change exactly one thing: an attribute of one object, the places of two, or the presence of one.

    The kind of the edit is uniform among color, shape, material, size, swap, remove and add; one that the
    layout rules do not allow gives way to another. The background stays.

    Raises: SaccadeError: the scene's own layout leaves no legal edit.
    """
    edits = _NLVR_EDITS if scene.style == "nlvr" else _WORLD_EDITS
    for i in rng.permutation(len(edits)).tolist():
        objects = edits[i](rng, scene)
        if objects is not None:
            return replace(scene, objects=objects)
    raise SaccadeError(f"no legal edit of a scene of {len(scene.objects)} objects; sample another scene")


def _other(rng, values, current):
    """A uniformly random value that is not the current one."""
    rest = [v for v in values if v != current]
    return rest[int(rng.random() * len(rest))]


def _with_objects(scene: Scene, changes: dict[int, SceneObject]) -> tuple[SceneObject, ...]:
    """The scene's objects, some of them replaced."""
    return tuple(changes.get(i, item) for i, item in enumerate(scene.objects))


def _swapped(rng, scene: Scene, is_legal) -> tuple[SceneObject, ...] | None:
    """Two objects that differ, each at the other's center; None if no swap is legal."""
    count = len(scene.objects)
    pairs = [(i, j) for i in range(count) for j in range(i)]
    for k in rng.permutation(len(pairs)).tolist():
        i, j = pairs[k]
        a, b = scene.objects[i], scene.objects[j]
        if (a.shape, a.color, a.size, a.material) == (b.shape, b.color, b.size, b.material):
            continue
        changes = {
            i: replace(a, box_px=_centered(a.box_px, b.box_px), group=b.group),
            j: replace(b, box_px=_centered(b.box_px, a.box_px), group=a.group),
        }
        if is_legal(scene, changes):
            return _with_objects(scene, changes)
    return None


def _centered(box, target, width_px=None, height_px=None):
    """The box, or one of the given size, moved to the center of `target`."""
    width, height = width_px or box[2] - box[0], height_px or box[3] - box[1]
    x, y = (target[0] + target[2] - width) // 2, (target[1] + target[3] - height) // 2
    return x, y, x + width, y + height


def _is_legal(scene, changes):
    occlusion = any(item.layer for item in scene.objects)
    layout = layout_of(scene, skip=changes)
    for i, item in changes.items():
        legal = (
            layout.is_allowed(item.shape, item.box_px, item.layer)
            if occlusion
            else layout.is_free(item.box_px)
        )
        if not legal:
            return False
        layout.add(i, item.shape, item.box_px, item.layer)
    return True


def _changed(rng, scene, make):
    """Apply `make` to the first object, in random order, where the result is legal."""
    for i in rng.permutation(len(scene.objects)).tolist():
        changes = {i: make(scene.objects[i])}
        if _is_legal(scene, changes):
            return _with_objects(scene, changes)
    return None


def _edit_value(name, values):
    """The edit of an attribute that has no part in the layout."""

    def edit(rng, scene):
        if not scene.objects:
            return None
        i = int(rng.random() * len(scene.objects))
        item = scene.objects[i]
        return _with_objects(scene, {i: replace(item, **{name: _other(rng, values, getattr(item, name))})})

    return edit


def _edit_shape(rng, scene):
    def make(item):
        shape = _other(rng, SHAPES, item.shape)
        size = extent(shape, item.box_px[3] - item.box_px[1])
        return replace(item, shape=shape, box_px=_centered(item.box_px, item.box_px, *size))

    return _changed(rng, scene, make)


def _edit_size(rng, scene):
    def make(item):
        size = _other(rng, SIZES, item.size)
        height = height_px(size, scene.width_px, scene.height_px, rng.random())
        box = _centered(item.box_px, item.box_px, *extent(item.shape, height))
        return replace(item, size=size, box_px=box)

    return _changed(rng, scene, make)


def _edit_swap(rng, scene):
    return _swapped(rng, scene, _is_legal)


def _edit_remove(rng, scene):
    if not scene.objects:
        return None
    gone = int(rng.random() * len(scene.objects))
    return tuple(item for i, item in enumerate(scene.objects) if i != gone)


def _edit_add(rng, scene):
    if len(scene.objects) >= MAX_OBJECTS:
        return None
    shape, color, size, material = (v[int(rng.random() * len(v))] for v in (SHAPES, COLORS, SIZES, MATERIALS))
    box_size = extent(shape, height_px(size, scene.width_px, scene.height_px, rng.random()))
    box = layout_of(scene).free_place(rng, *box_size)
    if box is None:
        return None
    occlusion = any(item.layer for item in scene.objects)
    layer = 1 + max(item.layer for item in scene.objects) if occlusion else 0
    return (*scene.objects, SceneObject(shape, color, size, material, box, 0, layer))


_WORLD_EDITS = (
    _edit_value("color", COLORS),
    _edit_value("material", MATERIALS),
    _edit_shape,
    _edit_size,
    _edit_swap,
    _edit_remove,
    _edit_add,
)


def _is_tower(scene):
    """Whether all panels hold towers, which stay towers when edited."""
    places = {(nlvr.TOWER_X_PX + x, y) for x in nlvr.NLVR_PANEL_X_PX for y in nlvr.TOWER_Y_PX}
    return all(
        item.shape == "square" and item.size == "medium" and item.box_px[:2] in places
        for item in scene.objects
    )


def _nlvr_legal(scene, changes):
    boxes = [item.box_px for i, item in enumerate(scene.objects) if i not in changes]
    for item in changes.values():
        x0, y0, x1, _ = item.box_px
        if not nlvr.is_clear(boxes, item.group, x1 - x0, x0 - nlvr.NLVR_PANEL_X_PX[item.group], y0):
            return False
        boxes.append(item.box_px)
    return True


def _nlvr_shape(rng, scene):
    return None if _is_tower(scene) else _edit_value("shape", NLVR_SHAPES)(rng, scene)


def _nlvr_size(rng, scene):
    if _is_tower(scene):
        return None
    names = {name: size for size, name in nlvr.SIZES_PX.items()}
    for i in rng.permutation(len(scene.objects)).tolist():
        item = scene.objects[i]
        size = _other(rng, SIZES, item.size)
        box = _centered(item.box_px, item.box_px, names[size], names[size])
        changes = {i: replace(item, size=size, box_px=box)}
        if _nlvr_legal(scene, changes):
            return _with_objects(scene, changes)
    return None


def _nlvr_swap(rng, scene):
    return _swapped(rng, scene, _nlvr_legal)


def _nlvr_remove(rng, scene):
    """Remove one object; no panel becomes empty, and a tower loses its top."""
    panels = [[i for i, item in enumerate(scene.objects) if item.group == g] for g in range(3)]
    if _is_tower(scene):
        choices = [min(p, key=lambda i: scene.objects[i].box_px[1]) for p in panels if len(p) > 1]
    else:
        choices = [i for p in panels if len(p) > 1 for i in p]
    if not choices:
        return None
    gone = choices[int(rng.random() * len(choices))]
    return tuple(item for i, item in enumerate(scene.objects) if i != gone)


def _nlvr_add(rng, scene):
    group = int(rng.random() * 3)
    boxes = [item.box_px for item in scene.objects if item.group == group]
    color = NLVR_COLORS[int(rng.random() * 3)]
    if scene.objects and _is_tower(scene):
        if len(boxes) >= len(nlvr.TOWER_Y_PX):
            return None
        place = nlvr.TOWER_X_PX, nlvr.TOWER_Y_PX[len(boxes)]
        return (*scene.objects, nlvr.make_object("square", color, nlvr.TOWER_SIZE_PX, group, *place))
    if len(boxes) >= nlvr.MAX_IN_PANEL:
        return None
    size, shape = (10, 20, 30)[int(rng.random() * 3)], NLVR_SHAPES[int(rng.random() * 3)]
    place = nlvr.free_place(rng, boxes, group, size)
    return None if place is None else (*scene.objects, nlvr.make_object(shape, color, size, group, *place))


_NLVR_EDITS = (
    _edit_value("color", NLVR_COLORS),
    _nlvr_shape,
    _nlvr_size,
    _nlvr_swap,
    _nlvr_remove,
    _nlvr_add,
)
