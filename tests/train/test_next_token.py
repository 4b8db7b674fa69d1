"""The objective that trains NanoVLM: what counts, what padding and blank images do, and a run."""

import jax
import nano
import numpy as np
import pytest
from keras import StatelessScope
from reference import log_softmax, to_numpy
from rich.console import Console
from talks import IGNORED, golden_rows, rows_of, stream

from saccade import backend
from saccade.errors import SaccadeError
from saccade.hub.nano_vlm import read_model
from saccade.train import Part, TrainConfig, Trainer
from saccade.train.next_token import NextToken, padding_last, token_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return nano.write(tmp_path_factory.mktemp("golden") / "m")


@pytest.fixture(scope="module")
def model(folder):
    return read_model(folder)


@pytest.fixture(scope="module")
def batch():
    return golden_rows()


def mean_loss(batch):
    """From transformers' logits."""
    logits, targets = nano.part(nano.golden(), "output")["logits"], batch["targets"]
    places = targets != IGNORED
    log_p = log_softmax(logits.astype(np.float64))[places]
    right = (log_p.argmax(-1) == targets[places]).mean()
    return -log_p[np.arange(len(log_p)), targets[places]].mean(), right, places.sum()


def loss_of(model, batch, objective=None):
    objective = objective or NextToken(chunk=4)
    run = backend.compiled(lambda b: objective(model, {}, b, None)[:3:2], model)
    loss, metrics = run(batch)
    right, count = (float(value) for value in metrics["token_accuracy"])
    return float(loss), right / count, count


def test_the_loss_is_the_mean_over_what_counts(model, batch):
    assert loss_of(model, rows_of(batch)) == pytest.approx(mean_loss(batch), abs=1e-5)
    assert loss_of(model, rows_of(batch), NextToken()) == pytest.approx(mean_loss(batch), abs=1e-5)


def test_images_in_reading_order_are_read_too(model, batch):
    flat = rows_of(batch, images=batch["images"])
    assert loss_of(model, flat) == pytest.approx(mean_loss(batch), abs=1e-5)


def test_blank_images_are_not_seen(model, batch):
    other = batch["by_row"].copy()
    other[0, 1], other[2] = 0.9, 0.1
    assert loss_of(model, rows_of(batch, images=other)) == pytest.approx(mean_loss(batch), abs=1e-5)
    other[1, 1] = 0.9
    assert abs(loss_of(model, rows_of(batch, images=other))[0] - mean_loss(batch)[0]) > 1e-4


def test_a_row_never_reads_the_image_of_the_next(model, batch):
    too_few = rows_of(batch, images=batch["by_row"][:, :1])  # row 1 has places for two
    assert np.isnan(loss_of(model, too_few)[0])


def test_padding_goes_behind_from_either_side(batch):
    rows = rows_of(batch)
    moved = padding_last(rows)
    assert "padding_mask" not in moved
    assert moved["images"] is rows["images"]
    counts = batch["padding_mask"].sum(1)
    for key in ("tokens", "targets", "image_mask"):
        for row, count in enumerate(counts):
            kept = batch[key][row][batch["padding_mask"][row]]
            np.testing.assert_array_equal(to_numpy(moved[key])[row, :count], kept)
    kept_first = np.arange(batch["tokens"].shape[1]) < counts[:, None]
    again = padding_last({**moved, "padding_mask": kept_first})
    np.testing.assert_array_equal(to_numpy(again["tokens"]), to_numpy(moved["tokens"]))


@pytest.mark.parametrize(("averaging", "exponent"), [("token", 0), ("square", 0.5), ("sample", 1)])
def test_a_conversation_weighs_by_its_length(averaging, exponent):
    targets = np.array([[-100, 4, -100, 7, 7, 7, 7, -100], [1, 2, -100, -100, -100, -100, -100, -100]])
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 0, 0]])
    answers = [[1, 4], [2]]  # tokens that count, of each row's conversations
    expected = np.zeros(targets.shape)
    for row, sizes in enumerate(answers):
        places = np.flatnonzero(targets[row] >= 0)
        expected[row, places] = np.repeat(np.array(sizes, float) ** -exponent, sizes)
    np.testing.assert_allclose(token_weights(targets, segments, averaging), expected, rtol=1e-6)
    alone = token_weights(targets[1:], None, averaging)  # without segments a row is one conversation
    np.testing.assert_allclose(alone, expected[1:], rtol=1e-6)


def test_the_loss_is_the_weighted_mean(model, batch):
    rows = rows_of(batch)
    each, counts = [], (batch["targets"] >= 0).sum(1)
    counted = np.flatnonzero(counts)
    sizes = counts[counted]
    for row in counted:
        others = np.where(np.arange(len(counts))[:, None] == row, batch["targets"], IGNORED)
        each.append(loss_of(model, {**rows, "targets": others})[0])
    assert len(set(sizes.tolist())) > 1
    for averaging, exponent in (("token", 0), ("square", 0.5), ("sample", 1)):
        expected = np.average(each, weights=sizes ** (1.0 - exponent))
        found = loss_of(model, rows, NextToken(chunk=4, averaging=averaging))[0]
        assert found == pytest.approx(expected, abs=1e-5), averaging


def test_an_unknown_averaging():
    with pytest.raises(SaccadeError, match="averaging='tokens'; use one of token, square, sample"):
        NextToken(averaging="tokens")


def gradients(model, rows):
    """Of the loss, by what trains."""
    variables = model.trainable_variables

    def loss(values):
        with StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return NextToken()(model, {}, rows, None)[0], 0

    return jax.jit(lambda v: backend.value_and_grad(loss, v)[1])([v.value for v in variables])


def test_remat_has_the_same_gradients(folder, batch):
    model = read_model(folder)
    plain = gradients(model, rows_of(batch))
    for part in (model.vision, model.language):
        part.remat = True
    for ours, theirs in zip(gradients(model, rows_of(batch)), plain, strict=True):
        np.testing.assert_allclose(to_numpy(ours), to_numpy(theirs), atol=1e-6)


def test_what_padding_holds_changes_no_gradient(model, batch):
    padding = ~batch["padding_mask"]
    other = np.where(padding, 11, batch["tokens"])
    for a, b in zip(
        gradients(model, rows_of(batch)), gradients(model, rows_of(batch, tokens=other)), strict=True
    ):
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), atol=1e-6)


def trainer(folder, **settings):
    config = TrainConfig(log_every=1, schedule="constant", **settings)
    return Trainer(read_model(folder), {"chat": stream()}, config, console=Console(quiet=True))


def test_it_trains_part_by_part(folder):
    parts = {"projection": Part(learning_rate_scale=20), "vision": Part(freeze=True)}
    run = trainer(folder, steps=8, learning_rate=1e-3, parts=parts)
    before = {name: to_numpy(v).copy() for name, v in run.model.named_variables().items()}
    history = run.fit().history
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["chat/token_accuracy"] > history[0]["chat/token_accuracy"]
    moved: dict = {"vision": [], "projection": [], "language": []}
    for name, variable in run.model.named_variables().items():
        moved[name.split("/")[0]].append(np.abs(to_numpy(variable) - before[name]).max())
    assert max(moved["vision"]) == 0
    assert min(moved["projection"]) > 5 * max(moved["language"])
    assert min(moved["language"]) > 0
    assert list(run.engine._programs) == [True]


def test_a_batch_without_targets_is_no_division_by_zero(model, batch):
    none = rows_of(batch, targets=np.full_like(batch["targets"], IGNORED))
    run = backend.compiled(lambda b: NextToken(chunk=4)(model, {}, b, None), model)
    loss, _, metrics, consumed = run(none)
    assert float(loss) == 0
    assert float(metrics["token_accuracy"][1]) == 0
    assert consumed == 3
