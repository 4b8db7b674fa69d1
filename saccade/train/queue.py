"""First-in first-out ring of examples on the device.

A queue is a dict: `data` {key: (rows, ...)}, `head` and `tail` int32 positions. The functions are pure, so a
queue can live inside a compiled, donated state. How full it is, is the host's business: see `Budget`.
"""

from keras import ops

RING_BATCHES = 3
READ_LAG = 2


def create(batch: dict) -> dict:
    """An empty ring for `RING_BATCHES` batches shaped like `batch`, {key: (B, ...)}."""
    data = {
        key: ops.zeros((RING_BATCHES * value.shape[0], *value.shape[1:]), dtype=ops.dtype(value))
        for key, value in batch.items()
    }
    return {"data": data, "head": ops.zeros((), "int32"), "tail": ops.zeros((), "int32")}


def push(queue: dict, batch: dict) -> dict:
    """Append a batch. Batches all have B rows and the ring a multiple of B, so a batch never wraps around."""
    tail = queue["tail"]
    data = {
        key: ops.slice_update(ring, (tail, *([0] * (len(ring.shape) - 1))), batch[key])
        for key, ring in queue["data"].items()
    }
    rows = next(iter(data.values())).shape[0]
    size = next(iter(batch.values())).shape[0]
    return {"data": data, "head": queue["head"], "tail": ops.cast((tail + size) % rows, "int32")}


def peek(queue: dict, size: int) -> dict:
    """The oldest `size` rows, left in place."""
    rows = next(iter(queue["data"].values())).shape[0]
    index = (queue["head"] + ops.arange(size, dtype="int32")) % rows
    return {key: ops.take(ring, index, axis=0) for key, ring in queue["data"].items()}


def advance(queue: dict, consumed) -> dict:
    """Drop the oldest `consumed` rows (int32 scalar tensor)."""
    rows = next(iter(queue["data"].values())).shape[0]
    return {**queue, "head": ops.cast((queue["head"] + consumed) % rows, "int32")}


class Budget:
    """The host's account of one queue, kept without waiting for the device.

    How many rows a step consumed is learnt `READ_LAG` steps late. Until then a step counts as having taken a
    whole batch when asking whether rows could run short, and none when asking whether there is room; three
    batches of room satisfy both. The order is first-in first-out, so when a batch is pushed never changes
    what a step sees.
    """

    def __init__(self, batch_size: int, pushed: int = 0, consumed: int = 0):
        self.batch_size = batch_size
        self.pushed = pushed
        self.consumed = consumed
        self.unsettled = 0

    @property
    def must_push(self) -> bool:
        """Whether the next step could find fewer than a batch of rows."""
        return self.pushed - self.consumed < (self.unsettled + 1) * self.batch_size

    def note_push(self) -> None:
        self.pushed += self.batch_size

    def note_step(self) -> None:
        self.unsettled += 1

    def settle(self, consumed: int) -> None:
        """Learn what the oldest unsettled step consumed. Raises: ValueError: more than a batch."""
        if not 0 <= consumed <= self.batch_size:
            raise ValueError(f"an objective consumed {consumed} rows of a batch of {self.batch_size}")
        self.unsettled -= 1
        self.consumed += consumed
