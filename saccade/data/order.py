"""A random order that reads files a part at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

ENDLESS = 2**48  # rows
TOGETHER = 4  # parts whose rows are mixed


class Shuffled:
    """The rows of a source for ever, in a new order each epoch, drawn from a few parts at a time.

    Parts (row groups of parquet) are put in random order; the rows of each TOGETHER of them are mixed. A part
    is thus read once an epoch, not once a row. Row i is a function of the source, the seed and i.

    Args: blocks: rows of each part of the source, in order.
    """

    def __init__(self, source: Any, blocks: Sequence[int], seed: int):
        self.source, self.seed = source, seed
        self._ends = np.cumsum(blocks)
        self._sizes = np.array(blocks)
        self._known: tuple[int, np.ndarray] = (-1, self._ends)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int):
        epoch, at = divmod(int(index), int(self._ends[-1]))
        if self._known[0] != epoch:
            self._known = (epoch, self.order(epoch))
        return self.source[int(self._known[1][at])]

    def order(self, epoch: int) -> np.ndarray:
        """The rows of an epoch: int64 (rows,), each once."""
        rng = np.random.default_rng((self.seed, epoch))
        parts = [np.arange(end - size, end) for end, size in zip(self._ends, self._sizes, strict=True)]
        parts = [parts[i] for i in rng.permutation(len(parts))]
        mixed = [np.concatenate(parts[i : i + TOGETHER]) for i in range(0, len(parts), TOGETHER)]
        return np.concatenate([rng.permutation(rows) for rows in mixed])
