"""Random programs for questions, by kind and depth, drawn without looking at any scene.

A kind is a family of questions with one set of answers: `ANSWERS_OF[kind]`. What makes a program well-formed
English and neither trivial nor contradictory is decided here: two sets that are compared differ in an
attribute that both name; no color is asked of a red thing; "the same color as" is not followed by a color.
"""

from random import Random

from saccade.data.scenes.plant import MAX_COUNT, MAX_RELATED_COUNT
from saccade.data.scenes.program import ATTRIBUTES, DIRECTIONS, ENDS, Call, call
from saccade.data.scenes.scene import (
    COLORS,
    MATERIALS,
    NLVR_COLORS,
    NLVR_SHAPES,
    SHAPES,
    SIZES,
)
from saccade.errors import SaccadeError

PALETTES: dict[str, dict[str, tuple[str, ...]]] = {
    "world": {"color": COLORS, "shape": SHAPES, "size": SIZES, "material": MATERIALS},
    "nlvr": {"color": NLVR_COLORS, "shape": NLVR_SHAPES, "size": SIZES},
}
ANSWERS = ("yes", "no", *map(str, range(9)), *COLORS, *SHAPES, *SIZES, *MATERIALS)
_BOOL = (True, False)
ANSWERS_OF: dict[str, tuple] = {
    "count_all": tuple(range(2, 9)),
    "count": tuple(range(MAX_COUNT + 1)),
    "count_related": tuple(range(MAX_RELATED_COUNT + 1)),
    "count_union": tuple(range(MAX_COUNT + 1)),
    "exist": _BOOL,
    "is": _BOOL,
    "all": _BOOL,
    "compare_number": _BOOL,
    "compare_count": _BOOL,
    "compare_attribute": _BOOL,
    "logic": _BOOL,
    "query_color": COLORS,
    "query_shape": SHAPES,
    "query_size": SIZES,
    "query_material": MATERIALS,
}
MAX_DEPTH = 6
_SCENE = call("scene")
_QUERIES = tuple(kind for kind in ANSWERS_OF if kind.startswith("query"))
# Kinds by depth; a tuple inside is one choice, to keep the mix of forms even.
_KINDS = {
    1: ("count", "exist", "is", "compare_number", _QUERIES, _QUERIES),
    2: (
        "count_related",
        "exist",
        "is",
        "compare_number",
        "compare_count",
        "compare_attribute",
        "logic",
        "all",
        "count_union",
        _QUERIES,
        _QUERIES,
    ),
    3: ("count_related", "exist", "is", "compare_count", "compare_attribute", "logic", _QUERIES, _QUERIES),
}


class Phraser:
    """Draws set programs over one palette of attribute values."""

    def __init__(self, rng: Random, palette: dict[str, tuple[str, ...]]):
        self.rng, self.palette = rng, palette

    def filters(
        self, least: int, most: int, avoid: tuple[str, ...] = (), keep: dict | None = None
    ) -> dict[str, str]:
        """Attribute -> value for `least` to `most` attributes, shape more often than not."""
        rng = self.rng
        found = dict(keep or {})
        number = rng.choice([n for n in (1, 1, 2, 2, 2, 3) if least <= n <= most] or [least])
        free = [a for a in self.palette if a not in avoid and a not in found]
        rng.shuffle(free)
        if "shape" in free and rng.random() < 0.75:
            free.remove("shape")
            free.insert(0, "shape")
        for attribute in free[: max(0, number - len(found))]:
            found[attribute] = rng.choice(self.palette[attribute])
        return found

    def apply(self, base: Call, filters: dict[str, str]) -> Call:
        """Filters in the order in which English says them last: shape innermost."""
        for attribute in ("shape", "material", "color", "size"):
            if attribute in filters:
                base = call("filter", base, attribute, filters[attribute])
        return base

    def base(self, hops: int, *, avoid: tuple[str, ...] = ()) -> tuple[Call, tuple[str, ...]]:
        """A set `hops` away from the whole scene, and the attributes that its members are known to share."""
        rng = self.rng
        if hops == 0:
            return _SCENE, ()
        if hops >= 3 and rng.random() < 0.3:
            one, two = rng.choice(("left", "right")), rng.choice(("above", "below"))
            first, second = self.disjoint()
            return call(
                "intersect",
                call("relate", call("unique", self.apply(_SCENE, first)), one),
                call("relate", call("unique", self.apply(self.base(hops - 3)[0], second)), two),
            ), ()
        anchor = self.anchor(hops - 1)
        same = [a for a in self.palette if a not in avoid and a not in named(anchor.args[0])]
        if same and rng.random() < 0.3:
            attribute = rng.choice(same)
            return call("same", anchor, attribute), (attribute,)
        return call("relate", anchor, rng.choice(DIRECTIONS)), ()

    def set(
        self,
        hops: int,
        *,
        avoid: tuple[str, ...] = (),
        keep: dict | None = None,
        least: int = 1,
        bare: bool = True,
    ) -> Call:
        """A set program with `hops` hops.

        Args:
            hops: as `program.depth` counts them.
            avoid: attributes not to filter on.
            keep: filters that must be there.
            least: number of filters, at least.
            bare: a restricted set may have no filter: "things left of the ball".
        """
        base, shared = self.base(hops, avoid=(*avoid, *(keep or ())))
        if bare and base is not _SCENE and not keep and self.rng.random() < 0.25:
            return base
        return self.apply(base, self.filters(least, 3, (*avoid, *shared), keep))

    def anchor(self, hops: int, *, avoid: tuple[str, ...] = (), keep: dict | None = None) -> Call:
        """unique(...) of a set with `hops` hops."""
        rng = self.rng
        if hops == 1 and rng.random() < 0.25:
            filters = self.filters(1, 2, avoid, keep)
            group = self.apply(_SCENE, filters if keep or rng.random() < 0.8 else {})
            return call("unique", call("nth", group, rng.choice(ENDS), rng.choice((1, 1, 1, 2))))
        return call("unique", self.set(hops, avoid=avoid, keep=keep, bare=False))

    def disjoint(self, avoid: tuple[str, ...] = ()) -> tuple[dict, dict]:
        """Two filters that no object meets both of."""
        rng = self.rng
        shared = rng.choice([a for a in ("shape", "shape", "color") if a not in avoid] or ["size"])
        one, two = rng.sample(self.palette[shared], 2)
        return (
            self.filters(1, 3, (*avoid, shared), {shared: one}),
            self.filters(1, 3, (*avoid, shared), {shared: two}),
        )


def is_consistent(program: Call) -> bool:
    """False if the program speaks of "the ball" and elsewhere of another ball, which there cannot be."""
    sets, sole = [], []
    stack = [(program, False)]
    while stack:
        node, is_the = stack.pop()
        filters = set()
        while node.op in ("filter", "exclude"):
            filters.add(node.args[1:] if node.op == "filter" else ("not", *node.args[1:]))
            node = node.args[0]
        if filters:
            sets.append(filters)
            if is_the and node.op == "scene":
                sole.append(filters)
        stack.extend((part, node.op == "unique") for part in node.programs)
    return all(sum(one <= other for other in sets) == 1 for one in sole)


def named(program: Call) -> set[str]:
    """The attributes that the outermost noun phrase of a set program fixes."""
    found = set()
    while program.op in ("filter", "exclude"):
        found.add(program.args[1])
        program = program.args[0]
    if program.op == "same":
        found.add(program.args[1])
    return found


def draw_kind(rng: Random, depth: int, style: str = "world") -> str:
    """A kind of question that exists at this depth."""
    kind = rng.choice(_KINDS[min(depth, 3)])
    if isinstance(kind, tuple):
        kind = rng.choice(kind)
    return "count_all" if kind == "count" and rng.random() < 0.06 else kind


def draw_question(rng: Random, kind: str, depth: int, palette: dict[str, tuple[str, ...]]) -> Call:
    """A random consistent program of this kind and depth; arguments as `_draw`."""
    for _ in range(50):
        program = _draw(rng, kind, depth, palette)
        if is_consistent(program):
            return program
    raise SaccadeError(f"no {kind} question of depth {depth}: use a palette with more values")


def _draw(rng: Random, kind: str, depth: int, palette: dict[str, tuple[str, ...]]) -> Call:
    """A random program of this kind and depth.

    Args:
        rng: source of randomness.
        kind: a key of ANSWERS_OF that `draw_kind` gives for this depth.
        depth: 1..MAX_DEPTH.
        palette: attribute -> values that may be named.
    """
    make = Phraser(rng, palette)
    hops = depth - 1
    if kind == "count_all":
        return call("count", _SCENE)
    if kind in ("count", "count_related"):
        return call("count", _negated(make) if hops == 0 and rng.random() < 0.1 else make.set(hops))
    if kind == "exist":
        return call("exist", make.set(hops, least=1 if hops else 2, bare=False))
    if kind.startswith("query_"):
        attribute = kind.removeprefix("query_")
        return call("query", make.anchor(hops, avoid=(attribute,)), attribute)
    if kind == "is":
        attribute = rng.choice(tuple(palette))
        return call("is", make.anchor(hops, avoid=(attribute,)), attribute, rng.choice(palette[attribute]))
    if kind == "compare_number":
        op = rng.choice(("equal", "at_least", "at_most"))
        return call(op, call("count", make.set(hops)), call("number", rng.randint(2, 4)))
    if kind == "all":
        attribute = rng.choice([a for a in palette if a != "shape"])
        group = make.apply(_SCENE, make.filters(1, 2, (attribute,)))
        return all_are(group, attribute, rng.choice(palette[attribute]))
    return _draw_pair(make, kind, hops - 1)


def _negated(make: Phraser) -> Call:
    attribute = make.rng.choice([a for a in make.palette if a != "shape"])
    group = make.apply(_SCENE, make.filters(1, 1, (attribute,)))
    return call("exclude", group, attribute, make.rng.choice(make.palette[attribute]))


def all_are(group: Call, attribute: str, value: str) -> Call:
    """ "All cubes are red": there is one, and none that is not."""
    return call(
        "and", call("exist", group), call("not", call("exist", call("exclude", group, attribute, value)))
    )


def _draw_pair(make: Phraser, kind: str, hops: int) -> Call:
    rng = make.rng
    left = rng.randint(0, hops)
    if kind == "compare_attribute":
        attribute = rng.choice(ATTRIBUTES)
        one, two = make.disjoint((attribute,))
        anchors = (
            make.anchor(left, avoid=(attribute,), keep=one),
            make.anchor(hops - left, avoid=(attribute,), keep=two),
        )
        return call("same_attribute", *anchors, attribute)
    one, two = make.disjoint()
    if kind == "count_union":
        return call("count", call("union", make.apply(_SCENE, one), make.apply(_SCENE, two)))
    sets = make.set(left, keep=one), make.set(hops - left, keep=two)
    if kind == "logic":
        return call(rng.choice(("and", "or")), *(call("exist", part) for part in sets))
    return call(rng.choice(("equal", "greater", "less")), *(call("count", part) for part in sets))
