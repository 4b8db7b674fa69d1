"""One token per row and turn: greedy or sampled."""

from keras import ops

from saccade import backend
from saccade.decoding.sampling import also, choose, is_one_of, log_probability, penalised
from saccade.layers.cache import repeat_rows


def begin(logits, cache, prompt, settings, numbers):
    """The state after the first token.

    Args: logits: float32 (B, V), of the first token.  prompt: what `saccade.generate.begin` knows of it.
    """
    rows, longest = logits.shape[0], settings.max_new_tokens
    state = {
        "count": ops.zeros((), "int32"),
        "last": ops.zeros((rows,), "int32"),
        "tokens": ops.full((rows, longest), settings.pad_token_id, "int32"),
        "done": ops.zeros((rows,), "bool"),
        "length": ops.zeros((rows,), "int32"),
        "score": ops.zeros((rows,), "float32"),
        "seeds": prompt["seeds"],
        # A decoder may be quicker with the same row twice; everything else has it once.
        "cache": repeat_rows(cache, backend.fewest_rows()) if rows == 1 else cache,
    }
    if prompt["seen"] is not None:
        state["seen"] = prompt["seen"]
    return _write(state, logits, settings, numbers)


def turn(decoder, state, settings, numbers):
    """Read the last token and write the next."""
    last = ops.expand_dims(state["last"], 1)
    rows = last.shape[0]
    last = ops.repeat(last, backend.fewest_rows(), axis=0) if rows == 1 else last
    logits, cache = decoder.step(last, state["cache"])
    return _write({**state, "cache": cache}, logits[:rows, 0], settings, numbers)


def _write(state, logits, settings, numbers):
    done, count = state["done"], state["count"]
    scores = penalised(logits, state["seen"], numbers) if "seen" in state else logits
    chosen = choose(scores, state["seeds"], count, settings, numbers)
    # Counted, not read off the tokens: an untrained model may write the padding token itself.
    length = state["length"] + ops.cast(ops.logical_not(done), "int32")
    score = state["score"] + ops.where(done, 0.0, log_probability(logits, chosen))
    last = ops.where(done, settings.pad_token_id, chosen)
    if "seen" in state:
        state = {**state, "seen": also(state["seen"], chosen)}
    return {
        **state,
        "count": count + 1,
        "last": last,
        "tokens": ops.slice_update(state["tokens"], (0, count), ops.expand_dims(last, 1)),
        "done": ops.logical_or(done, is_one_of(chosen, settings.ends)),
        "length": length,
        "score": score,
    }


def shown(state, settings, numbers):
    """What has been written.

    Returns: tokens int32 (B, L), padded; how many of their columns are written, int32 (); the mean
        log-probability of a row's tokens, float32 (B,).
    """
    length = ops.cast(state["length"], "float32")
    return state["tokens"], state["count"], state["score"] / length
