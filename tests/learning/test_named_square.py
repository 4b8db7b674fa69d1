"""The reasoning core learns to join what is seen with what is asked: the smallest task that needs both.

Four coloured squares; the text names a colour; the answer is the quadrant where it stands. It catches a real
failure: perception learned while every answer stayed at chance (docs/decisions/0006).
"""

from dataclasses import dataclass

import keras
import numpy as np

from saccade import backend
from saccade.models.vit import ViTConfig
from saccade.models.vlm_hrm import VLMHRM, VLMHRMConfig
from saccade.reason import Reasoner
from saccade.train.config import TrainConfig
from saccade.train.objectives import Answer, Recursive
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)


@dataclass(frozen=True)
class Squares:
    """Item i: (order of the four colours over the quadrants, the colour asked for)."""

    seed: int
    size: int

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, index))
        return rng.permutation(4), int(rng.integers(4))


def collate(items) -> dict[str, np.ndarray]:
    images = np.full((len(items), 32, 32, 3), 128, np.uint8)
    tokens = np.zeros((len(items), 8), np.int32)
    answer = np.zeros(len(items), np.int32)
    for row, (order, asked) in enumerate(items):
        for quadrant, color in enumerate(order):
            y, x = 16 * (quadrant // 2) + 4, 16 * (quadrant % 2) + 4
            images[row, y : y + 8, x : x + 8] = COLORS[color]
        tokens[row, :2] = 1, 10 + asked
        answer[row] = list(order).index(asked)
    return {"images": images, "tokens": tokens, "padding_mask": tokens > 0, "answer": answer}


def test_the_core_joins_seeing_and_asking():
    backend.seed_everything(0)
    tower = ViTConfig(dim=32, depth=1, num_heads=2, mlp_dim=64, image_size=(32, 32))
    config = VLMHRMConfig(
        vocab_size=16,
        num_answers=4,
        vision=tower,
        dim=64,
        depth=1,
        mlp_dim=128,
        l_cycles=2,
        shuffle=2,
        max_length=8,
        halt_max_steps=2,
        fusion_tokens=1,
        decoder_depth=1,
        embedding_dim=16,
    )
    model = VLMHRM(config)
    stream = Stream(Squares(0, 100_000), collate, Recursive(Answer("vqa")), batch_size=64)
    settings = TrainConfig(steps=1000, learning_rate=1e-3, warmup_steps=30, log_every=1000)
    Trainer(model, {"vqa": stream}, settings).fit()

    held_out = collate([Squares(1, 256)[i] for i in range(256)])
    result = Reasoner(model).run(held_out, "vqa")
    accuracy = np.mean(np.argmax(result["probabilities"], axis=-1) == held_out["answer"])
    assert accuracy >= 0.95, f"{accuracy:.3f} on held-out squares, 0.25 is chance"
    assert result["steps"].mean() < config.halt_max_steps, "it has learned to stop early too"
    keras.backend.clear_session()
