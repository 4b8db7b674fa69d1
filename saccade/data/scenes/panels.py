"""Statements of NLVR pictures in the words of its writers, with programs: pretraining for `sentences`.

source = PanelStatements(seed=0)
source[7].text, source[7].program
"""

from functools import cache
from random import Random

import numpy as np

from saccade.data.scenes.draft import PlantError
from saccade.data.scenes.execute import IllPosedError, execute
from saccade.data.scenes.nlvr import sample_nlvr
from saccade.data.scenes.panel_writer import draw
from saccade.data.scenes.plant import plant
from saccade.data.scenes.program import Call, depth
from saccade.data.scenes.render import NLVR_PANEL_X_PX, render
from saccade.data.scenes.scene import NLVR_COLORS, NLVR_SHAPES, Example, Scene
from saccade.data.text import lexicon_of
from saccade.errors import SaccadeError

_LAYOUTS, _SENTENCES = 40, 20  # tried before another sentence is drawn; sentences before it is an error
_TOWERS = 0.55
# What touches a wall is 0 px from it, and 4 at most where it does so "closely"; `touching` allows 1. Pictures
# with objects at distances where these differ are not drawn.
_UNCLEAR_PX = {False: (1,), True: (2, 3, 4)}


def is_clear(scene: Scene, closely: bool) -> bool:
    """Whether no object's distance from a wall is one at which `touching` and writers differ.

    Args: closely: the sentence says "closely touching".
    """
    for item in scene.objects:
        left = NLVR_PANEL_X_PX[item.group]
        x0, y0, x1, y1 = item.box_px
        if any(gap in _UNCLEAR_PX[closely] for gap in (x0 - left, left + 100 - x1, y0, 100 - y1)):
            return False
    return True


@cache
def panel_lexicon() -> tuple[str, ...]:
    """The words that these statements are made of, sorted."""
    rng = Random(0)
    return lexicon_of(draw(rng, towers)[0] for _ in range(3000) for towers in (False, True))


class PanelStatements:
    """Random access to 2**31 - 1 statements with programs; example i depends on seed and i alone.

    Args: seed: any whole number from 0.
    """

    def __init__(self, seed: int = 0):
        if seed < 0:
            raise SaccadeError(f"seed={seed}: use 0 or more")
        self.seed = seed

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index}: a source has examples 0 to {len(self) - 1}")
        rng = Random(f"panels-{self.seed}-{index}")
        layouts = np.random.default_rng(rng.getrandbits(64))
        for _ in range(_SENTENCES):
            towers = rng.random() < _TOWERS
            text, program = draw(rng, towers)
            value = rng.random() < 0.5
            scene = _scene(rng, layouts, program, value, towers, "closely" in text)
            if scene is not None:
                answer = "true" if value else "false"
                return Example(
                    task="statement",
                    image=render(scene),
                    scene=scene,
                    text=text,
                    answer=answer,
                    program=program,
                    kind="tower" if towers else "box",
                    depth=depth(program),
                )
        raise SaccadeError(f"no statement of {_SENTENCES} has a picture: seed={self.seed}, index {index}")


def _scene(rng: Random, layouts, program: Call, value: bool, towers: bool, closely: bool) -> Scene | None:
    """A picture on which the program has the value: planted, or drawn until one has it."""
    palette: dict[str, tuple[str, ...]] = (
        {"color": NLVR_COLORS} if towers else {"color": NLVR_COLORS, "shape": NLVR_SHAPES}
    )
    for _ in range(_LAYOUTS):
        layout = sample_nlvr(layouts, towers=towers)
        if not towers and not is_clear(layout, closely):
            continue
        if rng.random() < 0.8:
            try:
                planted = plant(layout, program, value, palette, rng)
                if execute(program, planted) == value:
                    return planted
            except (PlantError, IllPosedError):
                pass
        if execute(program, layout) == value:
            return layout
    return None
