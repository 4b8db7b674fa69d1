"""The next token of each row: greedy, or drawn from what the filters leave."""

from keras import ops

from saccade import backend


def filtered(logits, settings, numbers):
    """Temperature, top-k, top-p and min-p, in this order: what may not be drawn gets -inf.

    Args:
        logits: float32 (B, V).  settings: a GenerationConfig.  numbers: its `numbers`, perhaps as tensors.
    Returns: float32 (B, V), divided by the temperature.
    Source: top-k: arXiv:1805.04833, section 5.4; top-p: arXiv:1904.09751, section 3.1; min-p:
        arXiv:2407.01082, section 3. Tokens that tie at a limit all stay.
    """
    logits = logits / numbers["temperature"]
    floor = None
    top_k = min(settings.top_k, logits.shape[-1])
    if top_k or settings.top_p < 1:
        ranked = ops.top_k(logits, top_k)[0] if top_k else ops.flip(ops.sort(logits, axis=-1), axis=-1)
        floor = ranked[:, -1:]
        if settings.top_p < 1:
            floor = _least_of_nucleus(ranked, numbers["top_p"])
    if settings.min_p > 0:
        share = ops.max(logits, axis=-1, keepdims=True) + ops.log(numbers["min_p"])
        floor = share if floor is None else ops.maximum(floor, share)
    return logits if floor is None else ops.where(logits < floor, -float("inf"), logits)


def _least_of_nucleus(ranked, top_p):
    """The least logit of the top-p nucleus, (B, 1), of logits in falling order."""
    p = ops.softmax(ranked, axis=-1)
    inside = ops.cumsum(p, axis=-1) - p < top_p  # the likelier ones do not reach top_p without it
    return ops.min(ops.where(inside, ranked, float("inf")), axis=-1, keepdims=True)


def penalised(logits, seen, numbers):
    """Logits of tokens seen before, further from being chosen.  seen: bool (B, V)."""
    penalty = numbers["repetition_penalty"]
    return ops.where(seen, ops.where(logits < 0, logits * penalty, logits / penalty), logits)


def choose(logits, seeds, step, settings, numbers):
    """One token per row.

    A row's draw depends on its seed and the step alone: Gumbel noise on the filtered logits, whose argmax is
    a sample (arXiv:1611.01144, equation 1).

    Args: logits: float32 (B, V).  seeds: int32 (B,).  step: int32 (), tokens written so far.
    Returns: int32 (B,).
    """
    if settings.temperature > 0:
        logits = filtered(logits, settings, numbers) + backend.gumbel(seeds, step, logits.shape[-1])
    return ops.cast(ops.argmax(logits, axis=-1), "int32")


def log_probability(logits, tokens):
    """log p of tokens (...) under logits (..., V): float32 (...)."""
    chosen = ops.squeeze(ops.take_along_axis(logits, ops.expand_dims(tokens, -1), axis=-1), -1)
    return chosen - ops.logsumexp(logits, axis=-1)


def is_one_of(tokens, ends: tuple[int, ...]):
    """bool like tokens: which of them end a row."""
    found = tokens == ends[0]
    for end in ends[1:]:
        found = ops.logical_or(found, tokens == end)
    return found


def occurring(tokens, padding_mask, vocab_size: int):
    """Which tokens occur in a prompt: int32 (B, S), bool (B, S) -> bool (B, V)."""
    rows = tokens.shape[0]
    counts = ops.zeros((rows, vocab_size), "int32")
    row = ops.broadcast_to(ops.expand_dims(ops.arange(rows), 1), tokens.shape)
    indices = ops.reshape(ops.stack([row, tokens], axis=-1), (-1, 2))
    kept = ops.cast(ops.reshape(padding_mask, (-1,)), "int32")
    return ops.scatter_update(counts, indices, kept, reduction="add") > 0


def also(seen, tokens):
    """seen (B, V) with tokens (B,) too."""
    return ops.logical_or(seen, ops.one_hot(tokens, seen.shape[-1], dtype="bool"))
