"""Several steps, one after the other, each with its chance."""

import numpy as np

from saccade.data.augment.item import Item, Step
from saccade.data.augment.masking import WordMasking
from saccade.errors import SaccadeError


class Augment:
    """Steps in order: `Augment((RandomCrop(), 0.5), (HorizontalFlip(), 0.5))`.

    The result is a function of the generator and the item; what is given is never changed. For a data set,
    make the generator from seed and index, `np.random.default_rng((seed, index))`, so that a resumed run sees
    what it would have seen.

    Args:
        steps: pairs of a step, any callable (rng, Item) -> Item, and its chance from 0 to 1.
    Call:
        rng: one number is drawn for each step, whether it is taken or not.
        item: see Item.
    Returns: Item; `refused` counts what was due and not taken.
    Raises: SaccadeError: a chance outside [0, 1]; WordMasking before a step that may change the text.
    """

    def __init__(self, *steps: tuple[Step, float]):
        for place, pair in enumerate(steps):
            if not isinstance(pair, tuple) or len(pair) != 2 or not callable(pair[0]):
                raise SaccadeError(f"step {place + 1} is {pair!r}; give (step, chance)")
            if not 0 <= pair[1] <= 1:
                raise SaccadeError(f"the chance of {pair[0]!r} is {pair[1]}; give a number from 0 to 1")
            if isinstance(pair[0], WordMasking) and place < len(steps) - 1:
                raise SaccadeError("WordMasking hides words that later steps must see; put it last")
        self.steps = steps

    def __call__(self, rng: np.random.Generator, item: Item) -> Item:
        for step, chance in self.steps:
            if rng.random() < chance:
                item = step(rng, item)
        return item
