"""Examples drawn once and kept."""

from saccade.data.scenes.scene import Example


class Kept:
    """The first `size` examples of a source, each drawn when first asked for and kept in memory.

    For training on few cores, where drawing costs more than learning; a fresh stream teaches more.
    """

    def __init__(self, source, size: int):
        self.source, self.size = source, size
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index}: there are examples 0 to {self.size - 1}")
        if index not in self._kept:
            self._kept[index] = self.source[index]
        return self._kept[index]
