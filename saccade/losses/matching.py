"""Set prediction: which prediction answers for which target, and what that costs."""

from keras import ops

from saccade.losses.boxes import box_loss
from saccade.losses.tokens import binary_cross_entropy, masked_mean


def set_loss(boxes, score_logits, targets, mask, extra_cost=None, score_weight: float = 1.0, kept=None):
    """Match predictions to targets one to one; box loss of the pairs, BCE of every score.

    The pairs minimise box_loss - score_weight * sigmoid(score) [+ extra_cost]. A prediction without target is
    "no object": its score should be 0 and its box is free.

    Args:
        boxes: cxcywh float (B, P, 4).  score_logits: float (B, P).
        targets: xyxy float (B, T, 4).  mask: bool (B, T), True = a target.
        extra_cost: float (B, T, P), for matching only, such as -p[class of the target].
        kept: bool (B, P), True = a prediction; the others are padding, which no target gets; None = all.
    Returns: loss float32 (B,); match int32 (B, T), the prediction of each target or -1.
    Source: DETR, section 3.1, arXiv:2005.12872. Differs: BCE of a score for the CE of classes; mean over P.
    """
    # What is not a target may hold anything, also what is not finite.
    targets = ops.where(ops.expand_dims(mask, -1), ops.cast(targets, "float32"), 0.0)
    pairs, _ = box_loss(ops.expand_dims(boxes, 1), ops.expand_dims(targets, 2))
    cost = pairs - score_weight * ops.expand_dims(ops.sigmoid(ops.cast(score_logits, "float32")), 1)
    cost = cost if extra_cost is None else cost + ops.cast(extra_cost, "float32")
    match = assign(cost, mask) if kept is None else _assign_kept(cost, mask, kept)
    chosen = ops.equal(ops.expand_dims(match, -1), ops.arange(boxes.shape[1], dtype="int32"))
    fit = masked_mean(ops.sum(ops.where(chosen, pairs, 0.0), axis=-1), match >= 0)
    kept = ops.ones(score_logits.shape, "bool") if kept is None else kept
    score_logits = ops.where(kept, score_logits, 0.0)
    scores = masked_mean(binary_cross_entropy(score_logits, ops.any(chosen, axis=1)), kept)
    return fit + score_weight * scores, match


def _assign_kept(cost, mask, kept):
    """`assign` among the kept predictions only."""
    kept = ops.expand_dims(kept, 1)
    # Dearer than any other: nobody takes padding while a prediction is free; who had to is left without.
    cost = ops.where(kept, cost, ops.max(cost, axis=(1, 2), keepdims=True) + 1)
    match = assign(cost, mask)
    real = ops.take_along_axis(kept[:, 0], ops.maximum(match, 0), axis=1)
    return ops.where(real, match, -1)


def assign(cost, mask):
    """The one-to-one assignment of least total cost, exact, inside jit; no gradient passes.

    As many targets are assigned as there are predictions for. Shortest augmenting paths: each target in turn
    takes the cheapest path to a free prediction, in costs reduced by dual variables.

    Args: cost: float (B, T, P).  mask: bool (B, T), True = a target.
    Returns: int32 (B, T): the prediction of each target; -1 = padding, or none was left.
    Source: Crouse, On implementing 2D rectangular assignment algorithms, 2016, the algorithm of SciPy.
    """
    cost = ops.stop_gradient(ops.cast(cost, "float32"))
    batch, rows, real = cost.shape
    cost = ops.where(ops.expand_dims(mask, -1), cost, 0.0)
    if rows > real:
        # Spare columns dearer than any real one: nobody takes one while a real one is free.
        low, high = ops.min(cost, (1, 2), keepdims=True), ops.max(cost, (1, 2), keepdims=True)
        spare = ops.broadcast_to(2 * high - low + 1, (batch, rows, rows - real))
        cost = ops.concatenate([cost, spare], axis=-1)
    columns = cost.shape[-1]

    def add_row(row, state):
        u, v, row_of, column_of = state
        row = ops.full((batch,), row, "int32")
        wanted = ops.take_along_axis(mask, row[:, None], axis=1)[:, 0]
        length, previous, scanned, sink, total = _shortest_path(cost, u, v, row_of, row, wanted)
        # The duals that make every edge of the found tree tight.
        saved = ops.where(scanned, total[:, None] - length, 0.0)
        v = v - saved
        at = ops.maximum(column_of, 0)
        u = u + ops.where(column_of >= 0, ops.take_along_axis(saved, at, axis=1), 0.0)
        u = u + ops.where(_at(row, rows), total[:, None], 0.0)
        row_of, column_of = _augment(previous, sink, row, row_of, column_of)
        return u, v, row_of, column_of

    zeros = ops.zeros((batch, rows), "float32"), ops.zeros((batch, columns), "float32")
    free = ops.full((batch, columns), -1, "int32"), ops.full((batch, rows), -1, "int32")
    match = ops.fori_loop(0, rows, add_row, (*zeros, *free))[3]
    return ops.where(match < real, match, -1)


def _shortest_path(cost, u, v, row_of, row, wanted):
    """Dijkstra from `row` (B,) to the nearest free column, in the costs reduced by u and v.

    Returns: length (B, C) and previous row (B, C) of the path to each column; scanned bool (B, C); the free
        column (B,), -1 where not wanted; its length (B,).
    """
    batch, _, columns = cost.shape

    def search(row, length, previous, scanned, sink, total):
        active = ops.logical_and(wanted, sink < 0)
        edge = ops.take_along_axis(cost, row[:, None, None], axis=1)[:, 0] - v
        through = edge + (total[:, None] - ops.take_along_axis(u, row[:, None], axis=1))
        shorter = ops.logical_and(through < length, ops.logical_not(scanned))
        shorter = ops.logical_and(shorter, active[:, None])
        length = ops.where(shorter, through, length)
        previous = ops.where(shorter, row[:, None], previous)
        nearest = ops.cast(ops.argmin(ops.where(scanned, 2e38, length), axis=-1), "int32")
        reached = ops.take_along_axis(length, nearest[:, None], axis=1)[:, 0]
        holder = ops.take_along_axis(row_of, nearest[:, None], axis=1)[:, 0]
        scanned = ops.logical_or(scanned, ops.logical_and(_at(nearest, columns), active[:, None]))
        sink = ops.where(ops.logical_and(active, holder < 0), nearest, sink)
        row = ops.where(ops.logical_and(active, holder >= 0), holder, row)
        return row, length, previous, scanned, sink, ops.where(active, reached, total)

    def unfinished(row, length, previous, scanned, sink, total):
        return ops.any(ops.logical_and(wanted, sink < 0))

    start = (
        row,
        ops.full((batch, columns), 1e38, "float32"),
        ops.broadcast_to(row[:, None], (batch, columns)),
        ops.zeros((batch, columns), "bool"),
        ops.full((batch,), -1, "int32"),
        ops.zeros((batch,), "float32"),
    )
    # Bounded, so that costs that are not finite end too.
    return ops.while_loop(unfinished, search, start, maximum_iterations=columns)[1:]


def _augment(previous, sink, row, row_of, column_of):
    """Walk back from the free column; every row on the way moves to the column after it."""
    rows, columns = column_of.shape[1], row_of.shape[1]

    def move(column, row_of, column_of):
        here = ops.maximum(column, 0)
        taker = ops.take_along_axis(previous, here[:, None], axis=1)[:, 0]
        active = (column >= 0)[:, None]
        left = ops.take_along_axis(column_of, taker[:, None], axis=1)[:, 0]
        row_of = ops.where(ops.logical_and(active, _at(here, columns)), taker[:, None], row_of)
        column_of = ops.where(ops.logical_and(active, _at(taker, rows)), here[:, None], column_of)
        return ops.where(ops.logical_and(column >= 0, taker != row), left, -1), row_of, column_of

    def unfinished(column, row_of, column_of):
        return ops.any(column >= 0)

    walk = ops.while_loop(unfinished, move, (sink, row_of, column_of), maximum_iterations=rows)
    return walk[1:]


def _at(index, size):
    """bool (B, size): True at index (B,)."""
    return ops.equal(index[:, None], ops.arange(size, dtype="int32"))
