"""Ways to turn a puzzle around that keep what it is, and to turn its answer back."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moves:
    """One move for each of N puzzles.

    Args:
        names: int (N, V), the new value of each old one.
        source: int (N, cells), the old cell that each new cell shows.
    """

    names: np.ndarray
    source: np.ndarray

    def apply(self, grids) -> np.ndarray:
        """int (N, cells) -> int8 (N, cells), moved."""
        seen = np.take_along_axis(np.asarray(grids).astype(int), self.source, 1)
        return np.take_along_axis(self.names, seen, 1).astype(np.int8)

    def undo(self, grids) -> np.ndarray:
        """What `apply` made (or an answer to it) as it was."""
        named = np.take_along_axis(np.argsort(self.names, 1), np.asarray(grids).astype(int), 1)
        return np.take_along_axis(named, np.argsort(self.source, 1), 1).astype(np.int8)
