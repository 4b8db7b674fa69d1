"""What CLIP and SigLIP must keep: masks, rows, precision, saving, gradients; and their objective."""

import functools
import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import reference
from keras import ops
from reference import to_numpy

from saccade import backend
from saccade.errors import SaccadeError
from saccade.hub import clip as hub
from saccade.models.clip import CLIP, PRESETS, CLIPConfig, TextConfig, preset
from saccade.models.vit import ViT, ViTConfig
from saccade.train.contrastive import Contrastive, text_groups

ATOL = 2e-5
PARAMETERS = {
    "clip_scenes_nano": 214_433,
    "clip_scenes": 5_322_689,
    "clip_vit_base_patch32": 151_277_313,  # as published
    "clip_vit_base_patch16": 149_620_737,
    "clip_vit_large_patch14": 427_616_513,
    "siglip_base_patch16_224": 203_155_970,
}
V, T, B, C = 41, 7, 3, 5
TEXT = TextConfig(V, 20, 2, 2, 28, 11, 1e-6, "gelu", causal=False, pool="last", head_bias=True)
VISION = ViTConfig(24, 2, 3, 28, 4, (12, 16), stem=(8,))
# every option at least once beside the published combinations
CONFIGS = {
    "own": CLIPConfig(VISION, TEXT, 18),
    "clip": CLIPConfig(
        replace(VISION, stem=(), cls=True, pre_norm=True, patch_bias=False, activation="quick_gelu"),
        replace(TEXT, causal=True, pool="eos", eos_id=2, activation="quick_gelu", head_bias=False),
        18,
    ),
    "siglip": CLIPConfig(VISION, TEXT, None, logit_bias=True, remat=True),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return fresh(CONFIGS[request.param])


def fresh(config, dtype="float32", seed=0):
    return reference.randomize(CLIP(config, dtype=keras.DTypePolicy(dtype)), seed)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, V, size=(C, T)).astype(np.int32)
    lengths = np.array([7, 4, 2, 6, 3])
    tokens[np.arange(C), lengths - 1] = 2
    images = rng.random((B, 12, 16, 3)).astype(np.float32)
    return {"images": images, "tokens": tokens, "padding_mask": np.arange(T) < lengths[:, None]}


@functools.cache
def compiled(model, method=None):
    return backend.compiled(getattr(model, method) if method else model, model)


def run(model, batch):
    return {name: to_numpy(value) for name, value in compiled(model)(batch).items()}


def images_of(model, images):
    return to_numpy(compiled(model, "embed_images")(images))


def texts_of(model, tokens, mask=None):
    return to_numpy(compiled(model, "embed_texts")(tokens, mask))


def same(a, b, atol=ATOL):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], atol=atol, rtol=1e-5, err_msg=key)


# -- the presets


def test_only_what_is_published_is_written(tmp_path):
    for config in CONFIGS.values():
        with pytest.raises(SaccadeError, match="is neither CLIPModel nor SiglipModel"):
            hub.write(tmp_path, fresh(config))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", PRESETS)
def test_parameters(name):
    assert PARAMETERS.keys() == PRESETS.keys()
    assert CLIP.count_parameters(PRESETS[name]) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "kind"), [("clip_vit_base_patch32", "clip"), ("siglip_base_patch16_224", "siglip")]
)
def test_defaults_of_a_config_are_the_base_models(name, kind):
    """transformers leaves out of config.json what equals its defaults."""
    record = {"model_type": kind, "vision_config": {}, "text_config": {}}
    assert hub.architecture(record | {"text_config": {"eos_token_id": 2}}) == PRESETS[name]
    assert hub.architecture(hub.flat(PRESETS[name])) == PRESETS[name]
    assert preset(name, remat=True).remat


# -- what must hold for any of them


def test_shapes_and_unit_length(model):
    result = run(model, batch())
    width = model.config.width
    assert {k: v.shape for k, v in result.items()} == {
        "image_embeddings": (B, width), "text_embeddings": (C, width), "logits": (B, C)
    }  # fmt: skip
    for name in ("image_embeddings", "text_embeddings"):
        np.testing.assert_allclose(np.linalg.norm(result[name], axis=1), 1, rtol=1e-5)
    assert {str(v.dtype) for v in result.values()} == {"float32"}


def test_a_row_alone_is_as_in_a_batch(model):
    rows = batch()
    whole = run(model, rows)
    for i in range(2):
        alone = run(model, {name: value[i : i + 1] for name, value in rows.items()})
        for name in ("image_embeddings", "text_embeddings"):
            np.testing.assert_allclose(alone[name][0], whole[name][i], atol=ATOL)


def test_padding_does_not_matter(model):
    rows = batch()
    before = run(model, rows)
    spoiled = np.where(rows["padding_mask"], rows["tokens"], 2)  # the end token itself, too
    same(before, run(model, {**rows, "tokens": spoiled}), 1e-6)
    more = {"tokens": ((0, 0), (0, 3)), "padding_mask": ((0, 0), (0, 3))}
    longer = {name: np.pad(value, more[name]) if name in more else value for name, value in rows.items()}
    same(before, run(model, longer))


def test_tokens_and_images_matter(model):
    rows, other = batch(0), batch(1)
    before = run(model, rows)
    for row, last in enumerate((7, 4, 2, 6, 3)):
        for t in range(last - 1):
            changed = rows["tokens"].copy()
            changed[row, t] = (changed[row, t] - 2) % (V - 3) + 3
            moved = texts_of(model, changed, rows["padding_mask"]) - before["text_embeddings"]
            assert np.abs(moved[row]).max() > 1e-4, (row, t)
            np.testing.assert_allclose(np.delete(moved, row, 0), 0, atol=1e-6)
    assert np.abs(images_of(model, other["images"]) - before["image_embeddings"]).max() > 1e-2


def test_a_text_of_nothing_is_finite(model):
    rows = batch()
    rows["padding_mask"] = np.zeros_like(rows["padding_mask"])
    assert np.isfinite(texts_of(model, rows["tokens"], rows["padding_mask"])).all()


def test_a_causal_tower_reads_backwards_only():
    tower = fresh(CONFIGS["clip"])
    tokens = batch()["tokens"]
    tokens[0] = [5, 6, 2, 7, 8, 9, 10]
    after = tokens.copy()
    after[0, 3:] = 11
    for mask in (None, np.ones_like(tokens, bool)):
        np.testing.assert_allclose(
            texts_of(tower, after, mask)[0],
            texts_of(tower, tokens, mask)[0],
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("pool", "mask", "ends"),
    [
        ("highest", None, [3, 1, 0]),
        ("eos", None, [1, 4, 0]),  # no end at all: the first, as transformers
        ("last", None, [4, 4, 4]),
        ("highest", [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], [2, 0, 0]),
        ("last", [[1, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], [2, 3, 0]),
    ],
)
def test_which_token_stands_for_the_text(pool, mask, ends):
    config = replace(CONFIGS["own"].text, pool=pool, eos_id=2)
    tokens = np.array([[5, 2, 7, 9, 9], [5, 8, 7, 6, 2], [9, 9, 7, 6, 5]], np.int32)
    tower = fresh(replace(CONFIGS["own"], text=config)).text
    mask = None if mask is None else np.array(mask, bool)
    assert to_numpy(tower._end(tokens, mask)).tolist() == ends


def test_bytes_are_images_too(model):
    pixels = np.random.default_rng(0).integers(256, size=(B, 12, 16, 3)).astype(np.uint8)
    as_floats = images_of(model, pixels.astype(np.float32) / 255)
    np.testing.assert_allclose(images_of(model, pixels), as_floats, atol=1e-5)


def test_pixels_are_normalised_by_channel():
    rng = np.random.default_rng(0)
    images, mean, std = rng.random((1, 12, 16, 3)).astype(np.float32), (0.1, 0.4, 0.7), (0.2, 0.3, 0.5)
    towers = [ViT(replace(VISION, pixel_mean=m, pixel_std=s)) for m, s in ((mean, std), (0.0, 1.0))]
    for tower in towers:
        tower.build()
        reference.randomize(tower)
    ready = (images - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(to_numpy(towers[0](images)), to_numpy(towers[1](ready)), atol=1e-5)


def test_other_sizes_keep_the_class_token(model):
    for size in ((16, 12), (24, 32)):
        images = np.random.default_rng(0).random((2, *size, 3)).astype(np.float32)
        assert np.isfinite(images_of(model, images)).all()
        seen = backend.shapes(model.vision, images)
        assert seen.shape == (2, size[0] * size[1] // 16 + model.config.vision.cls, 24)


def test_the_scale_has_a_ceiling_but_not_siglips():
    for name, expected in (("clip", 100.0), ("siglip", 148.4131591)):
        model = fresh(CONFIGS[name])
        model.logit_scale.assign(5.0)
        assert float(model.scale()) == pytest.approx(expected, rel=1e-5)
        rows = run(model, batch())
        bias = float(to_numpy(model.logit_bias)) if name == "siglip" else 0.0
        cosine = rows["image_embeddings"] @ rows["text_embeddings"].T
        np.testing.assert_allclose(rows["logits"], expected * cosine + bias, atol=1e-3)


def test_mixed_bfloat16():
    for name, config in CONFIGS.items():
        full, half = (fresh(config, dtype) for dtype in ("float32", "mixed_bfloat16"))
        a, b = run(full, batch()), run(half, batch())
        for key in a:
            assert b[key].dtype == np.float32
            assert 0 < np.abs(a[key] - b[key]).mean() < 0.1 * np.std(a[key]) + 0.01, (name, key)
        # Scale and bias keep their digits: bfloat16 knows -10.013 as -10.
        if half.config.logit_bias:
            half.logit_bias.assign(-10.013)
            b = run(half, batch())
        scale, bias = to_numpy(half.scale()), to_numpy(half.bias())
        expected = scale * (b["image_embeddings"] @ b["text_embeddings"].T) + bias
        np.testing.assert_allclose(b["logits"], expected, atol=1e-4)


def test_saving(model, tmp_path):
    model.save(tmp_path / "m")
    loaded = CLIP.load(tmp_path / "m")
    assert loaded.config == model.config
    same(run(model, batch()), run(loaded, batch()), 0)
    record = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (record["model"], record["tasks"]) == ("CLIP", ["classify", "retrieve"])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras reading variables
def test_keras_file(model, tmp_path):
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded) is CLIP
    assert loaded.config == model.config
    same(run(model, batch()), run(loaded, batch()), 0)


def measured(model, objective, rows):
    """The loss and metrics of an objective."""

    def step(rows):
        loss, _, metrics, _ = objective(model, {}, rows, None)
        return {"loss": loss, **metrics}

    return {name: float(value) for name, value in backend.compiled(step, model)(rows).items()}


@pytest.mark.parametrize("chunk", [None, 2])
def test_every_weight_learns(model, chunk):
    rows = {name: value[:B] for name, value in batch().items()}
    objective = Contrastive(hard_weight=0.5, chunk=chunk)
    variables = model.trainable_variables

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            value, _, metrics, count = objective(model, {}, rows, None)
        assert count == B
        return value, metrics

    values = [v.value for v in variables]
    (value, metrics), gradients = backend.jit(lambda values: backend.value_and_grad(loss, values))(values)
    assert np.isfinite(float(value))
    assert 0 <= float(metrics["recall"]) <= 1
    for variable, gradient in zip(variables, gradients, strict=True):
        size = np.abs(to_numpy(gradient)).max()
        assert np.isfinite(size)
        quiet = "key_value/bias" in variable.path  # keys' biases cannot matter, values' can: both in one
        assert size > (0 if quiet else 1e-8), variable.path


def test_chunks_change_neither_loss_nor_metrics(model):
    rows = {name: value[:B] for name, value in batch().items()}
    whole, parts = (measured(model, Contrastive(0.5, chunk), rows) for chunk in (None, 2))
    assert whole == pytest.approx(parts, rel=1e-5)


def test_the_mined_term_is_about_the_hardest(model):
    rows = {name: value[:B] for name, value in batch().items()}
    vectors = run(model, rows)
    images, texts = (vectors[f"{kind}_embeddings"].astype(np.float64) for kind in ("image", "text"))
    cosine, scale = images @ texts.T, float(to_numpy(ops.convert_to_tensor(model.scale())))
    wrong = np.where(np.eye(B, dtype=bool), -np.inf, cosine)
    both = [np.logaddexp(0, scale * (wrong.max(axis) - np.diag(cosine))).mean() for axis in (0, 1)]
    recall = np.mean([(np.diag(cosine) > wrong.max(axis)).mean() for axis in (0, 1)])
    plain, hard = (measured(model, Contrastive(w), rows) for w in (0.0, 0.5))
    assert hard["loss"] - plain["loss"] == pytest.approx(0.5 * recall * np.mean(both), abs=1e-4)
    assert plain["recall"] == hard["recall"] == pytest.approx(recall)


def test_the_same_text_twice_is_no_hard_negative():
    model, rows = fresh(CONFIGS["own"]), {name: value[:B] for name, value in batch().items()}
    rows["tokens"][1], rows["padding_mask"][1] = rows["tokens"][0], rows["padding_mask"][0]
    rows["images"][1] = rows["images"][0]  # rows 0 and 1 cannot be told apart, which is no mistake
    vectors = run(model, rows)
    cosine = vectors["image_embeddings"] @ vectors["text_embeddings"].T
    hits = [(cosine[0, 0] > cosine[0, 2]) * 2 + (cosine[2, 2] > cosine[2, 0])]
    hits += [(cosine[0, 0] > cosine[2, 0]) * 2 + (cosine[2, 2] > cosine[0, 2])]
    assert measured(model, Contrastive(), rows)["recall"] == pytest.approx(sum(hits) / 6)
    mask = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]], bool)
    tokens = np.array([[5, 6, 7], [5, 6, 9], [5, 6, 7], [6, 5, 7]], np.int32)
    numbers = to_numpy(text_groups(ops.convert_to_tensor(tokens), ops.convert_to_tensor(mask))).tolist()
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) == 3


def test_what_cannot_be_built():
    with pytest.raises(ValueError, match="pool is 'first'; use one of highest, eos, last"):
        CLIP(replace(CONFIGS["own"], text=replace(TEXT, pool="first")))
    with pytest.raises(ValueError, match="no activation is called 'mish'"):
        CLIP(replace(CONFIGS["own"], text=replace(TEXT, activation="mish")))
    with pytest.raises(ValueError, match="12 tokens exceed max_length=11"):
        fresh(CONFIGS["own"]).embed_texts(np.zeros((1, 12), np.int32))
