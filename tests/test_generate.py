"""Generation against searches written from their definitions, on a model read without a cache."""

import dataclasses

import causal
import numpy as np
import pytest
from causal import VOCABULARY
from keras import ops
from reference import log_softmax, to_numpy

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.generate import Writer, generate

B, S, L, PAD = 3, 7, 11, 0
EOS = 5


@pytest.fixture(scope="module")
def writer():
    return Writer(causal.causal(9))


@pytest.fixture(scope="module")
def score(writer):
    """Uncached: logits float64 (V,) of what follows a list of tokens."""
    whole = backend.compiled(lambda t, m: writer.model(t, m), writer.model)

    def logits(tokens):
        # Padded on the right, which a causal model does not see, to one shape.
        row = np.zeros((1, S + L), np.int32)
        row[0, : len(tokens)] = tokens
        mask = np.arange(S + L)[None] < len(tokens)
        return to_numpy(whole(row, mask))[0, len(tokens) - 1].astype(np.float64)

    return logits


def rows_of(tokens, mask):
    return [row[kept].tolist() for row, kept in zip(tokens, mask, strict=True)]


def settings(**changes):
    return GenerationConfig(**{"max_new_tokens": L, "eos_token_id": EOS, "pad_token_id": PAD, **changes})


def penalise(logits, seen, penalty):
    """CTRL, section 4.1, with the sign fix that everyone uses."""
    result = logits.copy()
    for token in set(seen):
        result[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    return result


def greedy(score, prompt, ends=(EOS,), penalty=1.0):
    """Tokens and their mean log-probability, by scoring the whole text again for every token."""
    text, log_p = list(prompt), []
    while len(log_p) < L and not (log_p and text[-1] in ends):
        logits = score(text)
        text.append(int(penalise(logits, text, penalty).argmax()))
        log_p.append(log_softmax(logits)[text[-1]])
    return text[len(prompt) :], np.mean(log_p)


def padded(texts, pad=PAD):
    return np.array([text + [pad] * (L - len(text)) for text in texts])


def check_greedy(writer, score, options, **expected):
    tokens, mask = causal.prompts(B, S)
    found, log_p = writer.generate((tokens, mask), options, tokens=tokens, padding_mask=mask)
    texts, means = zip(*(greedy(score, row, **expected) for row in rows_of(tokens, mask)), strict=True)
    np.testing.assert_array_equal(found, padded(texts, options.pad_token_id))
    np.testing.assert_allclose(log_p, means, atol=1e-4)
    return texts


def test_greedy_with_a_cache_is_greedy_without(writer, score):
    texts = check_greedy(writer, score, settings())
    assert len({len(text) for text in texts}) > 1  # rows end at different places


def test_any_of_several_tokens_ends_a_row(writer, score):
    first = check_greedy(writer, score, settings())
    ends = (EOS, first[0][2])
    texts = check_greedy(writer, score, settings(eos_token_id=ends, pad_token_id=28), ends=ends)
    assert texts[0] == first[0][:3]


@pytest.mark.parametrize("penalty", [1.7, 0.6])
def test_repetition_penalty(writer, score, penalty):
    texts = check_greedy(writer, score, settings(repetition_penalty=penalty), penalty=penalty)
    assert texts != check_greedy(writer, score, settings())


def test_the_penalty_counts_what_is_written_where_there_is_no_prompt(writer, score):
    tokens, mask = causal.prompts(B, S)
    found, _ = writer.generate((tokens, mask), settings(repetition_penalty=1e6))
    for row in found:
        kept = row[: np.argmax(row == EOS)] if EOS in row else row
        assert len(set(kept.tolist())) == len(kept)


def single_rows(writer, options, tokens, mask, **known):
    """What each row gives alone, without its padding."""
    for i in range(len(tokens)):
        row = tokens[i : i + 1, mask[i].argmax() :]
        kept = np.ones_like(row, bool)
        own = {key: value[i : i + 1] for key, value in known.items()}
        yield writer.generate((row, kept), options, tokens=row, padding_mask=kept, **own)


WAYS = {
    "greedy": {},
    "penalty": {"repetition_penalty": 1.4},
    "sampling": {"temperature": 1.3, "seed": 3},
    "filters": {"temperature": 0.9, "top_k": 9, "top_p": 0.8, "min_p": 0.02},
    "beams": {"num_beams": 3, "length_penalty": 0.7},
    "lookup": {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_row_of_a_batch_is_the_row_alone(writer, way):
    tokens, mask = causal.prompts(B, S, seed=1)
    options = settings(**WAYS[way])
    known = {"seeds": np.array([4, 4, 9], np.int32)} if "temperature" in WAYS[way] else {}
    found, log_p = writer.generate((tokens, mask), options, tokens=tokens, padding_mask=mask, **known)
    for i, (alone, log_p_alone) in enumerate(single_rows(writer, options, tokens, mask, **known)):
        np.testing.assert_array_equal(found[i : i + 1], alone)
        np.testing.assert_allclose(log_p[i : i + 1], log_p_alone, atol=2e-5)


@pytest.mark.parametrize("way", ["penalty", "sampling"])
def test_where_one_row_is_slow_it_is_read_twice(writer, way, monkeypatch):
    """As on a GPU."""
    tokens, _ = causal.prompts(1, S, seed=1)
    options, mask = settings(**WAYS[way]), np.ones((1, S), bool)
    found, log_p = writer.generate((tokens, mask), options, tokens=tokens)
    monkeypatch.setattr(backend, "fewest_rows", lambda: 2)
    rows, step = [], writer.model.step
    monkeypatch.setattr(writer.model, "step", lambda t, cache: (rows.append(t.shape[0]), step(t, cache))[1])
    twice, log_p_twice = Writer(writer.model).generate((tokens, mask), options, tokens=tokens)
    assert rows[-1] == 2
    np.testing.assert_array_equal(found, twice)
    np.testing.assert_allclose(log_p, log_p_twice, atol=2e-5)
    stream = Writer(writer.model).stream((tokens, mask), options, tokens=tokens)
    together = np.concatenate(list(stream), axis=1)
    np.testing.assert_array_equal(together, found[:, : together.shape[1]])


def test_seeds_repeat_and_differ(writer):
    tokens, mask = (np.repeat(part[:1], 4, axis=0) for part in causal.prompts(B, S))
    options = settings(temperature=1.5, seed=7)
    first, _ = writer.generate((tokens, mask), options)
    again, _ = writer.generate((tokens, mask), options)
    np.testing.assert_array_equal(first, again)
    assert (first == first[:1]).all()  # one seed: it does not matter where a row stands
    seeds = np.array([7, 8, 9, 7], np.int32)
    own, _ = writer.generate((tokens, mask), options, seeds=seeds)
    np.testing.assert_array_equal(own[[0, 3]], first[[0, 3]])
    assert len({tuple(row) for row in own}) == 3
    other, _ = writer.generate((tokens, mask), dataclasses.replace(options, seed=8))
    np.testing.assert_array_equal(other[1], own[1])


def beam_search(score, prompt, beams, length_penalty, longest=L):
    """One row, in plain Python, from the rule in saccade/decoding/beams.py."""
    running, finished = [([], 0.0)], []
    for count in range(1, longest + 1):
        offers = [
            ([*text, token], total + log_p)
            for text, total in running
            for token, log_p in enumerate(log_softmax(score(prompt + text)))
        ]
        offers = sorted(offers, key=lambda offer: -offer[1])[: 2 * beams]
        ended = [text[-1] == EOS or count == longest for text, _ in offers]
        for (text, total), end in zip(offers[:beams], ended[:beams], strict=False):
            if end:
                finished.append((text, total, total / count**length_penalty))
        finished = sorted(finished, key=lambda text: -text[2])[:beams]
        running = [offer for offer, end in zip(offers, ended, strict=True) if not end][:beams]
        full = len(finished) == beams
        if not running or (full and running[0][1] / count**length_penalty <= finished[-1][2]):
            break
    text, total, _ = finished[0]
    return text, total / len(text)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize("beams", [2, 4])
def test_beam_search(writer, score, beams, length_penalty):
    tokens, mask = causal.prompts(B, S, seed=2)
    options = settings(num_beams=beams, length_penalty=length_penalty)
    found, log_p = writer.generate((tokens, mask), options)
    texts, means = zip(
        *(beam_search(score, row, beams, length_penalty) for row in rows_of(tokens, mask)), strict=True
    )
    np.testing.assert_array_equal(found, padded(texts))
    np.testing.assert_allclose(log_p, means, atol=1e-4)


def test_beam_search_with_room_for_all_is_exhaustive():
    """With as many beams as there are texts, the best of all is found."""
    model, vocabulary, longest = causal.causal(1, vocab_size=6), 6, 3
    tokens, mask = causal.prompts(2, 5, vocab_size=vocabulary)
    options = settings(num_beams=vocabulary**2, max_new_tokens=longest, length_penalty=1.0)
    found, log_p = Writer(model).generate((tokens, mask), options)
    whole = backend.compiled(lambda t, m: model(t, m), model)

    texts = np.array(list(np.ndindex(*[vocabulary] * longest)), np.int32)
    for row, kept, text, mean in zip(tokens, mask, found, log_p, strict=True):
        read = np.concatenate([np.tile(row, (len(texts), 1)), texts], axis=1)
        read_mask = np.concatenate([np.tile(kept, (len(texts), 1)), np.ones_like(texts, bool)], axis=1)
        logits = to_numpy(whole(read, read_mask))[:, len(row) - 1 : -1].astype(np.float64)
        each = np.take_along_axis(log_softmax(logits), texts[..., None], 2)[..., 0]
        best = (-np.inf, None)
        for candidate, log_ps in zip(texts, each, strict=True):
            length = np.argmax(candidate == EOS) + 1 if EOS in candidate else longest
            value = log_ps[:length].sum() / length
            if value > best[0] + 1e-9:
                best = value, candidate[:length].tolist() + [PAD] * (longest - length)
        assert text.tolist() == best[1]
        np.testing.assert_allclose(mean, best[0], atol=1e-5)


class Copier:
    """Says the token that followed the last one in a given cycle; counts how often it is asked."""

    def __init__(self, cycle):
        self.cycle, self.steps = cycle, 0

    def prefill(self, tokens, room):
        logits, cache = self.step(tokens, {"position": ops.zeros((), "int32"), "memories": []})
        return logits[:, -1], {**cache, "position": ops.convert_to_tensor(tokens.shape[1], "int32")}

    def step(self, tokens, cache):
        self.steps += 1
        following = {token: self.cycle[(i + 1) % len(self.cycle)] for i, token in enumerate(self.cycle)}
        table = np.array([following.get(token, 9) for token in range(VOCABULARY)])
        chosen = ops.take(table, tokens, axis=0)
        logits = 6.0 * ops.one_hot(chosen, VOCABULARY)
        return logits, {**cache, "position": cache["position"] + tokens.shape[1]}


def test_copied_text_takes_fewer_steps(monkeypatch):
    monkeypatch.setattr(ops, "while_loop", python_while)
    cycle = [11, 12, 13, 14, 15, 16]
    tokens = np.array([[*cycle, 11, 12], [8, 8, 8, 8, 8, 8, 8, 11]], np.int32)
    results = []
    for count in (0, 4):
        copier = Copier(cycle)
        options = GenerationConfig(max_new_tokens=21, prompt_lookup_num_tokens=count, eos_token_id=3)
        results.append([to_numpy(part) for part in generate(copier, (tokens,), options, tokens=tokens)])
        results[-1].append(copier.steps)
    (plain, log_p, steps), (copied, copied_log_p, copied_steps) = results
    np.testing.assert_array_equal(plain, copied)
    np.testing.assert_allclose(log_p, copied_log_p, atol=1e-5)
    assert steps == 21
    assert copied_steps <= 11  # row 1 has nothing to copy from for its first six tokens; then 5 a turn


def python_while(condition, body, state):
    while bool(condition(*state)):
        state = body(*state)
    return state


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("guesses", [1, 4])
def test_prompt_lookup_is_greedy(writer, guesses, seed):
    tokens, mask = causal.prompts(B, S, seed=seed)
    tokens[:, 3:] = np.where(mask[:, 3:], tokens[:, 3:] % 4 + 6, 0)  # few different words: much to find
    known = {"tokens": tokens, "padding_mask": mask}
    for longest in (L, 1):
        plain = writer.generate((tokens, mask), settings(max_new_tokens=longest), **known)
        options = settings(max_new_tokens=longest, prompt_lookup_num_tokens=guesses)
        for prompt in (known, {}):  # without the prompt it finds less, and writes the same
            found = writer.generate((tokens, mask), options, **prompt)
            np.testing.assert_array_equal(found[0], plain[0])
            np.testing.assert_allclose(found[1], plain[1], atol=2e-5)


@pytest.mark.parametrize("chunk", [1, 4, 50])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "beams"])
def test_a_stream_is_the_same_text(writer, way, chunk):
    tokens, mask = causal.prompts(B, S, seed=1)
    options, known = settings(**WAYS[way]), {"tokens": tokens, "padding_mask": mask}
    whole, _ = writer.generate((tokens, mask), options, **known)
    chunks = list(writer.stream((tokens, mask), options, chunk=chunk, **known))
    found = np.concatenate(chunks, axis=1)
    np.testing.assert_array_equal(found, whole[:, : found.shape[1]])
    assert (whole[:, found.shape[1] :] == PAD).all()
    ended = [EOS in row for row in whole]
    longest = L if not all(ended) else max(row.tolist().index(EOS) + 1 for row in whole)
    assert found.shape[1] == longest  # nothing after the last row has ended
    if chunk == 1 and way != "lookup":
        assert {part.shape[1] for part in chunks} == {1}


def test_a_stream_gives_tokens_before_it_is_done(writer):
    tokens, mask = causal.prompts(B, S)
    stream = writer.stream((tokens, mask), settings(eos_token_id=28), chunk=2)
    assert next(stream).shape == (B, 2)
    assert next(stream).shape == (B, 2)


def programs(writer):
    """Compiled programs so far."""
    cells = [
        cell.cell_contents for pair in writer._compiled.values() for call in pair for cell in call.__closure__
    ]
    return sum(cell._cache_size() for cell in cells if hasattr(cell, "_cache_size"))


def test_numbers_and_streams_compile_nothing_again():
    writer = Writer(causal.causal(9))
    tokens, mask = causal.prompts(B, S)
    options = settings(temperature=0.8, top_p=0.9, min_p=0.1, repetition_penalty=1.2)
    writer.generate((tokens, mask), options)
    assert programs(writer) == 2
    others = ({"temperature": 1.9}, {"top_p": 0.3, "min_p": 0.5}, {"seed": 4, "repetition_penalty": 2.0})
    for changes in others:
        writer.generate((tokens, mask), dataclasses.replace(options, **changes))
    list(writer.stream((tokens, mask), options))
    list(writer.stream((tokens, mask), options, chunk=3))
    assert programs(writer) == 2


def test_changed_numbers_change_the_text(writer):
    """They are read at every call, not when the program was compiled."""
    tokens, mask = causal.prompts(B, S)
    options = settings(temperature=1.0, top_p=0.9, repetition_penalty=1.1)
    first, _ = writer.generate((tokens, mask), options)
    cold, _ = writer.generate((tokens, mask), dataclasses.replace(options, temperature=1e-3))
    likeliest, _ = writer.generate((tokens, mask), settings(repetition_penalty=1.1))
    assert (first != cold).any()
    np.testing.assert_array_equal(cold, likeliest)


def test_bad_calls_are_named(writer):
    tokens, mask = causal.prompts(B, S)
    with pytest.raises(SaccadeError, match="num_beams is 2, but beams change until the end"):
        writer.stream((tokens, mask), settings(num_beams=2))
    with pytest.raises(SaccadeError, match="chunk is 0, it must be at least 1"):
        writer.stream((tokens, mask), settings(), chunk=0)
    model = causal.causal()
    model.max_new_tokens = 4
    with pytest.raises(SaccadeError, match="max_new_tokens is 11, this decoder writes at most 4; ask for f"):
        Writer(model).generate((tokens, mask), settings())
