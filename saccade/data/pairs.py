"""Batches of images with their descriptions, each beside its twin."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saccade.data.clip_processor import CLIPProcessor
from saccade.data.scenes.scene import Example


@dataclass(frozen=True)
class CollatePairs:
    """Examples of `Source("retrieve")` -> two rows each, the example and its twin; picklable.

    A twin differs from its example in one thing, so every image has a hard negative in its batch.

    Call: examples: B / 2 of them.
    Returns: dict: images uint8 (B, H, W, 3); tokens int32 (B, T), with the processor's `mask` padding_mask
        bool (B, T). Rows 2 i and 2 i + 1 are twins.
    Raises: SaccadeError: a text is longer than the processor's max_length (states both).
    """

    processor: CLIPProcessor

    def __call__(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        rows = [row for example in examples for row in (example, example.pair) if row is not None]
        return self.processor([row.image for row in rows], [row.text for row in rows])
