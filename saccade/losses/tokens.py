"""Losses of one choice among K, and of texts: one choice a token."""

from keras import ops

from saccade import kernels


def cross_entropy(logits, targets, smoothing: float = 0.0, stablemax: bool = False):
    """-log p[target] with label smoothing; p is softmax(logits), or stablemax(logits).

    Args:
        logits: float (..., K).  targets: int32 (...).  smoothing: mass spread evenly over the K classes.
    Returns: float32 (...).
    """
    log_p = log_stablemax(logits) if stablemax else ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    # Not a gather: its gradient would be a scatter, many times slower on a GPU than this fused sum.
    chosen = ops.equal(ops.expand_dims(targets, -1), ops.arange(log_p.shape[-1], dtype="int32"))
    picked = ops.sum(ops.where(chosen, log_p, 0.0), axis=-1)
    if not smoothing:
        return -picked
    return -(1 - smoothing) * picked - smoothing * ops.mean(log_p, axis=-1)


def log_stablemax(logits):
    """log(s(x) / sum s(x)), s(x) = x + 1 for x >= 0, else 1 / (1 - x): no exponential that saturates.

    Args: logits: float (..., K).
    Returns: float32 (..., K).
    Source: Grokking at the Edge of Numerical Stability, arXiv:2501.04697, equation 5.
    """
    x = ops.cast(logits, "float32")
    positive = x >= 0
    # log s(x) = sign(x) log(1 + |x|), written so that its slope at 0 is 1.
    above, below = ops.where(positive, x, 0.0), ops.where(positive, 0.0, -x)
    log_s = ops.where(positive, ops.log1p(above), -ops.log1p(below))
    return log_s - ops.logsumexp(log_s, axis=-1, keepdims=True)


def binary_cross_entropy(logits, target):
    """-target * log(sigmoid) - (1 - target) * log(1 - sigmoid), stable; target in [0, 1].

    Args: logits, target: float (...).
    Returns: float32 (...).
    """
    logits, target = ops.cast(logits, "float32"), ops.cast(target, "float32")
    # Not softplus(x) - target * x: for a sure and right answer that is the difference of two large numbers.
    return (1 - target) * ops.softplus(logits) + target * ops.softplus(-logits)


def masked_mean(values, mask):
    """Mean over the last axis where mask is True; 0 for a row without any."""
    weights = ops.cast(mask, "float32")
    return ops.sum(values * weights, axis=-1) / ops.maximum(ops.sum(weights, axis=-1), 1.0)


def token_loss(logits, tokens, mask, smoothing: float = 0.0):
    """Mean cross-entropy of the next token: logits at t against the token at t + 1.

    Args:
        logits: float (B, T, V).  tokens: int32 (B, T).
        mask: bool (B, T), True = this token is to be predicted; the first never is.
        smoothing: mass spread evenly over the V classes.
    Returns: float32 (B,); 0 for a row without a token that counts.
    Raises: ValueError: fewer than 2 tokens.
    """
    if tokens.shape[1] < 2:
        raise ValueError(f"tokens have length {tokens.shape[1]}, at least 2 needed; keep BOS before the text")
    return masked_mean(cross_entropy(logits[:, :-1], tokens[:, 1:], smoothing), mask[:, 1:])


def vqa_loss(answer_logits, targets, type_logits=None, types=None, type_weight: float = 1.0, form="binary"):
    """Soft-target loss of the answer, plus the cross-entropy of its type where one is given.

    Args:
        answer_logits: float (B, K).  targets: float (B, K) in [0, 1], min(people who said so / 3, 1).
        type_logits: float (B, 3).  types: int32 (B,).  type_weight: of the second term.
        form: "binary", the sum over answers of BCE; "categorical", CE, targets made to sum to 1.
    Returns: float32 (B,); "categorical" without any target is 0.
    Raises: ValueError: another form; type_logits without types, or types without logits.
    Source: Tips and Tricks for Visual Question Answering, section 3.5, arXiv:1708.02711.
    """
    if form not in ("binary", "categorical"):
        raise ValueError(f"form is {form!r}; use 'binary' or 'categorical'")
    if (type_logits is None) != (types is None):
        raise ValueError("only one of type_logits and types is given; give both or neither")
    targets = ops.cast(targets, "float32")
    if form == "binary":
        loss = ops.sum(binary_cross_entropy(answer_logits, targets), axis=-1)
    else:
        total = ops.maximum(ops.sum(targets, axis=-1, keepdims=True), 1e-6)
        log_p = ops.log_softmax(ops.cast(answer_logits, "float32"), axis=-1)
        loss = -ops.sum(targets / total * log_p, axis=-1)
    return loss if types is None else loss + type_weight * cross_entropy(type_logits, types)


CHUNK = 2560  # tokens whose logits exist at once


def next_token(hidden, table, targets, chunk: int = CHUNK, weights=None):
    """Summed cross-entropy of softmax(hidden @ table.T), of the tokens that count only.

    Logits exist for `chunk` tokens at a time, in the dtype of hidden, and only where a target counts; the
    gradient by them is taken at once, so that the backward pass needs none of them again.

    Args:
        hidden: float (N, D).  table: float (V, D), used in the dtype of hidden.
        targets: int32 (N,), below V; negative = does not count.
        weights: float32 (N,), of each token; None = all 1.
    Returns: float32 (2,): the weighted sum of -log p[target], and how many targets have the highest logit.
    Source: Cut Your Losses in Large-Vocabulary Language Models, section 4, arXiv:2411.09009, has the idea.
    """
    count, chunk = hidden.shape[0], min(chunk, hidden.shape[0])
    spare = -count % chunk
    targets = ops.pad(targets, [[0, spare]], constant_values=-1)
    place, order = _first(targets >= 0)  # those that count stand first
    targets = ops.take(targets, order, axis=0)
    weights = ops.ones((count,), "float32") if weights is None else weights
    weights = ops.take(ops.pad(weights, [[0, spare]]), order, axis=0)
    blocks = (ops.sum(ops.cast(targets >= 0, "int32")) + chunk - 1) // chunk

    @ops.custom_gradient
    def loss(hidden, table):
        narrow = ops.cast(table, hidden.dtype)
        rows = ops.take(ops.pad(hidden, [[0, spare], [0, 0]]), order, axis=0)

        def add_block(index, state):
            sums, by_rows, by_table = state
            x = ops.slice(rows, (index * chunk, 0), (chunk, rows.shape[1]))
            own = (ops.slice(t, (index * chunk,), (chunk,)) for t in (targets, weights))
            found, by_logits = _next_token_block(ops.matmul(x, ops.transpose(narrow)), *own)
            by_rows = ops.slice_update(by_rows, (index * chunk, 0), ops.matmul(by_logits, narrow))
            by_table = by_table + ops.cast(ops.matmul(ops.transpose(by_logits), x), "float32")
            return sums + found, by_rows, by_table

        start = ops.zeros((2,), "float32"), ops.zeros_like(rows), ops.zeros(table.shape, "float32")
        sums, by_rows, by_table = ops.fori_loop(0, blocks, add_block, start)
        by_hidden = ops.take(by_rows, place, axis=0)[:count]

        def gradient(*args, upstream=None):
            given = (args[0] if upstream is None else upstream)[0]
            scaled = ops.cast(by_hidden, "float32") * given
            return ops.cast(scaled, hidden.dtype), ops.cast(by_table * given, table.dtype)

        return sums, gradient

    return loss(hidden, ops.convert_to_tensor(table))


def _first(chosen) -> tuple:
    """Where each goes if the chosen stand first, in order, and which stands where: int32 (N,) both. No sort,
    which a GPU takes many passes for."""
    number = ops.arange(chosen.shape[0], dtype="int32")
    before = ops.cumsum(ops.cast(chosen, "int32"))
    place = ops.where(chosen, before - 1, before[-1] + number - before)
    return place, ops.scatter(ops.expand_dims(place, 1), number, number.shape)


def _next_token_block(logits, targets, weights):
    """Logits (C, V) -> float32 (2,) as `next_token` sums it, and the first's gradient, dtype of logits."""
    if kernels.next_token_fits(logits):
        loss, right, slope = kernels.next_token(logits, targets, weights)
        return ops.stack((ops.sum(loss), ops.sum(right))), slope
    wide = ops.cast(logits, "float32")
    chosen = ops.equal(ops.expand_dims(targets, 1), ops.arange(wide.shape[1], dtype="int32"))
    counts = ops.expand_dims(targets >= 0, 1)
    weights = ops.where(counts, ops.expand_dims(weights, 1), 0.0)
    # All logits are read for the highest, for both sums and for the slope: three passes.
    highest = ops.max(wide, axis=-1, keepdims=True)
    total = highest + ops.log(ops.sum(ops.exp(wide - highest), axis=-1, keepdims=True))
    picked = ops.sum(ops.where(chosen, wide, 0.0), axis=-1, keepdims=True)
    right = ops.logical_and(counts, picked >= highest)
    slope = (ops.exp(wide - total) - ops.cast(chosen, "float32")) * weights
    sums = ops.sum(weights * (total - picked)), ops.sum(ops.cast(right, "float32"))
    return ops.stack(sums), ops.cast(slope, logits.dtype)
