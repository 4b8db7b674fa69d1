"""Where world objects may stand: sizes, distances and what hides what.

With M = max(width_px, height_px): an object is SIZE_FRACTION * M high, so a size looks the same after any
letterboxing to a square; centers differ by CENTER_GAP * M in x and in y, so "left of" and "above" are never
in doubt; boxes keep BOX_GAP * M apart. With occlusion a pair may instead overlap by MIN_OVERLAP to
MAX_OVERLAP of the smaller box, and each object stays MIN_VISIBLE visible.
"""

import math

import numpy as np

from saccade.data.scenes.scene import Scene
from saccade.data.scenes.sprites import silhouette
from saccade.errors import SaccadeError

SIZE_FRACTION = {"small": 0.11, "medium": 0.16, "large": 0.23}
SIZE_JITTER = 0.04
CENTER_GAP = 0.03
BOX_GAP = 0.02
MIN_OVERLAP, MAX_OVERLAP = 0.10, 0.35
MIN_VISIBLE = 0.60
MAX_OBJECTS = 10
_TRIES = 12  # cheap guesses before listing all free places


def count_range(num_objects, default, least, most):
    """(low, high) of a `num_objects` argument, checked against the limits."""
    low, high = default if num_objects is None else _pair(num_objects)
    if not least <= low <= high <= most:
        raise SaccadeError(
            f"num_objects={num_objects}: must be {least}..{most}, or (least, most) within that"
        )
    return low, high


def _pair(num_objects):
    if isinstance(num_objects, (int, np.integer)) and not isinstance(num_objects, bool):
        return int(num_objects), int(num_objects)
    values = tuple(num_objects) if isinstance(num_objects, (tuple, list)) else ()
    if len(values) != 2 or not all(isinstance(v, (int, np.integer)) for v in values):
        raise SaccadeError(f"num_objects={num_objects!r}: must be a whole number or (least, most)")
    return int(values[0]), int(values[1])


def height_px(size, width, height, wobble):
    """Height of an object; wobble in [0, 1) spreads it over the jitter."""
    return max(3, round(SIZE_FRACTION[size] * (1 + SIZE_JITTER * (2 * wobble - 1)) * max(width, height)))


class Layout:
    """Boxes on a canvas, and the rules that a further box must obey."""

    def __init__(self, width_px: int, height_px: int):
        self.width, self.height = width_px, height_px
        side = max(width_px, height_px)
        self.gap = math.ceil(BOX_GAP * side)
        self.center_gap2 = math.ceil(2 * CENTER_GAP * side)  # of doubled centers, which are whole numbers
        self.keys, self.shapes, self.boxes, self.layers = [], [], [], []
        self.hidden = []  # an upper bound of the share of each object that others hide

    def add(self, key, shape: str, box: tuple, layer: int) -> None:
        """Put an object that obeys the rules."""
        share = 0.0
        x0, y0, x1, y1 = box
        for i, other in enumerate(self.boxes):
            if x0 < other[2] and other[0] < x1 and y0 < other[3] and other[1] < y1:
                if layer < self.layers[i]:
                    share += _hidden_share(shape, box, self.shapes[i], other)
                else:
                    self.hidden[i] += _hidden_share(self.shapes[i], other, shape, box)
        self.keys.append(key)
        self.shapes.append(shape)
        self.boxes.append(box)
        self.layers.append(layer)
        self.hidden.append(share)

    def is_free(self, box: tuple) -> bool:
        """Whether a box lies inside, apart from all others, with its center off theirs in x and in y."""
        x0, y0, x1, y1 = box
        if x0 < 0 or y0 < 0 or x1 > self.width or y1 > self.height:
            return False
        gap, center_gap2 = self.gap, self.center_gap2
        for a0, b0, a1, b1 in self.boxes:
            if abs(x0 + x1 - a0 - a1) < center_gap2 or abs(y0 + y1 - b0 - b1) < center_gap2:
                return False
            if x0 < a1 + gap and a0 < x1 + gap and y0 < b1 + gap and b0 < y1 + gap:
                return False
        return True

    def is_allowed(self, shape: str, box: tuple, layer: int) -> bool:
        """Like `is_free`, but a moderate overlap that leaves every object visible is allowed too."""
        x0, y0, x1, y1 = box
        if x0 < 0 or y0 < 0 or x1 > self.width or y1 > self.height:
            return False
        gap, center_gap2, share = self.gap, self.center_gap2, 0.0
        for i, other in enumerate(self.boxes):
            a0, b0, a1, b1 = other
            if abs(x0 + x1 - a0 - a1) < center_gap2 or abs(y0 + y1 - b0 - b1) < center_gap2:
                return False
            if not (x0 < a1 + gap and a0 < x1 + gap and y0 < b1 + gap and b0 < y1 + gap):
                continue
            smaller = min((x1 - x0) * (y1 - y0), (a1 - a0) * (b1 - b0))
            if not MIN_OVERLAP <= _overlap(box, other) / smaller <= MAX_OVERLAP:
                return False
            if layer < self.layers[i]:
                share += _hidden_share(shape, box, self.shapes[i], other)
            elif self.hidden[i] + _hidden_share(self.shapes[i], other, shape, box) > 1 - MIN_VISIBLE:
                return False
        return share <= 1 - MIN_VISIBLE

    def free_place(self, rng, width_px: int, height_px: int) -> tuple | None:
        """A uniformly random free box of that size, None if there is none.

        A few guesses usually find one. Failing that, all free places are listed and one is drawn: the same
        distribution, without a loop that might not end.
        """
        across, down = self.width - width_px + 1, self.height - height_px + 1
        if across < 1 or down < 1:
            return None
        for a, b in rng.random((_TRIES if self.boxes else 1, 2)).tolist():
            x, y = int(a * across), int(b * down)
            box = (x, y, x + width_px, y + height_px)
            if self.is_free(box):
                return box
        free = np.ones((down, across), bool)
        for a0, b0, a1, b1 in self.boxes:
            free[
                max(0, b0 - self.gap - height_px + 1) : b1 + self.gap,
                max(0, a0 - self.gap - width_px + 1) : a1 + self.gap,
            ] = False
            for view, middle, length in ((free.T, a0 + a1, width_px), (free, b0 + b1, height_px)):
                low, high = middle - self.center_gap2 - length, middle + self.center_gap2 - length
                view[max(0, low // 2 + 1) : max(0, -(-high // 2))] = False
        places = np.flatnonzero(free)
        if not len(places):
            return None
        y, x = divmod(int(places[int(rng.random() * len(places))]), across)
        return x, y, x + width_px, y + height_px

    def overlapping_place(self, rng, shape: str, width_px: int, height_px: int, layer: int) -> tuple | None:
        """A box that overlaps one of the others as the rules allow; None if a few guesses find none."""
        a0, b0, a1, b1 = self.boxes[int(rng.random() * len(self.boxes))]
        for a, b in rng.random((2 * _TRIES, 2)).tolist():
            x = a0 - width_px + int(a * (a1 - a0 + width_px))
            y = b0 - height_px + int(b * (b1 - b0 + height_px))
            box = (x, y, x + width_px, y + height_px)
            if self.is_allowed(shape, box, layer):
                return box
        return None


def _overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _cover(shape, box):
    return silhouette(shape, box[2] - box[0], box[3] - box[1])


def _window(mask, box, x0, y0, x1, y1):
    return mask[y0 - box[1] : y1 - box[1], x0 - box[0] : x1 - box[0]]


def _hidden_share(shape, box, front_shape, front_box):
    """Share of an object's pixels that an object in front of it hides, glass counted as opaque."""
    common = (
        max(box[0], front_box[0]),
        max(box[1], front_box[1]),
        min(box[2], front_box[2]),
        min(box[3], front_box[3]),
    )
    if common[0] >= common[2] or common[1] >= common[3]:
        return 0.0
    back = _cover(shape, box)
    both = _window(back, box, *common) & _window(_cover(front_shape, front_box), front_box, *common)
    return np.count_nonzero(both) / np.count_nonzero(back)


def visible_shares(scene: Scene) -> list[float]:
    """Share of each world object's pixels that no other object stands in front of."""
    shares = []
    for i, item in enumerate(scene.objects):
        seen = _cover(item.shape, item.box_px).copy()
        total, box = np.count_nonzero(seen), item.box_px
        for j, other in enumerate(scene.objects):
            front = other.layer > item.layer or (other.layer == item.layer and j > i)
            if front and _overlap(box, other.box_px):
                b = other.box_px
                common = (max(box[0], b[0]), max(box[1], b[1]), min(box[2], b[2]), min(box[3], b[3]))
                _window(seen, box, *common)[_window(_cover(other.shape, b), b, *common)] = False
        shares.append(np.count_nonzero(seen) / total)
    return shares


def layout_of(scene: Scene, skip=()) -> Layout:
    """The layout of a world scene, without the objects whose indices are in `skip`."""
    layout = Layout(scene.width_px, scene.height_px)
    for i, item in enumerate(scene.objects):
        if i not in skip:
            layout.add(i, item.shape, item.box_px, item.layer)
    return layout
