"""Beam search: several texts per row, the likeliest kept.

Every turn the 2 N likeliest continuations of a row's N beams are taken (more where several tokens end a
text). Those among the first N that end the text compete for N finished places by log-probability / tokens **
length_penalty; the N likeliest of the others go on. A row is done when its finished places are full and the
likeliest running beam, scored at its present length, is no better than the worst of them.

Source: transformers, `GenerationMixin._beam_search` with early_stopping=False, whose results these are. A
beam is a row of the decoder's batch: row b's stand at b N ... b N + N - 1.
"""

import keras
from keras import ops

from saccade.decoding.sampling import also, is_one_of, penalised
from saccade.layers.cache import repeat_rows

_NEVER = -1e9  # a score that nothing real has


def begin(logits, cache, prompt, settings, numbers):
    """The state after the first token of every beam."""
    rows, beams, longest = logits.shape[0], settings.num_beams, settings.max_new_tokens
    # The first beam alone has something to say: all start equal.
    first = ops.cast(ops.where(ops.arange(beams) == 0, 0.0, _NEVER), "float32")
    blank = ops.full((rows, beams, longest), settings.pad_token_id, "int32")
    state = {
        "count": ops.zeros((), "int32"),
        "running": ops.broadcast_to(first, (rows, beams)),
        "tokens": blank,
        "best": ops.full((rows, beams), _NEVER, "float32"),
        "best_tokens": blank,
        "full": ops.zeros((rows, beams), "bool"),
        "best_length": ops.ones((rows, beams), "int32"),
        "done": ops.zeros((rows,), "bool"),
        "cache": repeat_rows(cache, beams),
    }
    if prompt["seen"] is not None:
        state["seen"] = ops.repeat(prompt["seen"], beams, axis=0)
    return _write(state, ops.repeat(logits, beams, axis=0), settings, numbers)


def turn(decoder, state, settings, numbers):
    """Read the last token of every beam and write the next."""
    last = ops.take(state["tokens"], state["count"] - 1, axis=2)
    logits, cache = decoder.step(ops.reshape(last, (-1, 1)), state["cache"])
    return _write({**state, "cache": cache}, logits[:, 0], settings, numbers)


def _write(state, logits, settings, numbers):
    rows, beams, longest = state["tokens"].shape
    vocabulary, count = logits.shape[-1], state["count"]
    log_p = ops.log_softmax(logits, axis=-1)
    if "seen" in state:
        log_p = penalised(log_p, state["seen"], numbers)
    total = ops.reshape(log_p, (rows, beams, vocabulary)) + ops.expand_dims(state["running"], 2)
    wide = min(max(2, 1 + len(settings.ends)) * beams, beams * vocabulary)
    scores, index = ops.top_k(ops.reshape(total, (rows, -1)), wide)
    parent, token = ops.cast(index // vocabulary, "int32"), ops.cast(index % vocabulary, "int32")
    here = ops.arange(longest, dtype="int32") == count
    texts = ops.where(here, ops.expand_dims(token, 2), _pick(state["tokens"], parent))
    ended = ops.logical_or(is_one_of(token, settings.ends), count + 1 >= longest)

    length = ops.cast(count + 1, "float32") ** numbers["length_penalty"]
    finished = ops.logical_and(ended, ops.arange(wide) < beams)
    finished = ops.logical_and(finished, ops.logical_not(ops.expand_dims(state["done"], 1)))
    offered = {
        "best": ops.where(finished, scores / length, _NEVER),
        "best_tokens": texts,
        "full": finished,
        "best_length": ops.broadcast_to(count + 1, (rows, wide)),
    }
    offered = {key: ops.concatenate([state[key], value], axis=1) for key, value in offered.items()}
    order = ops.cast(ops.top_k(offered["best"], beams)[1], "int32")
    kept = {key: _pick(value, order) for key, value in offered.items()}

    running, order = ops.top_k(ops.where(ended, scores + _NEVER, scores), beams)
    order = ops.cast(order, "int32")
    parent = _pick(parent, order)
    better = running[:, 0] / length > ops.min(kept["best"], axis=1)
    hopeful = ops.logical_or(better, ops.logical_not(ops.all(kept["full"], axis=1)))
    rows_of = ops.reshape(parent + ops.expand_dims(ops.arange(rows, dtype="int32"), 1) * beams, (-1,))
    memories = keras.tree.map_structure(
        lambda leaf: ops.take(leaf, rows_of, axis=0), state["cache"]["memories"]
    )
    if "seen" in state:
        chosen = ops.reshape(_pick(token, order), (-1,))
        state = {**state, "seen": also(ops.take(state["seen"], rows_of, axis=0), chosen)}
    return {
        **state,
        **kept,
        "count": count + 1,
        "running": running,
        "tokens": _pick(texts, order),
        "done": ops.logical_or(state["done"], ops.logical_not(hopeful)),
        "cache": {**state["cache"], "memories": memories},
    }


def _pick(values, index):
    """values (B, M, ...) at index (B, N): (B, N, ...)."""
    index = ops.reshape(index, (*index.shape, *(1 for _ in values.shape[2:])))
    return ops.take_along_axis(values, ops.broadcast_to(index, (*index.shape[:2], *values.shape[2:])), axis=1)


def shown(state, settings, numbers):
    """As `saccade.decoding.one.shown`, of each row's best text; nothing is final before the end."""
    length = ops.cast(state["best_length"][:, 0], "float32")
    mean = state["best"][:, 0] * length ** (numbers["length_penalty"] - 1)
    return state["best_tokens"][:, 0], state["count"], mean
