"""What holds of the outputs of every model but the VLM-HRM, of which test_forward.py says more.

That every weight gets a gradient takes a compilation each: see the models' own tests.
"""

import functools

import jax
import keras
import numpy as np
import pytest
import reference
import small_captioners
import tiny
from conftest import MODELS, build

from saccade.models.blip2 import BLIP2
from saccade.models.captioners import Captioner
from saccade.models.clip import CLIP
from saccade.models.flamingo import Flamingo
from saccade.models.trm import TRM
from saccade.models.vlm_hrm import VLMHRM

B, S = 3, 13
OTHERS = [name for name, (kind, *_) in MODELS.items() if not issubclass(kind, VLMHRM)]


def texts(rng, vocab_size: int, length: int, name: str = "") -> dict:
    """Padding last, the first row full."""
    kept = np.arange(length) < np.array([length, 4, 2])[:, None]
    tokens = rng.integers(3, vocab_size, (B, length)).astype(np.int32)
    return {f"{name}tokens": tokens, f"{name}padding_mask": kept}


def example(model, seed: int = 0) -> dict:
    """B rows with an image each, and texts of different lengths."""
    rng, config = np.random.default_rng(seed), model.config
    if isinstance(model, TRM):
        tokens = rng.integers(config.vocab_size, size=(B, config.length)).astype(np.int32)
        return {"tokens": tokens, "puzzle": (np.arange(B) % config.num_puzzles).astype(np.int32)}
    if isinstance(model, Captioner):
        return {name: small_captioners.batch(seed)[name] for name in ("images", "decoder_tokens")}
    images = rng.random((B, *config.vision.image_size, 3)).astype(np.float32)
    if isinstance(model, CLIP):
        return {"images": images, **texts(rng, config.text.vocab_size, config.text.max_length)}
    found = {"images": images}
    if isinstance(model, BLIP2) and config.qformer.text:
        found |= texts(rng, config.qformer.vocab_size, 7, "read_")
    if config.language is not None:
        # Padding first, then the places of the image, then words. Flamingo has several images a row.
        kept = np.arange(S) >= np.array([0, 1, 3])[:, None]
        places = 1 if isinstance(model, Flamingo) else config.image_tokens
        found["images"] = images[:, None] if isinstance(model, Flamingo) else images
        found["tokens"] = rng.integers(3, config.language.vocab_size, (B, S)).astype(np.int32)
        found |= {"padding_mask": kept, "image_mask": kept & (np.cumsum(kept, 1) <= places)}
    return found


def outputs(model, batch) -> dict:
    """Everything that a model makes of a batch: name -> float (B, ...)."""
    if isinstance(model, CLIP):
        read = model.embed_texts(batch["tokens"], batch["padding_mask"])
        return {"seen": model.embed_images(batch["images"]), "read": read}
    found = {}
    if not isinstance(model, BLIP2) or model.config.language is not None:
        made = model(batch)
        found |= made if isinstance(made, dict) else {"logits": made}
    if isinstance(model, BLIP2) and model.config.qformer.text:
        text, vision = (batch["read_tokens"], batch["read_padding_mask"]), model.see(batch["images"])
        found |= {"seen": model.image_vectors(vision), "read": model.text_vectors(*text)}
        found |= {"match": model.match(vision, *text), "written": model.caption_logits(vision, *text)}
    return found


@functools.cache
def forward(name: str):
    model = build(name)
    lowered = jax.jit(lambda batch: outputs(model, batch)).lower(example(model))
    compiled = lowered.compile(compiler_options=tiny.FAST_TO_COMPILE)
    return lambda batch: {key: reference.to_numpy(value) for key, value in compiled(batch).items()}


@pytest.fixture(params=OTHERS)
def name(request):
    return request.param


@pytest.fixture
def batch(name):
    return example(build(name))


def kept(batch: dict, key: str, value: np.ndarray):
    """What of an output counts: where a text is written, not what is written of padding."""
    mask = {"logits": "padding_mask", "written": "read_padding_mask"}.get(key)
    return value[batch[mask]] if mask in batch else value


def test_outputs_are_finite_float32_with_a_row_each(name, batch):
    for key, value in forward(name)(batch).items():
        assert value.dtype == np.float32, key
        assert len(value) == B, key
        assert np.isfinite(value).all(), key


def test_half_precision_gives_float32(name, batch):
    kind, config, _ = MODELS[name]
    with keras.StatelessScope():  # shapes are all that is asked for
        half = kind(config, dtype=keras.DTypePolicy("mixed_bfloat16"))
        made = jax.eval_shape(lambda batch: outputs(half, batch), batch)
    assert half.compute_dtype == "bfloat16"
    assert {str(value.dtype) for value in made.values()} == {"float32"}


def test_other_rows_do_not_matter_and_a_rows_own_input_does(name, batch):
    before, other = forward(name)(batch), example(build(name), seed=5)
    mixed = {key: np.concatenate([batch[key][:1], other[key][1:]]) for key in batch}
    for key, value in forward(name)(mixed).items():
        np.testing.assert_allclose(value[0], before[key][0], atol=2e-5, err_msg=key)
        assert np.abs(value[1:] - before[key][1:]).max() > 1e-3, key


def test_what_padding_holds_does_not_matter(name, batch):
    masks = [key for key in batch if key.endswith("padding_mask")]
    if not masks:
        pytest.skip("its rows have no padding")
    changed = dict(batch)
    for mask in masks:
        tokens = mask.replace("padding_mask", "tokens")
        changed[tokens] = np.where(batch[mask], batch[tokens], 11)
        assert (changed[tokens] != batch[tokens]).any()
    before = forward(name)(batch)
    for key, value in forward(name)(changed).items():
        np.testing.assert_allclose(kept(batch, key, value), kept(batch, key, before[key]), atol=2e-5)
