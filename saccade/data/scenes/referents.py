"""Which objects a text means: the sets and single objects that its program passes through on the way.

A channel is (level, branch): level 1 needs no hop, each hop adds one (`program.depth`); where a program joins
two programs (comparisons, and, or), those of the second are branch 1. A model that marks the objects of every
channel has followed the whole program; nobody has to say how.
"""

from saccade.data.scenes.execute import Run, execute
from saccade.data.scenes.program import GROUP_OPS, Call, depth
from saccade.data.scenes.questions import MAX_DEPTH
from saccade.data.scenes.scene import Example, Scene

BRANCHES = 2
CHANNELS = MAX_DEPTH * BRANCHES
# Their argument is not a set of its own.
_SAME_SET_SMALLER = frozenset(("filter", "exclude", "touching", "apart"))
TWIN_EDITS = 2  # most objects in which a scene and its minimal-edit twin differ


def referents(example: Example) -> dict[int, set[int]]:
    """Channel -> indices of the objects meant, for each channel that the example has something to say about.

    A description (task `match`) has no program: its channel 0 holds the objects that are not as described,
    where the picture is the described one or its twin. A program over panels means what it means in each.
    """
    if example.described is not None:
        odd = {i for i, item in enumerate(example.scene.objects) if item not in example.described.objects}
        return {0: odd} if len(odd) <= TWIN_EDITS else {}
    return program_referents(example.program, example.scene) if isinstance(example.program, Call) else {}


def program_referents(program: Call, scene: Scene) -> dict[int, set[int]]:
    """The same for a program. Raises: IllPosedError: it does not fit the scene."""
    everything = tuple(range(len(scene.objects)))
    found: dict[int, set[int]] = {}
    if not _quantifies(program):
        _follow(program, scene, everything, found)
    for body in _bodies(program):
        for group in range(scene.num_groups):
            panel = tuple(i for i in everything if scene.objects[i].group == group)
            _follow(body, scene, panel, found)
    return found


def _follow(program: Call, scene: Scene, scope: tuple[int, ...], found: dict) -> None:
    steps: list[tuple[Call, object]] = []
    Run(scene, steps).value(program, scope)
    _collect(program, {id(call): value for call, value in steps}, None, False, found)


def _bodies(program: Call):
    """What is said of one panel, for each quantifier over panels."""
    if program.op in GROUP_OPS:
        yield program.args[0]
        return
    for part in program.programs:
        yield from _bodies(part)


def told(example: Example) -> dict[int, str]:
    """Index of an object -> the value that the program asks of it: its color, if that is what is compared.

    Of two attributes asked of one object the outer one counts. Programs over panels ask nothing outside them.
    """
    program = example.program
    if not isinstance(program, Call) or _quantifies(program):
        return {}
    found: dict[int, str] = {}
    for call, attribute in _asked(program):
        thing = execute(call, example.scene)
        found.setdefault(thing, getattr(example.scene.objects[thing], attribute))
    return found


def _asked(program: Call):
    """(program of an object, attribute asked of it), outer ones first."""
    if program.op in ("query", "is", "same", "same_attribute"):
        objects = [part for part in program.programs if part.type == "object"]
        attribute = program.args[len(objects)]
        yield from ((part, attribute) for part in objects)
    for part in program.programs:
        yield from _asked(part)


def _quantifies(program: Call) -> bool:
    return program.op in GROUP_OPS or any(_quantifies(part) for part in program.programs)


def _collect(program: Call, values: dict, branch: int | None, smaller: bool, found: dict) -> None:
    if program.type == "set" and not smaller:
        level = min(depth(program), MAX_DEPTH) - 1
        found.setdefault(level * BRANCHES + (branch or 0), set()).update(values[id(program)])
    parts = program.programs
    for place, part in enumerate(parts):
        own = place if branch is None and len(parts) == 2 else branch
        _collect(part, values, own, program.op in _SAME_SET_SMALLER, found)
