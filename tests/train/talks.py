"""Rows for NextToken: the golden nanoVLM batch (rows of one image, two, none) with targets."""

import nano
import numpy as np

from saccade.train import Stream
from saccade.train.next_token import NextToken

IGNORED = -100


def golden_rows() -> dict:
    """The golden batch; about half of its text counts. `by_row` holds the images (3, 2, H, W, 3), of which
    row 0 has a place for the first, row 1 for both, row 2 for none."""
    batch = dict(nano.part(nano.golden(), "batch"))
    rows, length = batch["tokens"].shape
    targets = np.full((rows, length), IGNORED, np.int32)
    text = batch["padding_mask"] & ~batch["image_mask"]
    learned = text & (np.random.default_rng(2).random(text.shape) < 0.5)
    learned[:, 1:] &= batch["padding_mask"][:, :-1]  # nothing precedes a row's first token
    learned[:, 0] = False
    targets[:, :-1] = np.where(learned[:, 1:], batch["tokens"][:, 1:], IGNORED)
    assert 0 < (targets != IGNORED).sum() < text.sum()
    flat = batch["images"]
    blank = np.full_like(flat[:1], 0.3)
    by_row = np.stack([np.concatenate(tiles) for tiles in ((flat[:1], blank), (flat[1:],), (blank, blank))])
    return {**batch, "targets": targets, "by_row": by_row}


def rows_of(batch: dict, **changes) -> dict:
    """What a Stream's collate makes of it."""
    rows = {key: batch[key] for key in ("tokens", "padding_mask", "image_mask", "targets")}
    return {**rows, "images": batch["by_row"], **changes}


class Rows:
    """The first two golden rows in turn, each time with other images."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        item = {key: value[i % 2] for key, value in rows_of(golden_rows()).items()}
        return {**item, "images": np.random.default_rng(i).random(item["images"].shape).astype(np.float32)}


def stream(batch_size: int = 2) -> Stream:
    return Stream(Rows(), collate, NextToken(), batch_size, shuffle=False)


def collate(items):
    return {key: np.stack([item[key] for item in items]) for key in items[0]}
