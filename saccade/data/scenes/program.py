"""A small typed language for what can be asked of a scene.

A program is a tree of `Call(op, args)`. Its text form is ordinary function notation and reads back:
`parse(str(program)) == program`. Types are checked when a node is made, so a program that exists can run.

Types: `set` objects, `object` one of them, `int`, `bool`, `word` (an attribute's value). The remaining
argument kinds are literals: an attribute, a value, a direction, a wall, a number.

A quantifier over panels (`every_group` ...) takes a `bool` program, and runs it once per panel with
`scene()` meaning that panel alone.
"""

import re
from dataclasses import dataclass, field

from saccade.data.scenes.scene import COLORS, MATERIALS, NLVR_COLORS, NLVR_SHAPES, SHAPES, SIZES
from saccade.errors import SaccadeError

VALUES = {
    "color": tuple(dict.fromkeys(COLORS + NLVR_COLORS)),
    "shape": SHAPES + NLVR_SHAPES,
    "size": SIZES,
    "material": MATERIALS,
}
ATTRIBUTES = tuple(VALUES)
DIRECTIONS = ("left", "right", "above", "below")
ENDS = ("left", "right", "top", "bottom")
WALLS = ("left", "right", "top", "bottom", "any")

SIGNATURES: dict[str, tuple[tuple[str, ...], str]] = {
    "scene": ((), "set"),
    "filter": (("set", "attribute", "value"), "set"),
    "exclude": (("set", "attribute", "value"), "set"),
    "relate": (("object", "direction"), "set"),
    "same": (("object", "attribute"), "set"),
    "nth": (("set", "end", "number"), "set"),
    "touching": (("set", "wall"), "set"),
    "apart": (("set", "wall"), "set"),
    "on": (("set", "set"), "set"),
    "union": (("set", "set"), "set"),
    "intersect": (("set", "set"), "set"),
    "unique": (("set",), "object"),
    "count": (("set",), "int"),
    "distinct": (("set", "attribute"), "int"),
    "number": (("number",), "int"),
    "exist": (("set",), "bool"),
    "is": (("object", "attribute", "value"), "bool"),
    "same_attribute": (("object", "object", "attribute"), "bool"),
    "query": (("object", "attribute"), "word"),
    "equal": (("int", "int"), "bool"),
    "greater": (("int", "int"), "bool"),
    "less": (("int", "int"), "bool"),
    "at_least": (("int", "int"), "bool"),
    "at_most": (("int", "int"), "bool"),
    "and": (("bool", "bool"), "bool"),
    "or": (("bool", "bool"), "bool"),
    "not": (("bool",), "bool"),
    "every_group": (("bool",), "bool"),
    "some_group": (("bool",), "bool"),
    "no_group": (("bool",), "bool"),
    "count_groups": (("bool",), "int"),
}
GROUP_OPS = ("every_group", "some_group", "no_group", "count_groups")
COMPARISONS = ("equal", "greater", "less", "at_least", "at_most")
LITERALS = {
    "attribute": ATTRIBUTES,
    "direction": DIRECTIONS,
    "end": ENDS,
    "wall": WALLS,
}
_HOPS = frozenset(
    ("relate", "same", "nth", "on", "union", "intersect", "same_attribute", "and", "or", *GROUP_OPS)
)


class ProgramError(SaccadeError):
    """A program that means nothing: unknown op, wrong type, unknown word, or text that does not parse."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operation applied to arguments, type-checked when made.

    Args:
        op: a key of SIGNATURES.
        args: sub-programs and literals, as the signature says.
    Raises: ProgramError: names the op, the argument, what was given and what is expected.
    """

    op: str
    args: tuple = ()
    type: str = field(init=False, compare=False, repr=False)
    programs: tuple["Call", ...] = field(
        init=False, compare=False, repr=False
    )  # the arguments that are programs

    def __post_init__(self):
        if self.op not in SIGNATURES:
            raise ProgramError(f"unknown operation {self.op!r}: use one of {', '.join(SIGNATURES)}")
        kinds, result = SIGNATURES[self.op]
        if len(self.args) != len(kinds):
            raise ProgramError(
                f"{self.op} takes {len(kinds)} arguments ({', '.join(kinds)}), got {len(self.args)}"
            )
        programs = []
        for place, arg in enumerate(self.args):
            if isinstance(arg, Call) and arg.type == kinds[place]:
                programs.append(arg)
            else:
                _check(self.op, place, kinds[place], arg, self.args)
        object.__setattr__(self, "type", result)
        object.__setattr__(self, "programs", tuple(programs))

    def __str__(self) -> str:
        return f"{self.op}({','.join(map(str, self.args))})"


def _check(op: str, place: int, kind: str, arg, args: tuple) -> None:
    if kind == "number":
        if isinstance(arg, bool) or not isinstance(arg, int) or arg < 0:
            raise ProgramError(f"{op}: argument {place + 1} is {arg!r}, expected a number of 0 or more")
        return
    if kind == "value":
        expected = VALUES[args[place - 1]]
    elif kind in LITERALS:
        expected = LITERALS[kind]
    else:
        given = arg.type if isinstance(arg, Call) else repr(arg)
        if given != kind:
            raise ProgramError(f"{op}: argument {place + 1} is {given}, expected {kind}")
        return
    if not isinstance(arg, str) or arg not in expected:
        raise ProgramError(f"{op}: argument {place + 1} is {arg!r}, expected one of {', '.join(expected)}")


def call(op: str, *args) -> Call:
    """`Call(op, args)`, in the notation of the text form."""
    return Call(op, args)


def parse(text: str) -> Call:
    """Read the text form back.

    Raises: ProgramError: the text is not one whole, well-typed program.
    """
    tokens = re.findall(r"[a-z_]+|\d+|[(),]|\S", text)
    program, end = _parse(tokens, 0, text)
    if end != len(tokens) or not isinstance(program, Call):
        raise ProgramError(f"not a program: {text!r}; write e.g. count(filter(scene(),color,red))")
    return program


def _parse(tokens: list[str], at: int, text: str):
    problem = ProgramError(f"not a program: {text!r}; write e.g. count(filter(scene(),color,red))")
    if at >= len(tokens) or not tokens[at][0].isalnum():
        raise problem
    head, at = tokens[at], at + 1
    if head.isdigit():
        return int(head), at
    if at >= len(tokens) or tokens[at] != "(":
        return head, at
    args: list = []
    at += 1
    while at < len(tokens) and tokens[at] != ")":
        if args:
            if tokens[at] != ",":
                raise problem
            at += 1
        arg, at = _parse(tokens, at, text)
        args.append(arg)
    if at >= len(tokens):
        raise problem
    return Call(head, tuple(args)), at + 1


def depth(program: Call) -> int:
    """How many reasoning hops the program takes, 1 at least.

    1 for looking something up by its attributes and answering (filter, exclude, touching, apart, unique,
    then count,
    exist, query, is), and 1 more for each relate, same, nth, on, union, intersect, same_attribute, and, or,
    panel
    quantifier, and for each comparison of two computed numbers (comparing with a given number is free).
    """
    return 1 + _hops(program)


def _hops(program: Call) -> int:
    own = program.op in _HOPS
    if program.op in COMPARISONS:
        own = not any(arg.op in ("number", "count_groups") for arg in program.args)
    return int(own) + sum([_hops(arg) for arg in program.programs])
