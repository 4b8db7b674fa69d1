"""What captioners learn: every weight has a gradient, the losses are the papers', a tiny task is learnt."""

import functools
from dataclasses import replace

import jax
import keras
import numpy as np
import pytest
import reference
from reference import to_numpy
from small_captioners import CONFIG, KINDS, SIDE, B, L, batch

from saccade import backend
from saccade.data.text import BOS, EOS
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer
from saccade.models.captioners import ShowAttendTell
from saccade.train import Stream, TrainConfig, Trainer
from saccade.train.captions import Describe
from saccade.train.labels import Perceive


@functools.cache
def built(name):
    return reference.randomize(KINDS[name](CONFIG))


def loss_of(objective, model, data):
    def run(data):
        loss, _, metrics, consumed = objective(model, {}, data, None)
        assert consumed == B
        return loss, metrics

    return backend.compiled(run, model)(data)


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_is_cross_entropy_of_what_counts(name):
    model, data = built(name), batch()
    loss, metrics = loss_of(Describe(), model, data)
    logits = to_numpy(backend.compiled(model, model)(data)["logits"]).astype(np.float64)
    log_p = np.take_along_axis(reference.log_softmax(logits), data["targets"][..., None], -1)[..., 0]
    rows = [-log_p[b, data["loss_mask"][b]].mean() for b in range(B)]
    np.testing.assert_allclose(float(loss), np.mean(rows), rtol=1e-5)
    assert set(metrics) == {"token_accuracy"}
    # What stands where nothing counts changes nothing.
    other = {**data, "targets": np.where(data["loss_mask"], data["targets"], 1)}
    assert float(loss_of(Describe(), model, other)[0]) == float(loss)


def test_pointing_and_doubly_stochastic_attention_against_numpy():
    model, data = built("attend"), batch()
    plain = float(loss_of(Describe(), model, data)[0])
    looked = to_numpy(backend.compiled(model, model)(data)["attention"]).astype(np.float64)
    seen = (looked * data["loss_mask"][..., None]).sum(1)
    expected = np.mean((1 - seen) ** 2)
    found = float(loss_of(Describe(attend_weight=0.7), model, data)[0])
    np.testing.assert_allclose(found - plain, 0.7 * expected, rtol=1e-4)
    mass, said = (looked * data["mentions"]).sum(-1), data["mentions"].any(-1)
    rows = [-np.log(mass[b, said[b]] + 1e-4).mean() if said[b].any() else 0.0 for b in range(B)]
    loss, metrics = loss_of(Describe(point_weight=0.3), model, data)
    np.testing.assert_allclose(float(loss) - plain, 0.3 * np.mean(rows), rtol=1e-4)
    shares = [mass[b, said[b]].mean() if said[b].any() else 0.0 for b in range(B)]
    np.testing.assert_allclose(float(metrics["pointed"]), np.mean(shares), rtol=1e-5)


def test_a_model_that_does_not_look_again_is_not_told_where():
    for weights in ({"point_weight": 0.5}, {"attend_weight": 1.0}):
        with pytest.raises(ValueError, match="a ShowAndTell has no attention to teach"):
            loss_of(Describe(**weights), built("tell"), batch())


@pytest.mark.parametrize("name", KINDS)
def test_every_weight_gets_a_gradient(name):
    model, data = built(name), batch()
    objective = Describe((Perceive(),), *((0.5, 0.5) if name == "attend" else ()))

    def loss(values):
        with keras.StatelessScope(list(zip(model.trainable_variables, values, strict=True))):
            return objective(model, {}, data, None)[0]

    gradients = jax.jit(jax.grad(loss))([v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


class Squares:
    """A coloured square in one of four quadrants; the text: its colour, then its place, then <eos>."""

    def __len__(self):
        return 10_000

    def __getitem__(self, i):
        rng = np.random.default_rng([5, i])
        color, place = rng.integers(3), rng.integers(4)
        image = rng.random((SIDE, SIDE, 3)).astype(np.float32) * 0.3
        row, column = (8 * (place // 2) + 2, 8 * (place % 2) + 2)
        image[row : row + 4, column : column + 4] = np.eye(3)[color]
        text = [4 + color, 7 + place]
        return {
            "images": image,
            "decoder_tokens": np.array([BOS, *text, 0, 0], np.int32),
            "targets": np.array([*text, EOS, 0, 0], np.int32),
            "loss_mask": np.arange(L) < 3,
        }


def collate(items):
    return {key: np.stack([item[key] for item in items]) for key in items[0]}


def test_a_network_of_keras_applications_trains_with_its_statistics():
    model = ShowAttendTell(replace(CONFIG, image_size=(32, 32), backbone="MobileNetV3Small"))
    before = {name: to_numpy(v.value).copy() for name, v in model.named_variables().items()}

    def large(items):
        batch = collate(items)
        return {**batch, "images": batch["images"].repeat(2, axis=1).repeat(2, axis=2)}

    stream = Stream(Squares(), large, Describe(), 4)
    Trainer(model, {"squares": stream}, TrainConfig(steps=2, learning_rate=0.01)).fit()
    changed = {
        name for name, v in model.named_variables().items() if (to_numpy(v.value) != before[name]).any()
    }
    assert any("moving_mean" in name for name in changed)
    assert any(name.startswith("encoder") and "kernel" in name for name in changed)


@pytest.mark.parametrize("name", KINDS)
def test_it_learns_to_name_a_square_and_its_place(name):
    keras.utils.set_random_seed(3)
    model = KINDS[name](CONFIG)
    config = TrainConfig(steps=600, learning_rate=0.01, warmup_steps=10, log_every=200)
    Trainer(model, {"squares": Stream(Squares(), collate, Describe(), 32)}, config).fit()
    fresh = collate([Squares()[9_000 + i] for i in range(64)])
    tokens, _ = Writer(model).generate((fresh["images"],), GenerationConfig(max_new_tokens=3))
    right = (tokens == fresh["targets"][:, :3]).all(1).mean()
    assert right >= 0.95, right
