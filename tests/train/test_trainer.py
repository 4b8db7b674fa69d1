import json
import time

import keras
import numpy as np
import pytest
import toys
from keras import ops
from rich.console import Console

from saccade.errors import SaccadeError
from saccade.train import Part, TrainConfig, Trainer

QUIET = Console(quiet=True)


def train(model=None, streams=None, **settings) -> Trainer:
    settings = {"learning_rate": 0.03, "schedule": "constant", "clip_norm": None, **settings}
    run = Trainer(
        model or toys.model(), streams or {"main": toys.stream()}, TrainConfig(**settings), console=QUIET
    )
    run.result = run.fit()
    return run


def weights(run) -> dict[str, np.ndarray]:
    return {v.path: np.asarray(v.value) for v in run.model.trainable_variables}


def test_learns():
    run = train(steps=600, log_every=100, schedule="cosine")
    losses = [record["loss"] for record in run.result.history]
    assert losses[0] > 0.3
    assert losses[-1] < 0.03
    assert run.result.examples_per_s > 0
    assert run.result.mfu is None or run.result.mfu > 0


def test_an_interval_has_the_rate_of_training_not_of_evaluating():
    def slow(_) -> dict:
        time.sleep(3)
        return {"score": 1.0}

    config = TrainConfig(steps=8, log_every=4, eval_every=4)
    result = Trainer(toys.model(), {"main": toys.stream()}, config, console=QUIET, evaluate=slow).fit()
    after = result.history[-1]
    assert after["step"] == 8
    assert after["steps_per_s"] > 4 / 3, "four steps and the evaluation before them take three seconds"


def test_one_compilation():
    run = train(steps=12, log_every=3)
    assert list(run.engine._programs) == [True]
    pushes = run.engine._push._cache_size()
    train(steps=12, log_every=3)
    assert run.engine._push._cache_size() == pushes


def test_two_streams_add_their_weighted_losses():
    streams = {
        "a": toys.stream(batch_size=4),
        "b": toys.stream(toys.RandomRefill(), batch_size=3, weight=0.25),
    }
    record = train(steps=5, log_every=5, streams=streams).result.history[-1]
    assert record["loss"] == pytest.approx(record["a/loss"] + 0.25 * record["b/loss"], rel=1e-5)


def test_accumulation_equals_the_big_batch():
    small = train(steps=4, accumulate=3, streams={"main": toys.stream(batch_size=4)})
    big = train(steps=4, streams={"main": toys.stream(batch_size=12)})
    for path, value in weights(small).items():
        np.testing.assert_allclose(value, weights(big)[path], atol=2e-6, err_msg=path)


def test_frozen_parts_stay_and_hold_no_slots():
    before = weights(train(steps=1, learning_rate=0.0))
    run = train(steps=5, weight_decay=0.1, parts={"encoder": Part(freeze=True)})
    after = weights(run)
    for path in after:
        same = np.array_equal(before[path], after[path])
        assert same == ("encoder" in path), path
    assert len(run.state["trained"]) == 2
    assert sum(slot.size for slots in run.state["slots"] for slot in slots) == 2 * (7 * 2 + 2) + 2


def test_learning_rate_scale_of_a_part():
    start = weights(train(steps=1, learning_rate=0.0))
    plain = weights(train(steps=1, optimizer="sgd", betas=(0.0, 0.0)))
    scaled = weights(
        train(steps=1, optimizer="sgd", betas=(0.0, 0.0), parts={"head": Part(learning_rate_scale=0.25)})
    )
    for path in start:
        factor = 0.25 if "head" in path else 1.0
        np.testing.assert_allclose(
            scaled[path] - start[path], factor * (plain[path] - start[path]), atol=1e-7, err_msg=path
        )


class NoLoss(toys.Regression):
    def __call__(self, model, carry, batch, seed):
        return 0.0 * ops.sum(model(batch["x"])), carry, {}, batch["x"].shape[0]


def test_weight_decay_touches_kernels_only():
    model = toys.model()
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    run = train(model, {"main": toys.stream(NoLoss())}, steps=1, learning_rate=0.1, weight_decay=0.5)
    for path, value in weights(run).items():
        np.testing.assert_allclose(value, 0.95 if path.endswith("kernel") else 1.0, rtol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"vision": Part()}, "'vision' matches no trainable variable; the parts are encoder, head"),
        ({"enc": Part(), ".*kernel": Part()}, "'enc' and '.*kernel' both match encoder/kernel"),
        ({".*": Part(freeze=True)}, "every part of the model is frozen"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(SaccadeError) as error:
        train(steps=1, parts=parts)
    assert message in str(error.value)


def test_ema_is_the_recursion():
    values = [weights(train(steps=n, learning_rate=0.0 if n == 0 else 0.03)) for n in (1, 2, 3)]
    run = train(steps=3, ema_decay=0.8)
    expected = weights(train(steps=1, learning_rate=0.0))
    for step in values:
        expected = {path: 0.8 * expected[path] + 0.2 * step[path] for path in expected}
    last = weights(run)
    run.use_ema()
    for path, value in weights(run).items():
        np.testing.assert_allclose(value, expected[path], atol=1e-6, err_msg=path)
    assert any(not np.array_equal(last[path], expected[path]) for path in last)


def test_clipping_limits_the_global_norm():
    start = weights(train(steps=1, learning_rate=0.0))
    options = {"optimizer": "sgd", "betas": (0.0, 0.0), "learning_rate": 1.0, "steps": 1, "log_every": 1}
    free, clipped = train(**options), train(**options, clip_norm=0.01)

    def moved(run):
        return np.sqrt(sum(np.sum((value - start[path]) ** 2) for path, value in weights(run).items()))

    norm = free.result.history[-1]["gradient_norm"]
    assert norm > 0.1
    assert moved(free) == pytest.approx(norm, rel=1e-5)
    assert moved(clipped) == pytest.approx(0.01, rel=1e-4)
    assert clipped.result.history[-1]["gradient_norm"] == pytest.approx(norm, rel=1e-5)


def test_mixed_bfloat16_keeps_float32_variables():
    run = train(toys.model(dtype="mixed_bfloat16"), steps=200, log_every=50)
    assert run.result.history[-1]["loss"] < 0.1
    assert {str(value.dtype) for value in run.state["trained"]} == {"float32"}


class Remat(toys.Regression):
    def __call__(self, model, carry, batch, seed):
        return super().__call__(keras.remat(lambda x, **_: model(x)), carry, batch, seed)


def test_remat_gives_the_same_gradient():
    plain, remat = train(steps=3), train(steps=3, streams={"main": toys.stream(Remat())})
    assert "remat" in str(remat.engine.program(remat.state).jaxpr)
    for path, value in weights(plain).items():
        np.testing.assert_allclose(value, weights(remat)[path], atol=1e-6, err_msg=path)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion", "sgd"])
def test_every_optimizer_learns(optimizer):
    rate = {"lion": 0.003, "muon": 0.05}.get(optimizer, 0.03)
    run = train(steps=80, log_every=20, learning_rate=rate, optimizer=optimizer, weight_decay=0.01)
    history = run.result.history
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(SaccadeError, match=r"the loss is (nan|inf) by step"):
        train(steps=50, log_every=10, optimizer="sgd", learning_rate=1e6)


class Slow(toys.Points):
    def __getitem__(self, i):
        time.sleep(0.01)
        return super().__getitem__(i)


def test_waiting_for_data_is_reported():
    slow = train(steps=12, log_every=4, streams={"main": toys.stream(source=Slow(), batch_size=3)})
    assert slow.result.data_wait > 0.5
    assert 0 <= train(steps=12).result.data_wait <= 1


class Broken(toys.Points):
    def __getitem__(self, i):
        raise SaccadeError("image 7 is not readable")


def test_an_error_in_the_source_reaches_the_caller():
    with pytest.raises(SaccadeError, match="image 7 is not readable"):
        train(steps=2, streams={"main": toys.stream(source=Broken())})


def test_a_model_without_weights_is_refused():
    with pytest.raises(SaccadeError, match="no weights yet"):
        train(keras.Sequential([keras.layers.Dense(2)]), steps=1)


def test_the_table_names_what_trains(capsys):
    config = TrainConfig(steps=1, log_every=1, parts={"encoder": Part(freeze=True)})
    Trainer(toys.model(), {"main": toys.stream()}, config).fit()
    said = capsys.readouterr().err
    assert "frozen" in said
    assert "16 of 58 parameters train" in said
    assert "step 1  loss" in said


def test_logs_for_people_and_tools(tmp_path):
    config = TrainConfig(steps=13, log_every=4, tensorboard=True, profile=True)
    run = Trainer(toys.model(), {"main": toys.stream()}, config, tmp_path, console=QUIET)
    result = run.fit()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12, 13]
    assert lines == result.history
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_trainer_runs_once():
    run = train(steps=1)
    with pytest.raises(SaccadeError, match="make a new one"):
        run.fit()


def test_a_bar_on_a_terminal(tmp_path):
    console = Console(force_terminal=True, file=(tmp_path / "screen").open("w"), width=150)
    with console.file:
        Trainer(
            toys.model(), {"main": toys.stream()}, TrainConfig(steps=6, log_every=3), console=console
        ).fit()
    assert "3/6" in (tmp_path / "screen").read_text() or "6/6" in (tmp_path / "screen").read_text()


def test_on_save_sees_the_weights_of_that_step(tmp_path):
    seen = []

    def on_save(run):
        last = weights(run)
        run.use_ema()
        seen.append((run.step, last, weights(run)))

    config = TrainConfig(steps=5, save_every=2, ema_decay=0.5)
    run = Trainer(
        toys.model(), {"main": toys.stream()}, config, tmp_path / "a", console=QUIET, on_save=on_save
    )
    run.fit()
    plain = Trainer(toys.model(), {"main": toys.stream()}, config, tmp_path / "b", console=QUIET)
    plain.fit()
    assert [step for step, _, _ in seen] == [2, 4, 5]
    for path, value in weights(plain).items():
        np.testing.assert_array_equal(value, seen[-1][1][path])
        np.testing.assert_array_equal(value, weights(run)[path])
        assert not np.array_equal(seen[-1][1][path], seen[-1][2][path])
