"""Programs put into English.

A noun phrase puts adjectives before the noun and at most one restriction after it; a restriction inside a
restriction always starts with "that" or "which", so each clause belongs to the noun right before it and a
sentence has one reading. The tables are in words.py; `lexicon()` is every word they can produce.
"""

import re
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from saccade.data.scenes import words
from saccade.data.scenes.program import ENDS, GROUP_OPS, VALUES, Call
from saccade.errors import SaccadeError


class UnsayableError(SaccadeError):
    """The grammar has no sentence for this program."""


@dataclass(slots=True)
class View:
    """A set program taken apart: filters (attribute -> value), what it restricts, and how it says so."""

    filters: dict[str, str]
    base: Call
    excluded: tuple[str, str] | None = None
    wall: str | None = None

    @property
    def restriction(self) -> str:
        """The postmodifier that says the base or the exclusion, or "" for a bare noun phrase."""
        if self.excluded:
            return "not"
        if self.wall:
            return "touching"
        return {"relate": "relate", "same": "same", "intersect": "both"}.get(self.base.op, "")


def view(program: Call) -> View:
    """Take a set program apart, outermost filters first."""
    seen = View({}, program)
    while True:
        op, args = seen.base.op, seen.base.args
        if op == "filter":
            seen.filters.setdefault(args[1], args[2])
        elif op == "exclude" and seen.excluded is None:
            seen.excluded = args[1:]
        elif op == "touching" and seen.wall is None:
            seen.wall = args[1]
        else:
            return seen
        seen.base = args[0]


def pick(rng: Random, options: tuple):
    """One of `options`, the first (plain) one more often."""
    return options[0] if len(options) == 1 or rng.random() < 0.4 else rng.choice(options)


@cache
def _pieces(frame: str) -> tuple:
    """("how many ", ("A", "many"), ...) of "how many {A:many} ..."."""
    parts = re.split(r"\{([^}]*)\}", frame)
    return tuple(part if i % 2 == 0 else (*part.split(":"), "")[:2] for i, part in enumerate(parts))


def number_word(rng: Random, number: int) -> str:
    """A number as a word, sometimes in digits."""
    return words.NUMBERS[number] if rng.random() < 0.7 and number < len(words.NUMBERS) else str(number)


def article(phrase: str) -> str:
    """ "an orange ball", "a red ball"."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def say(rng: Random, frame: str, slots: dict) -> str:
    """Fill a frame. Slots hold set programs (put into noun phrases) or finished words."""
    out = []
    for piece in _pieces(frame):
        if isinstance(piece, str):
            out.append(piece)
            continue
        name, form = piece
        if name == "F":
            out.append(noun_phrase(rng, slots["A"], form, restricted=False))
        elif name == "R":
            out.append(predicate(rng, slots["A"], form))
        elif isinstance(slots[name], Call):
            out.append(noun_phrase(rng, slots[name], slots["number"] if form == "n" else form))
        else:
            out.append(slots[name])
    return "".join(out)


def noun_phrase(
    rng: Random, program: Call, form: str, *, restricted: bool = True, inner: bool = False
) -> str:
    """The set `program` as a noun phrase.

    Args:
        rng: chooses among synonyms.
        program: a set program.
        form: "the", "a", "one" (no article) or "many".
        restricted: say what comes after the noun as well.
        inner: inside another phrase's restriction, where bare "left of ..." would be ambiguous.
    Raises: UnsayableError: a set the grammar has no words for.
    """
    seen = view(program)
    many = form == "many"
    if seen.base.op == "nth" and not seen.filters:
        group, end, number = seen.base.args
        phrase = pick(rng, words.END_FRAMES[end, number]).replace("{N}", noun_phrase(rng, group, "one"))
    else:
        if seen.base.op not in ("scene", "relate", "same", "intersect"):
            raise UnsayableError(f"no words for the set {program}: say union in a question of its own")
        phrase = noun(rng, seen.filters, many)
        if restricted and seen.restriction:
            frames = words.POSTMODIFIERS[seen.restriction]
            frame = frames[0] if inner else pick(rng, frames)
            that = rng.choice(("that", "which"))
            phrase += " " + _restrict(rng, seen, frame, f"{that} are" if many else f"{that} is", many)
    if form == "the":
        return f"the {phrase}"
    return article(phrase) if form == "a" else phrase


def predicate(rng: Random, program: Call, be: str) -> str:
    """What comes after the noun, as a predicate: "are left of the ball", or without a verb if `be` is ""."""
    seen = view(program)
    frame = words.PREDICATE_FRAMES[seen.restriction][0]
    return _restrict(rng, seen, frame, be, be == "are").strip()


def _restrict(rng: Random, seen: View, frame: str, that: str, many: bool) -> str:
    base = seen.base
    slots: dict[str, Any] = {"that": that, "be": that, "has": "have" if many else "has"}
    if seen.excluded:
        slots["v"] = value_predicate(rng, *seen.excluded)
    elif seen.wall:
        slots["wall"] = pick(rng, words.WALL_PHRASES[seen.wall])
    elif base.op == "same":
        slots["attr"] = pick(rng, words.ATTRIBUTE_NOUNS[base.args[1]])
        slots["X"] = base.args[0]
    elif base.op == "relate":
        slots["rel"] = pick(rng, words.RELATIONS[base.args[1]])
        slots["X"] = base.args[0]
    else:
        one, two = base.args
        if one.op != "relate" or two.op != "relate":
            raise UnsayableError(f"no words for the set {base}: only two relations can be joined by 'both'")
        slots |= {
            "rel": pick(rng, words.RELATIONS[one.args[1]]),
            "rel2": pick(rng, words.RELATIONS[two.args[1]]),
        }
        slots |= {"X": one.args[0], "Y": two.args[0]}
    out = []
    for piece in _pieces(frame):
        if isinstance(piece, str):
            out.append(piece)
        elif isinstance(slots[piece[0]], Call):
            out.append(noun_phrase(rng, slots[piece[0]].args[0], piece[1], inner=True))
        else:
            out.append(slots[piece[0]])
    return "".join(out)


def noun(rng: Random, filters: dict[str, str], many: bool) -> str:
    """Adjectives and noun: "large shiny red cubes"."""
    order = []
    material = pick(rng, words.ADJECTIVES[filters["material"]]) if "material" in filters else ""
    if "size" in filters:
        order.append(pick(rng, words.ADJECTIVES[filters["size"]]))
    if material in words.BEFORE_COLOR:
        order.append(material)
    if "color" in filters:
        order.append(pick(rng, words.ADJECTIVES[filters["color"]]))
    if material and material not in words.BEFORE_COLOR:
        order.append(material)
    order.append(pick(rng, words.NOUNS[filters.get("shape", "")]) + ("s" if many else ""))
    return " ".join(order)


def value_predicate(rng: Random, attribute: str, value: str) -> str:
    """A value after "is": "red", "made of glass", "a cube"."""
    if attribute == "shape":
        return article(pick(rng, words.NOUNS[value]))
    if attribute == "material":
        return pick(rng, words.PREDICATES[value])
    return pick(rng, words.ADJECTIVES[value])


def sentence_parts(program: Call) -> tuple[str, dict]:
    """Which table of frames says this bool, number or word, and the programs for its slots.

    Raises: UnsayableError: none does.
    """
    op, args = program.op, program.args
    if op == "count":
        seen = view(args[0])
        if seen.base.op == "union":
            return "count_union", dict(zip("AB", seen.base.args, strict=True))
        return ("count" if seen.filters or seen.restriction else "count_all"), {"A": args[0]}
    if op == "exist":
        if args[0].op == "union":
            return "exist_union", dict(zip("AB", args[0].args, strict=True))
        return "exist", {"A": args[0]}
    if op == "query":
        return f"query_{args[1]}", {"A": args[0].args[0]}
    if op == "is":
        return ("is_shape" if args[1] == "shape" else "is"), {"A": args[0].args[0], "value": args[1:]}
    if op == "same_attribute":
        key = "same_material" if args[2] == "material" else "same_attribute"
        return key, {"A": args[0].args[0], "B": args[1].args[0], "attribute": args[2]}
    if op == "not" and args[0].op == "exist":
        return "none", {"A": args[0].args[0]}
    if op in ("equal", "greater", "less", "at_least", "at_most") and args[0].op == "count":
        if args[1].op == "number":
            return f"{op}_number", {"A": args[0].args[0], "n": args[1].args[0]}
        return op, {"A": args[0].args[0], "B": args[1].args[0]}
    if op in ("and", "or") and args[0].op == "exist":
        if args[1].op == "exist":
            return op, {"A": args[0].args[0], "B": args[1].args[0]}
        rest = args[1].args[0].args[0]
        if args[1].op == "not" and rest.op == "exclude" and rest.args[0] == args[0].args[0]:
            return "all", {"A": args[0].args[0], "value": rest.args[1:]}
    raise UnsayableError(f"no sentence says {program}")


def ask(rng: Random, program: Call) -> str:
    """A question whose answer is the program's value. Raises: UnsayableError."""
    return _sentence(rng, program, words.QUESTIONS, {"count": "count_related", "exist": "exist_related"})


def state(rng: Random, program: Call, *, towers: bool = False) -> str:
    """A sentence that is true exactly where the bool program is; with `towers`, panels are called towers.

    Raises: UnsayableError.
    """
    if program.op in GROUP_OPS or any(arg.op == "count_groups" for arg in program.programs):
        return _state_panels(rng, program, towers)
    return _sentence(rng, program, words.STATEMENTS, {"exist": "related"})


def _sentence(rng: Random, program: Call, tables: dict, related: dict) -> str:
    key, slots = sentence_parts(program)
    if key in related and rng.random() < 0.5 and view(slots["A"]).restriction not in ("", "same"):
        key = related[key]
    frames = tables[key]
    if any(view(part).restriction for part in slots.values() if isinstance(part, Call)):
        frames = _ending_in_a_slot(tables.get(f"{key.removesuffix('_shape')}_long", frames))
    return say(rng, pick(rng, frames), _words_of(rng, slots))


@cache
def _ending_in_a_slot(frames: tuple[str, ...]) -> tuple[str, ...]:
    """The frames with no words after the last slot, where they would come late; or all, if there are none."""
    return tuple(frame for frame in frames if frame.rstrip("?.").endswith("}")) or frames


def _words_of(rng: Random, slots: dict) -> dict:
    if "n" in slots:
        slots["number"] = "one" if slots["n"] == 1 else "many"
        slots["n"] = number_word(rng, slots["n"])
    if "value" in slots:
        slots["v"] = value_predicate(rng, *slots["value"])
    if "attribute" in slots:
        slots["attr"] = pick(rng, words.ATTRIBUTE_NOUNS[slots["attribute"]])
    return slots


def _state_panels(rng: Random, program: Call, towers: bool) -> str:
    op, slots = program.op, {}
    if op in ("equal", "at_least"):
        counted, number = program.args
        op = {"equal": "exactly_groups", "at_least": "at_least_groups"}[op]
        forms = words.BOXES["one" if number.args[0] == 1 else "many"]
        slots = dict(zip(("boxes", "towers", "have", "be"), forms, strict=True))
        slots["n"] = number_word(rng, number.args[0])
        body = counted.args[0]
    else:
        body = program.args[0]
    slots["B"] = _body(rng, body)
    if towers:  # a tower is built of blocks, never of squares
        for word in (*words.NOUNS["square"], *words.NOUNS[""]):
            slots["B"] = slots["B"].replace(word, "block")
    frames = words.TOWER_STATEMENTS if towers else words.PANEL_STATEMENTS
    return say(rng, pick(rng, frames[op]), slots)


def _body(rng: Random, body: Call) -> str:
    op, args = body.op, body.args
    if op == "and" and args[1].op == "not" and args[1].args[0].args[0].op == "exclude":
        _, attribute, value = args[1].args[0].args[0].args
        slots = {"v": pick(rng, words.ADJECTIVES[value])} if attribute == "color" else {}
        return say(rng, pick(rng, words.PANEL_BODIES["only"]), slots)
    if op == "and":
        slots = {"B": _body(rng, args[0]), "C": _body(rng, args[1])}
    elif op == "exist" and view(args[0]).base.op == "nth":
        seen = view(args[0])
        group, end, _ = seen.base.args
        for attribute, value in seen.filters.items():
            group = Call("filter", (group, attribute, value))
        op, slots = "placed", {"A": group, "end": pick(rng, words.TOWER_ENDS[end])}
    elif op == "exist":
        slots = {"A": args[0]}
    elif op == "not":
        op, slots = "none", {"A": args[0].args[0]}
    elif args[0].op == "distinct":
        op, slots = (
            ("one_color" if args[1].args[0] == 1 else "colors"),
            {"n": number_word(rng, args[1].args[0])},
        )
    else:
        slots = _words_of(rng, {"A": args[0].args[0], "n": args[1].args[0]})
    return say(rng, pick(rng, words.PANEL_BODIES[op]), slots)


@cache
def lexicon() -> tuple[str, ...]:
    """Every lower-case word the grammar can produce, sorted; digits included."""
    found: set[str] = set(map(str, range(11)))
    extra = ("a", "an", "the", "that", "which", "is", "are", "has", "have", "yes", "no", "true", "false")
    stack: list = [extra, VALUES, ENDS, *(table for name, table in vars(words).items() if name.isupper())]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            found.update(re.findall(r"[a-z0-9-]+", re.sub(r"\{[^}]*\}", " ", item)))
        elif isinstance(item, dict):
            stack.extend([*item.values(), *(key for key in item if key in words.ADJECTIVES)])
        else:
            stack.extend(item)
    found.update(f"{word}s" for nouns in words.NOUNS.values() for word in nouns)
    return tuple(sorted(found))


def refer(rng: Random, anchor: Call) -> str:
    """A referring expression for a `unique(...)` program: "the red ball left of the cube"."""
    return noun_phrase(rng, anchor.args[0], "the")
