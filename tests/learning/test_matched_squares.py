"""CLIP learns which text belongs to which picture: four coloured squares, and the words for their order.

The 24 orders differ from each other in where colours stand only, so a bag of colours does not do. One batch
holds each order once. InfoNCE and the sigmoid loss must both find all of them among 24.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from reference import to_numpy

from saccade import backend
from saccade.metrics.retrieval import true_ranks
from saccade.models.clip import CLIP, CLIPConfig, TextConfig
from saccade.models.vit import ViTConfig
from saccade.train.config import Part, TrainConfig
from saccade.train.contrastive import Contrastive
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
ORDERS = np.array([np.roll(o, s) for o in ([0, 1, 2], [0, 2, 1]) for s in range(3)])
# every place of colour 3 in every order of the others
ORDERS = np.array([np.insert(order, place, 3) for order in ORDERS for place in range(4)])
END = 4


@dataclass(frozen=True)
class Squares:
    """Item i: one order of the colours and a seed of its noise."""

    def __len__(self):
        return 24 * 1000

    def __getitem__(self, index):
        return ORDERS[index % 24], index


def collate(items) -> dict[str, np.ndarray]:
    """Words of the order, one to a quadrant, and an end; texts are of one length."""
    images = np.full((len(items), 16, 16, 3), 128, np.uint8)
    tokens = np.full((len(items), 5), END, np.int32)
    for row, (order, seed) in enumerate(items):
        rng = np.random.default_rng(seed)
        for quadrant, color in enumerate(order):
            y, x = 8 * (quadrant // 2) + rng.integers(4), 8 * (quadrant % 2) + rng.integers(4)
            images[row, y : y + 4, x : x + 4] = COLORS[color]
        tokens[row, :4] = order
    return {"images": images, "tokens": tokens, "padding_mask": np.ones(tokens.shape, bool)}


CONFIG = CLIPConfig(
    ViTConfig(32, 1, 2, 64, 4, (16, 16)),
    TextConfig(5, 32, 1, 2, 64, 5, 1e-6, "gelu_pytorch_tanh", causal=False, pool="last", head_bias=True),
    16,
)


# The sigmoid loss begins with a bias of -10, meant for batches of thousands, where one pair in 24 is true: it
# gets a higher rate, or how long it takes depends on how a processor rounds.
@pytest.mark.parametrize(("sigmoid", "steps"), [(False, 400), (True, 1500)], ids=["info_nce", "sigmoid"])
def test_every_order_finds_its_picture(sigmoid, steps):
    backend.seed_everything(0)
    model = CLIP(replace(CONFIG, logit_bias=sigmoid))
    stream = Stream(Squares(), collate, Contrastive(hard_weight=0.5, chunk=8), 24, shuffle=False)
    parts = {"logit_bias": Part(learning_rate_scale=30)} if sigmoid else {}
    config = TrainConfig(steps=steps, learning_rate=3e-3, warmup_steps=20, log_every=100, parts=parts)
    Trainer(model, {"squares": stream}, config).fit()
    fresh = collate([(order, 10**6 + i) for i, order in enumerate(ORDERS)])
    found = backend.compiled(model, model)(fresh)
    logits = to_numpy(found["logits"])
    assert true_ranks(logits).tolist() == [1] * 24
    assert true_ranks(logits.T).tolist() == [1] * 24
    scale = float(model.scale())
    assert 1 < scale <= 100
