"""A scene in the making: objects that keep their centres while attributes change, within locks and room."""

import math
from collections.abc import Collection
from random import Random

from saccade.data.scenes.execute import Run
from saccade.data.scenes.layout import BOX_GAP, SIZE_FRACTION, Layout
from saccade.data.scenes.scene import Scene, SceneObject
from saccade.data.scenes.sprites import extent


class PlantError(Exception):
    """This scene cannot be made to fit; try another. Never reaches a user."""


class _Thing:
    """An object that may change: its fields as in SceneObject, and the attributes that must stay."""

    __slots__ = ("before", "box_px", "color", "group", "locked", "material", "shape", "size")

    def __init__(self, before: SceneObject):
        self.before = before
        self.shape, self.color, self.size = before.shape, before.color, before.size
        self.material, self.box_px, self.group = before.material, before.box_px, before.group
        self.locked: set[str] = set()


class Draft:
    """A scene whose objects may change. It has the fields that `execute` reads."""

    def __init__(self, scene: Scene, palette: dict[str, tuple[str, ...]], rng: Random):
        self.scene, self.palette, self.rng = scene, palette, rng
        self.num_groups, self.height_px, self.width_px = scene.num_groups, scene.height_px, scene.width_px
        self.objects = [_Thing(item) for item in scene.objects]
        self.layered = any(item.layer for item in scene.objects)
        self.everything = tuple(range(len(self.objects)))
        self.known: dict[int, int] = {}  # id of a settled unique(...) -> the object it names
        self.sole: list[tuple] = []  # (object, its rivals, needs that none of them may come to meet)
        self.run = Run(self, known=self.known)
        self.value = self.run.value  # (program, scope), settled anchors taken as they are

    def finish(self) -> Scene:
        """The scene. Raises: PlantError: objects that may overlap no longer do so within the rules."""
        old = self.scene
        objects = tuple([_finished(thing) for thing in self.objects])
        if self.layered and objects != old.objects:
            layout = Layout(self.width_px, self.height_px)
            for i, item in enumerate(objects):
                if not layout.is_allowed(item.shape, item.box_px, item.layer):
                    raise PlantError
                layout.add(i, item.shape, item.box_px, item.layer)
        return Scene(objects, old.width_px, old.height_px, old.background, old.style, old.num_groups)

    def change(self, i: int, values: dict[str, str], *, lock: bool = True) -> bool:
        """Give object i these attributes, all or, where a lock, a rival or lack of room forbids it, none.

        Another attribute may change too, if else the object would match a phrase that names another alone.
        """
        thing = self.objects[i]
        news = {name: value for name, value in values.items() if getattr(thing, name) != value}
        if news:
            if not thing.locked.isdisjoint(news) or (self.sole and not self._avoid_rivals(i, news, values)):
                return False
            if "shape" in news or "size" in news:
                box = self._box(thing, news)
                if box is None:
                    return False
                thing.box_px = box
            for name, value in news.items():
                setattr(thing, name, value)
        if lock:
            thing.locked.update(values)
        return True

    def set(self, i: int, attribute: str, value: str) -> None:
        """`change` of one attribute. Raises: PlantError: it cannot be."""
        if not self.change(i, {attribute: value}):
            raise PlantError

    def admits(self, i: int, attribute: str, value: str) -> bool:
        """Whether locks and room let object i have this value."""
        thing = self.objects[i]
        if getattr(thing, attribute) == value:
            return True
        if attribute in thing.locked:
            return False
        return attribute not in ("shape", "size") or self._box(thing, {attribute: value}) is not None

    def _avoid_rivals(self, i: int, news: dict[str, str], fixed: Collection[str]) -> bool:
        """Add to `news` what keeps object i from matching a settled phrase; False if nothing can."""
        thing = self.objects[i]
        for named, rivals, needs in self.sole:
            if i == named or i not in rivals:
                continue
            if any((news.get(name, getattr(thing, name)) == value) != same for name, value, same in needs):
                continue
            free = [
                (name, value)
                for name, value, same in needs
                if same and name not in fixed and name not in thing.locked
            ]
            if not free:
                return False
            name, value = self.rng.choice(free)
            news[name] = self.other(name, value)
        return True

    def _box(self, thing: _Thing, news: dict[str, str]) -> tuple | None:
        """The box of the changed object about the same centre, None if there is no room for it."""
        before = thing.before
        shape, size = news.get("shape", thing.shape), news.get("size", thing.size)
        if self.scene.style == "nlvr":  # shapes of equal size fill equal boxes there, sizes do not
            return before.box_px if size == before.size else None
        x0, y0, x1, y1 = before.box_px
        height = y1 - y0
        if size != before.size:
            height = max(3, round(height * SIZE_FRACTION[size] / SIZE_FRACTION[before.size]))
        elif shape == before.shape:
            return before.box_px
        x0, y0, x1, y1 = box = _around(before.box_px, *extent(shape, height))
        if self.layered:  # what may overlap what is seen when all boxes are known
            return box
        if x0 < 0 or y0 < 0 or x1 > self.width_px or y1 > self.height_px:
            return None
        # Centres stay, so only the distance of the boxes can have become too small.
        gap = math.ceil(BOX_GAP * max(self.width_px, self.height_px))
        x0, y0, x1, y1 = x0 - gap, y0 - gap, x1 + gap, y1 + gap
        for other in self.objects:
            a0, b0, a1, b1 = other.box_px
            if x0 < a1 and a0 < x1 and y0 < b1 and b0 < y1 and other is not thing:
                return None
        return box

    def other(self, attribute: str, value: str) -> str:
        """A random value but this one."""
        return self.rng.choice([v for v in self.palette[attribute] if v != value])


def _finished(thing: _Thing) -> SceneObject:
    old = thing.before
    if (
        thing.shape == old.shape
        and thing.color == old.color
        and thing.size == old.size
        and thing.material == old.material
    ):
        return old
    return SceneObject(
        thing.shape, thing.color, thing.size, thing.material, thing.box_px, old.group, old.layer
    )


def _around(box: tuple, width: int, height: int) -> tuple:
    x, y = (box[0] + box[2] - width) // 2, (box[1] + box[3] - height) // 2
    return x, y, x + width, y + height
