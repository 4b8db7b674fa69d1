"""Random programs for statements: of one picture, and of the three panels of an nlvr picture."""

from random import Random

from saccade.data.scenes.program import WALLS, Call, call
from saccade.data.scenes.questions import Phraser, all_are, draw_question

_SCENE = call("scene")
PANEL_DEPTHS = (1, 2, 2, 2, 3, 3, 3, 4, 5)  # as often as natural sentences have them
COUNTED = ("equal", "equal", "at_least", "at_most")
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
    """(kind, bool program, palette to plant with) for an nlvr scene.

    Depth 1 speaks of the whole picture, 2 of its boxes or towers (kind "tower_..."), 3 joins two such facts
    or names a tower's top or base; 4 and 5 do both.
    """
    colors = {"color": palette["color"]}
    palette = colors | {"shape": palette["shape"]}
    make = Phraser(rng, palette)
    if depth == 1:
        if rng.random() < 0.5:
            return draw_statement(rng, 1, palette)
        group = call("touching", make.set(0), rng.choice(("any", "any", "any", *WALLS)))
        kind = rng.choice(("exist", "none", "compare_number"))
        if kind == "compare_number":
            return (
                kind,
                call(rng.choice(COUNTED), call("count", group), call("number", rng.randint(2, 3))),
                palette,
            )
        program = call("exist", group)
        return kind, call("not", program) if kind == "none" else program, palette
    if depth > 3 or rng.random() < 0.5:
        kind, body = _tower_body(Phraser(rng, colors), depth)
        kind, program = _quantified(rng, kind, body)
        return f"tower_{kind}", program, colors
    return *_quantified(rng, "", _panel_body(make, joined=depth == 3)), palette


def _quantified(rng: Random, kind: str, body: Call) -> tuple[str, Call]:
    kind = kind or rng.choice(
        ("every_group", "some_group", "some_group", "no_group", "exactly_groups", "at_least_groups")
    )
    if kind == "exactly_groups":
        return kind, call("equal", call("count_groups", body), call("number", rng.choice((1, 1, 2))))
    if kind == "at_least_groups":
        return kind, call("at_least", call("count_groups", body), call("number", 2))
    return kind, call(kind, body)


def _tower_body(make: Phraser, depth: int) -> tuple[str, Call]:
    """(quantifier or "", what is true of one tower): the number of its blocks, its colors, top and base."""
    rng = make.rng
    if depth >= 3:
        colors = rng.sample(make.palette["color"], 2)
        top, base = (_ends(color, end) for color, end in zip(colors, ("top", "bottom"), strict=True))
        some, others = (_counted(rng, call("filter", _SCENE, "color", color)) for color in colors)
        bodies = {3: (rng.choice((top, base)), call("and", some, others)), 4: (call("and", base, some),)}
        return "", rng.choice(bodies.get(depth, (call("and", top, base),)))
    form = rng.uniform(0.3, 1)
    if form < 0.5:  # heights are not planted, so only what random towers often enough are
        kind = rng.choice(("some_group", "some_group", "no_group"))
        return kind, call(
            rng.choice(("equal", "at_least")), call("count", _SCENE), call("number", rng.randint(2, 4))
        )
    if form < 0.65:
        return "", call("equal", call("distinct", _SCENE, "color"), call("number", rng.choice((1, 2, 3))))
    return "", _counted(rng, call("filter", _SCENE, "color", rng.choice(make.palette["color"])))


def _ends(color: str, end: str) -> Call:
    return call("exist", call("filter", call("nth", _SCENE, end, 1), "color", color))


def _panel_body(make: Phraser, *, joined: bool) -> Call:
    rng = make.rng
    if joined:
        return call("and", *(_counted(rng, make.apply(_SCENE, filters)) for filters in make.disjoint()))
    form = rng.random()
    if form < 0.15:
        return all_are(_SCENE, "color", rng.choice(make.palette["color"]))
    if form < 0.3:
        return call("equal", call("distinct", _SCENE, "color"), call("number", rng.choice((1, 2, 3))))
    if form < 0.5:
        return call("exist", call("touching", make.set(0), "any"))
    return _counted(rng, make.set(0))


def _counted(rng: Random, group: Call) -> Call:
    op = rng.choice(("exist", "exist", *COUNTED))
    if op == "exist":
        return call("exist", group)
    return call(op, call("count", group), call("number", rng.randint(1 if op == "equal" else 2, 3)))
