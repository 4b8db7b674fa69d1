"""Augmentation that keeps pictures, boxes and words true to each other. NumPy and Pillow only.

from saccade.data.augment import Augment, HorizontalFlip, Item, RandomCrop
augment = Augment((RandomCrop(), 0.5), (HorizontalFlip(), 0.5))
"""

from saccade.data.augment.compose import Augment
from saccade.data.augment.geometry import HorizontalFlip, RandomCrop
from saccade.data.augment.item import Item, Step
from saccade.data.augment.masking import ATTRIBUTE_WORDS, WordMasking
from saccade.data.augment.meaning import COLOR_WORDS
from saccade.data.augment.negatives import NegativeSampler, shared_words
from saccade.data.augment.pixels import ColorJitter, Erasing
from saccade.data.augment.synonyms import SCENE_SYNONYMS, SynonymReplacement

__all__ = [
    "ATTRIBUTE_WORDS",
    "COLOR_WORDS",
    "SCENE_SYNONYMS",
    "Augment",
    "ColorJitter",
    "Erasing",
    "HorizontalFlip",
    "Item",
    "NegativeSampler",
    "RandomCrop",
    "Step",
    "SynonymReplacement",
    "WordMasking",
    "shared_words",
]
