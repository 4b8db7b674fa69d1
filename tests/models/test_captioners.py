"""Captioners: what the writers compute, what must not change it, and that weights survive saving."""

import functools
import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import reference
from reference import dense, part, sigmoid, to_numpy, weights

from saccade import backend
from saccade.data.text import BOS, EOS, PAD
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.generate import Writer
from saccade.models.captioners import PRESETS, CaptionerConfig, ShowAndTell, ShowAttendTell

B, T, H, W, VOCABULARY, D, E, C, N, LONGEST = 3, 7, 16, 24, 23, 20, 14, 18, 6, 9
CONFIG = CaptionerConfig(
    vocab_size=VOCABULARY,
    dim=D,
    word_dim=E,
    max_length=LONGEST,
    vision_dim=C,
    depth=1,
    patch_size=8,
    stem=(10,),
    image_size=(H, W),
    cell_dim=5,
    image_dim=7,
    gated=True,
    attributes=(3, 2),
)
KINDS = [ShowAndTell, ShowAttendTell]


@functools.cache
def built(kind, dtype="float32", seed=0):
    model = reference.randomize(kind(CONFIG, dtype=keras.DTypePolicy(dtype)), seed)
    table = model.heads["write"].table  # words differ enough that the model does not say one for ever
    table.assign(np.random.default_rng(seed).normal(size=table.shape))
    return model


@functools.cache
def scorer(model):
    return backend.compiled(model, model)


def batch(rows=B, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, VOCABULARY, size=(rows, T)).astype(np.int32)
    tokens[:, 0] = BOS
    return {"images": rng.random((rows, H, W, 3)).astype(np.float32), "decoder_tokens": tokens}


def own_weights(writer):
    return {name.split("write/", 1)[1]: value for name, value in weights(writer).items()}


def memory(seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.random((B, N)) < 0.6
    mask[0], mask[1, 0] = True, True
    mask[2] = False
    return rng.normal(size=(B, N, C)).astype(np.float32), mask


def lstm(w, inputs, hidden, carried):
    """The equations of Hochreiter and Schmidhuber with forget gates; Keras's order of gates."""
    i, f, g, o = np.split(dense(w, np.concatenate([inputs, hidden], -1)), 4, axis=-1)
    carried = sigmoid(f) * carried + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(carried), carried


def attend_and_tell(w, tokens, cells, mask):
    """Row by row, word by word. Returns logits and what was looked at."""
    logits, looked = np.zeros((B, T, VOCABULARY)), np.zeros((B, T, N))
    for b in range(B):
        keep = mask[b]
        mean = cells[b, keep].mean(0) if keep.any() else np.zeros(C)
        hidden, carried = np.split(np.tanh(dense(part(w, "initial"), mean)), 2)
        for t in range(T):
            word = w["table"][tokens[b, t]]
            query = np.concatenate([hidden, word]) @ w["query/kernel"]
            context = np.zeros(C)
            if keep.any():
                score = np.tanh(dense(part(w, "keys"), cells[b, keep]) + query) @ w["score/kernel"][:, 0]
                looked[b, t, keep] = reference.softmax(score)
                context = looked[b, t] @ cells[b] * sigmoid(dense(part(w, "gate"), hidden))
            hidden, carried = lstm(part(w, "gates"), np.concatenate([word, context]), hidden, carried)
            deep = word + dense(part(w, "from_hidden"), hidden) + context @ w["from_context/kernel"]
            logits[b, t] = dense(part(w, "output"), deep)
    return logits, looked


def test_attention_writer_against_numpy():
    writer = built(ShowAttendTell).heads["write"]
    cells, mask = memory()
    tokens = batch()["decoder_tokens"]
    run = backend.compiled(lambda *args: writer(*args, return_scores=True), writer)
    logits, scores = (to_numpy(t) for t in run(tokens, cells, mask))
    expected, looked = attend_and_tell(own_weights(writer), tokens, cells.astype(np.float64), mask)
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    np.testing.assert_allclose(scores[:, 0], looked, atol=1e-5)
    np.testing.assert_allclose(scores[:2].sum(-1), 1, atol=1e-6)  # a look is whole
    assert (scores[np.broadcast_to(~mask[:, None, None], scores.shape)] == 0).all()
    # What is masked has no influence at all, on a row without any cell either.
    other = np.where(mask[..., None], cells, 7.0).astype(np.float32)
    np.testing.assert_array_equal(to_numpy(run(tokens, other, mask)[0]), logits)


def image_vector(w, cells, mask):
    pooled = reference_gelu(dense(part(w, "features"), cells.astype(np.float64))) * mask[..., None]
    image = dense(part(w, "image"), pooled.sum(1) / np.maximum(mask.sum(1), 1)[:, None] ** 0.5)
    return reference.layer_norm(part(w, "norm"), image)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("each_word", [False, True])
def test_lstm_writer_against_kerass_lstm(each_word, gated):
    """An LSTM not written by us: the image alone first, then the words, with or without it."""
    config = replace(CONFIG, each_word=each_word, gated=gated)
    writer = reference.randomize(ShowAndTell(config), 0).heads["write"]
    cells, mask = memory()
    tokens = batch()["decoder_tokens"]
    w = own_weights(writer)
    image, words = image_vector(w, cells, mask), w["table"][tokens]
    beside = np.repeat(image[:, None], T, axis=1) * each_word
    inputs = np.concatenate(
        [np.concatenate([0 * words[:, :1], words], axis=1), np.concatenate([image[:, None], beside], axis=1)],
        axis=-1,
    ).astype(np.float32)
    theirs = keras.layers.LSTM(D, return_sequences=True)
    theirs.build(inputs.shape)
    kernel = np.concatenate([w["gates/kernel"][:E], w["image_gates/kernel"]])
    theirs.set_weights([kernel, w["gates/kernel"][E:], w["gates/bias"]])
    hidden = to_numpy(theirs(inputs))[:, 1:]
    if gated:
        asked = dense(part(w, "ask"), np.concatenate([hidden, words], axis=-1))
        hidden = np.concatenate([hidden, asked * dense(part(w, "tell"), image)[:, None]], axis=-1)
    logits = to_numpy(writer(tokens, cells, mask))
    np.testing.assert_allclose(logits, dense(part(w, "output"), hidden), atol=1e-4)
    other = np.where(mask[..., None], cells, 7.0).astype(np.float32)
    np.testing.assert_array_equal(to_numpy(writer(tokens, other, mask)), logits)


def test_cells_that_are_masked_are_as_if_they_were_not_there():
    for kind in KINDS:
        writer, (cells, _) = built(kind).heads["write"], memory()
        tokens, mask = batch()["decoder_tokens"], np.arange(N) < np.array([[N], [4], [2]])
        found = to_numpy(writer(tokens, cells, mask))
        for row, kept in enumerate(mask.sum(1)):
            alone = writer(tokens[row : row + 1], cells[row : row + 1, :kept])
            np.testing.assert_allclose(found[row], to_numpy(alone)[0], atol=2e-5)


def reference_gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


@pytest.mark.parametrize("kind", KINDS)
def test_forget_gates_start_open(kind):
    bias = to_numpy(kind(CONFIG).heads["write"].gates.bias)
    i, f, g, o = np.split(bias, 4)
    assert not np.concatenate([i, g, o]).any()
    np.testing.assert_allclose(
        1 / (1 - sigmoid(f)), np.linspace(2, LONGEST, D), rtol=1e-5
    )  # steps remembered


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_dtypes_rows_and_bytes(kind):
    model, data = built(kind), batch()
    out = {key: to_numpy(value) for key, value in scorer(model)(data).items()}
    assert out["logits"].shape == (B, T, VOCABULARY)
    assert ("attention" in out) == (kind is ShowAttendTell)
    if "attention" in out:
        assert out["attention"].shape == (B, T, N)
    assert {v.dtype for v in out.values()} == {np.dtype("float32")}
    alone = scorer(model)({key: value[1:2] for key, value in data.items()})
    for key, value in alone.items():
        np.testing.assert_allclose(to_numpy(value)[0], out[key][1], atol=1e-5)
    pixels = (data["images"] * 255).round().astype(np.uint8)
    floats = {**data, "images": pixels.astype(np.float32) / np.float32(255)}
    as_bytes, as_floats = (to_numpy(scorer(model)(d)["logits"]) for d in ({**data, "images": pixels}, floats))
    np.testing.assert_allclose(as_bytes, as_floats, atol=1e-5)
    changed = to_numpy(scorer(model)({**data, "images": 1 - data["images"]})["logits"])
    assert np.abs(changed - out["logits"]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_token_changes_nothing_before_it(kind):
    model, data = built(kind), batch()
    before = to_numpy(scorer(model)(data)["logits"])
    for t in range(1, T):
        tokens = data["decoder_tokens"].copy()
        tokens[:, t] = (tokens[:, t] + 5) % VOCABULARY
        after = to_numpy(scorer(model)({**data, "decoder_tokens": tokens})["logits"])
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.abs(after[:, t] - before[:, t]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_writing_with_a_cache_equals_scoring_the_whole_text(kind):
    model, data = built(kind), batch()
    tokens = data["decoder_tokens"]
    whole = to_numpy(scorer(model)(data)["logits"])
    logits, cache = backend.compiled(lambda i: model.prefill(i, T), model)(data["images"])
    np.testing.assert_allclose(to_numpy(logits), whole[:, 0], atol=2e-5)
    step = backend.compiled(model.step, model)
    for t in range(1, T):
        logits, cache = step(tokens[:, t : t + 1], cache)
        np.testing.assert_allclose(to_numpy(logits[:, 0]), whole[:, t], atol=2e-5)
    # Several at once, each row back at a place of its own, over what was read there.
    starts = np.array([2, 4, 3], np.int32)
    block = np.stack([row[s : s + 3] for row, s in zip(tokens, starts, strict=True)])
    logits, cache = step(block, {**cache, "position": starts + 1})  # slot 0 is the state before <bos>
    expected = np.stack([row[s : s + 3] for row, s in zip(whole, starts, strict=True)])
    np.testing.assert_allclose(to_numpy(logits), expected, atol=2e-5)
    assert to_numpy(cache["position"]).tolist() == (starts + 4).tolist()


def log_p(model, image, text):
    """Log-probability of a text (with its end), from scoring it whole."""
    read = np.array([[BOS, *text[:-1]] + [PAD] * (T - len(text))], np.int32)[:, :LONGEST]
    logits = to_numpy(scorer(model)({"images": image, "decoder_tokens": read})["logits"])[0]
    table = reference.log_softmax(logits.astype(np.float64))
    return sum(table[t, token] for t, token in enumerate(text))


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_and_beams_find_what_scoring_says(kind):
    model, image = built(kind), batch()["images"]
    greedy, _ = Writer(model).generate((image,), GenerationConfig(max_new_tokens=2))
    wide = GenerationConfig(max_new_tokens=2, num_beams=VOCABULARY)  # so wide that the search misses nothing
    beams, mean = Writer(model).generate((image,), wide)
    words = [w for w in range(VOCABULARY) if w != EOS]
    for b in range(2):
        own = image[b : b + 1]
        assert greedy[b, 0] == max(range(VOCABULARY), key=lambda w, own=own: log_p(model, own, [w]))
        score, text = max((log_p(model, own, [EOS]), [EOS]), *two_tokens(model, own, words))
        assert beams[b, : len(text)].tolist() == text
        np.testing.assert_allclose(mean[b], score, atol=1e-4)


def two_tokens(model, image, words):
    """(mean log-probability, text) of the best text of each first word."""
    read = np.array([[BOS, word] + [PAD] * (T - 2) for word in words], np.int32)
    images = np.repeat(image, len(words), axis=0)
    logits = to_numpy(scorer(model)({"images": images, "decoder_tokens": read})["logits"])
    table = reference.log_softmax(logits.astype(np.float64))
    for row, word in enumerate(words):
        second = int(table[row, 1].argmax())
        yield (table[row, 0, word] + table[row, 1, second]) / 2, [word, second]


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_lookup_writes_what_greedy_does_and_rows_end_apart(kind):
    model = built(kind)
    images = batch(rows=8, seed=3)["images"]
    writer = Writer(model)
    greedy, score = writer.generate((images,), GenerationConfig(max_new_tokens=LONGEST))
    copied, same = writer.generate(
        (images,), GenerationConfig(max_new_tokens=LONGEST, prompt_lookup_num_tokens=2)
    )
    np.testing.assert_array_equal(greedy, copied)
    np.testing.assert_allclose(score, same, atol=1e-5)
    for row in greedy:
        ends = np.flatnonzero(row == EOS)
        assert not len(ends) or (row[ends[0] + 1 :] == PAD).all()
    with pytest.raises(SaccadeError, match=f"max_new_tokens is {LONGEST + 1}, this decoder writes at most"):
        writer.generate((images,), GenerationConfig(max_new_tokens=LONGEST + 1))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_weights_survive_saving(kind, tmp_path):
    model, data = built(kind), batch()
    expected = to_numpy(scorer(model)(data)["logits"])
    model.save(tmp_path / "m")
    model.save(tmp_path / "m.keras")
    for loaded in (kind.load(tmp_path / "m"), keras.saving.load_model(tmp_path / "m.keras")):
        assert type(loaded) is kind
        assert loaded.config == CONFIG
        assert loaded.named_variables().keys() == model.named_variables().keys()
        np.testing.assert_array_equal(to_numpy(backend.compiled(loaded, loaded)(data)["logits"]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision(kind):
    full, half = built(kind), built(kind, "mixed_bfloat16")
    a, b = (to_numpy(scorer(model)(batch())["logits"]) for model in (full, half))
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).mean() < 0.05 * a.std() + 0.01
    assert half.heads["write"].gates.compute_dtype == "float32"


def test_a_network_of_keras_applications(tmp_path):
    kind = ShowAttendTell
    config = CaptionerConfig(
        vocab_size=VOCABULARY, dim=D, word_dim=E, image_size=(64, 96), backbone="MobileNetV3Small", cell_dim=3
    )
    model = kind(config)
    assert model.layout.grid == (2, 3)
    data = {**batch(rows=1), "images": np.random.default_rng(0).random((1, 64, 96, 3)).astype(np.float32)}
    logits = to_numpy(model(data)["logits"])
    assert np.isfinite(logits).all()
    model.save(tmp_path / "m")
    np.testing.assert_allclose(to_numpy(kind.load(tmp_path / "m")(data)["logits"]), logits, atol=1e-5)


def test_a_networks_variables_have_the_same_names_every_time():
    """This one has dropout, whose seeds are variables, and a layer without a name."""
    config = replace(CONFIG, image_size=(32, 32), backbone="EfficientNetB0")
    names = [list(ShowAttendTell.shapes(config)) for _ in range(2)]
    assert names[0] == names[1]
    assert any("seed_generator_state" in name for name in names[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "Resnet"}, "keras.applications has no 'Resnet'; it has .*ResNet50"),
        ({"backbone": "VGG16"}, r"VGG16 refuses images of \(16, 24, 3\)"),
        ({"image_size": (16, 20)}, "images 20 px wide are no multiple of patch_size 8"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(SaccadeError, match=message):
        ShowAttendTell(replace(CONFIG, **changes))


def test_other_sizes_of_images_are_refused():
    with pytest.raises(SaccadeError, match=r"images are \(24, 16\) px, this .* for \(16, 24\)"):
        built(ShowAttendTell).encode(np.zeros((1, 24, 16, 3), np.float32))


def test_presets_count_what_they_say():
    sizes = {
        "show_and_tell_scenes": ShowAndTell.count_parameters(PRESETS["show_and_tell_scenes"]),
        "show_attend_tell_scenes": ShowAttendTell.count_parameters(PRESETS["show_attend_tell_scenes"]),
    }
    assert sizes == {"show_and_tell_scenes": 17_041_216, "show_attend_tell_scenes": 6_533_569}
