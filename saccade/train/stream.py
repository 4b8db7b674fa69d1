"""Examples in order, read ahead in the background.

What batch number b holds is a pure function of (source, seed, b). The whole state of a data iterator is
therefore one integer, the same for any number of workers.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags

from saccade import backend
from saccade.data.order import ENDLESS, Shuffled
from saccade.errors import SaccadeError

READ_AHEAD = 4
CLOSING_S = 60  # for workers to end, one after the other: sixteen take twelve seconds


@dataclass(frozen=True)
class Stream:
    """Where examples come from and what is learnt from them.

    Args:
        source: has `__len__` and `__getitem__`. Must pickle if `workers` > 0. Where it has `blocks`, the
            number of rows of each part that is read as a whole, a few parts at a time are shuffled.
        collate: list of items, B unless `items` says otherwise -> dict of NumPy arrays whose shapes never
            change, first axis B.
        objective: see saccade.train.objectives.
        batch_size: B.
        weight: of this stream's loss in the sum.
        workers: processes that read; 0 = one thread of this process.
        shuffle: a new order in every epoch. A source that is random by index needs none.
        items: of the source that one batch is made from, where collate packs them; None = batch_size.
        tally: takes the account out of each batch, in this process (`saccade.data.conversations.Tally`).
    """

    source: Sequence[Any]
    collate: Callable[[list], dict[str, np.ndarray]]
    objective: Any
    batch_size: int
    weight: float = 1.0
    workers: int = 0
    shuffle: bool = True
    items: int | None = None
    tally: Any = None

    def batches(self, seed: int = 0, start: int = 0) -> Generator[Any]:
        """Endless batches from number `start`; an epoch's last rows share one with the next. Close it
        to end its workers."""
        if len(self.source) == 0:
            raise SaccadeError("a stream has no examples: check its source")
        dataset = self._in_order(seed % 2**32)
        dataset = dataset.batch(self.items or self.batch_size, batch_fn=self.collate)[start:]
        options = grain.ReadOptions(num_threads=0)
        reader = dataset.to_iter_dataset(options)
        if self.workers:
            if not flags.FLAGS.is_parsed():  # grain's workers read absl flags, which only absl programs parse
                flags.FLAGS.mark_as_parsed()
            reader = reader.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        return self._read(iter(reader))

    def _read(self, reader) -> Generator[Any]:
        with closing(reader):  # ends the workers when this is closed, not when it is collected
            for batch in reader:
                yield self.tally.take(batch) if self.tally else batch

    def _in_order(self, seed: int) -> grain.MapDataset:
        blocks = getattr(self.source, "blocks", None)
        if self.shuffle and blocks:
            return grain.MapDataset.source(Shuffled(self.source, blocks, seed))
        dataset = grain.MapDataset.source(self.source)
        if self.shuffle:
            dataset = dataset.shuffle(seed=seed)
        # repeat() without a number overflows len() in slices
        return dataset.repeat(max(1, ENDLESS // len(self.source)))


class Reader:
    """Pulls batches of one stream in a thread and puts them on the device ahead of need.

    Args:
        stream: what to read. seed: of the order. start: number of the first batch.
    """

    def __init__(self, stream: Stream, seed: int, start: int = 0):
        self.waited_s = 0.0
        self._stream, self._seed, self._start = stream, seed, start
        self._ready: queue.Queue = queue.Queue(maxsize=READ_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pull, daemon=True)
        self._thread.start()

    def _pull(self) -> None:
        try:
            with closing(self._stream.batches(self._seed, self._start)) as batches:
                for batch in batches:
                    self._check(batch)
                    self._offer({key: backend.to_device(value) for key, value in batch.items()})
                    if self._stop.is_set():
                        return
        except BaseException as error:  # handed to the training thread, which raises it
            self._offer(error)

    def _check(self, batch: dict[str, np.ndarray]) -> None:
        for key, value in batch.items():
            if len(value) != self._stream.batch_size:
                raise SaccadeError(
                    f"collate made {len(value)} rows of {key!r} from {self._stream.batch_size} examples; "
                    "it must make as many rows as it gets"
                )

    def _offer(self, item) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def next(self) -> dict:
        """The next batch, on the device; a wait adds to `waited_s`. Raises what the source raised."""
        try:
            item = self._ready.get_nowait()
        except queue.Empty:
            begin = time.perf_counter()
            item = self._ready.get()
            self.waited_s += time.perf_counter() - begin
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread and the stream's workers. Batches read ahead are dropped, with the memory that they
        share; the next reader reads them again."""
        self._stop.set()
        self._thread.join(timeout=CLOSING_S)
        self._ready = queue.Queue()
