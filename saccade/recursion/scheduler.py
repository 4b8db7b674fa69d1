"""Running steps until every row has halted, and refilling slots so that saved steps are saved time."""

import keras
from keras import ops

from saccade import backend


def where_rows(condition, yes, no):
    """Choose row by row between two trees of tensors whose first axis is B. condition: bool (B,)."""

    def choose(a, b):
        shape = (-1,) + (1,) * (len(a.shape) - 1)
        return ops.where(ops.reshape(condition, shape), a, b)

    return keras.tree.map_structure(choose, yes, no)


def refill(halted, held, waiting):
    """Give each halted slot the next waiting row, in order.

    Args:
        halted: bool (B,).  held: tree of (B, ...).  waiting: tree of (B, ...), oldest row first.
    Returns: tree of (B, ...); consumed int32 scalar, how many waiting rows were taken.
    """
    rank = ops.cumsum(ops.cast(halted, "int32")) - 1
    source = ops.maximum(rank, 0)
    incoming = keras.tree.map_structure(lambda rows: ops.take(rows, source, axis=0), waiting)
    return where_rows(halted, incoming, held), ops.sum(ops.cast(halted, "int32"))


def run_until_halted(step, carry, readout):
    """Step until every row has halted. A halted row keeps the result of its last own step.

    Args:
        step: carry -> (carry, outputs).
        carry: dict with `halted` bool (B,), all False, and `steps` int32 (B,).
        readout: outputs -> tree of tensors (B, ...), what to keep.
    Returns: the tree at each row's own halting step; steps int32 (B,).
    """

    @backend.jit  # traced once for the first step and the loop's body, which takes half the time
    def once(carry):
        carry, outputs = step(carry)
        return carry, readout(outputs)

    def advance(carry, result):
        active = ops.logical_not(carry["halted"])
        return where_rows(active, once(carry), (carry, result))

    carry, result = ops.while_loop(
        lambda carry, result: ops.logical_not(ops.all(carry["halted"])), advance, once(carry)
    )
    return result, carry["steps"]


def run_fixed(step, carry, readout, num_steps: int):
    """Step every row num_steps times, halted or not: the published evaluation of TRM and HRM.

    Returns: the tree of `readout` after the last step; steps int32 (B,).
    """
    carry = ops.fori_loop(0, num_steps - 1, lambda _, state: step(state)[0], carry)
    carry, outputs = step(carry)
    return readout(outputs), carry["steps"]


def run_slots(step, initial_carry, x, mask, readout, num_slots: int):
    """Work through N encoded examples with num_slots slots; a halted row's slot takes the next at once.

    One loop on the device, no word to the host until all are done. The work is the sum of the steps that the
    examples need, not the number of examples times the steps of the slowest.

    Args:
        step: (carry, x, mask) -> (carry, outputs), over num_slots rows.
        initial_carry: x -> carry of fresh rows.
        x: float (N, S, D).  mask: bool (N, S).
        readout: outputs -> tree of tensors (num_slots, ...).
    Returns: tree of (N, ...), each row from its own halting step; steps int32 (N,).
    """
    total = x.shape[0]
    num_slots = min(num_slots, total)
    index = ops.arange(num_slots, dtype="int32")
    held = (x[:num_slots], mask[:num_slots])
    carry = initial_carry(held[0])
    blank = keras.tree.map_structure(
        lambda t: ops.zeros((total + 1, *t.shape[1:]), dtype=t.dtype), _shapes(step, readout, carry, held)
    )
    taken_steps = ops.zeros((total + 1,), dtype="int32")

    def body(index, following, held, carry, results, taken_steps):
        carry, outputs = step(carry, *held)
        occupied = index < total
        done = ops.logical_and(carry["halted"], occupied)
        # Rows that go on write to the spare last row, which is dropped at the end.
        target = ops.expand_dims(ops.where(done, index, total), 1)
        results = keras.tree.map_structure(
            lambda store, value: ops.scatter_update(store, target, ops.cast(value, store.dtype)),
            results,
            readout(outputs),
        )
        taken_steps = ops.scatter_update(taken_steps, target, carry["steps"])
        free = ops.logical_or(done, ops.logical_not(occupied))
        upcoming = following + ops.cumsum(ops.cast(free, "int32")) - 1
        index = ops.where(free, ops.minimum(upcoming, total), index)
        following = ops.minimum(following + ops.sum(ops.cast(free, "int32")), total)
        source = ops.minimum(index, total - 1)
        held = where_rows(free, (ops.take(x, source, axis=0), ops.take(mask, source, axis=0)), held)
        carry = where_rows(free, initial_carry(held[0]), carry)
        return index, following, held, carry, results, taken_steps

    following = ops.convert_to_tensor(num_slots, dtype="int32")
    state = (index, following, held, carry, blank, taken_steps)
    state = ops.while_loop(lambda index, *_: ops.any(index < total), body, state)
    results, taken_steps = state[4], state[5]
    return keras.tree.map_structure(lambda store: store[:total], results), taken_steps[:total]


def _shapes(step, readout, carry, held):
    """Shapes and dtypes of one readout. Inside a compiled call it costs nothing: its values are unused."""
    return readout(step(carry, *held)[1])
