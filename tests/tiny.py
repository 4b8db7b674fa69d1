"""The smallest models and batches that still have every part. Sizes differ pairwise where they can."""

import functools

import keras
import numpy as np
import reference

from saccade.models.vit import ViTConfig
from saccade.models.vlm_hrm import VLMHRM, VLMHRMConfig

B, T, L = 3, 7, 6
H, W = 16, 24
VOCABULARY, ANSWERS, ATTRIBUTES, REFERENTS = 41, 11, (3, 2), 4
# For what runs once, where only the time to compile counts.
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

CONFIG = VLMHRMConfig(
    vocab_size=VOCABULARY,
    num_answers=ANSWERS,
    vision=ViTConfig(dim=10, depth=1, num_heads=2, mlp_dim=14, patch_size=4, image_size=(H, W), stem=(8,)),
    dim=24,
    depth=1,
    num_heads=3,
    mlp_dim=40,
    h_cycles=2,
    l_cycles=1,
    halt_max_steps=5,
    text_depth=1,
    max_length=13,
    shuffle=2,
    fusion_tokens=5,
    decoder_depth=2,
    embedding_dim=18,
    attributes=ATTRIBUTES,
    referents=REFERENTS,
)


@functools.cache
def vlm_hrm(dtype: str = "float32", seed: int = 0, config: VLMHRMConfig = CONFIG) -> VLMHRM:
    """A model whose every weight is random; shared by the tests, which must not change it."""
    return fresh(dtype, seed, config)


def fresh(dtype: str = "float32", seed: int = 0, config: VLMHRMConfig = CONFIG) -> VLMHRM:
    """The same weights in a model of one's own."""
    with keras.StatelessScope():  # its first values are never drawn, which is most of the time it takes
        model = VLMHRM(config, dtype=keras.DTypePolicy(dtype))
        for variable in model.variables:
            variable._initializer = keras.initializers.Zeros()
    return reference.randomize(model, seed)


def batch(rows: int = B, size: tuple = (H, W), length: int = T, seed: int = 0) -> dict:
    """Images, texts of different lengths and the labels of every objective."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(length - np.arange(rows) % 4, 1)
    others = np.maximum(length - 1 - np.arange(rows) % 3, 1)
    ends = rng.integers(2, L + 1, size=rows)
    return {
        "images": rng.random((rows, *size, 3)).astype(np.float32),
        "tokens": rng.integers(4, VOCABULARY, size=(rows, length)).astype(np.int32),
        "padding_mask": np.arange(length) < lengths[:, None],
        "answer": rng.integers(2, size=rows).astype(np.int32),
        "other_tokens": rng.integers(4, VOCABULARY, size=(rows, length)).astype(np.int32),
        "other_padding_mask": np.arange(length) < others[:, None],
        "decoder_tokens": rng.integers(4, VOCABULARY, size=(rows, L)).astype(np.int32),
        "targets": rng.integers(4, VOCABULARY, size=(rows, L)).astype(np.int32),
        "loss_mask": np.arange(L) < ends[:, None],
        "boxes": corners(rng, rows),
        **cells(rng, rows, (size[0] // 8) * (size[1] // 8)),
    }


def corners(rng, *shape) -> np.ndarray:
    """Boxes xyxy in [0, 1], float32 (*shape, 4)."""
    low = rng.random((*shape, 2)) * 0.5
    return np.concatenate([low, low + 0.1 + rng.random((*shape, 2)) * 0.4], -1).astype(np.float32)


def cells(rng, rows: int, count: int) -> dict:
    """Labels of `count` cells, as `saccade.data.batching.cells` makes them; row 0 says something of each."""
    present = rng.random((rows, count)) < 0.6
    present[0, :2] = True, False
    kinds = np.stack([rng.integers(n, size=(rows, count)) for n in ATTRIBUTES], -1)
    known = present[..., None] & (np.arange(REFERENTS) % 3 < 2)
    asked = present & (rng.random((rows, count)) < 0.5)
    asked[0, 0] = True
    return {
        "objects": np.where(present[..., None], kinds, -1).astype(np.int8),
        "object_boxes": corners(rng, rows, count) * present[..., None],
        "referents": np.where(known, rng.integers(2, size=known.shape), -1).astype(np.int8),
        "told": np.where(asked, rng.integers(ANSWERS, size=asked.shape), -1).astype(np.int8),
    }
