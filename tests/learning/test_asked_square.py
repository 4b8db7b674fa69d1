"""NanoVLM learns to answer in words about what it sees: the smallest task for image, question and order.

Four coloured squares; the text, of varying length, names one or two colours; the answer names the quadrants
where they stand, in that order, and ends. Generation, not the loss, is what is judged.
"""

from dataclasses import dataclass

import keras
import numpy as np

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer
from saccade.models.llama import LlamaConfig
from saccade.models.nano_vlm import NanoVLM, NanoVLMConfig
from saccade.models.vit import ViTConfig
from saccade.train.config import Part, TrainConfig
from saccade.train.next_token import NextToken
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
END, ASKED, QUADRANT, VOCABULARY = 0, 1, 5, 9  # tokens: the end, four colours, four quadrants
IMAGE_TOKENS, PROMPT, LENGTH = 4, 6, 9


@dataclass(frozen=True)
class Squares:
    """Item i: (order of the four colours over the quadrants, the colours asked for)."""

    seed: int
    size: int

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, index))
        return rng.permutation(4), rng.permutation(4)[: rng.integers(1, 3)]


def collate(items, length=LENGTH) -> dict[str, np.ndarray]:
    """Padding first; with length=PROMPT the questions without their answers."""
    rows = len(items)
    images = np.full((rows, 16, 16, 3), 128, np.uint8)
    tokens, targets = np.zeros((rows, length), np.int32), np.full((rows, length), -100, np.int32)
    image_mask, padding_mask = np.zeros((rows, length), bool), np.zeros((rows, length), bool)
    for row, (order, asked) in enumerate(items):
        for quadrant, color in enumerate(order):
            y, x = 8 * (quadrant // 2) + 2, 8 * (quadrant % 2) + 2
            images[row, y : y + 4, x : x + 4] = COLORS[color]
        answer = [QUADRANT + list(order).index(color) for color in asked] + [END]
        text = [END] * IMAGE_TOKENS + [ASKED + color for color in asked]
        written = text + answer if length > PROMPT else text
        start = length - len(written)
        tokens[row, start:], padding_mask[row, start:] = written, True
        image_mask[row, start : start + IMAGE_TOKENS] = True
        if length > PROMPT:
            targets[row, start + len(text) - 1 : length - 1] = answer
    batch = {"images": images, "tokens": tokens, "image_mask": image_mask, "padding_mask": padding_mask}
    return batch | ({"targets": targets} if length > PROMPT else {})


def test_it_answers_in_words_what_it_sees():
    backend.seed_everything(0)
    # Pixels in [-1, 1]: with the published [0, 1] it stays blind for all of these steps.
    tower = ViTConfig(32, 1, 2, 64, 4, (16, 16), pixel_mean=0.5, pixel_std=0.5)
    decoder = LlamaConfig(VOCABULARY, 64, 2, 4, 2, 128, rope_theta=1e4)
    model = NanoVLM(NanoVLMConfig(tower, decoder, shuffle=2))
    stream = Stream(Squares(0, 100_000), collate, NextToken(), batch_size=64)
    # With AdamW it finds the image about three times as late.
    settings = TrainConfig(
        steps=500,
        learning_rate=0.02,
        optimizer="muon",
        warmup_steps=15,
        log_every=100,
        # What reads the pixels themselves is an embedding: docs/decisions/0014.
        parts={"vision/patches/projection": Part(optimizer="adamw")},
    )
    result = Trainer(model, {"chat": stream}, settings).fit()
    assert result.history[-1]["chat/token_accuracy"] > 0.97

    held_out = [Squares(1, 256)[i] for i in range(256)]
    prompt = collate(held_out, PROMPT)
    written, _ = Writer(model).generate((prompt,), GenerationConfig(max_new_tokens=3, eos_token_id=END))
    right = [
        list(row[: len(asked) + 1]) == [*(QUADRANT + list(order).index(c) for c in asked), END]
        for row, (order, asked) in zip(written, held_out, strict=True)
    ]
    assert np.mean(right) >= 0.95, f"{np.mean(right):.3f} exact answers on held-out squares, 0.2 is chance"
    keras.backend.clear_session()
