"""Heads that write: causality, shift, masks, generation, saving, learning."""

import keras
import numpy as np
import pytest
import reference
from reference import to_numpy
from writing_heads import (
    CONFIGS,
    IMAGES_ONLY,
    LONGEST,
    SIZES,
    TEXT,
    B,
    C,
    D,
    R,
    V,
    Words,
    batch_of,
    compiled,
    fit,
    head_of,
    on_jax,
    outputs_of,
    same,
    without,
    write,
)

from saccade import backend
from saccade.data.text import BOS, EOS, PAD
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.fusion.multimodal import STRATEGIES
from saccade.generate import generate
from saccade.heads.create import create_vlm_head, load_vlm_head
from saccade.heads.task import VLMTaskConfig
from saccade.train.tasks import HeadLoss

# -- what is read


@pytest.mark.parametrize("task", CONFIGS)
def test_no_token_sees_a_later_one(task):
    head, batch, name = head_of(task), batch_of(task), TEXT[task]
    changed = batch[name].copy()
    changed[:, 3:] = (changed[:, 3:] + 1) % V
    before, after = (outputs_of(head, {**batch, name: tokens})["logits"] for tokens in (batch[name], changed))
    np.testing.assert_allclose(after[:, :3], before[:, :3], atol=2e-5)
    assert np.abs(after[:, 3:] - before[:, 3:]).max(-1).min() > 1e-3


@pytest.mark.parametrize("task", CONFIGS)
def test_what_is_padded_never_matters(task):
    head, batch = head_of(task), batch_of(task)
    changed = {
        **batch,
        "vision_features": np.where(batch["vision_mask"][..., None], batch["vision_features"], np.nan),
        "text_features": np.where(batch["text_mask"][..., None], batch["text_features"], np.nan),
    }
    if task == "dialogue":
        changed["turns"] = np.where(batch["text_mask"], batch["turns"], 3 - batch["turns"])
        changed["candidates"] = np.where(batch["candidate_mask"][..., None], batch["candidates"], 7)
        changed["candidates"][..., 0] = BOS
    same(outputs_of(head, batch), outputs_of(head, changed))


@pytest.mark.parametrize("task", CONFIGS)
def test_a_text_is_the_same_with_more_padding(task):
    head, batch, name = head_of(task), batch_of(task), TEXT[task]
    longer = {name: np.pad(batch[name], [(0, 0), (0, 2)])}
    if task == "dialogue":
        longer["candidates"] = np.pad(batch["candidates"], [(0, 0), (0, 0), (0, 2)])
    longer = {**batch, **longer}
    before, after = outputs_of(head, batch), outputs_of(head, longer)
    same(before, {**after, "logits": after["logits"][:, :R]})


@pytest.mark.parametrize("task", CONFIGS)
def test_a_row_of_padding_is_finite_and_leaves_the_others_alone(task):
    head, batch = head_of(task), batch_of(task)
    padded = {name: value.copy() for name, value in batch.items()}
    padded["vision_mask"][1] = padded["text_mask"][1] = False
    padded[TEXT[task]][1] = PAD
    if task == "dialogue":
        padded["candidates"][1] = PAD
        padded.pop("answer_index")
    before, after = outputs_of(head, batch), outputs_of(head, padded)
    for name, value in after.items():
        assert np.isfinite(value).all(), name
        np.testing.assert_allclose(value[[0, 2]], before[name][[0, 2]], atol=2e-5)
    loss = compiled(head, "loss")(padded)[0]
    assert np.isfinite(to_numpy(loss))
    assert np.isfinite(write(head, padded)[1]).all()


@pytest.mark.parametrize("task", CONFIGS)
def test_rows_do_not_see_each_other(task):
    head, batch = head_of(task), batch_of(task)
    whole = outputs_of(head, batch)
    for row in range(B):
        alone = outputs_of(head, {name: value[row : row + 1] for name, value in batch.items()})
        same({name: value[row : row + 1] for name, value in whole.items()}, alone)


def test_image_and_text_both_tell_the_writer_something():
    head, batch = head_of("captioning"), batch_of("captioning")
    before = outputs_of(head, batch)["logits"]
    for name in ("vision_features", "text_features"):
        after = outputs_of(head, {**batch, name: -batch[name]})["logits"]
        assert np.abs(after - before).max((1, 2)).min() > 1e-3, name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_fusion_makes_a_memory(strategy):
    config = VLMTaskConfig("captioning", C, D, **SIZES, fusion=strategy)
    head, batch = create_vlm_head(config), batch_of("captioning")
    assert head(batch)["logits"].shape == (B, R, V)


def test_text_may_be_left_out_of_captioning():
    head, batch = head_of("captioning"), batch_of("captioning")
    alone = without(batch, "text_features", "text_mask")
    logits = outputs_of(head, alone)["logits"]
    # The image tokens are what is read then, padded ones not.
    w = reference.part(reference.weights(head), "memory/fusion/vision_projection")
    memory = reference.rms(reference.dense(w, batch["vision_features"]))
    expected = head.decoder(batch["tokens"], memory.astype(np.float32), batch["vision_mask"])
    np.testing.assert_allclose(logits, to_numpy(expected), atol=1e-4)
    assert write(head, alone)[0].shape == (B, LONGEST)


def test_a_head_of_images_only_has_no_weights_for_text(tmp_path):
    head, batch = reference.randomize(create_vlm_head(IMAGES_ONLY)), batch_of("captioning")
    assert not [v.path for v in head.variables if "text" in v.path or "fusion" in v.path]
    with pytest.raises(SaccadeError, match="reads images only"):
        head(batch)
    alone = without(batch, "text_features", "text_mask")
    head.save(tmp_path / "head")
    again = load_vlm_head(tmp_path / "head")
    assert again.config == IMAGES_ONLY
    np.testing.assert_array_equal(to_numpy(again(alone)["logits"]), to_numpy(head(alone)["logits"]))
    pooled = {**alone, "vision_features": alone["vision_features"][:, 0], "vision_mask": None}
    assert head(pooled)["logits"].shape == (B, R, V)


# -- the loss


def next_token_loss(logits, tokens, smoothing):
    log_p = reference.log_softmax(logits.astype(np.float64))
    rows = []
    for b in range(len(tokens)):
        terms = []
        for t in range(1, tokens.shape[1]):
            if tokens[b, t] != PAD:
                told = log_p[b, t - 1]
                terms.append(-(1 - smoothing) * told[tokens[b, t]] - smoothing * told.mean())
        rows.append(np.mean(terms) if terms else 0.0)
    return np.array(rows)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("task", CONFIGS)
def test_the_loss_is_of_the_next_token_and_of_the_right_candidate(task, smoothing):
    head, batch = head_of(task), batch_of(task)
    outputs = outputs_of(head, batch)
    expected = next_token_loss(outputs["logits"], batch[TEXT[task]], smoothing)
    if task == "dialogue":
        scores = np.where(batch["candidate_mask"], outputs["candidate_scores"], -np.inf).astype(np.float64)
        chosen = np.log(reference.softmax(scores)[np.arange(B), batch["answer_index"]])
        only = compiled(head, "loss")(without(batch, "response"))[0]
        np.testing.assert_allclose(to_numpy(only), -chosen.mean(), rtol=1e-4)
        expected = expected - chosen
    loss, _, metrics, consumed = compiled(head, "smooth" if smoothing else "loss")(batch)
    np.testing.assert_allclose(to_numpy(loss), expected.mean(), rtol=1e-4)
    assert consumed == B
    tokens = batch[TEXT[task]]
    counted = tokens[:, 1:] != PAD
    hits = (outputs["logits"][:, :-1].argmax(-1) == tokens[:, 1:]) & counted
    share = np.mean(hits.sum(1) / counted.sum(1))
    np.testing.assert_allclose(to_numpy(metrics["token_accuracy"]), share, atol=1e-6)
    if task == "dialogue":
        first = outputs["candidate_scores"].argmax(-1) == batch["answer_index"]
        np.testing.assert_allclose(to_numpy(metrics["recall"]), first.mean())


@on_jax
@pytest.mark.parametrize("task", CONFIGS)
def test_a_gradient_reaches_every_weight(task):
    import jax

    head, batch = head_of(task), batch_of(task)

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(head.trainable_variables, values, strict=True))):
            return HeadLoss()(head, {}, batch, None)[0]

    gradients = jax.jit(jax.grad(loss))([variable.value for variable in head.trainable_variables])
    for variable, gradient in zip(head.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all(), variable.path
        if not variable.path.endswith("pool/score/bias"):  # a softmax is blind to it
            assert np.abs(gradient).max() > 1e-6, variable.path


# -- writing


@pytest.mark.parametrize("task", CONFIGS)
def test_greedy_writing_is_what_a_call_finds_likeliest(task):
    head = head_of(task)
    for seed in range(3):
        batch = batch_of(task, seed)
        tokens, log_probability = write(head, batch)
        assert tokens.shape == (B, LONGEST)
        read = np.concatenate([np.full((B, 1), BOS), tokens[:, :-1]], axis=1).astype(np.int32)
        logits = outputs_of(head, {**batch, TEXT[task]: read})["logits"]
        log_p = reference.log_softmax(logits.astype(np.float64))
        for row in range(B):
            ended = tokens[row] == EOS
            length = int(ended.argmax()) + 1 if ended.any() else LONGEST
            np.testing.assert_array_equal(tokens[row, :length], logits[row, :length].argmax(-1))
            assert (tokens[row, length:] == PAD).all()
            mean = log_p[row, np.arange(length), tokens[row, :length]].mean()
            np.testing.assert_allclose(log_probability[row], mean, atol=1e-4)


@pytest.mark.parametrize("task", CONFIGS)
def test_beams_find_a_text_at_least_as_likely(task):
    head, batch = head_of(task), batch_of(task)
    settings = {"max_new_tokens": 4, "eos_token_id": V - 1}
    _, greedy = write(head, batch, GenerationConfig(**settings))
    tokens, best = write(head, batch, GenerationConfig(**settings, num_beams=16))
    assert (best >= greedy - 1e-5).all()
    assert tokens.shape == (B, 4)


@pytest.mark.parametrize("task", CONFIGS)
def test_writing_inside_a_compiled_function_and_by_row(task):
    head, batch = head_of(task), without(batch_of(task), TEXT[task])
    settings = GenerationConfig(max_new_tokens=LONGEST)
    inside, _ = backend.compiled(lambda f: generate(head, (f,), settings), head)(*head.prompt(batch))
    whole, _ = write(head, batch)
    np.testing.assert_array_equal(to_numpy(inside), whole)
    alone, _ = write(head, {name: value[1:2] for name, value in batch.items()})
    np.testing.assert_array_equal(alone, whole[1:2])
    with pytest.raises(SaccadeError, match="writes at most 9"):
        write(head, batch, GenerationConfig(max_new_tokens=LONGEST + 1))


def test_strings_end_at_eos_and_have_no_specials():
    head, batch = head_of("captioning"), batch_of("captioning")
    tokens = np.array([[BOS, 5, 6, EOS, 7, PAD], [EOS, 5, 5, 5, 5, 5], [4, 5, 6, 7, 8, 9]])
    assert head.decode(tokens, Words()) == ["w5 w6", "", "w4 w5 w6 w7 w8 w9"]
    outputs = outputs_of(head, batch)
    likeliest = outputs["logits"].argmax(-1)
    assert head.decode(outputs, Words()) == head.decode(likeliest, Words())


# -- dtypes, saving


@pytest.mark.parametrize("task", CONFIGS)
def test_mixed_bfloat16_gives_float32(task):
    head, batch = head_of(task, dtype="mixed_bfloat16"), batch_of(task)
    outputs = compiled(head, "call")(batch)
    whole = outputs_of(head_of(task), batch)
    for name, value in outputs.items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32", name
        np.testing.assert_allclose(to_numpy(value), whole[name], atol=0.5, err_msg=name)
    assert write(head, batch)[1].dtype == np.float32


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize("form", ["head", "head.keras"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's saving on NumPy 2
def test_saved_and_loaded_it_is_the_same(task, form, tmp_path):
    head, batch = head_of(task), batch_of(task)
    head.save(tmp_path / form)
    if form == "head":
        again = load_vlm_head(tmp_path / form)
    else:
        again = keras.saving.load_model(tmp_path / form)
    assert type(again) is type(head)
    assert len(again.variables) == len(head.variables)
    outputs = outputs_of(again, batch)
    for name, value in outputs_of(head, batch).items():
        np.testing.assert_array_equal(outputs[name], value, err_msg=name)


# -- learning


@on_jax
def test_captioning_learns_three_words_of_each_image():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, 4, C)).astype(np.float32)
    words = rng.integers(3, V, size=(16, 3))
    tokens = np.concatenate([np.full((16, 1), BOS), words, np.full((16, 1), EOS)], 1).astype(np.int32)
    rows = [{"vision_features": i, "tokens": t} for i, t in zip(images, tokens, strict=True)]
    config = VLMTaskConfig("captioning", C, None, **{**SIZES, "dim": 24})
    head, batch = fit(config, rows, 150)
    for beams in (1, 3):
        written, _ = write(head, batch, GenerationConfig(max_new_tokens=5, num_beams=beams))
        np.testing.assert_array_equal(written[:, :4], tokens[:, 1:])
