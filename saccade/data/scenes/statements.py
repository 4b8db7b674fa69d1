"""Random programs for statements: of one picture, and of the three panels of an nlvr picture."""

from random import Random

from saccade.data.scenes.program import Call, call
from saccade.data.scenes.questions import Phraser, all_are, draw_question

_SCENE = call("scene")
_KINDS = {
    1: ("exist", "none", "compare_number", "compare_number", "is"),
    2: ("exist", "none", "compare_number", "is", "compare_count", "compare_attribute", "logic", "all"),
    3: ("exist", "compare_number", "is", "compare_count", "compare_attribute", "logic"),
}


def draw_statement(rng: Random, depth: int, palette: dict) -> tuple[str, Call, dict]:
    """(kind, bool program of that depth, palette to plant with) for a world scene."""
    kind = rng.choice(_KINDS[min(depth, 3)])
    program = draw_question(rng, "exist" if kind == "none" else kind, depth, palette)
    return kind, call("not", program) if kind == "none" else program, palette


def draw_panel_statement(rng: Random, depth: int, palette: dict) -> tuple[str, Call, dict]:
    """(kind, bool program, palette to plant with) for an nlvr scene; depth 1 speaks of the whole picture."""
    palette = {"color": palette["color"], "shape": palette["shape"]}
    if depth == 1:
        return draw_statement(rng, 1, palette)
    make = Phraser(rng, palette)
    body = _panel_body(make, joined=depth >= 3)
    kind = rng.choice(
        ("every_group", "some_group", "some_group", "no_group", "exactly_groups", "at_least_groups")
    )
    if kind == "exactly_groups":
        return kind, call("equal", call("count_groups", body), call("number", rng.choice((1, 1, 2)))), palette
    if kind == "at_least_groups":
        return kind, call("at_least", call("count_groups", body), call("number", 2)), palette
    return kind, call(kind, body), palette


def _panel_body(make: Phraser, *, joined: bool) -> Call:
    rng = make.rng
    if joined:
        one, two = make.disjoint()
        first, second = (make.apply(_SCENE, dict(f.items())) for f in (one, two))
        return call("and", *(_counted(rng, part) for part in (first, second)))
    form = rng.random()
    if form < 0.15:
        return all_are(_SCENE, "color", rng.choice(make.palette["color"]))
    if form < 0.3:
        return call("equal", call("distinct", _SCENE, "color"), call("number", rng.choice((1, 2, 3))))
    return _counted(rng, make.set(0))


def _counted(rng: Random, group: Call) -> Call:
    op = rng.choice(("exist", "exist", "equal", "equal", "at_least", "at_most"))
    if op == "exist":
        return call("exist", group)
    return call(op, call("count", group), call("number", rng.randint(1 if op == "equal" else 2, 3)))
