"""What one example is made from: two generators and the options; and scenes planted to order."""

import re
from dataclasses import dataclass
from random import Random

import numpy as np

from saccade.data.scenes.execute import IllPosedError, execute
from saccade.data.scenes.nlvr import sample_nlvr
from saccade.data.scenes.plant import PlantError, plant
from saccade.data.scenes.program import Call, depth
from saccade.data.scenes.questions import MAX_DEPTH, PALETTES
from saccade.data.scenes.sample import sample_scene
from saccade.data.scenes.scene import Scene

# In words and punctuation marks, each part of a hyphenated word one: what a tokenizer makes of a text.
MAX_PIECES = {"question": 48, "statement": 48, "description": 60, "caption": 48, "rationale": 60}
_PIECE = re.compile(r"\w+|[^\w\s]")
DEPTHS = tuple(range(1, MAX_DEPTH + 1))
PLANT_TRIES = 4  # on one layout
SCENE_TRIES = 30  # layouts for one pair of program and answer, so that no answer is given up for another


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

    def depth(self, depths: tuple[int, ...] = DEPTHS) -> int:
        """One of `depths` within the range of the options; the nearest to it if none is."""
        least, most = self.options.min_depth, self.options.max_depth
        within = [depth for depth in depths if least <= depth <= most]
        return self.rng.choice(within or [min(depths, key=lambda depth: abs(depth - least))])

    def scene(self, least: int = 0, most: int = 10, *, shapes: bool = False, towers: bool = False) -> Scene:
        """A random scene with at least `least` and at most `most` objects where the options allow it.

        With `shapes`, an nlvr scene is none of towers, whose blocks must stay squares; with `towers`, it is.
        """
        options = self.options
        if towers:
            return sample_nlvr(self.array_rng, towers=True)
        if options.style == "nlvr":
            return sample_scene(
                self.array_rng, style="nlvr", num_objects=(min(least, 5), 8) if shapes else None
            )
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
    """Whether a text keeps to its length limit."""
    return len(_PIECE.findall(text)) <= MAX_PIECES[kind]


def planted(
    job: Job, program: Call, answer, palette: dict | None = None, *, towers: bool = False
) -> Scene | None:
    """A scene on which the program gives the answer, None if no layout tried admits it.

    Args:
        job: generators and options.
        program: any program; of type `object`, only that it names one object is asked for.
        answer: the value wanted; None for a program of type `object`.
        palette: values that may be planted; default: all of the style.
        towers: the scene must be three towers of blocks.
    """
    least = (answer if type(answer) is int else 0) + depth(program)
    if program.op == "count" and not program.args[0].args:
        return job.scene(answer, answer)
    shapes = job.options.style == "nlvr" and "shape" in str(program)
    for _ in range(SCENE_TRIES):
        layout = job.scene(least, shapes=shapes, towers=towers)
        for _ in range(PLANT_TRIES):
            try:
                scene = plant(layout, program, answer, palette or job.palette, job.rng)
                if execute(program, scene) == answer or program.type == "object":
                    return scene
            except (PlantError, IllPosedError):
                continue
    return None
