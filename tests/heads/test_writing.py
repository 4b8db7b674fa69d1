"""The decoder against NumPy; cached writing equals scoring the whole text; generation ends per row."""

import numpy as np
import pytest
import reference
from keras import ops
from reference import part, rms_norm, to_numpy, weights

from saccade import backend
from saccade.data.text import BOS, EOS, PAD
from saccade.decoding.settings import GenerationConfig
from saccade.generate import generate
from saccade.heads.text import TextDecoder
from saccade.layers.embeddings import TokenEmbedding

B, T, S, D, HEADS, MLP_DIM, VOCABULARY, LONGEST = 2, 7, 9, 24, 3, 40, 13, 11


@pytest.fixture(scope="module")
def decoder():
    embedding = TokenEmbedding(VOCABULARY, D, LONGEST, name="text")
    embedding.build()
    reference.randomize(embedding, 4)
    built = TextDecoder(embedding, 2, HEADS, MLP_DIM, name="write")
    built.build()
    for i, block in enumerate((*built.blocks, built.norm)):
        reference.randomize(block, i)
    return built


def memory(seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.random((B, S)) < 0.7
    mask[:, 0] = True
    return rng.normal(size=(B, S, D)).astype(np.float32), mask


def test_scores_of_a_whole_text(decoder):
    hidden, mask = memory()
    tokens = np.random.default_rng(1).integers(VOCABULARY, size=(B, T))
    own = weights(decoder.embedding)
    x = decoder.embedding.dim**0.5 * (own["table"][tokens] + own["positions"][:T])
    causal = np.tril(np.ones((1, T, T), bool))
    w = weights(decoder)
    for block in ("block_0", "block_1"):
        x = reference.decoder_block(part(w, block), x, hidden, causal, mask[:, None], HEADS)
    expected = rms_norm(part(w, "norm"), x) @ own["table"].T
    result = backend.compiled(lambda *args: decoder(*args), decoder)(tokens, hidden, mask)
    np.testing.assert_allclose(to_numpy(result), expected, atol=1e-4)


def test_writing_with_a_cache_equals_scoring_the_whole_text(decoder):
    hidden, mask = memory()
    tokens = np.random.default_rng(2).integers(VOCABULARY, size=(B, T)).astype(np.int32)
    tokens[:, 0] = BOS
    whole = to_numpy(backend.compiled(lambda *args: decoder(*args), decoder)(tokens, hidden, mask))
    step = backend.compiled(decoder.step, decoder)
    logits, cache = backend.compiled(lambda h, m: decoder.prefill(h, m, LONGEST - 1), decoder)(hidden, mask)
    np.testing.assert_allclose(to_numpy(logits), whole[:, 0], atol=2e-5)
    for t in range(1, T):
        logits, cache = step(tokens[:, t : t + 1], cache)
        np.testing.assert_allclose(to_numpy(logits[:, 0]), whole[:, t], atol=2e-5)


def test_several_tokens_at_once_from_places_of_their_own(decoder):
    hidden, mask = memory()
    tokens = np.random.default_rng(2).integers(VOCABULARY, size=(B, LONGEST)).astype(np.int32)
    tokens[:, 0] = BOS
    whole = to_numpy(backend.compiled(lambda *args: decoder(*args), decoder)(tokens, hidden, mask))
    _, cache = backend.compiled(lambda h, m: decoder.prefill(h, m, LONGEST - 1), decoder)(hidden, mask)
    step = backend.compiled(decoder.step, decoder)
    logits, cache = step(tokens[:, 1:5], {**cache, "position": np.ones(B, np.int32)})
    np.testing.assert_allclose(to_numpy(logits), whole[:, 1:5], atol=2e-5)
    # Go back by 0 and 2 tokens, over what was read there.
    starts = np.array([5, 3], np.int32)
    assert to_numpy(cache["position"]).tolist() == [5, 5]
    block = np.stack([row[start : start + 3] for row, start in zip(tokens, starts, strict=True)])
    logits, cache = step(block, {**cache, "position": starts})
    expected = np.stack([row[start : start + 3] for row, start in zip(whole, starts, strict=True)])
    np.testing.assert_allclose(to_numpy(logits), expected, atol=2e-5)


def by_hand(decoder, hidden, mask, length):
    """Greedy, without a cache: score everything written so far again for every token."""
    score = backend.compiled(lambda *args: decoder(*args), decoder)
    texts, means = [], []
    for b in range(B):
        written, log_p = [BOS], []
        while len(written) <= length and written[-1] != EOS:
            padded = np.array([written + [PAD] * (LONGEST - len(written))])
            logits = to_numpy(score(padded, hidden[b : b + 1], mask[b : b + 1]))[0, len(written) - 1]
            written.append(int(logits.argmax()))
            log_p.append(reference.log_softmax(logits.astype(np.float64)).max())
        texts.append((written[1:] + [PAD] * length)[:length])
        means.append(np.mean(log_p))
    return texts, means


@pytest.mark.parametrize("seed", range(3))
def test_generation_is_greedy_and_ends_by_row(decoder, seed):
    hidden, mask = memory(seed)
    settings = GenerationConfig(max_new_tokens=LONGEST)
    run = backend.compiled(lambda h, m: generate(decoder, (h, m), settings), decoder)
    tokens, score = run(hidden, mask)
    expected, means = by_hand(decoder, hidden, mask, LONGEST)
    np.testing.assert_array_equal(to_numpy(tokens), expected)
    np.testing.assert_allclose(to_numpy(score), means, atol=1e-4)


class Script:
    """A decoder that writes what it is told: row b says <eos> at position ends[b]."""

    def __init__(self, ends):
        self.ends, self.calls = ends, []

    def prefill(self, room):
        logits, cache = self.step(None, {"position": ops.zeros((), "int32")})
        return logits[:, 0], cache

    def step(self, tokens, cache):
        self.calls.append(1)
        ends = ops.convert_to_tensor(self.ends)
        wanted = ops.where(ends == cache["position"], EOS, 5)
        logits = 4.0 * ops.one_hot(wanted, VOCABULARY)
        return ops.expand_dims(logits, 1), {"position": cache["position"] + 1}


def test_a_row_that_has_ended_is_padded():
    tokens, score = generate(Script([0, 3, 99]), (), GenerationConfig(max_new_tokens=5))
    np.testing.assert_array_equal(
        to_numpy(tokens),
        [[EOS, PAD, PAD, PAD, PAD], [5, 5, 5, EOS, PAD], [5, 5, 5, 5, 5]],
    )
    certain = 4 - np.log(np.exp(4) + VOCABULARY - 1)
    np.testing.assert_allclose(to_numpy(score), [certain] * 3, rtol=1e-5)  # padding is not counted


def test_writing_stops_when_all_rows_have_ended():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "while_loop", python_while)
        script = Script([1, 2])
        generate(script, (), GenerationConfig(max_new_tokens=9))
    assert len(script.calls) == 3


def python_while(condition, body, state):
    while bool(condition(*state)):
        state = body(*state)
    return state
