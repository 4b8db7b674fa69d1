"""The steps that lead to an answer, in a few plain words, from the program's trace."""

from random import Random

from saccade.data.scenes import words
from saccade.data.scenes.captions import attributes
from saccade.data.scenes.english import noun, value_predicate, view
from saccade.data.scenes.execute import trace
from saccade.data.scenes.program import Call
from saccade.data.scenes.scene import Scene


class _Plain(Random):
    """Stands in for a random generator: always the first, plain wording."""

    def random(self) -> float:
        return 0.0

    def choice(self, seq):
        return seq[0]


_PLAIN = _Plain()


def rationale(program: Call, scene: Scene, answer: str) -> str:
    """Intermediate results, then the answer: "blue ball: large metal; left of it, cubes: 1; so 1".

    An object is told by the attributes that its phrase leaves out, a set by its number of members.
    Raises: IllPosedError: the program does not fit the scene.
    """
    values = dict(trace(program, scene))
    steps: list[str] = []
    _explain(program, values, scene, steps)
    return "; ".join([*steps, words.STEPS["end"].replace("{answer}", answer)])


def _explain(program: Call, values: dict, scene: Scene, steps: list[str]) -> None:
    """Append the steps of every set and object in the program, innermost first."""
    if program.op == "unique":
        _explain_set(program.args[0], values, scene, steps, values[program])
    elif program.type == "set":
        _explain_set(program, values, scene, steps, None)
    else:
        for part in program.programs:
            _explain(part, values, scene, steps)


def _explain_set(program: Call, values: dict, scene: Scene, steps: list[str], thing: int | None) -> None:
    seen = view(program)
    base = seen.base
    if base.op == "union":
        for part in base.programs:
            _explain(part, values, scene, steps)
        return
    if base.op == "nth" and base.args[0].args:
        steps.append(f"{noun(_PLAIN, view(base.args[0]).filters, True)}: {len(values[base.args[0]])}")
    for part in base.programs if base.op != "nth" else ():
        for anchor in part.programs if part.op == "relate" else (part,):
            _explain(anchor, values, scene, steps)
    head = noun(_PLAIN, seen.filters, thing is None)
    where = _where(base)
    if seen.excluded:
        where = words.STEPS["exclude"].replace("{v}", value_predicate(_PLAIN, *seen.excluded))
    result = str(len(values[program])) if thing is None else _rest(scene.objects[thing], seen.filters)
    steps.append(f"{where}, {head}: {result}" if where else f"{head}: {result}")


def _where(base: Call) -> str:
    if base.op == "relate":
        return words.STEP_RELATIONS[base.args[1]]
    if base.op == "same":
        return words.STEPS["same"].replace("{attr}", words.ATTRIBUTE_NOUNS[base.args[1]][0])
    if base.op == "nth":
        return words.STEPS["nth"].replace("{k}", words.ORDINALS[base.args[2]]).replace("{end}", base.args[1])
    return words.STEPS["intersect"] if base.op == "intersect" else ""


def _rest(thing, told: dict[str, str]) -> str:
    """What a phrase with the attributes `told` leaves open: "large metal"."""
    left = {name: value for name, value in attributes(thing).items() if name not in told}
    phrase = noun(_PLAIN, left, False)
    return phrase if "shape" in left or not left else phrase.rsplit(" ", 1)[0]
