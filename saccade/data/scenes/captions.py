"""Captions that are true, and the reader that checks them.

`facts` reads back every caption the grammar can say, and so also judges captions that a model wrote.
"""

import re
from functools import cache, lru_cache
from random import Random

from saccade.data.scenes import words
from saccade.data.scenes.english import article, noun, number_word, pick
from saccade.data.scenes.execute import IllPosedError, execute
from saccade.data.scenes.program import ATTRIBUTES, VALUES, Call, call
from saccade.data.scenes.scene import SHAPES, Scene, SceneObject
from saccade.errors import SaccadeError

_SCENE = call("scene")
_NAMEABLE = ("shape", "color", "size", "material")
_ENDS = {"row": "left", "first_left": "left", "column": "top", "first_top": "top"}


class UnreadableError(SaccadeError):
    """A text that is no caption of this grammar."""


def attributes(thing: SceneObject, names=_NAMEABLE) -> dict[str, str]:
    """{"color": "red", ...} of an object."""
    return {name: getattr(thing, name) for name in names}


def matching(scene: Scene, filters: dict[str, str]) -> list[int]:
    """Indices of the objects that have these attributes."""
    return [i for i, o in enumerate(scene.objects) if all(getattr(o, a) == v for a, v in filters.items())]


def distinguish(rng: Random, scene: Scene, index: int) -> dict[str, str] | None:
    """Few attributes, in random choice, that fit this object alone; None if all four fit another too."""
    names = [name for name in _NAMEABLE if name != "shape"]
    rng.shuffle(names)
    for number in range(len(names) + 1):
        filters = attributes(scene.objects[index], ("shape", *names[:number]))
        if len(matching(scene, filters)) == 1:
            return filters
    return None


def chain(base: Call, filters: dict[str, str]) -> Call:
    """`base` filtered on every attribute given."""
    for attribute in ATTRIBUTES:
        if attribute in filters:
            base = call("filter", base, attribute, filters[attribute])
    return base


def some_attributes(rng: Random, thing: SceneObject) -> dict[str, str]:
    """The object's shape and one or two more attributes."""
    return attributes(
        thing, ("shape", *rng.sample(("color", "size", "material", "color"), rng.choice((1, 2))))
    )


def caption(rng: Random, scene: Scene) -> tuple[str, str]:
    """(form, caption): a true sentence about a scene of at least two objects, by a randomly chosen form."""
    forms = ["including", "related", "related", "related_twice", "first_left", "first_top"]
    if len(scene.objects) <= 3:
        forms[-2:] = ["row", "column"]
    form = rng.choice(forms)
    slots = _fill(rng, form, scene)
    if slots is None:
        form, slots = "including", _fill(rng, "including", scene)
    text = pick(rng, words.CAPTIONS[form])
    for name, value in (slots or {}).items():
        text = text.replace("{" + name + "}", value)
    return form, text


def describe(rng: Random, scene: Scene) -> str:
    """Every object with all its attributes, from left to right: two different scenes never read alike."""
    things = [scene.objects[i] for i in in_order(scene, "left")]
    items = [article(noun(rng, attributes(thing), False)) for thing in things]
    return pick(rng, words.CAPTIONS["row"]).replace("{L}", listed(rng, items))


def in_order(scene: Scene, end: str) -> list[int]:
    """Indices from the left or from the top."""
    axis = 0 if end == "left" else 1
    return sorted(range(len(scene.objects)), key=lambda i: scene.objects[i].center_px[axis])


def listed(rng: Random, items: list[str]) -> str:
    """ "a, b and c"."""
    if len(items) == 1:
        return items[0]
    end = words.LIST_ENDS[0] if len(items) == 2 else pick(rng, words.LIST_ENDS)
    return ", ".join(items[:-1]) + end + items[-1]


def _fill(rng: Random, form: str, scene: Scene) -> dict[str, str] | None:
    if form == "including":
        return {"n": number_word(rng, len(scene.objects)), "L": _groups(rng, scene)}
    if form in _ENDS:
        order = in_order(scene, _ENDS[form])
        order = order[: rng.choice((2, 3))] if form.startswith("first") else order
        items = [article(noun(rng, some_attributes(rng, scene.objects[i]), False)) for i in order]
        return {"L": listed(rng, items), "n": number_word(rng, len(order))}
    first = _relation(rng, scene)
    if form == "related" or first is None:
        return first
    second = _relation(rng, scene)
    return second and {**first, "C": second["A"], "rel2": second["rel"], "D": second["B"]}


def _groups(rng: Random, scene: Scene) -> str:
    items = []
    order = rng.sample(range(len(scene.objects)), min(len(scene.objects), rng.choice((2, 2, 3))))
    told: list[dict] = []
    for i in order:
        filters = some_attributes(rng, scene.objects[i])
        found = matching(scene, filters)
        if any(set(found) & set(matching(scene, other)) for other in told):
            continue
        told.append(filters)
        phrase = noun(rng, filters, len(found) > 1)
        items.append(article(phrase) if len(found) == 1 else f"{words.NUMBERS[len(found)]} {phrase}")
    return listed(rng, items)


def _relation(rng: Random, scene: Scene) -> dict[str, str] | None:
    one, two = rng.sample(range(len(scene.objects)), 2)
    anchor = distinguish(rng, scene, two)
    if anchor is None:
        return None
    a, b = scene.objects[one].center_px, scene.objects[two].center_px
    across = "left" if a[0] < b[0] else "right"
    down = "above" if a[1] < b[1] else "below"
    # Say the clearer of the two relations.
    relation = across if abs(a[0] - b[0]) > abs(a[1] - b[1]) else down
    subject = article(noun(rng, some_attributes(rng, scene.objects[one]), False))
    return {"A": subject, "rel": pick(rng, words.RELATIONS[relation]), "B": f"the {noun(rng, anchor, False)}"}


# Reading back.


@cache
def _vocabulary() -> dict[str, tuple[str, str]]:
    """Adjective or singular noun -> (attribute, value)."""
    found = dict.fromkeys(words.NOUNS[""], ("", ""))
    for attribute in ("color", "size", "material"):
        for value in VALUES[attribute]:
            found.update((word, (attribute, value)) for word in words.ADJECTIVES[value])
    for shape in SHAPES:
        found.update((word, ("shape", shape)) for word in words.NOUNS[shape])
    return found


@cache
def _patterns() -> tuple[tuple[str, re.Pattern], ...]:
    relation = "|".join(sorted((p for row in words.RELATIONS.values() for p in row), key=len, reverse=True))
    kinds = {
        "n": r"\w+",
        "rel": relation,
        "rel2": relation,
        "L": ".+",
        "A": "an? [a-z -]+?",
        "C": "an? [a-z -]+?",
    }
    found = []
    for form, frames in words.CAPTIONS.items():
        for frame in frames:
            pattern = re.sub(
                r"\{(\w+)\}",
                lambda m: f"(?P<{m[1]}>{kinds.get(m[1], 'the [a-z -]+?')})",
                re.escape(frame.rstrip(".")).replace(r"\{", "{").replace(r"\}", "}"),
            )
            found.append((form, re.compile(pattern)))
    return tuple(found)


def _read_noun(text: str) -> tuple[int | str, dict[str, str]]:
    """("a", {"color": "red", "shape": "cube"}) of "a red cube"; a number instead of "a" before a plural."""
    head, *rest = text.split()
    if not rest:
        raise UnreadableError(f"{text!r}: expected an article or a number, then a noun")
    number: int | str = "the" if head == "the" else "a" if head in ("a", "an") else _read_number(head)
    if number not in ("the", "a"):
        if number == 1 or not rest[-1].endswith("s"):
            raise UnreadableError(f"{text!r}: a number from two needs a plural")
        rest[-1] = rest[-1][:-1]
    filters: dict[str, str] = {}
    for place, word in enumerate(rest):
        attribute, value = _vocabulary().get(word, (None, ""))
        is_noun = attribute in ("shape", "")
        if attribute is None or attribute in filters or is_noun != (place == len(rest) - 1):
            raise UnreadableError(f"{text!r}: {word!r} is not expected here")
        if attribute:
            filters[attribute] = value
    return number, filters


def _read_number(word: str) -> int:
    if word in words.NUMBERS:
        return words.NUMBERS.index(word)
    if word.isdigit():
        return int(word)
    raise UnreadableError(f"{word!r} is not a number")


def _read_list(text: str) -> list[tuple[int | str, dict[str, str]]]:
    return [_read_noun(item) for item in re.split(r", and | and |, ", text)]


def _read_relation(slots: dict, subject: str, relation: str, anchor: str) -> Call:
    direction = next(key for key, phrases in words.RELATIONS.items() if slots[relation] in phrases)
    the = call("unique", chain(_SCENE, _read_noun(slots[anchor])[1]))
    return call("exist", chain(call("relate", the, direction), _read_noun(slots[subject])[1]))


@cache
def _nth(end: str, number: int) -> Call:
    return call("nth", _SCENE, end, number)


def _read_row(form: str, slots: dict) -> list[Call]:
    items = _read_list(slots["L"])
    if any(number != "a" for number, _ in items):
        raise UnreadableError(f"{slots['L']!r}: a row lists its objects one by one")
    if form in ("row", "column"):
        found = [call("equal", call("count", _SCENE), call("number", len(items)))]
    elif _read_number(slots["n"]) != len(items):
        raise UnreadableError(f"{slots['n']} objects announced, {len(items)} listed")
    else:
        found = []
    end = _ENDS[form]
    return found + [call("exist", chain(_nth(end, k), filters)) for k, (_, filters) in enumerate(items, 1)]


def _read(form: str, slots: dict) -> list[Call]:
    if form in _ENDS:
        return _read_row(form, slots)
    if form != "including":
        found = [_read_relation(slots, "A", "rel", "B")]
        return found + ([_read_relation(slots, "C", "rel2", "D")] if form == "related_twice" else [])
    found = [call("equal", call("count", _SCENE), call("number", _read_number(slots["n"])))]
    for number, filters in _read_list(slots["L"]):
        group = chain(_SCENE, filters)
        if number == "the":
            raise UnreadableError(f"{slots['L']!r}: a list names new objects, with 'a' or a number")
        found.append(
            call("exist", group)
            if number == "a"
            else call("equal", call("count", group), call("number", number))
        )
    return found


@lru_cache(maxsize=256)  # one description is checked against several scenes
def facts(text: str) -> tuple[Call, ...]:
    """What a caption claims, as bool programs: it is true where all of them are.

    Raises: UnreadableError: not a caption of this grammar (case and the final stop do not matter).
    """
    text = " ".join(text.lower().split()).rstrip(".").rstrip()
    for form, pattern in _patterns():
        match = pattern.fullmatch(text)
        if match is None:
            continue
        try:
            return tuple(_read(form, match.groupdict()))
        except UnreadableError:
            continue  # another frame may fit the same words
    raise UnreadableError(f"not a caption I can check: {text!r}; see docs/language.md for the forms")


@cache
def _phrase() -> re.Pattern:
    """A noun with its adjectives."""
    nouns, adjectives = [], []
    for word, (attribute, _) in sorted(_vocabulary().items(), key=lambda entry: -len(entry[0])):
        (nouns if attribute in ("shape", "") else adjectives).append(re.escape(word))
    return re.compile(rf"\b(?:(?:{'|'.join(adjectives)}) )*(?:{'|'.join(nouns)})(?=s?\b)")


def mentions(text: str, scene: Scene) -> list[tuple[int, int, list[int]]]:
    """(start, end, indices): each noun phrase of a caption, in characters, and the objects that fit it.

    A noun that every object fits ("three objects") mentions none.
    """
    found = []
    for match in _phrase().finditer(text.lower()):
        named = (_vocabulary()[word] for word in match.group().split())
        filters = {attribute: value for attribute, value in named if attribute}
        if filters:
            found.append((*match.span(), matching(scene, filters)))
    return found


def caption_is_true(text: str, scene: Scene) -> bool:
    """Whether every fact of a caption holds; False for a text that `facts` cannot read."""
    try:
        return all(execute(fact, scene) for fact in facts(text))
    except (UnreadableError, IllPosedError):
        return False
