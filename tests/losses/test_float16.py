"""float16 logits up to +-2^15, and gradients scaled by 2^15, stay finite in every loss."""

import numpy as np
import pytest
from keras import ops
from reference import to_numpy

from saccade import backend, losses

B, K, SCALE = 4, 6, 2.0**15
WHICH = np.array([0, 3, 5, 1])
SOFT = np.eye(K, dtype=np.float32)[WHICH] * 0.6
SOME = np.arange(K) < np.array([[6], [5], [6], [3]])
BOXES = np.tile(np.array([0.1, 0.2, 0.5, 0.7], np.float32), (B, 2, 1))


def unit(x):
    """Boxes as the heads give them, in float32: their slope times 2^15 is beyond what float16 holds."""
    return ops.sigmoid(ops.cast(x[:, :4], "float32"))


PLAIN = {
    "cross_entropy": lambda x: losses.cross_entropy(x, WHICH, 0.1),
    "stablemax": lambda x: losses.cross_entropy(x, WHICH, stablemax=True),
    "binary_cross_entropy": lambda x: losses.binary_cross_entropy(x, SOFT),
    "info_nce": losses.info_nce,
    "siglip": lambda x: losses.siglip_loss(x, -10.0),
    "token": lambda x: losses.token_loss(
        ops.stack([x, -x, x], axis=1), np.stack([WHICH] * 3, 1), np.ones((B, 3), bool), 0.1
    ),
    "vqa": lambda x: losses.vqa_loss(x, SOFT, x[:, :3], WHICH % 3),
    "vqa_categorical": lambda x: losses.vqa_loss(x, SOFT, form="categorical"),
    "itm": lambda x: losses.itm_loss(x[:, 0], x[:, 1:]),
    "margin": lambda x: losses.margin_loss(x, WHICH, SOME),
    "listwise": lambda x: losses.listwise_loss(x, WHICH, SOME),
    "set": lambda x: losses.set_loss(
        ops.reshape(unit(x), (B, 1, 4)) * np.ones((1, 6, 1), np.float32), x, BOXES, SOME[:, :2]
    )[0],
    "box": lambda x: losses.box_loss(unit(x), BOXES[:, 0])[0],
    "large_box": lambda x: losses.box_loss(x[:, :4], BOXES[:, 0])[0],
    "uncertainty": lambda x: losses.UncertaintyWeights(("a",))(
        {"a": ops.mean(losses.cross_entropy(x, WHICH))}
    ),
}


@pytest.mark.parametrize("size", [1.0, 2.0**15])
@pytest.mark.parametrize("name", PLAIN)
def test_finite(name, size):
    x = np.random.default_rng(0).uniform(-1, 1, (B, K))
    x[0, 0], x[1, 3], x[2, :2] = -1, 1, (1, -1)  # the very ends, right and wrong

    def loss(values):
        rows = PLAIN[name](values[0])
        return SCALE * ops.mean(rows), rows

    (total, rows), gradients = backend.value_and_grad(
        loss, [backend.to_device((x * size).astype(np.float16))]
    )
    assert str(rows.dtype) == "float32"
    assert str(gradients[0].dtype) == "float16"
    assert np.isfinite(to_numpy(rows)).all()
    assert np.isfinite(float(total))
    assert np.isfinite(to_numpy(gradients[0])).all()
    if size == 1:
        assert np.abs(to_numpy(gradients[0])).max() > 0
