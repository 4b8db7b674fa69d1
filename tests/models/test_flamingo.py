"""Flamingo: identity at the start, which image a token reads, its cache and padding; NumPy's equations."""

from dataclasses import replace

import jax
import keras
import numpy as np
import pytest
import reference
from keras import ops
from reference import attention, layer_norm, part, rms, swiglu, to_numpy, weights

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.fusion.cross_attention import GatedCrossAttention
from saccade.fusion.resampler import PerceiverResampler
from saccade.generate import Writer
from saccade.models.flamingo import PRESETS, Flamingo, FlamingoConfig, OpenFlamingo, preset
from saccade.models.llama import LlamaConfig
from saccade.models.vit import ViTConfig

B, K, S, M, C, D, V, ATOL = 3, 2, 11, 5, 20, 24, 53, 2e-5
CONFIG = FlamingoConfig(
    ViTConfig(C, 1, 2, 28, 4, (8, 12)),
    LlamaConfig(V, D, 3, 6, 2, 44),
    num_latents=M,
    resampler_depth=2,
    resampler_heads=4,
    cross_every=2,
)


@pytest.fixture(scope="module")
def model():
    """Every parameter random, gates open; shared: not to be changed."""
    return reference.randomize(Flamingo(CONFIG))


@pytest.fixture(scope="module")
def forward(model):
    return backend.compiled(model, model)


@pytest.fixture(scope="module")
def batch():
    """Rows with two images (the first after three words), one, and none; left-padded."""
    rng = np.random.default_rng(1)
    image_mask = np.zeros((B, S), bool)
    image_mask[0, [3, 7]] = image_mask[1, 5] = True
    return {
        "images": rng.random((B, K, 8, 12, 3)).astype(np.float32),
        "tokens": rng.integers(0, V, (B, S)).astype(np.int32),
        "image_mask": image_mask,
        "padding_mask": np.arange(S) >= np.array([0, 3, 6])[:, None],
    }


def moved(forward, batch, changed):
    return np.abs(to_numpy(forward(batch)) - to_numpy(forward({**batch, **changed}))).max(-1)


def test_at_the_start_logits_are_the_decoders_own(batch):
    fresh = Flamingo(CONFIG)
    assert OpenFlamingo is Flamingo
    plain = fresh.language(fresh.language.embed(batch["tokens"]), batch["padding_mask"])
    np.testing.assert_array_equal(to_numpy(fresh(batch)), to_numpy(fresh.language.unembed(plain)))


def test_a_token_reads_the_latest_image_and_none_ahead_of_the_first(model, batch):
    """Of the gated blocks alone: what stands before the first image reads zeros, the FFN aside."""
    seen = np.cumsum(batch["image_mask"], 1).astype(np.int32)
    memories, found = model._media(batch)
    np.testing.assert_array_equal(to_numpy(found), seen)
    x = np.random.default_rng(2).normal(size=(B, S, D)).astype(np.float32)
    look = model._look(memories, ops.convert_to_tensor(seen))
    result = to_numpy(look(0, ops.convert_to_tensor(x)))
    blind = to_numpy(model.cross[0](x))
    soft = to_numpy(model.encode_images(batch["images"]))
    for row in range(B):
        for t in range(S):
            n = seen[row, t]
            if not n:
                np.testing.assert_allclose(result[row, t], blind[row, t], atol=1e-6)
                continue
            alone = model.cross[0](x[row : row + 1, t : t + 1], soft[row : row + 1, n - 1])
            np.testing.assert_allclose(result[row, t], to_numpy(alone)[0, 0], atol=ATOL)
            assert np.abs(result[row, t] - blind[row, t]).max() > 1e-2
    assert to_numpy(look(1, x)) is not None
    np.testing.assert_array_equal(to_numpy(look(1, x)), x)  # between, nothing looks


def test_an_image_moves_what_follows_it_in_its_own_row_only(forward, batch):
    for image, row, start in ((0, 0, 3), (1, 0, 7), (0, 1, 5)):
        images = batch["images"].copy()
        images[row, image] = 1 - images[row, image]
        difference = moved(forward, batch, {"images": images})
        assert difference[row, start:].min() > 1e-4
        difference[row, start:] = 0
        assert difference.max() == 0
    images = batch["images"].copy()
    images[1, 1] = images[2] = 0  # places that no token stands for
    assert moved(forward, batch, {"images": images}).max() == 0


def test_the_future_does_not_matter(forward, batch):
    tokens = batch["tokens"].copy()
    tokens[:, 8] = (tokens[:, 8] + 5) % V
    difference = moved(forward, batch, {"tokens": tokens})
    assert difference[:, :8].max() == 0
    assert difference[:, 8].min() > 1e-3


def alone(batch, row):
    keep, count = batch["padding_mask"][row], batch["image_mask"][row].sum()
    own = {name: batch[name][row : row + 1, keep] for name in ("tokens", "padding_mask", "image_mask")}
    return {"images": batch["images"][row : row + 1, :count], **own}


@pytest.mark.parametrize("row", range(B))
def test_a_row_is_read_alone_as_in_a_batch(model, forward, batch, row):
    single, keep = alone(batch, row), batch["padding_mask"][row]
    together = to_numpy(forward(batch))[row, keep]
    np.testing.assert_allclose(to_numpy(forward(single))[0], together, atol=ATOL)
    np.testing.assert_allclose(to_numpy(model.prefill(single, 3)[0])[0], together[-1], atol=ATOL)
    unpadded = {name: value for name, value in single.items() if name != "padding_mask"}
    np.testing.assert_allclose(to_numpy(model(unpadded))[0], together, atol=ATOL)


def test_a_cache_gives_what_reading_everything_gives(model, forward, batch):
    more = np.random.default_rng(5).integers(0, V, size=(B, 6)).astype(np.int32)
    whole = {
        "images": batch["images"],
        "tokens": np.concatenate([batch["tokens"], more], 1),
        "padding_mask": np.pad(batch["padding_mask"], ((0, 0), (0, 6)), constant_values=True),
        "image_mask": np.pad(batch["image_mask"], ((0, 0), (0, 6))),
    }
    logits = to_numpy(forward(whole))[:, S - 1 :]
    found, cache = model.prefill(batch, 9)
    np.testing.assert_allclose(to_numpy(found), logits[:, 0], atol=ATOL)
    at = 0
    for count in (1, 3, 2):
        found, cache = model.step(more[:, at : at + count], cache)
        np.testing.assert_allclose(to_numpy(found), logits[:, at + 1 : at + 1 + count], atol=ATOL)
        at += count


def written(model, batch, **settings):
    settings = GenerationConfig(max_new_tokens=5, eos_token_id=V, **settings)
    known = {name: batch[name] for name in ("tokens", "padding_mask")}
    return Writer(model).generate((batch,), settings, **known)[0]


def test_greedy_writing_equals_reading_everything_again(model, forward, batch):
    growing = dict(batch)
    for _ in range(5):
        best = to_numpy(forward(growing))[:, -1].argmax(-1)[:, None].astype(np.int32)
        growing["tokens"] = np.concatenate([growing["tokens"], best], 1)
        for name, value in (("padding_mask", True), ("image_mask", False)):
            growing[name] = np.pad(growing[name], ((0, 0), (0, 1)), constant_values=value)
    expected = growing["tokens"][:, S:]
    np.testing.assert_array_equal(written(model, batch), expected)
    np.testing.assert_array_equal(written(model, batch, prompt_lookup_num_tokens=2), expected)
    for row in range(B):
        np.testing.assert_array_equal(written(model, alone(batch, row))[0], expected[row])


def test_beams_read_their_own_rows_images(model, batch):
    together = written(model, batch, num_beams=2)
    for row in range(B):
        np.testing.assert_array_equal(written(model, alone(batch, row), num_beams=2)[0], together[row])


def test_every_weight_gets_a_gradient(model, batch):
    variables = model.trainable_variables

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return ops.mean(ops.square(model(batch)))

    gradients = jax.jit(jax.grad(loss))([v.value for v in variables])
    for variable, gradient in zip(variables, gradients, strict=True):
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


def test_closed_gates_learn_first(batch):
    fresh = Flamingo(CONFIG)
    gates = [v for v in fresh.trainable_variables if v.name.endswith("_gate")]
    assert len(gates) == 4

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(gates, values, strict=True))):
            return ops.mean(ops.square(fresh(batch)))

    assert all(np.abs(g) > 0 for g in jax.jit(jax.grad(loss))([v.value for v in gates]))


def test_remat_and_half_precision(model, forward, batch):
    values = {name: to_numpy(v) for name, v in model.named_variables().items()}
    again = Flamingo.with_weights(replace(CONFIG, remat=True), values, "float32", "memory")
    expected = to_numpy(forward(batch))
    np.testing.assert_allclose(to_numpy(backend.compiled(again, again)(batch)), expected, atol=1e-6)
    half = Flamingo.with_weights(CONFIG, values, "mixed_bfloat16", "memory")
    logits = to_numpy(half(batch))
    assert logits.dtype == np.float32
    keep = batch["padding_mask"]
    assert 0 < np.abs(logits - expected)[keep].max() < 0.15 * np.abs(expected[keep]).max()


def test_bytes_are_pixels(model):
    pixels = np.random.default_rng(3).integers(0, 256, size=(1, 2, 8, 12, 3)).astype(np.uint8)
    as_floats = model.encode_images(pixels.astype(np.float32) / 255)
    assert as_floats.shape == (1, 2, M, C)
    np.testing.assert_allclose(to_numpy(model.encode_images(pixels)), to_numpy(as_floats), atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras reading its variables
def test_saved_and_loaded(model, forward, batch, tmp_path):
    model.save(tmp_path / "m")
    model.save(tmp_path / "m.keras")
    for again in (Flamingo.load(tmp_path / "m"), keras.saving.load_model(tmp_path / "m.keras")):
        assert type(again) is Flamingo
        assert again.config == model.config
        found = backend.compiled(again, again)(batch)
        np.testing.assert_array_equal(to_numpy(found), to_numpy(forward(batch)))


def test_presets_and_what_does_not_fit():
    for name in PRESETS:
        assert Flamingo.count_parameters(preset(name)) > 0
    with pytest.raises(ValueError, match="cross_every is 0, it must be at least 1"):
        Flamingo(replace(CONFIG, cross_every=0))


def test_the_gated_block_equals_numpy():
    rng = np.random.default_rng(7)
    block = GatedCrossAttention(D, 6, 44, C, 1e-5)
    block.build()
    w = weights(reference.randomize(block))
    x, memory = (rng.normal(size=size).astype(np.float32) for size in ((B, S, D), (B, M, C)))
    mask = rng.random((B, S, M)) < 0.3
    normed = rms(x) * w["attention_norm/scale"]
    read, _ = attention(part(w, "attention"), normed, memory, mask, 6)
    y = x + np.tanh(w["attention_gate"]) * np.where(mask.any(-1, keepdims=True), read, 0)
    y = y + np.tanh(w["mlp_gate"]) * swiglu(part(w, "mlp"), rms(y) * w["mlp_norm/scale"])
    np.testing.assert_allclose(to_numpy(block(x, memory, mask)), y, atol=ATOL)


def test_the_resampler_equals_numpy():
    layer = PerceiverResampler(M, C, 4, 2, published=True)
    layer.build()
    w = weights(reference.randomize(layer))
    media = np.random.default_rng(8).normal(size=(B, S, C)).astype(np.float32)
    mask = np.arange(S) < np.array([S, 4, 0])[:, None]
    z, keep = np.broadcast_to(w["queries"], (B, M, C)), np.concatenate([mask, np.ones((B, M), bool)], 1)
    for i in range(2):
        norm = {n: part(w, f"{n}_norm_{i}") for n in ("memory", "latents", "mlp")}
        own = layer_norm(norm["latents"], z, 1e-5)
        both = np.concatenate([layer_norm(norm["memory"], media, 1e-5), own], 1)
        z = z + attention(part(w, f"read_{i}"), own, both, keep[:, None], 4)[0]
        mlp = part(w, f"mlp_{i}")
        hidden = np.maximum(layer_norm(norm["mlp"], z, 1e-5) @ mlp["up/kernel"], 0)
        z = z + hidden @ mlp["down/kernel"]
    np.testing.assert_allclose(to_numpy(layer(media, mask)), layer_norm(part(w, "norm"), z, 1e-5), atol=ATOL)
