"""The one generation loop: greedy, cached, compiled, with an end per row."""

from keras import ops

from saccade.data.text import BOS, EOS, PAD


def generate(decoder, memory, memory_mask, max_length: int):
    """Write until every row has said <eos>, or max_length tokens.

    Args:
        decoder: has `prefill(memory, memory_mask, max_length) -> cache` and
            `step(tokens, position, cache) -> logits, cache`.
        memory: float (B, S, D).  memory_mask: bool (B, S), True = keep.
    Returns: tokens int32 (B, max_length), padded after <eos>; log_probability float32 (B,), the mean over a
        row's tokens.
    """
    rows = memory.shape[0]
    cache = decoder.prefill(memory, memory_mask, max_length)
    state = (
        ops.convert_to_tensor(0, dtype="int32"),
        ops.full((rows,), BOS, dtype="int32"),
        ops.full((rows, max_length), PAD, dtype="int32"),
        ops.zeros((rows,), dtype="bool"),
        ops.zeros((rows,), dtype="float32"),
        ops.zeros((rows,), dtype="float32"),
        cache,
    )

    def unfinished(position, last, tokens, done, score, length, cache):
        return ops.logical_and(position < max_length, ops.logical_not(ops.all(done)))

    def write_one(position, last, tokens, done, score, length, cache):
        logits, cache = decoder.step(last, position, cache)
        log_p = ops.log_softmax(logits, axis=-1)
        best = ops.cast(ops.argmax(log_p, axis=-1), "int32")
        score = score + ops.where(done, 0.0, ops.max(log_p, axis=-1))
        # Counted, not read off the tokens: an untrained model may write <pad> itself.
        length = length + ops.where(done, 0.0, 1.0)
        best = ops.where(done, PAD, best)
        tokens = ops.slice_update(tokens, (0, position), ops.expand_dims(best, 1))
        return position + 1, best, tokens, ops.logical_or(done, best == EOS), score, length, cache

    _, _, tokens, _, score, length, _ = ops.while_loop(unfinished, write_one, state)
    return tokens, score / ops.maximum(length, 1.0)
