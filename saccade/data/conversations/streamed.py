"""Conversations that come one after the other, such as a streaming data set of `datasets`."""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from saccade.data.conversations.rows import Conversation, RowFormat
from saccade.data.order import ENDLESS
from saccade.errors import SaccadeError


class StreamedConversations:
    """Rows by number over an iterable of dicts, which begins again where it ends.

    Meant to be read in order: what is not the next row is reached by skipping, from the beginning if need be,
    so a resumed run sees the rows it would have seen. With `workers`, each process skips what the others use.

    Args:
        rows: gives the same dicts each time it is iterated over, as
            `datasets.load_dataset(..., streaming=True)` does, its `shuffle(seed=...)` included.
        row_format: which turns are kept.
        images: the folder that paths of images are relative to; None = rows hold the images themselves.
        name: for errors.
    Raises: SaccadeError: rows can be iterated over only once, or there are none.
    """

    in_order = True

    def __init__(
        self,
        rows: Iterable,
        row_format: RowFormat | None = None,
        images: str | Path | None = None,
        name: str = "the stream",
    ):
        if iter(rows) is rows:
            raise SaccadeError(
                f"{name} gives its rows only once, so a run could not be resumed; give something that begins "
                "again each time it is iterated over, not a generator"
            )
        self.rows: Any = rows
        self.row_format = row_format or RowFormat()
        self.folder = None if images is None else Path(images)
        self.name = name
        self._count: int | None = None  # rows of the iterable, once its end was seen
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._iterator: Iterator | None = None
        self._next = 0  # the row that the iterator gives next

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_iterator", "_next")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Conversation:
        with self._lock:
            row = self._row(int(index))
        at = f"row {index}" if self._count is None else f"row {index % self._count}"
        return self.row_format.conversation(row, f"{self.name}, {at}", self.folder)

    def _row(self, index: int):
        if self._iterator is None or index < self._next:
            self._iterator = iter(self.rows)
            self._next = 0 if self._count is None else index - index % self._count
        row = None
        while self._next <= index:
            try:
                row = next(self._iterator)
            except StopIteration:
                self._end()
            else:
                self._next += 1
        return row

    def _end(self) -> None:
        if self._count is None:
            self._count = self._next
        if not self._count:
            raise SaccadeError(f"{self.name} gives no rows; check where it reads from")
        self._iterator = iter(self.rows)
