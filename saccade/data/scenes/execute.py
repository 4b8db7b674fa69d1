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
    return _Run(scene).value(program, tuple(range(len(scene.objects))))


def trace(program: Call, scene: Scene) -> list[tuple[Call, object]]:
    """Every sub-program with its value, in order of evaluation; the last pair is the answer.

    The body of a panel quantifier appears once, with the tuple of its values per panel.
    Raises: IllPosedError: as `execute`.
    """
    steps: list[tuple[Call, object]] = []
    _Run(scene, steps).value(program, tuple(range(len(scene.objects))))
    return steps


def members(program: Call, scene, scope: tuple[int, ...], known: dict[int, int] | None = None):
    """`program`'s value when only the objects in `scope` exist (what a panel quantifier does).

    `known` maps id(sub-program) to the object that a `unique(...)` is taken to name, unchecked.
    """
    return _Run(scene, known=known).value(program, scope)


class _Run:
    def __init__(self, scene, steps: list | None = None, known: dict[int, int] | None = None):
        self.scene, self.objects, self.steps = scene, scene.objects, steps
        self.known = known or {}

    def value(self, program: Call, scope: tuple[int, ...]):
        op = program.op
        if op == "scene":
            result = scope
        elif op == "unique" and id(program) in self.known:
            result = self.known[id(program)]
        elif op == "filter" and self.steps is None:
            result = self.filters(program, scope)
        elif op in GROUP_OPS:
            result = self.quantify(op, program.args[0], scope)
        else:
            args = [self.value(arg, scope) if type(arg) is Call else arg for arg in program.args]
            if op in COMPARISONS:
                result = _COMPARE[op](*args)
            elif op == "relate":
                result = self.relate(scope, *args)
            elif op == "same":
                result = self.same(scope, *args)
            else:
                result = _OPS[op](self, *args)
        if self.steps is not None:
            self.steps.append((program, result))
        return result

    def quantify(self, op: str, body: Call, scope: tuple[int, ...]):
        inner = _Run(self.scene)
        panels = [tuple(i for i in scope if self.objects[i].group == g) for g in range(self.scene.num_groups)]
        values = tuple(inner.value(body, panel) for panel in panels)
        if self.steps is not None:
            self.steps.append((body, values))
        return {"every_group": all, "some_group": any, "no_group": _none, "count_groups": sum}[op](values)

    def relate(self, scope, anchor: int, direction: str):
        axis, sign = AXES[direction]
        here = self.objects[anchor]
        zero = here.center_px[axis] * sign
        return tuple(
            i
            for i in scope
            if i != anchor
            and self.objects[i].group == here.group
            and self.objects[i].center_px[axis] * sign > zero
        )

    def same(self, scope, anchor: int, attribute: str):
        wanted = getattr(self.objects[anchor], attribute)
        return tuple(i for i in scope if i != anchor and getattr(self.objects[i], attribute) == wanted)

    def unique(self, found):
        if len(found) != 1:
            raise IllPosedError(
                f"'the' needs exactly one such object, the scene has {len(found)}: say 'a' or 'how many'"
            )
        return found[0]

    def nth(self, found, end: str, number: int):
        """The number-th from that end, empty if there are fewer."""
        axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[end]
        if number < 1 or len(found) < number:
            return ()
        line = sorted((self.objects[i].center_px[axis] * sign, i) for i in found)
        place, chosen = line[number - 1]
        near = line[max(0, number - 2) : number - 1] + line[number : number + 1]
        if any(other == place for other, _ in near):
            raise IllPosedError(f"two objects tie for place {number} from the {end}")
        return (chosen,)

    def touching(self, found, wall: str):
        return tuple(i for i in found if wall in walls_touched(self.objects[i], self.scene))

    def filter(self, found, attribute: str, value: str):
        return tuple([i for i in found if getattr(self.objects[i], attribute) == value])

    def filters(self, program: Call, scope):
        """A whole chain of filters at once: the same set, without the sets in between."""
        needs = []
        while program.op == "filter":
            needs.append(program.args[1:])
            program = program.args[0]
        found = self.value(program, scope)
        for attribute, value in needs:
            found = tuple([i for i in found if getattr(self.objects[i], attribute) == value])
        return found

    def exclude(self, found, attribute: str, value: str):
        return tuple([i for i in found if getattr(self.objects[i], attribute) != value])

    def distinct(self, found, attribute: str):
        return len({getattr(self.objects[i], attribute) for i in found})

    def query(self, thing: int, attribute: str):
        return getattr(self.objects[thing], attribute)

    def same_attribute(self, one: int, two: int, attribute: str):
        return getattr(self.objects[one], attribute) == getattr(self.objects[two], attribute)


def _none(values) -> bool:
    return not any(values)


_OPS = {
    "filter": _Run.filter,
    "exclude": _Run.exclude,
    "nth": _Run.nth,
    "touching": _Run.touching,
    "unique": _Run.unique,
    "distinct": _Run.distinct,
    "query": _Run.query,
    "same_attribute": _Run.same_attribute,
    "union": lambda run, a, b: tuple(sorted({*a, *b})),
    "intersect": lambda run, a, b: tuple(i for i in a if i in b),
    "count": lambda run, a: len(a),
    "number": lambda run, n: n,
    "exist": lambda run, a: bool(a),
    "is": lambda run, thing, attribute, value: run.query(thing, attribute) == value,
    "and": lambda run, a, b: a and b,
    "or": lambda run, a, b: a or b,
    "not": lambda run, a: not a,
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
