"""Conversations about one picture: later questions say "it", "its" and "them" for what came before.

Each question is a program of its own, so every answer is executed, and the co-reference with it.
"""

from random import Random

from saccade.data.scenes import words
from saccade.data.scenes.english import noun, noun_phrase, pick, value_predicate, view
from saccade.data.scenes.program import DIRECTIONS, Call, call
from saccade.data.scenes.questions import Phraser, is_consistent

_SCENE = call("scene")
KINDS_ONE = (
    "query_color",
    "query_shape",
    "query_size",
    "query_material",
    "is",
    "count_related",
    "exist",
    "count_same",
)
KINDS_MANY = ("count_of_them", "count_them_related")


def draw_dialogue(rng: Random, palette: dict, turns: int) -> list[tuple[str, str, Call]]:
    """(kind, question, program) for each of `turns` + 1 questions; the last is the one to answer.

    The first names the topic; the others take up one object ("it") or a group ("them"), no attribute twice.
    """
    make = Phraser(rng, palette)
    if rng.random() < 0.25:
        return _about_group(make)
    filters = make.filters(1, 2)
    topic = make.apply(_SCENE, filters)
    said = [("exist", _opening(rng, "one", topic), call("exist", topic))]
    kinds, asked = list(KINDS_ONE), set(filters)
    while len(said) <= turns:
        kind = rng.choice(kinds)
        attribute = kind.partition("query_")[2]
        if kind in ("is", "count_same"):
            attribute = rng.choice([a for a in palette if a not in asked] or sorted(asked))
        if attribute in asked:
            kinds.remove(kind)
            continue
        turn = _follow_up(make, kind, call("unique", topic), attribute)
        if turn is None:
            continue
        if attribute and kind != "count_same":
            asked.add(attribute)
        said.append((kind, *turn))
        if kind in ("count_related", "exist", "count_same"):
            kinds = [other for other in kinds if other != kind]
    return said


def _opening(rng: Random, form: str, topic: Call) -> str:
    frame = pick(rng, words.OPENINGS[form])
    slot = frame[frame.index("{") + 3 : frame.index("}")]
    return frame.replace("{A:" + slot + "}", noun_phrase(rng, topic, slot))


def _follow_up(make: Phraser, kind: str, it: Call, attribute: str) -> tuple[str, Call] | None:
    rng, frame = make.rng, pick(make.rng, words.FOLLOW_UPS[kind])
    if kind.startswith("query"):
        return frame, call("query", it, attribute)
    if kind == "is":
        value = rng.choice(make.palette[attribute])
        return frame.replace("{v}", value_predicate(rng, attribute, value)), call("is", it, attribute, value)
    if kind == "count_same":
        frame = frame.replace("{attr}", pick(rng, words.ATTRIBUTE_NOUNS[attribute]))
        return frame, call("count", call("same", it, attribute))
    direction = rng.choice(DIRECTIONS)
    group = make.apply(
        call("relate", it, direction), {} if kind != "exist" and rng.random() < 0.3 else make.filters(1, 2)
    )
    program = call("exist" if kind == "exist" else "count", group)
    if not is_consistent(program):
        return None
    filters = view(group).filters
    for form in ("many", "one", "a"):
        if "{F:" + form + "}" in frame:
            named = (
                noun_phrase(rng, make.apply(_SCENE, filters), "a")
                if form == "a"
                else noun(rng, filters, form == "many")
            )
            frame = frame.replace("{F:" + form + "}", named)
    return frame.replace("{rel}", pick(rng, words.RELATIONS[direction])), program


def _about_group(make: Phraser) -> list[tuple[str, str, Call]]:
    rng = make.rng
    filters = make.filters(1, 1)
    topic = make.apply(_SCENE, filters)
    opening = ("count", _opening(rng, "many", topic), call("count", topic))
    while True:
        kind = rng.choice(KINDS_MANY)
        frame = pick(rng, words.FOLLOW_UPS[kind])
        if kind == "count_of_them":
            attribute = rng.choice([a for a in make.palette if a not in filters])
            value = rng.choice(make.palette[attribute])
            said = (
                noun(rng, {"shape": value}, True)
                if attribute == "shape"
                else value_predicate(rng, attribute, value)
            )
            program = call("count", call("filter", topic, attribute, value))
            return [opening, (kind, frame.replace("{v}", said), program)]
        anchor, direction = make.anchor(0), rng.choice(DIRECTIONS)
        program = call("count", make.apply(call("relate", anchor, direction), filters))
        if is_consistent(program):
            text = frame.replace("{rel}", pick(rng, words.RELATIONS[direction]))
            return [
                opening,
                (kind, text.replace("{B:the}", noun_phrase(rng, anchor.args[0], "the")), program),
            ]
