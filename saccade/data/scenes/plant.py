"""Change a scene's attributes until a program gives the answer wanted.

Why: a question sampled to fit a scene tells its answer (three adjectives mean a small count). Here question
and answer are drawn first, independently, and the scene is made to fit: the text says nothing of the answer.

The layout stays: objects keep their centres, and change shape, colour, size and material. Anchors ("the red
ball left of ...") are settled from the inside out, then the answer; the caller checks the finished scene by
running the program, so a plan that defeats itself costs a retry, never a wrong label.
"""

from collections.abc import Sequence
from random import Random

from saccade.data.scenes.draft import Draft, PlantError
from saccade.data.scenes.execute import AXES, IllPosedError, walls_touched
from saccade.data.scenes.program import COMPARISONS, Call
from saccade.data.scenes.scene import Scene

MAX_COUNT = 5  # "how many" has answers 0..5 where attributes alone decide,
MAX_RELATED_COUNT = 4  # and 0..4 where a relation leaves fewer candidates


def plant(scene: Scene, program: Call, answer, palette: dict[str, tuple[str, ...]], rng: Random) -> Scene:
    """A scene with `scene`'s layout on which `program` was meant to give `answer`: run it to be sure.

    Raises: PlantError: this layout does not admit it.
    """
    draft = Draft(scene, palette, rng)
    try:
        _distract(draft, program)
        _achieve(draft, program, answer, draft.everything)
    except IllPosedError as error:
        raise PlantError from error
    return draft.finish()


def _recipe(draft: Draft, program: Call, scope: tuple) -> tuple[tuple, list]:
    """(candidates, needs): a candidate that meets all needs (attribute, value, is or is not) is a member."""
    op, args = program.op, program.args
    if op in ("filter", "exclude"):
        candidates, needs = _recipe(draft, args[0], scope)
        return candidates, [*needs, (args[1], args[2], op == "filter")]
    if op == "touching":
        candidates, needs = _recipe(draft, args[0], scope)
        return tuple(i for i in candidates if args[1] in walls_touched(draft.objects[i], draft)), needs
    if op == "same":
        anchor = draft.value(args[0], scope)
        value = getattr(draft.objects[anchor], args[1])
        draft.objects[anchor].locked.add(args[1])
        return tuple(i for i in scope if i != anchor), [(args[1], value, True)]
    if op == "union":
        return _recipe(draft, draft.rng.choice(args), scope)
    return draft.value(program, scope), []


def _resize(draft: Draft, program: Call, size: int, scope: tuple, has_room=None) -> tuple:
    """Change attributes until the set has `size` members, all of them accepted by `has_room`.

    Returns: (members, candidates, needs), the last two as in `_recipe`; all empty for the n-th of a set.
    """
    _settle(draft, program, scope, size, has_room, exact=program.op == "relate")
    if program.op == "nth":
        _resize_at_least(draft, program.args[0], program.args[2], scope)
        return (), (), ()
    base = program
    while base.op in ("filter", "exclude", "touching"):
        base = base.args[0]
    candidates, needs = _recipe(draft, program, scope)
    # Else members may come from elsewhere than the candidates.
    is_closed = base.op not in ("union", "nth")
    for _ in range(16):
        inside = _matching(draft, candidates, needs) if is_closed else draft.value(program, scope)
        misplaced = [i for i in inside if not has_room(i)] if has_room else ()
        if len(inside) == size and not misplaced:
            break
        if base.op == "union":  # either side will do, another each time
            candidates, needs = _recipe(draft, program, scope)
        if misplaced or len(inside) > size:
            _leave(draft, draft.rng.choice(misplaced or inside), needs)
        else:
            _join(draft, [i for i in candidates if i not in inside and (not has_room or has_room(i))], needs)
    else:
        raise PlantError
    if base.op != "union":
        fixed = [attribute for attribute, _, _ in needs]
        for i in inside:
            draft.objects[i].locked.update(fixed)
        if needs:
            _set_decoys(draft, [i for i in scope if i not in candidates], needs)
    return inside, candidates, needs


def _set_decoys(draft: Draft, strangers: list, needs: list) -> None:
    """Objects that meet all needs but stand elsewhere: else attributes alone tell what is left of X."""
    number = draft.rng.choice((0, 1, 1, 2))
    for i in draft.rng.sample(strangers, min(number, len(strangers))):
        values = {attribute: value for attribute, value, same in needs if same}
        for attribute, value, same in needs:
            if not same and getattr(draft.objects[i], attribute) == value:
                values[attribute] = draft.other(attribute, value)
        draft.change(i, values, lock=False)  # where there is room


def _matching(draft: Draft, found: Sequence[int], needs: Sequence[tuple]) -> Sequence[int]:
    for attribute, value, same in needs:
        found = [i for i in found if (getattr(draft.objects[i], attribute) == value) == same]
    return found


def _resize_at_least(draft: Draft, program: Call, size: int, scope: tuple) -> None:
    found = len(draft.value(program, scope))
    if found < size:
        _resize(draft, program, size + draft.rng.randint(0, 1), scope)


def _join(draft: Draft, candidates: list, needs: list) -> None:
    if not candidates or not needs:
        raise PlantError
    draft.rng.shuffle(candidates)
    for i in candidates:
        values = {}
        for attribute, value, same in needs:
            if same:
                values[attribute] = value
            elif getattr(draft.objects[i], attribute) == value:
                values[attribute] = draft.other(attribute, value)
        if draft.change(i, values):
            return
    raise PlantError


def _leave(draft: Draft, i: int, needs: list) -> None:
    free = [need for need in needs if need[0] not in draft.objects[i].locked]
    ways = [need for need in free if not need[2]] or free
    draft.rng.shuffle(ways)
    for attribute, value, same in ways:
        if draft.change(i, {attribute: draft.other(attribute, value) if same else value}, lock=False):
            return
    raise PlantError


def _settle(
    draft: Draft, program: Call, scope: tuple, size: int = 1, accepts=None, *, exact: bool = False
) -> None:
    """Make every "the ..." inside the program name exactly one object, inner ones first.

    What "left of the ..." refers to is an object with at least `size` others on its left, of those that
    `accepts` is true of, where there is one; with `exact`, one with neither fewer nor more.
    """
    while program.op in ("filter", "exclude"):
        program = program.args[0]
    if program.op == "unique":
        _settle_anchor(draft, program, scope)
    elif program.op == "relate":
        anchor, direction = program.args
        axis, sign = AXES[direction]
        places = {i: sign * draft.run.doubled_center(i, axis) for i in scope}
        along = sorted([place for i, place in places.items() if not accepts or accepts(i)], reverse=True)
        if len(along) <= size if exact else not along:
            raise PlantError
        if exact:
            _settle_anchor(draft, anchor, scope, lambda i: places[i] == along[size])
        else:
            nearest = along[min(max(size, 1), len(along)) - 1]
            _settle_anchor(draft, anchor, scope, lambda i: places[i] < nearest)
    else:
        passed = (size, accepts) if program.op == "intersect" else ()
        for part in program.programs:
            _settle(draft, part, scope, *passed)


def _settle_anchor(draft: Draft, program: Call, scope: tuple, has_room=None) -> None:
    inside, rivals, needs = _resize(draft, program.args[0], 1, scope, has_room)
    if draft.num_groups > 1:
        return
    if not inside:
        inside = draft.value(program.args[0], scope)
    draft.known[id(program)] = inside[0]
    if needs:
        draft.sole.append((inside[0], rivals, needs))


def _distract(draft: Draft, program: Call) -> None:
    """Near misses: objects that match a phrase of the program in all but one attribute."""
    stack, rng = [program], draft.rng
    while stack and draft.objects:
        node = stack.pop()
        needs = []
        while node.op == "filter":
            needs.append(node.args[1:])
            node = node.args[0]
        stack.extend(node.programs)
        if len(needs) > 1 and rng.random() < 0.6:
            near = dict(needs)
            odd = rng.choice(tuple(near))
            near[odd] = draft.other(odd, near[odd])
            draft.change(rng.choice(draft.everything), near, lock=False)  # where there is room


def _achieve(draft: Draft, program: Call, answer, scope: tuple) -> None:
    op, args, rng = program.op, program.args, draft.rng
    if op == "count":
        _resize(draft, args[0], answer, scope)
    elif op == "exist":
        _achieve_exist(draft, args[0], answer, scope)
    elif op in ("query", "is"):
        value = answer if op == "query" else args[2] if answer else draft.other(args[1], args[2])
        _settle_anchor(draft, args[0], scope, lambda i: draft.admits(i, args[1], value))
        draft.set(draft.value(args[0], scope), args[1], value)
    elif op == "same_attribute":
        _settle_anchor(draft, args[0], scope)
        one = draft.objects[draft.value(args[0], scope)]
        one.locked.add(args[2])
        value = getattr(one, args[2])
        value = value if answer else draft.other(args[2], value)
        _settle_anchor(draft, args[1], scope, lambda i: draft.admits(i, args[2], value))
        draft.set(draft.value(args[1], scope), args[2], value)
    elif op == "unique":
        _settle(draft, program, scope)
    elif op == "not":
        _achieve(draft, args[0], not answer, scope)
    elif op in ("and", "or"):
        first, second = _split(program, answer, rng)
        _achieve(draft, args[0], first, scope)
        _achieve(draft, args[1], second, scope)
    elif op in COMPARISONS:
        _achieve_comparison(draft, program, answer, scope)
    elif op in ("every_group", "some_group", "no_group"):
        panels = draft.num_groups
        some = rng.randint(1, panels - 1)
        number = {
            "every_group": panels if answer else rng.randint(0, panels - 1),
            "some_group": rng.choice((1, 1, some, panels)) if answer else 0,
            "no_group": 0 if answer else rng.choice((1, 1, some)),
        }[op]
        _achieve_panels(draft, args[0], number)
    else:
        raise PlantError


def _achieve_exist(draft: Draft, program: Call, answer: bool, scope: tuple) -> None:
    _settle(draft, program, scope, 2)
    found = len(draft.value(program, scope))
    if bool(found) != answer:
        found = draft.rng.choice((1, 1, 1, 2)) if answer else 0
    _resize(draft, program, found, scope)


def _split(program: Call, answer: bool, rng: Random) -> tuple[bool, bool]:
    if (
        program.args[1].op == "not" and program.op == "and"
    ):  # "all ...", "only ...": presupposes the first half
        return True, answer
    if program.op == "and":
        return (True, True) if answer else rng.choice(((True, False), (False, True), (False, False)))
    return rng.choice(((True, False), (False, True), (True, True))) if answer else (False, False)


def _achieve_comparison(draft: Draft, program: Call, answer: bool, scope: tuple) -> None:
    op, (one, two), rng = program.op, program.args, draft.rng
    if two.op != "number":
        sizes = [range(min(4, _attainable(draft, arg.args[0], scope)) + 1) for arg in program.args]
        pairs = [(a, b) for a in sizes[0] for b in sizes[1] if _holds(op, a, b) == answer and abs(a - b) < 3]
        if not pairs:
            raise PlantError
        first, second = rng.choice(pairs)
        _resize(draft, one.args[0], first, scope)
        _resize(draft, two.args[0], second, scope)
        return
    limit = two.args[0]
    most = {"count_groups": draft.num_groups, "distinct": len(draft.palette["color"])}.get(one.op, MAX_COUNT)
    if one.op != "count_groups":
        most = min(most, _attainable(draft, one.args[0], scope))
    least = 1 if one.op == "distinct" else 0
    near = [n for n in range(least, most + 1) if _holds(op, n, limit) == answer and abs(n - limit) < 3]
    if not near:
        raise PlantError
    number = rng.choice(near)
    if one.op == "count":
        _resize(draft, one.args[0], number, scope)
    elif one.op == "count_groups":
        _achieve_panels(draft, one.args[0], number)
    else:
        _recolor(draft, one, number, scope)


def _attainable(draft: Draft, program: Call, scope: tuple) -> int:
    """How many members the set may get at most, as far as filters and locks tell."""
    number = len(scope)
    if program.op == "filter" and draft.num_groups > 1:
        needs = []
        while program.op == "filter":
            needs.append(program.args[1:])
            program = program.args[0]
        things = [draft.objects[i] for i in scope]
        number = sum(
            [all(getattr(t, name) == value or name not in t.locked for name, value in needs) for t in things]
        )
    return number


def _holds(op: str, a: int, b: int) -> bool:
    return {"equal": a == b, "greater": a > b, "less": a < b, "at_least": a >= b, "at_most": a <= b}[op]


def _recolor(draft: Draft, program: Call, number: int, scope: tuple) -> None:
    """Give a set exactly `number` different values of an attribute."""
    inside, attribute = list(draft.value(program.args[0], scope)), program.args[1]
    if len(inside) < number:
        raise PlantError
    values = draft.rng.sample(draft.palette[attribute], number)
    draft.rng.shuffle(inside)
    for k, i in enumerate(inside):
        draft.set(i, attribute, values[k] if k < number else draft.rng.choice(values))


def _achieve_panels(draft: Draft, body: Call, number: int) -> None:
    """Make the body true of `number` panels, of those first of which it is so already."""
    scopes = [
        tuple([i for i in draft.everything if draft.objects[i].group == panel])
        for panel in draft.rng.sample(range(draft.num_groups), draft.num_groups)
    ]
    scopes.sort(key=lambda scope: not draft.value(body, scope))
    for rank, scope in enumerate(scopes):
        _achieve(draft, body, rank < number, scope)
