"""Several tokens per turn: guess that the text goes on as it did before, keep what greedy would have written.

The last two tokens (or the last one) are looked up in what stands before them, and the tokens that followed
there are read in one step. Every guess that equals the argmax before it is kept, and the argmax after the
last kept one comes free.

Source: prompt lookup decoding (A. Saxena, 2023), a draft model of Speculative Decoding, arXiv:2211.17192.
"""

import numpy as np
from keras import ops

from saccade.decoding.sampling import is_one_of, log_probability
from saccade.layers.cache import place_rows

_NOTHING = -1  # stands where no token does, and matches none


def begin(logits, cache, prompt, settings, numbers):
    """The state after the first token; `text` is the prompt with room for what follows."""
    rows = logits.shape[0]
    room = ops.full((rows, settings.room + 1), _NOTHING, "int32")
    before = prompt["tokens"]
    if before is not None:
        before = ops.where(prompt["padding_mask"], before, _NOTHING)
        room = ops.concatenate([ops.cast(before, "int32"), room], axis=1)
    state = {
        "text": room,
        "start": ops.full((rows,), room.shape[1] - settings.room - 1, "int32"),
        "done": ops.zeros((rows,), "bool"),
        "length": ops.zeros((rows,), "int32"),
        "score": ops.zeros((rows,), "float32"),
        "turns": ops.zeros((), "int32"),
        # Rows accept guesses at different rates, so each stands at its own place.
        "cache": {**cache, "position": ops.broadcast_to(cache["position"], (rows,))},
    }
    guesses = ops.zeros((rows, 0), "int32")
    return _write(state, ops.expand_dims(logits, 1), guesses, settings)


def turn(decoder, state, settings, numbers):
    """Read the last token and the guesses after it; write what greedy would."""
    end = state["start"] + state["length"]
    guesses = _guess(state["text"], end, settings.prompt_lookup_num_tokens)
    last = _read(state["text"], end - 1, 1)
    position = state["cache"]["position"]
    logits, cache = decoder.step(ops.concatenate([last, guesses], axis=1), state["cache"])
    length = state["length"]
    state = _write(state, logits, guesses, settings)
    # What was read behind the last kept token is overwritten by the next turn.
    return {**state, "cache": {**cache, "position": position + state["length"] - length}}


def _read(text, position, length: int):
    """`length` tokens of each row from position (B,) on, as far as there are any: int32 (B, length)."""
    index = ops.expand_dims(position, 1) + np.arange(length, dtype=np.int32)
    return ops.take_along_axis(text, ops.clip(index, 0, text.shape[1] - 1), axis=1)


def _guess(text, end, count: int):
    """What followed the last place where the last two tokens stood, else the last one: int32 (B, count)."""
    index = np.arange(text.shape[1], dtype=np.int32)
    last = _read(text, end - 1, 1)
    before = _read(text, end - 2, 1)
    previous = ops.concatenate([ops.full_like(last, _NOTHING), text[:, :-1]], axis=1)
    one = ops.logical_and(text == last, index < ops.expand_dims(end - 1, 1))
    two = ops.logical_and(one, ops.logical_and(previous == before, before != _NOTHING))
    rank = (ops.cast(one, "int32") + ops.cast(two, "int32")) * text.shape[1] + index
    found = ops.cast(ops.argmax(ops.where(one, rank, _NOTHING), axis=1), "int32")
    guesses = _read(text, found + 1, count)
    known = ops.expand_dims(found + 1, 1) + np.arange(count, dtype=np.int32) < ops.expand_dims(end, 1)
    known = ops.logical_and(known, ops.any(one, axis=1, keepdims=True))
    # Any token will do where there is no guess: kept or not, the text is greedy's.
    return ops.where(ops.logical_and(known, guesses >= 0), guesses, 0)


def _write(state, logits, guesses, settings):
    chosen = ops.cast(ops.argmax(logits, axis=-1), "int32")
    width = chosen.shape[1]
    kept = ops.ones((chosen.shape[0], 1), "int32")
    if width > 1:
        right = ops.cast(guesses == chosen[:, :-1], "int32")
        kept = ops.concatenate([kept, ops.cumprod(right, axis=1)], axis=1)
    ends = ops.cast(is_one_of(chosen, settings.ends), "int32")
    kept = kept * ops.cast(ops.cumsum(ends, axis=1) - ends == 0, "int32")  # up to the first end
    room = settings.max_new_tokens - ops.expand_dims(state["length"], 1)
    kept = kept * ops.cast(np.arange(width, dtype=np.int32) < room, "int32")
    kept = ops.where(ops.expand_dims(state["done"], 1), 0, kept)
    length = state["length"] + ops.sum(kept, axis=1)
    ended = ops.logical_or(ops.any(kept * ends > 0, axis=1), length >= settings.max_new_tokens)
    return {
        **state,
        "text": place_rows(state["text"], chosen, state["start"] + state["length"]),
        "done": ops.logical_or(state["done"], ended),
        "length": length,
        "score": state["score"] + ops.sum(ops.where(kept > 0, log_probability(logits, chosen), 0.0), axis=1),
        "turns": state["turns"] + 1,
    }


def shown(state, settings, numbers):
    """As `saccade.decoding.one.shown`; the columns that every unfinished row has are written."""
    longest = settings.max_new_tokens
    start = state["text"].shape[1] - settings.room - 1
    written = np.arange(longest) < ops.expand_dims(state["length"], 1)
    tokens = ops.where(written, state["text"][:, start : start + longest], settings.pad_token_id)
    least = ops.min(ops.where(state["done"], longest, state["length"]))
    count = ops.where(ops.all(state["done"]), ops.max(state["length"]), least)
    return tokens, count, state["score"] / ops.cast(state["length"], "float32")
