"""Steps that move pixels, and their boxes with them: crop and flip."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from saccade.data.augment.item import Item, check_choice, check_share
from saccade.data.augment.meaning import tells_whole
from saccade.data.augment.mirror import mirror_answer, mirror_text, why_not
from saccade.errors import SaccadeError

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, right and bottom exclusive


@dataclass(frozen=True, slots=True)
class Rectangles:
    """Random rectangles in an image.

    Args:
        area: (least, most) share of the image that one covers, uniform.
        ratio: (least, most) width / height in pixels, log-uniform.
        tries: how many are drawn.
    Raises: SaccadeError: an empty or impossible range.
    """

    area: tuple[float, float]
    ratio: tuple[float, float]
    tries: int

    def __post_init__(self):
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise SaccadeError(f"area is {self.area}; give (least, most) with 0 < least <= most <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < np.inf:
            raise SaccadeError(f"ratio is {self.ratio}; give (least, most) with 0 < least <= most")
        if self.tries < 1:
            raise SaccadeError(f"tries is {self.tries}; give 1 or more")

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Iterator[Window]:
        """At most `tries` windows; those that do not fit an image of this size are left out."""
        logs = np.log(self.ratio)
        for _ in range(self.tries):
            pixels = rng.uniform(*self.area) * height * width
            ratio = np.exp(rng.uniform(*logs))
            w, h = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
            if not (1 <= w <= width and 1 <= h <= height):
                continue
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            yield x, y, x + w, y + h


def in_window(boxes: np.ndarray, window: Window, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """What of each box lies in a window of an image (height, width).

    A line or point counts by its length, or by whether it is inside.

    Returns: the boxes clipped, float32 (R, 4) in [0, 1] of the window; the share of each box that is left,
        float64 (R,).
    """
    x0, y0, x1, y1 = window
    scale = np.array([width, height, width, height], np.float64)
    corner, size = np.array([x0, y0, x0, y0]), np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    moved = (boxes.astype(np.float64) * scale - corner) / size
    clipped = np.clip(moved, 0, 1)
    before, after = moved[:, 2:] - moved[:, :2], clipped[:, 2:] - clipped[:, :2]
    inside = (moved[:, :2] >= 0) & (moved[:, :2] <= 1)
    share = np.where(before > 0, after / np.where(before > 0, before, 1), inside)
    return clipped.astype(np.float32), share.prod(1)


@dataclass(frozen=True, slots=True)
class RandomCrop:
    """Cut a rectangle out of the image, in its own pixels.

    Boxes are clipped to it. A text about the whole picture (counts, "any", "leftmost", "in the corner") may
    not hold for a part. After `tries` rectangles the whole image is kept, and that is noted in `refused`.

    Args:
        area: (least, most) share of the image that is kept.
        ratio: (least, most) width / height of the crop, times that of the image.
        max_lost: a box may lose this share of its area.
        if_lost: what a box that loses more does: "retry" draws another crop, "drop" goes with its phrase.
            A text that names what was dropped is not changed: drop only labels that no text speaks of.
        if_whole: "refuse" texts about the whole picture, or "ignore" what they say.
        tries: rectangles drawn before giving up.
    Raises: SaccadeError: a range that is empty, a choice that does not exist.
    """

    area: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    max_lost: float = 0.3
    if_lost: str = "retry"
    if_whole: str = "refuse"
    tries: int = 10

    def __post_init__(self):
        Rectangles(self.area, self.ratio, self.tries)
        check_share("max_lost", self.max_lost)
        check_choice("if_lost", self.if_lost, ("retry", "drop"))
        check_choice("if_whole", self.if_whole, ("refuse", "ignore"))

    def __call__(self, rng: np.random.Generator, item: Item) -> Item:
        if self.if_whole == "refuse" and tells_whole(item.words):
            return item.refuse("crop", "the text is about the whole picture")
        height, width = item.image.shape[:2]
        shape = width / height
        rectangles = Rectangles(self.area, (self.ratio[0] * shape, self.ratio[1] * shape), self.tries)
        for window in rectangles.draw(rng, height, width):
            boxes, share = in_window(item.boxes, window, height, width)
            kept = share >= 1 - self.max_lost - 1e-9  # a box inside has 1 but for rounding
            if kept.all() or self.if_lost == "drop":
                x0, y0, x1, y1 = window
                phrases = tuple(p for p, keep in zip(item.phrases, kept, strict=False) if keep)
                return item.change(image=item.image[y0:y1, x0:x1].copy(), boxes=boxes[kept], phrases=phrases)
        return item.refuse("crop", f"no crop in {self.tries} tries keeps the boxes")


@dataclass(frozen=True, slots=True)
class HorizontalFlip:
    """Mirror image and boxes, and swap left and right in text, answer and phrases.

    An item whose words cannot be mirrored safely comes back as it was, noted in `refused` (see mirror.py).
    Writing that only the image shows cannot be known: leave this step out where there is much of it.

    Args:
        nouns: more words, in the singular, before which "left" and "right" are sides. "the right man" may be
            the suitable one, so it is refused unless "man" is here.
    """

    nouns: tuple[str, ...] = ()

    def __call__(self, rng: np.random.Generator, item: Item) -> Item:
        if item.hidden:
            return item.refuse("flip", "hidden words may be sides")
        for text in (item.text, *item.phrases):
            if why := why_not(text, self.nouns):
                return item.refuse("flip", why)
        answer = mirror_answer(item.text, item.answer, self.nouns)
        if answer is None:
            return item.refuse("flip", "the answer is not clearly a side")
        flipped = Image.fromarray(item.image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = item.boxes.copy()
        boxes[:, [0, 2]] = 1 - item.boxes[:, [2, 0]]
        return item.change(
            image=np.array(flipped),
            boxes=boxes,
            text=mirror_text(item.text),
            answer=answer,
            phrases=tuple(map(mirror_text, item.phrases)),
        )
