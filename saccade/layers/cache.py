"""Where a decoder's keys and values stand in their static cache.

`position` is the slot of the first of T new tokens: int32 (), the same for all rows, or int32 (B,).
"""

import keras
from keras import ops


def slots_of(position, length: int):
    """Slots of `length` tokens from `position` on: int32 (1, T), or (B, T) where rows differ."""
    return ops.reshape(ops.cast(position, "int32"), (-1, 1)) + ops.arange(length, dtype="int32")


def readable(position, length: int, slots: int):
    """bool (1 or B, T, M): token t may read the slots up to its own, which all hold something by then."""
    return ops.arange(slots) <= ops.expand_dims(slots_of(position, length), -1)


def place(memory, new, position):
    """Overwrite the slots from `position` on.

    Args: memory: (B, M, G, E).  new: (B, T, G, E).  position: as above; the slots must exist.
    Returns: (B, M, G, E), dtype of memory.
    """
    new = ops.cast(new, memory.dtype)
    if len(position.shape) == 0:
        return ops.slice_update(memory, (0, position, 0, 0), new)
    return place_rows(memory, new, position)


def place_rows(rows, new, position):
    """rows (B, M, ...) with new (B, T, ...) from slot position (B,) on, each row at its own place."""
    batch, length = new.shape[:2]
    slots = slots_of(position, length)
    row = ops.broadcast_to(ops.expand_dims(ops.arange(batch, dtype="int32"), 1), (batch, length))
    indices = ops.reshape(ops.stack([row, slots], axis=-1), (-1, 2))
    return ops.scatter_update(rows, indices, ops.reshape(new, (-1, *new.shape[2:])))


def repeat_rows(cache, times: int):
    """A cache with every row so many times, one beside the other; scalars stay."""
    return keras.tree.map_structure(
        lambda leaf: ops.repeat(leaf, times, axis=0) if len(leaf.shape) else leaf, cache
    )
