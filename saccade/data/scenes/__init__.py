"""The scene world: pictures whose whole truth is known, and language about them.

from saccade.data.scenes import Source
example = Source("vqa", split="train", seed=0)[7]
"""

from saccade.data.scenes.captions import caption_is_true, facts
from saccade.data.scenes.english import lexicon
from saccade.data.scenes.execute import IllPosedError, execute, trace
from saccade.data.scenes.program import Call, ProgramError, depth, parse
from saccade.data.scenes.questions import ANSWERS
from saccade.data.scenes.scene import Example, Scene, SceneObject
from saccade.data.scenes.tasks import SPLITS, STYLES, TASKS, Source, difficulty

__all__ = [
    "ANSWERS",
    "SPLITS",
    "STYLES",
    "TASKS",
    "Call",
    "Example",
    "IllPosedError",
    "ProgramError",
    "Scene",
    "SceneObject",
    "Source",
    "caption_is_true",
    "depth",
    "difficulty",
    "execute",
    "facts",
    "lexicon",
    "parse",
    "trace",
]
