"""Run a program on a scene.

Values: an `object` is its index in `scene.objects`; a `set` is an increasing tuple of indices; the rest are
plain int, bool and str. Left, right, above and below compare the centres of boxes, in image pixels, among
objects of one panel.
"""

import operator

from saccade.data.scenes.program import COMPARISONS, GROUP_OPS, Call
from saccade.data.scenes.scene import Scene
from saccade.errors import SaccadeError

WALL_GAP_PX = 1  # an object this near to its panel's edge touches it
STACK_GAP_PX = 1  # between an object and what it stands on: the blocks of a tower are so far apart
AXES = {
    "left": (0, -1),
    "right": (0, 1),
    "above": (1, -1),
    "below": (1, 1),
}  # axis of the image, sign along it
_COMPARE = {
    "equal": operator.eq,
    "greater": operator.gt,
    "less": operator.lt,
    "at_least": operator.ge,
    "at_most": operator.le,
}


class IllPosedError(SaccadeError):
    """The question presupposes what the scene does not have: "the red cube" when there are none, or two."""


def execute(program: Call, scene: Scene):
    """The value of `program` on `scene`.

    Args:
        program: any program.
        scene: a Scene (anything with its fields serves).
    Returns: see the module's first lines.
    Raises: IllPosedError: `unique` of a set without exactly one member, or a tie for the place `nth` wants.
    """
    return Run(scene).value(program, tuple(range(len(scene.objects))))


def trace(program: Call, scene: Scene) -> list[tuple[Call, object]]:
    """Every sub-program with its value, in order of evaluation; the last pair is the answer.

    The body of a panel quantifier appears once, with the tuple of its values per panel.
    Raises: IllPosedError: as `execute`.
    """
    steps: list[tuple[Call, object]] = []
    Run(scene, steps).value(program, tuple(range(len(scene.objects))))
    return steps


class Run:
    """Programs run on one scene.

    Args:
        scene: a Scene, or anything with its fields.
        steps: a list that every sub-program is appended to with its value.
        known: id(sub-program) -> the object that this `unique(...)` is taken to name, unchecked.
    """

    def __init__(self, scene, steps: list | None = None, known: dict[int, int] | None = None):
        self.scene, self.objects, self.steps = scene, scene.objects, steps
        self.known = {} if known is None else known

    def value(self, program: Call, scope: tuple[int, ...]):
        """`program`'s value when only the objects in `scope` exist (what a panel quantifier does)."""
        result = _RULES[program.op](self, program, scope)
        if self.steps is not None:
            self.steps.append((program, result))
        return result

    def filter(self, program: Call, scope: tuple[int, ...]):
        """A whole chain of filters at once: the same set, without the sets in between."""
        objects = self.objects
        if self.steps is not None:
            base, attribute, value = program.args
            return tuple([i for i in self.value(base, scope) if getattr(objects[i], attribute) == value])
        needs = []
        while program.op == "filter":
            program, attribute, value = program.args
            needs.append((attribute, value))
        found = self.value(program, scope)
        for attribute, value in needs:
            found = [i for i in found if getattr(objects[i], attribute) == value]
        return tuple(found)

    def exclude(self, program: Call, scope: tuple[int, ...]):
        base, attribute, value = program.args
        return tuple([i for i in self.value(base, scope) if getattr(self.objects[i], attribute) != value])

    def relate(self, program: Call, scope: tuple[int, ...]):
        anchor, direction = program.args
        axis, sign = AXES[direction]
        objects, here = self.objects, self.objects[self.value(anchor, scope)]
        group, far = here.group, axis + 2
        zero = (here.box_px[axis] + here.box_px[far]) * sign
        found = []
        for i in scope:
            box = objects[i].box_px
            if (box[axis] + box[far]) * sign > zero and objects[i].group == group:
                found.append(i)
        return tuple(found)

    def same(self, program: Call, scope: tuple[int, ...]):
        anchor, attribute = self.value(program.args[0], scope), program.args[1]
        wanted = getattr(self.objects[anchor], attribute)
        return tuple([i for i in scope if i != anchor and getattr(self.objects[i], attribute) == wanted])

    def unique(self, program: Call, scope: tuple[int, ...]):
        known = self.known.get(id(program))
        if known is not None:
            return known
        found = self.value(program.args[0], scope)
        if len(found) != 1:
            raise IllPosedError(
                f"'the' needs exactly one such object, the scene has {len(found)}: say 'a' or 'how many'"
            )
        return found[0]

    def nth(self, program: Call, scope: tuple[int, ...]):
        """The number-th from that end, empty if there are fewer."""
        base, end, number = program.args
        found = self.value(base, scope)
        axis, sign = AXES[_FAR_SIDE[end]]
        if number < 1 or len(found) < number:
            return ()
        line = sorted([(sign * self.doubled_center(i, axis), i) for i in found])
        place, chosen = line[number - 1]
        near = line[max(0, number - 2) : number - 1] + line[number : number + 1]
        if any(other == place for other, _ in near):
            raise IllPosedError(f"two objects tie for place {number} from the {end}")
        return (chosen,)

    def doubled_center(self, i: int, axis: int) -> int:
        """Twice the place of an object's centre, a whole number of pixels."""
        box = self.objects[i].box_px
        return box[axis] + box[axis + 2]

    def touching(self, program: Call, scope: tuple[int, ...]):
        base, wall = program.args
        found = self.value(base, scope)
        return tuple([i for i in found if wall in walls_touched(self.objects[i], self.scene)])

    def apart(self, program: Call, scope: tuple[int, ...]):
        """Those that do not touch the wall."""
        base, wall = program.args
        found = self.value(base, scope)
        return tuple([i for i in found if wall not in walls_touched(self.objects[i], self.scene)])

    def on(self, program: Call, scope: tuple[int, ...]):
        """Those of the first set that stand directly on one of the second, in the same panel."""
        upper, lower = (self.value(arg, scope) for arg in program.args)
        objects = self.objects
        return tuple([i for i in upper if any(_stands_on(objects[i], objects[j]) for j in lower)])

    def union(self, program: Call, scope: tuple[int, ...]):
        one, two = program.args
        return tuple(sorted({*self.value(one, scope), *self.value(two, scope)}))

    def intersect(self, program: Call, scope: tuple[int, ...]):
        one, two = (self.value(arg, scope) for arg in program.args)
        return tuple([i for i in one if i in two])

    def distinct(self, program: Call, scope: tuple[int, ...]):
        base, attribute = program.args
        return len({getattr(self.objects[i], attribute) for i in self.value(base, scope)})

    def query(self, program: Call, scope: tuple[int, ...]):
        thing, attribute = program.args
        return getattr(self.objects[self.value(thing, scope)], attribute)

    def is_(self, program: Call, scope: tuple[int, ...]):
        thing, attribute, value = program.args
        return getattr(self.objects[self.value(thing, scope)], attribute) == value

    def same_attribute(self, program: Call, scope: tuple[int, ...]):
        one, two, attribute = program.args
        one, two = self.objects[self.value(one, scope)], self.objects[self.value(two, scope)]
        return getattr(one, attribute) == getattr(two, attribute)

    def compare(self, program: Call, scope: tuple[int, ...]):
        one, two = (self.value(arg, scope) for arg in program.args)
        return _COMPARE[program.op](one, two)

    def join(self, program: Call, scope: tuple[int, ...]):
        """and, or: both sides run, so a presupposition that fails is never passed over."""
        one, two = (self.value(arg, scope) for arg in program.args)
        return (one and two) if program.op == "and" else (one or two)

    def quantify(self, program: Call, scope: tuple[int, ...]):
        inner, body = Run(self.scene), program.args[0]
        panels = [tuple(i for i in scope if self.objects[i].group == g) for g in range(self.scene.num_groups)]
        values = tuple([inner.value(body, panel) for panel in panels])
        if self.steps is not None:
            self.steps.append((body, values))
        return _QUANTIFY[program.op](values)


def _stands_on(upper, lower) -> bool:
    x0, _, x1, bottom = upper.box_px
    a0, top, a1, _ = lower.box_px
    return upper.group == lower.group and 0 <= top - bottom <= STACK_GAP_PX and x0 < a1 and a0 < x1


# The side whose direction grows away from an end: the first from the left is the least in x.
_FAR_SIDE = {"left": "right", "right": "left", "top": "below", "bottom": "above"}
_QUANTIFY = {
    "every_group": all,
    "some_group": any,
    "no_group": lambda values: not any(values),
    "count_groups": sum,
}
_RULES = {
    "scene": lambda run, program, scope: scope,
    "filter": Run.filter,
    "exclude": Run.exclude,
    "relate": Run.relate,
    "same": Run.same,
    "nth": Run.nth,
    "touching": Run.touching,
    "apart": Run.apart,
    "on": Run.on,
    "union": Run.union,
    "intersect": Run.intersect,
    "unique": Run.unique,
    "count": lambda run, program, scope: len(run.value(program.args[0], scope)),
    "distinct": Run.distinct,
    "number": lambda run, program, scope: program.args[0],
    "exist": lambda run, program, scope: bool(run.value(program.args[0], scope)),
    "is": Run.is_,
    "same_attribute": Run.same_attribute,
    "query": Run.query,
    "and": Run.join,
    "or": Run.join,
    "not": lambda run, program, scope: not run.value(program.args[0], scope),
    **dict.fromkeys(COMPARISONS, Run.compare),
    **dict.fromkeys(GROUP_OPS, Run.quantify),
}


def walls_touched(thing, scene) -> tuple[str, ...]:
    """The walls of its panel that an object touches, plus "any" if there is one.

    An nlvr panel is as wide as the image is high; panels start every one and a half heights.
    """
    left = thing.group * scene.height_px * 3 // 2 if scene.num_groups > 1 else 0
    right = left + (scene.height_px if scene.num_groups > 1 else scene.width_px)
    x0, y0, x1, y1 = thing.box_px
    gaps = {"left": x0 - left, "right": right - x1, "top": y0, "bottom": scene.height_px - y1}
    found = tuple(wall for wall, gap in gaps.items() if gap <= WALL_GAP_PX)
    return (*found, "any") if found else ()
