"""Dense captioning learns a small world: what stands where, and how large it is."""

import keras
import numpy as np
import pytest

from saccade import backend
from saccade.heads.create import create_vlm_head
from saccade.heads.dense import region_labels
from saccade.heads.task import VLMTaskConfig
from saccade.metrics.region import pairwise_iou
from saccade.train import Stream, TrainConfig, Trainer
from saccade.train.tasks import HeadLoss


def stacked(items):
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def scene(rng):
    """One-hot kinds and sizes of up to 4 objects, one a patch; captions name both."""
    rows, columns = 4, 5
    image = np.zeros((rows * columns, 9), np.float32)
    boxes, captions = [], []
    for cell in rng.permutation(rows * columns)[: rng.integers(5)]:
        kind, size = rng.integers(6), rng.integers(3)
        image[cell, kind] = image[cell, 6 + size] = 1
        y, x = divmod(int(cell), columns)
        center = np.array([(x + 0.5) / columns, (y + 0.5) / rows])
        half = np.array([0.5 / columns, 0.5 / rows]) * (0.5, 0.8, 1.1)[size]
        boxes.append(np.clip([*(center - half), *(center + half)], 0, 1))
        captions.append([3 + size, 6 + kind])
    image += rng.normal(size=image.shape) * 0.05
    return image.astype(np.float32), boxes, captions


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the Trainer runs on jax")
def test_it_learns_what_stands_where():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    rows = [
        {"vision_features": image, **region_labels(boxes, captions, 5, 5)}
        for image, boxes, captions in (scene(rng) for _ in range(512))
    ]
    own = create_vlm_head(
        VLMTaskConfig(
            "dense_captioning",
            9,
            dim=32,
            num_heads=2,
            grid=(4, 5),
            vocab_size=12,
            max_length=6,
            decoder_depth=1,
        )
    )
    config = TrainConfig(steps=800, learning_rate=1e-2)
    Trainer(own, {"dense": Stream(rows, stacked, HeadLoss(), 32)}, config).fit()
    unseen = [scene(rng) for _ in range(64)]
    images = np.stack([image for image, _, _ in unseen])
    decoded = own.decode(backend.compiled(own, own)({"vision_features": images}))
    right = total = more = 0
    for (_, boxes, captions), found in zip(unseen, decoded, strict=True):
        total += len(boxes)
        more += max(len(found) - len(boxes), 0)
        overlap = pairwise_iou(boxes, [region["box"] for region in found])
        for truth, caption in zip(overlap, captions, strict=True):
            best = int(truth.argmax()) if len(truth) else None
            right += best is not None and truth[best] >= 0.5 and found[best]["caption"] == caption
    assert right / total >= 0.95
    assert more / total <= 0.05
