"""One function per task, from a `Job` to an `Example`."""

from dataclasses import dataclass
from random import Random

import numpy as np

from saccade.data.scenes.english import ask, refer, state
from saccade.data.scenes.execute import IllPosedError, execute
from saccade.data.scenes.plant import PlantError, plant
from saccade.data.scenes.program import Call, call, depth
from saccade.data.scenes.questions import ANSWERS_OF, PALETTES, Phraser, draw_kind, draw_question
from saccade.data.scenes.render import render
from saccade.data.scenes.sample import sample_scene
from saccade.data.scenes.scene import Example, Scene
from saccade.data.scenes.statements import draw_panel_statement, draw_statement
from saccade.errors import SaccadeError

MAX_WORDS = {"question": 40, "statement": 40, "description": 60, "caption": 40, "rationale": 48}
SCENE_TRIES = 60  # scenes tried for one pair of program and answer, so that no answer is given up for another
PROGRAM_TRIES = 20


@dataclass(frozen=True, slots=True)
class Options:
    """What a Source passes to the builders; see Source."""

    style: str
    min_depth: int
    max_depth: int
    num_objects: tuple[int, int]
    size_px: tuple[int, int] | None
    background: str | None
    occlusion: bool


@dataclass(frozen=True, slots=True)
class Job:
    """The two generators of one example: `rng` for words and programs, `array_rng` for scenes."""

    rng: Random
    array_rng: np.random.Generator
    options: Options

    @property
    def palette(self) -> dict[str, tuple[str, ...]]:
        return PALETTES[self.options.style]

    def depth(self) -> int:
        return self.rng.randint(self.options.min_depth, self.options.max_depth)

    def scene(self, least: int = 0, most: int = 10) -> Scene:
        """A random scene with at least `least` and at most `most` objects where the options allow it."""
        options = self.options
        if options.style == "nlvr":
            return sample_scene(self.array_rng, style="nlvr")
        low, high = options.num_objects
        low = max(low, min(high, least))
        return sample_scene(
            self.array_rng,
            num_objects=(low, max(low, min(high, most))),
            size_px=options.size_px,
            occlusion=options.occlusion,
            background=options.background,
        )


def fits(text: str, kind: str) -> bool:
    """Whether a text keeps to its length limit, in words."""
    return len(text.split()) <= MAX_WORDS[kind]


def planted(job: Job, program: Call, answer, palette=None) -> Scene | None:
    """A scene on which the program gives the answer, None if SCENE_TRIES scenes did not admit it."""
    least = (answer if type(answer) is int else 0) + depth(program)
    if program.op == "count" and not program.args[0].args:
        return job.scene(answer, answer)
    for _ in range(SCENE_TRIES):
        try:
            scene = plant(job.scene(least), program, answer, palette or job.palette, job.rng)
            if execute(program, scene) == answer:
                return scene
        except (PlantError, IllPosedError):
            continue
    return None


def answer_word(value) -> str:
    """A program's value as an answer: True -> "yes", 3 -> "3"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def draw_vqa(job: Job) -> tuple[str, Call, object, str, Scene]:
    """(kind, program, value, question, scene)."""
    rng = job.rng
    for _ in range(PROGRAM_TRIES):
        target = job.depth()
        kind = draw_kind(rng, target, job.options.style)
        program = draw_question(rng, kind, target, job.palette)
        text = ask(rng, program)
        value = rng.choice(answers(job, kind))
        if not fits(text, "question"):
            continue
        scene = planted(job, program, value)
        if scene is not None:
            return kind, program, value, text, scene
    raise SaccadeError(f"no question fits {job.options}: allow more objects or less depth")


def answers(job: Job, kind: str) -> tuple:
    """The answers of a kind that scenes of the chosen sizes can give."""
    least, most = job.options.num_objects
    if kind == "count_all":
        return tuple(range(least, min(most, 8) + 1))
    spare = {"count": 0, "count_union": 0, "count_related": 2}.get(kind)
    full = ANSWERS_OF[kind]
    return full if spare is None else tuple(n for n in full if n <= most - spare)


def build_vqa(job: Job) -> Example:
    kind, program, value, text, scene = draw_vqa(job)
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


def build_statement(job: Job) -> Example:
    rng = job.rng
    draw = draw_panel_statement if job.options.style == "nlvr" else draw_statement
    for _ in range(PROGRAM_TRIES):
        kind, program, palette = draw(rng, job.depth(), job.palette)
        text, value = state(rng, program), rng.random() < 0.5
        if not fits(text, "statement"):
            continue
        scene = planted(job, program, value, palette)
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
    raise SaccadeError(f"no statement fits {job.options}: allow more objects or less depth")


def build_ground(job: Job) -> Example:
    rng = job.rng
    for _ in range(PROGRAM_TRIES):
        anchor = Phraser(rng, job.palette).anchor(job.depth() - 1)
        text = refer(rng, anchor)
        if not fits(text, "question"):
            continue
        scene = planted(job, call("exist", anchor.args[0]), True)
        if scene is None:
            continue
        try:
            thing = scene.objects[execute(anchor, scene)]
        except IllPosedError:
            continue
        x0, y0, x1, y1 = thing.box_px
        w, h = scene.width_px, scene.height_px
        return Example(
            task="ground",
            image=render(scene),
            scene=scene,
            text=text,
            box=(x0 / w, y0 / h, x1 / w, y1 / h),
            program=anchor,
            kind="refer",
            depth=depth(anchor),
        )
    raise SaccadeError(f"no referring expression fits {job.options}: allow more objects or less depth")


BUILDERS = {"vqa": build_vqa, "statement": build_statement, "ground": build_ground}
STYLES_OF = {"vqa": ("world",), "statement": ("world", "nlvr"), "ground": ("world",)}
