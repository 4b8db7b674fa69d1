"""The one generation loop: cached, compiled, with an end per row.

A decoder is anything with two methods:

    prefill(*prompt, room) -> logits float32 (B, V), cache
        Read the prompt; the logits score each row's first new token. `room`, an int, is how many tokens
        `step` may read afterwards. Prompts of unequal length are padded on the left, so that every row ends
        in the last column; padding must not change a row's logits.
    step(tokens int32 (B, T), cache) -> logits float32 (B, T, V), cache
        Read T more tokens per row; logits[:, t] score what follows tokens[:, t], which has seen the prompt,
        the slots before cache["position"] and tokens[:, : t + 1]. T is 1 except for prompt lookup.

The cache is a dict of tensors (or trees of them) whose first axis is the row, except scalars. The loop knows
two of its entries:

    position: int32 (), the slot of the next token; `step` adds T. Prompt lookup makes it int32 (B,), for
        rows that stand at different slots, and sets it back to discard what was read last: a step overwrites
        these slots and reads none behind its own.
    memories: keys and values of the text so far, the only part that differs between the beams of a row.

`saccade.layers.cache` has what a decoder needs to keep this. An attribute `max_new_tokens` of a decoder, if
there is one, is the most it can write.

How the next tokens are chosen is in `saccade.decoding`: `one` (greedy and sampling), `lookup`, `beams`, each
with `begin`, `turn` and `shown`.
"""

from collections.abc import Iterator

import numpy as np
from keras import ops

from saccade import backend
from saccade.decoding import beams, lookup, one
from saccade.decoding.sampling import occurring
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError


def generate(decoder, prompt: tuple, settings: GenerationConfig, *, tokens=None, padding_mask=None):
    """Write until every row has ended, or max_new_tokens tokens; for use inside a compiled function.

    Args:
        decoder: see above.  prompt: what its `prefill` takes before `room`.
        tokens: int32 (B, S), the prompt's, as far as it has any: the repetition penalty counts them, prompt
            lookup copies from them.  padding_mask: bool (B, S), True = keep; None = all.
    Returns: tokens int32 (B, max_new_tokens), padded after the end; log_probability float32 (B,), the mean
        over a row's tokens, before temperature and filters.
    Raises: SaccadeError: max_new_tokens exceeds what the decoder can write.
    """
    numbers = settings.numbers
    state = begin(decoder, prompt, settings, numbers, tokens=tokens, padding_mask=padding_mask)
    state = advance(decoder, state, settings, numbers, settings.max_new_tokens)
    tokens, _, log_probability = _method(settings).shown(state, settings, numbers)
    return tokens, log_probability


def begin(decoder, prompt, settings, numbers, seeds=None, tokens=None, padding_mask=None):
    """Read the prompt and write the first token of every row.

    Args:
        numbers: `settings.numbers`, perhaps as tensors.  seeds: int32 (B,); None = settings.seed for all.
        Others: as `generate`.
    Returns: the loop's state, for `advance`.
    """
    limit = getattr(decoder, "max_new_tokens", None)
    if limit is not None and settings.max_new_tokens > limit:
        raise SaccadeError(
            f"max_new_tokens is {settings.max_new_tokens}, this decoder writes at most {limit}; ask for fewer"
        )
    logits, cache = decoder.prefill(*prompt, settings.room)
    rows, vocab_size = logits.shape
    known = {
        "seeds": ops.broadcast_to(numbers["seed"], (rows,)) if seeds is None else seeds,
        "tokens": tokens,
        "padding_mask": ops.ones_like(tokens, "bool")
        if tokens is not None and padding_mask is None
        else padding_mask,
        "seen": None,
    }
    if settings.repetition_penalty != 1:
        known["seen"] = (
            ops.zeros((rows, vocab_size), "bool")
            if tokens is None
            else occurring(tokens, known["padding_mask"], vocab_size)
        )
    return _method(settings).begin(logits, cache, known, settings, numbers)


def advance(decoder, state, settings, numbers, until):
    """Go on until `until` columns are written, an int or int32 (), or every row has ended or is full."""
    method = _method(settings)
    until = ops.minimum(until, settings.max_new_tokens)

    def unfinished(state):
        written = method.shown(state, settings, numbers)[1]
        return ops.logical_and(written < until, ops.logical_not(ops.all(state["done"])))

    return ops.while_loop(
        unfinished, lambda state: (method.turn(decoder, state, settings, numbers),), (state,)
    )[0]


def _method(settings):
    if settings.num_beams > 1:
        return beams
    return lookup if settings.prompt_lookup_num_tokens else one


class Writer:
    """A decoder's writing as compiled calls: one program reads prompts, one goes on writing.

    They compile once per shape of the prompt and `GenerationConfig.program`: temperature, top_p, min_p,
    penalties and seeds change freely. Results are NumPy arrays.

    Args:
        model: holds the weights, built.  decoder: see above; None = the model.
    """

    def __init__(self, model, decoder=None):
        self.model = model
        self.decoder = model if decoder is None else decoder
        self._compiled: dict = {}

    def generate(self, prompt: tuple, settings: GenerationConfig, **known) -> tuple[np.ndarray, np.ndarray]:
        """Write all: tokens and log_probability, as `generate`.

        Args:
            prompt: arrays, or trees of them.  tokens, padding_mask: as `generate`.
            seeds: int32 (B,), of the rows' sampling; None = settings.seed for all.
        """
        state, advance = self._begin(prompt, settings, **known)
        _, (tokens, _, log_probability), _ = advance(state, np.int32(settings.max_new_tokens))
        return _to_numpy(tokens), _to_numpy(log_probability)

    def stream(
        self, prompt: tuple, settings: GenerationConfig, *, chunk: int = 1, **known
    ) -> Iterator[np.ndarray]:
        """Write, and give the tokens as they come: int32 (B, n), the next columns; padding after a row's end.

        The columns of all chunks together are what `generate` gives, up to where every row has ended.

        Args: chunk: tokens to write between two looks at them; the device waits for each look.  Others: as
            `generate`.
        Raises: SaccadeError: beam search, which knows its first token last.
        """
        if settings.num_beams > 1:
            raise SaccadeError(
                f"num_beams is {settings.num_beams}, but beams change until the end; stream with num_beams=1"
            )
        if chunk < 1:
            raise SaccadeError(f"chunk is {chunk}, it must be at least 1; 1 shows every token at once")
        return self._stream(prompt, settings, chunk, known)

    def _stream(self, prompt, settings, chunk, known):
        state, advance = self._begin(prompt, settings, **known)
        sent, done = 0, False
        while sent < settings.max_new_tokens and not done:
            state, (tokens, count, _), done = advance(state, np.int32(sent + chunk))
            count, done = int(_to_numpy(count)), bool(_to_numpy(done))
            if count > sent:
                yield _to_numpy(tokens)[:, sent:count]
            sent = count

    def _begin(self, prompt, settings, *, tokens=None, padding_mask=None, seeds=None):
        """The state after the first token, and the compiled `advance` that goes on from it."""
        if settings.program not in self._compiled:
            self._compiled[settings.program] = self._programs(settings)
        read, write = self._compiled[settings.program]
        numbers = settings.numbers
        state = read(prompt, numbers, seeds, tokens, padding_mask)
        return state, lambda state, until: write(state, numbers, until)

    def _programs(self, settings):
        def read(prompt, numbers, seeds, tokens, padding_mask):
            return begin(self.decoder, prompt, settings, numbers, seeds, tokens, padding_mask)

        def write(state, numbers, until):
            state = advance(self.decoder, state, settings, numbers, until)
            return state, _method(settings).shown(state, settings, numbers), ops.all(state["done"])

        return backend.compiled(read, self.model), backend.compiled(write, self.model)


def _to_numpy(tensor) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))
