"""What recipes over the bundled tower share: its weights, and a tokenizer of what scenes are spoken of in."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from saccade.data.scenes import lexicon
from saccade.data.scenes.chunks import TEXT, WORDS
from saccade.data.text import Tokenizer
from saccade.models.vit import ViTConfig
from saccade.models.vlm_hrm import VLMHRM


def tower_of(folder: str) -> tuple[ViTConfig, dict[str, np.ndarray]]:
    """The vision tower of a VLM-HRM directory: its configuration, and its weights under vision/."""
    model = VLMHRM.load(folder)
    named = {name: v for name, v in model.named_variables().items() if name.startswith("vision/")}
    return model.config.vision, {name: np.asarray(ops.convert_to_numpy(v.value)) for name, v in named.items()}


def scene_tokenizer(rows: Sequence, vocab_size: int, number: int = 300) -> Tokenizer:
    """Trained on the first `number` rows of chunks and every word of the scene world, each one token."""
    texts = [f"{chunk.text} {chunk.answer}" for i in range(number) for chunk in rows[i]]
    return Tokenizer.train([*texts, *[" ".join((TEXT, *lexicon(), *WORDS))] * 50], vocab_size)
