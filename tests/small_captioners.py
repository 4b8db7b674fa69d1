"""Tiny captioners, and a batch with the labels of everything they learn."""

import numpy as np

from saccade.models.captioners import CaptionerConfig, ShowAndTell, ShowAttendTell

B, L, SIDE, WORDS = 3, 5, 16, 13
CONFIG = CaptionerConfig(
    vocab_size=WORDS,
    dim=24,
    word_dim=14,
    max_length=L,
    vision_dim=18,
    depth=1,
    patch_size=8,
    stem=(10,),
    image_size=(SIDE, SIDE),
    cell_dim=6,
    image_dim=8,
    gated=True,
    attributes=(3, 2),
)
KINDS = {"tell": ShowAndTell, "attend": ShowAttendTell}


def batch(seed: int = 0) -> dict:
    """Of 3 images: one with objects in two of four cells, one empty, one full."""
    rng = np.random.default_rng(seed)
    present = np.array([[True, False, True, False], [False] * 4, [True] * 4])
    kinds = np.stack([rng.integers(n, size=(B, 4)) for n in CONFIG.attributes], -1)
    low = rng.random((B, 4, 2)) * 0.5
    mentions = rng.random((B, L, 4)) < 0.4
    mentions[0], mentions[1, 1:] = False, False
    return {
        "images": rng.random((B, SIDE, SIDE, 3)).astype(np.float32),
        "decoder_tokens": rng.integers(4, WORDS, size=(B, L)).astype(np.int32),
        "targets": rng.integers(4, WORDS, size=(B, L)).astype(np.int32),
        "loss_mask": np.arange(L) < np.array([[5], [3], [2]]),
        "mentions": mentions,
        "objects": np.where(present[..., None], kinds, -1).astype(np.int8),
        "object_boxes": np.concatenate([low, low + 0.2], -1).astype(np.float32),
    }
