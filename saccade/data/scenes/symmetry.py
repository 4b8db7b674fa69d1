"""What may change in an NLVR picture and its sentence together without changing which of the two is right.

    kinds = allowed(sentence, towers)             # what this sentence bears
    symmetry = draw_symmetry(rng, kinds)
    symmetry.scene(scene), symmetry.text(sentence)

The order of the boxes never matters: every published example has all six (`nlvr.IMAGE_ORDERS`). Everything
else is refused unless each word of the sentence is known, so that no misspelt color keeps its old value.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from saccade.data.scenes.nlvr import IMAGE_ORDERS
from saccade.data.scenes.render import NLVR_PANEL_PX, NLVR_PANEL_X_PX
from saccade.data.scenes.scene import NLVR_COLORS, NLVR_SHAPES, Scene, SceneObject
from saccade.data.text import NUMBER_WORDS

KINDS = ("colors", "shapes", "mirror", "flip", "turn")

_SIDES = frozenset(("left", "right", "leftmost", "rightmost"))
# Up and down, or which of several comes first: no sentence with one of these is turned upside down. "on" is
# one of them ("a circle on a square"), and so is all that speaks of towers.
_UPRIGHT = frozenset(
    "top topmost bottom bottommost base bases above below bellow beneath under underneath over on upon "
    "roof floor ground up down upper lower higher highest lowest high low height heights tall taller "
    "tallest short shorter shortest level stack stacked stacks tower towers block blocks first second "
    "third fourth last middle order row rows column columns vertical horizontal".split()
)
# Sides are left and right to many writers: turning by a right angle moves them.
_LYING = frozenset("side sides line lines".split())
_ORDERED = frozenset("first second third fourth last next order".split())
_PLAIN = frozenset(
    "a all almost also among an and another any are as at atleast attach attached be being between big "
    "bigger biggest both box boxes but by can close closely color colored colors colour coloured colours "
    "contain containing contains corner corners count different directly do does each edge edges either "
    "equal even every exactly few fewer fewest from gray grey group grouped half has have having if in "
    "including inside is isa it item items its itself just kind kinds large larger largest least less "
    "little ll lot made many medium more most multiple near nearly no none not number numbers object "
    "objects odd of one ones only opposite or other others out pair same several shape shapes single size "
    "sized sizes small smaller smallest so some t than that the them then there these they thing things "
    "this three tleast to together total touch touches touching type types wall walls where which while "
    "whose with without you".split()
)
_SHAPE_FORMS = frozenset(form for shape in NLVR_SHAPES for form in (shape, f"{shape}s"))
_COLOR_FORMS = frozenset(form for color in NLVR_COLORS for form in (color, f"{color}s"))
KNOWN = _PLAIN | _SIDES | _UPRIGHT | _LYING | _ORDERED | _SHAPE_FORMS | _COLOR_FORMS | frozenset(NUMBER_WORDS)

_WORD = re.compile(r"[^\W\d_]+")
# Writers call a box a square too: "one of the grey square has ...", "touching the edge of the square".
_BOX_AS_SQUARE = re.compile(
    r"\bgr[ae]y\b|\b(of|in|inside) (the|a|each|every|any) squares?\b|\b(each|every) square\b"
    r"|\bsquares? (box|boxes|with|has|have|having|contains?|containing|in|inside|where|that has)\b"
)
_EMPHATIC_RIGHT = re.compile(r"\bright (on|above|below|bellow|beneath|under|over|at|in|next)\b")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without numbers."""
    return _WORD.findall(text.lower())


def allowed(text: str, towers: bool) -> frozenset[str]:
    """Which of KINDS keep the truth of a sentence.

    colors: exchange colors, and their words. shapes: the same of circle, square, triangle.
    mirror: every box left for right, and the words left and right. flip: top for bottom. turn: rows for
    columns.

    Args: towers: the sentence is of pictures of three towers, whose look fixes all but the colors.
    """
    words = frozenset(words_of(text))
    if not words <= KNOWN:
        return frozenset()
    lower = text.lower()
    found = {"colors"}
    if towers:
        return frozenset(found)
    if not _BOX_AS_SQUARE.search(lower) and not words & {"block", "blocks"}:
        found.add("shapes")
    if not words & _ORDERED and not _EMPHATIC_RIGHT.search(lower):
        found.add("mirror")
        if not words & _UPRIGHT:
            found.add("flip")
            if not words & (_SIDES | _LYING):
                found.add("turn")
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Symmetry:
    """One change of picture and sentence. The default changes nothing.

    order: of the boxes, as in `permute_groups`.  colors, shapes: value -> value.  turn: exchange x and y
    within each box, before `mirror` (x) and `flip` (y).
    """

    order: tuple[int, int, int] = (0, 1, 2)
    colors: tuple[str, ...] = NLVR_COLORS  # what black, blue, yellow become
    shapes: tuple[str, ...] = NLVR_SHAPES
    mirror: bool = False
    flip: bool = False
    turn: bool = False

    def scene(self, scene: Scene) -> Scene:
        """The changed picture."""
        color = dict(zip(NLVR_COLORS, self.colors, strict=True))
        shape = dict(zip(NLVR_SHAPES, self.shapes, strict=True))
        place = {old: new for new, old in enumerate(self.order)}
        objects = []
        for item in scene.objects:
            left = NLVR_PANEL_X_PX[item.group]
            x0, y0, x1, y1 = item.box_px
            x0, x1 = x0 - left, x1 - left
            if self.turn:
                x0, y0, x1, y1 = y0, x0, y1, x1
            if self.mirror:
                x0, x1 = NLVR_PANEL_PX - x1, NLVR_PANEL_PX - x0
            if self.flip:
                y0, y1 = NLVR_PANEL_PX - y1, NLVR_PANEL_PX - y0
            group = place[item.group]
            left = NLVR_PANEL_X_PX[group]
            box = (x0 + left, y0, x1 + left, y1)
            objects.append(
                SceneObject(shape[item.shape], color[item.color], item.size, item.material, box, group)
            )
        return Scene(tuple(objects), scene.width_px, scene.height_px, scene.background, scene.style, 3)

    def text(self, text: str) -> str:
        """The changed sentence, in lower case."""
        change = dict(zip(NLVR_COLORS + NLVR_SHAPES, self.colors + self.shapes, strict=True))
        change |= {f"{old}s": f"{new}s" for old, new in change.items()}
        if self.mirror:
            change |= {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
        return _WORD.sub(lambda match: change.get(match.group(), match.group()), text.lower())


def draw_symmetry(rng: Random, kinds: Collection[str]) -> Symmetry:
    """A random one of the given kinds, each change as likely as not; any order of the boxes."""

    def shuffled(kind: str, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(rng.sample(values, 3)) if kind in kinds else values

    return Symmetry(
        rng.choice(IMAGE_ORDERS),
        shuffled("colors", NLVR_COLORS),
        shuffled("shapes", NLVR_SHAPES),
        mirror="mirror" in kinds and rng.random() < 0.5,
        flip="flip" in kinds and rng.random() < 0.5,
        turn="turn" in kinds and rng.random() < 0.5,
    )
