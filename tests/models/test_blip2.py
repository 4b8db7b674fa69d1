"""BLIP-2: what its masks let through, the losses of stage one, the cache of stage two; NumPy equations."""

from dataclasses import replace

import jax
import keras
import numpy as np
import pytest
import reference
from keras import ops
from reference import attention, dense, layer_norm, part, to_numpy, weights

from saccade import backend, losses
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.generate import Writer
from saccade.models.blip2 import BLIP2, PRESETS, BLIP2Config, preset
from saccade.models.llama import LlamaConfig
from saccade.models.opt import OPT, OPTConfig
from saccade.models.qformer import QFormer, QFormerConfig
from saccade.models.vit import ViTConfig
from saccade.train.blip2 import StageOne

B, S, T, N, Q, C, D, E, HEADS, MLP, V, TEXT_V, ATOL = 3, 13, 7, 6, 5, 20, 24, 12, 3, 40, 53, 31, 2e-5
QFORMER = QFormerConfig(TEXT_V, D, 3, HEADS, MLP, Q, 2, 16, 1e-6)
OPT_CONFIG = OPTConfig(V, 32, 2, 4, 44, 40)
CONFIG = BLIP2Config(ViTConfig(C, 1, 2, 28, 4, (8, 12)), QFORMER, OPT_CONFIG, E)


@pytest.fixture(scope="module")
def model():
    """Every parameter random; shared: not to be changed."""
    return reference.randomize(BLIP2(CONFIG))


@pytest.fixture(scope="module")
def forward(model):
    return backend.compiled(model, model)


def images(seed=1):
    return np.random.default_rng(seed).random((B, 8, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def batch():
    """Left-padded rows: Q places of the image, then words."""
    tokens = np.random.default_rng(2).integers(3, V, size=(B, S)).astype(np.int32)
    padding = np.array([0, 2, 5])[:, None]
    at = np.arange(S)[None]
    image_mask = (at >= padding) & (at < padding + Q)
    return {"images": images(), "tokens": tokens, "padding_mask": at >= padding, "image_mask": image_mask}


def texts():
    tokens = np.random.default_rng(3).integers(3, TEXT_V, size=(B, T)).astype(np.int32)
    return tokens, np.arange(T) < np.array([T, 4, 6])[:, None]


@pytest.fixture(scope="module")
def parts(model):
    """The three ways of the Q-Former, compiled."""

    def run(pixels, tokens, kept):
        vision = model.see(pixels)
        return {
            "image": model.image_vectors(vision),
            "text": model.text_vectors(tokens, kept),
            "match": model.match(vision, tokens, kept),
            "written": model.caption_logits(vision, tokens, kept),
            "queries": model.qformer.both(vision, tokens, kept, causal=True)[0],
            "looked": model.qformer.look(vision),
        }

    compiled = backend.compiled(run, model)
    return lambda *args: {name: to_numpy(value) for name, value in compiled(*args).items()}


def test_shapes(parts):
    found = parts(images(), *texts())
    shapes = {"image": (B, Q, E), "text": (B, E), "match": (B, 2), "written": (B, T, TEXT_V)}
    assert {name: found[name].shape for name in shapes} == shapes
    assert {found[name].dtype for name in shapes} == {np.dtype("float32")}
    for name in ("image", "text"):
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=-1), 1, atol=1e-5)


def test_itg_sees_the_past_and_its_queries_see_no_text(parts):
    tokens, kept = texts()
    before, changed = parts(images(), tokens, kept), tokens.copy()
    changed[:, 3] = (changed[:, 3] + 5) % TEXT_V
    after = parts(images(), changed, kept)
    np.testing.assert_array_equal(after["written"][:, :3], before["written"][:, :3])
    assert np.abs(after["written"][:, 3:4] - before["written"][:, 3:4]).max() > 1e-3
    np.testing.assert_array_equal(after["queries"], before["queries"])
    np.testing.assert_allclose(before["queries"], before["looked"], atol=ATOL)
    # matching reads both ways
    assert np.abs(after["match"] - before["match"]).max() > 1e-4
    other = parts(images(9), tokens, kept)
    assert np.abs(other["written"] - before["written"]).max() > 1e-3
    np.testing.assert_array_equal(other["text"], before["text"])


def test_padding_and_other_rows_do_not_matter(parts):
    tokens, kept = texts()
    before = parts(images(), tokens, kept)
    after = parts(images(), np.where(kept, tokens, 11), kept)
    for name in ("match", "text", "image"):
        np.testing.assert_array_equal(after[name], before[name])
    np.testing.assert_array_equal(after["written"][kept], before["written"][kept])
    short = parts(images()[1:2], tokens[1:2, :4], kept[1:2, :4])
    for name in ("match", "text", "image"):
        np.testing.assert_allclose(short[name], before[name][1:2], atol=ATOL)
    np.testing.assert_allclose(short["written"], before["written"][1:2, :4], atol=ATOL)


def test_similarity_takes_the_best_query(model):
    rng = np.random.default_rng(4)
    seen, said = (rng.normal(size=size).astype(np.float32) for size in ((B, Q, E), (B + 1, E)))
    expected = np.einsum("bqe,ce->bcq", seen, said).max(-1)
    np.testing.assert_allclose(to_numpy(model.similarity(seen, said)), expected, atol=1e-5)
    assert float(to_numpy(model.temperature)) <= 100


def pairs():
    tokens, kept = texts()
    return {"images": images(), "tokens": tokens, "padding_mask": kept}


def test_stage_one_is_the_sum_of_its_three_losses(model, parts):
    loss, _, metrics, rows = StageOne()(model, {}, pairs(), keras.random.SeedGenerator(0))
    assert rows == B
    named = {name: float(to_numpy(value)) for name, value in metrics.items()}
    total = named["contrast"] + named["matching"] + named["writing"]
    np.testing.assert_allclose(float(to_numpy(loss)), total, rtol=1e-6)
    tokens, kept = texts()
    found = parts(images(), tokens, kept)
    similarity = float(to_numpy(model.temperature)) * np.einsum("bqe,ce->bcq", found["image"], found["text"])
    contrast = losses.info_nce(ops.convert_to_tensor(similarity.max(-1).astype(np.float32)))
    np.testing.assert_allclose(named["contrast"], to_numpy(contrast).mean(), rtol=1e-4)
    decoded = np.concatenate([np.full((B, 1), 2, np.int32), tokens[:, 1:]], 1)
    logits = parts(images(), decoded, kept)["written"]
    writing = losses.token_loss(ops.convert_to_tensor(logits), tokens, kept)
    np.testing.assert_allclose(named["writing"], to_numpy(writing).mean(), rtol=1e-4)


def test_equal_texts_are_no_negatives(model):
    batch = pairs()
    batch["tokens"][:] = batch["tokens"][:1]
    batch["padding_mask"][:] = True
    _, _, metrics, _ = StageOne()(model, {}, batch, keras.random.SeedGenerator(0))
    logits = to_numpy(model.match(model.see(batch["images"]), batch["tokens"], batch["padding_mask"]))
    true = losses.binary_cross_entropy(logits[:, 1] - logits[:, 0], np.ones(B, np.float32))
    np.testing.assert_allclose(float(to_numpy(metrics["matching"])), to_numpy(true).mean(), rtol=1e-4)


def gradients(model, loss):
    variables = model.trainable_variables

    def of(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return loss()

    found = jax.jit(jax.grad(of))([v.value for v in variables])
    names = {id(v): name for name, v in model.named_variables().items()}
    return {names[id(v)]: np.asarray(g) for v, g in zip(variables, found, strict=True)}


def test_the_two_stages_train_every_weight_between_them(model, batch):
    one = gradients(model, lambda: StageOne()(model, {}, pairs(), 7)[0])
    two = gradients(model, lambda: ops.mean(ops.square(model(batch))))
    for name in one:
        assert np.isfinite(one[name]).all(), name
        assert np.isfinite(two[name]).all(), name
        assert one[name].any() or two[name].any(), name
    assert not any(
        g.any() for name, g in one.items() if name.split("/")[0] in ("language", "projection", "vision")
    )
    frozen = ("image_head", "text_head", "itm", "logit_scale")
    assert not any(g.any() for name, g in two.items() if name.split("/")[0] in frozen or "text_mlp" in name)


def alone(batch, row):
    keep = batch["padding_mask"][row]
    own = {name: batch[name][row : row + 1, keep] for name in ("tokens", "padding_mask", "image_mask")}
    return {"images": batch["images"][row : row + 1], **own}


@pytest.mark.parametrize("row", range(B))
def test_a_row_is_read_alone_as_in_a_batch(model, forward, batch, row):
    keep = batch["padding_mask"][row]
    single = to_numpy(forward(alone(batch, row)))[0]
    np.testing.assert_allclose(single, to_numpy(forward(batch))[row, keep], atol=ATOL)


def test_writing_with_a_cache_equals_reading_everything_again(model, forward, batch):
    growing = dict(batch)
    for _ in range(4):
        best = to_numpy(forward(growing))[:, -1].argmax(-1)[:, None].astype(np.int32)
        growing["tokens"] = np.concatenate([growing["tokens"], best], 1)
        for name, value in (("padding_mask", True), ("image_mask", False)):
            growing[name] = np.pad(growing[name], ((0, 0), (0, 1)), constant_values=value)
    writer, known = Writer(model), {name: batch[name] for name in ("tokens", "padding_mask")}
    for options in ({}, {"prompt_lookup_num_tokens": 2}):
        settings = GenerationConfig(max_new_tokens=4, eos_token_id=V, **options)
        np.testing.assert_array_equal(
            writer.generate((batch,), settings, **known)[0], growing["tokens"][:, S:]
        )


def test_over_a_llama(batch):
    config = replace(CONFIG, language=LlamaConfig(V, 32, 1, 4, 2, 44), embedding_dim=None)
    config = replace(config, qformer=replace(QFORMER, text=False))
    other = reference.randomize(BLIP2(config))
    assert not any("text_mlp" in name or "embedding" in name for name in other.named_variables())
    assert backend.compiled(other, other)(batch).shape == (B, S, V)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras reading its variables
def test_saved_and_loaded(model, forward, batch, tmp_path):
    model.save(tmp_path / "m")
    model.save(tmp_path / "m.keras")
    for again in (BLIP2.load(tmp_path / "m"), keras.saving.load_model(tmp_path / "m.keras")):
        assert again.config == model.config
        found = backend.compiled(again, again)(batch)
        np.testing.assert_array_equal(to_numpy(found), to_numpy(forward(batch)))


def test_half_precision(model, forward, batch):
    values = {name: to_numpy(v) for name, v in model.named_variables().items()}
    half = BLIP2.with_weights(CONFIG, values, "mixed_bfloat16", "memory")
    logits, expected = to_numpy(backend.compiled(half, half)(batch)), to_numpy(forward(batch))
    keep = batch["padding_mask"]
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - expected)[keep].max() < 0.2 * np.abs(expected[keep]).max()


def test_what_does_not_fit_is_refused(model, batch):
    for name in PRESETS:
        assert BLIP2.count_parameters(preset(name)) > 0
    with pytest.raises(ValueError, match="language and embedding_dim are None: nothing to learn"):
        BLIP2(replace(CONFIG, language=None, embedding_dim=None))
    with pytest.raises(ValueError, match=r"embedding_dim=None and qformer\.text=True exclude each other"):
        BLIP2(replace(CONFIG, embedding_dim=None))
    with pytest.raises(SaccadeError, match="41 tokens, but the decoder has positions for 40; shorten"):
        model.prefill(batch, 41 - S)


def test_the_qformer_equals_numpy():
    rng = np.random.default_rng(5)
    layer = QFormer(QFORMER, C)
    layer.build()
    w = weights(reference.randomize(layer))
    vision = rng.normal(size=(B, N, C)).astype(np.float32)
    tokens, kept = texts()
    z = np.concatenate(
        [
            np.broadcast_to(w["queries"], (B, Q, D)),
            w["embedding/table"][tokens] + w["embedding/positions"][:T],
        ],
        1,
    )
    z = layer_norm(part(w, "norm"), z)
    row = np.concatenate([np.ones((B, Q), bool), kept], 1)
    square = np.ones((Q + T, Q + T), bool)
    square[:Q, Q:] = False
    square[Q:, Q:] = np.tril(square[Q:, Q:])
    mask = row[:, None] & square

    def net(b, name, x):
        hidden = dense(part(b, f"{name}/up"), x)
        erf = np.vectorize(__import__("math").erf)
        hidden = 0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))
        return layer_norm(part(b, f"{name}_norm"), x + dense(part(b, f"{name}/down"), hidden))

    for i in range(3):
        b = part(w, f"block_{i}")
        z = z + attention(part(b, "self_attention"), z, None, mask, HEADS)[0]
        z = layer_norm(part(b, "self_attention_norm"), z)
        q, t = z[:, :Q], z[:, Q:]
        if i % 2 == 0:
            q = q + attention(part(b, "cross_attention"), q, vision, None, HEADS)[0]
            q = layer_norm(part(b, "cross_attention_norm"), q)
        z = np.concatenate([net(b, "query_mlp", q), net(b, "text_mlp", t)], 1)
    queries, text = layer.both(vision, tokens, kept, causal=True)
    np.testing.assert_allclose(to_numpy(queries), z[:, :Q], atol=1e-4)
    np.testing.assert_allclose(to_numpy(text)[kept], z[:, Q:][kept], atol=1e-4)


def test_opt_equals_numpy():
    layer = OPT(OPT_CONFIG)
    layer.build()
    w = weights(reference.randomize(layer))
    x = np.random.default_rng(6).normal(size=(B, T, 32)).astype(np.float32)
    y = x + w["positions"][2 : 2 + T]
    causal = np.broadcast_to(np.tril(np.ones((T, T), bool)), (B, T, T))
    for i in range(2):
        b = part(w, f"block_{i}")
        normed = layer_norm(part(b, "attention_norm"), y, 1e-5)
        y = y + attention(part(b, "attention"), normed, None, causal, 4)[0]
        hidden = np.maximum(dense(part(b, "mlp/up"), layer_norm(part(b, "mlp_norm"), y, 1e-5)), 0)
        y = y + dense(part(b, "mlp/down"), hidden)
    np.testing.assert_allclose(to_numpy(layer(x)), layer_norm(part(w, "norm"), y, 1e-5), atol=1e-4)
