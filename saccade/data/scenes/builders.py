"""One function per task, from a `Job` to an `Example`."""

from saccade.data.scenes.captions import attributes, caption, caption_is_true, describe, distinguish
from saccade.data.scenes.dialogue import draw_dialogue
from saccade.data.scenes.edit import edit_scene
from saccade.data.scenes.english import ask, noun, refer, state
from saccade.data.scenes.execute import execute
from saccade.data.scenes.job import DEPTHS, Job, fits, planted
from saccade.data.scenes.program import Call, call, depth
from saccade.data.scenes.questions import ANSWERS_OF, Phraser, draw_kind, draw_question, is_consistent
from saccade.data.scenes.rationale import rationale
from saccade.data.scenes.render import render
from saccade.data.scenes.scene import Example, Scene, SceneObject
from saccade.data.scenes.statements import PANEL_DEPTHS, draw_panel_statement, draw_statement
from saccade.errors import SaccadeError

PROGRAM_TRIES = 20
DESCRIBED_OBJECTS = (3, 6)
TWIN_SHARE = 0.7  # of wrong pictures in `match`; the rest show another scene altogether


def answer_word(value) -> str:
    """A program's value as an answer: True -> "yes", 3 -> "3"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def answers(job: Job, kind: str) -> tuple:
    """The answers of a kind that scenes of the chosen sizes can give."""
    least, most = job.options.num_objects
    if kind == "count_all":
        return tuple(range(least, min(most, 8) + 1))
    spare = {"count": 0, "count_union": 0, "count_related": 2}.get(kind)
    full = ANSWERS_OF[kind]
    return full if spare is None else tuple(n for n in full if n <= most - spare)


def _give_up(job: Job, what: str) -> SaccadeError:
    return SaccadeError(f"no {what} fits {job.options}: allow more objects or less depth")


def _box(scene: Scene, thing: SceneObject) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = thing.box_px
    return x0 / scene.width_px, y0 / scene.height_px, x1 / scene.width_px, y1 / scene.height_px


def _question(job: Job) -> tuple[str, Call, object, str, Scene]:
    """(kind, program, value, question, scene): the first three drawn without a look at any scene."""
    rng = job.rng
    for _ in range(PROGRAM_TRIES):
        target = job.depth()
        kind = draw_kind(rng, target)
        program = draw_question(rng, kind, target, job.palette)
        text, value = ask(rng, program), rng.choice(answers(job, kind))
        scene = planted(job, program, value) if fits(text, "question") else None
        if scene is not None:
            return kind, program, value, text, scene
    raise _give_up(job, "question")


def build_vqa(job: Job) -> Example:
    kind, program, value, text, scene = _question(job)
    return Example(
        task="vqa",
        image=render(scene),
        scene=scene,
        text=text,
        answer=answer_word(value),
        program=program,
        kind=kind,
        depth=depth(program),
    )


def build_rationale(job: Job) -> Example:
    for _ in range(PROGRAM_TRIES):
        kind, program, value, text, scene = _question(job)
        answer = answer_word(value)
        target = rationale(program, scene, answer)
        if fits(target, "rationale"):
            return Example(
                task="rationale",
                image=render(scene),
                scene=scene,
                text=text,
                answer=answer,
                target=target,
                program=program,
                kind=kind,
                depth=depth(program),
            )
    raise _give_up(job, "rationale")


def build_statement(job: Job) -> Example:
    rng = job.rng
    panels = job.options.style == "nlvr"
    draw, depths = (draw_panel_statement, PANEL_DEPTHS) if panels else (draw_statement, DEPTHS)
    for _ in range(PROGRAM_TRIES):
        kind, program, palette = draw(rng, job.depth(depths), job.palette)
        towers = kind.startswith("tower_")
        text, value = state(rng, program, towers=towers), rng.random() < 0.5
        scene = planted(job, program, value, palette, towers=towers) if fits(text, "statement") else None
        if scene is not None:
            return Example(
                task="statement",
                image=render(scene),
                scene=scene,
                text=text,
                answer="true" if value else "false",
                program=program,
                kind=kind,
                depth=depth(program),
            )
    raise _give_up(job, "statement")


def build_ground(job: Job) -> Example:
    rng = job.rng
    for _ in range(PROGRAM_TRIES):
        anchor = Phraser(rng, job.palette).anchor(job.depth() - 1)
        text = refer(rng, anchor)
        scene = planted(job, anchor, None) if is_consistent(anchor) and fits(text, "question") else None
        if scene is not None:
            thing = scene.objects[execute(anchor, scene)]
            return Example(
                task="ground",
                image=render(scene),
                scene=scene,
                text=text,
                box=_box(scene, thing),
                program=anchor,
                kind="refer",
                depth=depth(anchor),
            )
    raise _give_up(job, "referring expression")


def build_caption(job: Job) -> Example:
    for _ in range(PROGRAM_TRIES):
        scene = job.scene()
        kind, target = caption(job.rng, scene)
        if fits(target, "caption"):
            hops = 2 if kind in ("related", "related_twice") else 1
            return Example(
                task="caption", image=render(scene), scene=scene, target=target, kind=kind, depth=hops
            )
    raise _give_up(job, "caption")


def _twins(job: Job) -> tuple[Scene, Scene, str, str]:
    """Two scenes one edit apart, in random order, and a description of each that is false of the other."""
    for _ in range(PROGRAM_TRIES):
        scene = job.scene(*DESCRIBED_OBJECTS)
        pair = [scene, edit_scene(job.array_rng, scene)]
        job.rng.shuffle(pair)
        one, two = (describe(job.rng, scene) for scene in pair)
        if not (fits(one, "description") and fits(two, "description")):
            continue
        if not (caption_is_true(one, pair[1]) or caption_is_true(two, pair[0])):
            return pair[0], pair[1], one, two
    raise _give_up(job, "pair of descriptions")


def build_retrieve(job: Job) -> Example:
    *scenes, one, two = _twins(job)
    pictures = [
        Example(task="retrieve", image=render(scene), scene=scene, text=text, kind="describe", depth=1)
        for scene, text in zip(scenes, (one, two), strict=True)
    ]
    values = {
        name: getattr(pictures[0], name) for name in ("task", "image", "scene", "text", "kind", "depth")
    }
    return Example(**values, pair=pictures[1])


def build_match(job: Job) -> Example:
    """A description with its own picture or with another; right and wrong texts are drawn alike."""
    rng = job.rng
    kind, (shown, other, text, wrong) = "twin", _twins(job)
    if rng.random() >= TWIN_SHARE:
        kind = "other"
        other, _, wrong, _ = _twins(job)
    value = rng.random() < 0.5
    text, other_text = (text, wrong) if value else (wrong, text)
    if caption_is_true(text, shown) != value or caption_is_true(other_text, shown) == value:
        return build_match(job)  # two unrelated scenes that read alike: practically never
    answer = "true" if value else "false"
    return Example(
        task="match",
        image=render(shown),
        scene=shown,
        text=text,
        answer=answer,
        kind=kind,
        depth=1,
        described=shown if value else other,
        other_text=other_text,
    )


def build_region(job: Job) -> Example:
    """Several objects, each with a phrase that fits it alone, or all its attributes if none does."""
    rng, scene = job.rng, job.scene()
    regions = []
    for i in sorted(rng.sample(range(len(scene.objects)), rng.randint(2, min(5, len(scene.objects))))):
        thing = scene.objects[i]
        filters = distinguish(rng, scene, i) or attributes(thing)
        regions.append((f"the {noun(rng, filters, False)}", _box(scene, thing)))
    return Example(
        task="region", image=render(scene), scene=scene, kind="region", depth=1, regions=tuple(regions)
    )


def build_dialogue(job: Job) -> Example:
    rng = job.rng
    for _ in range(PROGRAM_TRIES):
        said = draw_dialogue(rng, job.palette, rng.randint(1, 3))
        kind, text, program = said[-1]
        value = rng.choice(_dialogue_answers(kind))
        scene = planted(job, program, value)
        if scene is None or not _is_answerable(said, scene):
            continue
        turns = tuple((question, answer_word(execute(part, scene))) for _, question, part in said[:-1])
        return Example(
            task="dialogue",
            image=render(scene),
            scene=scene,
            text=text,
            answer=answer_word(value),
            program=program,
            kind=kind,
            depth=depth(program),
            turns=turns,
        )
    raise _give_up(job, "dialogue")


def _dialogue_answers(kind: str) -> tuple:
    if kind in ANSWERS_OF:
        return ANSWERS_OF[kind][:4] if kind == "count_related" else ANSWERS_OF[kind]
    return (0, 1, 2, 3)


def _is_answerable(said: list, scene: Scene) -> bool:
    """ "it" needs one object and "them" at least two, as the opening's answer shows."""
    opening = said[0][2]
    found = execute(call("count", opening.args[0]), scene)
    return found == 1 if opening.op == "exist" else found >= 2


BUILDERS = {
    "vqa": build_vqa,
    "statement": build_statement,
    "caption": build_caption,
    "rationale": build_rationale,
    "ground": build_ground,
    "match": build_match,
    "retrieve": build_retrieve,
    "region": build_region,
    "dialogue": build_dialogue,
}
STYLES_OF = {task: ("world", "nlvr") if task == "statement" else ("world",) for task in BUILDERS}
