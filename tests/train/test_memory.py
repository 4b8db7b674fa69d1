"""The memory said before the first step, against what is there and what the compiler laid out."""

import gc
from dataclasses import replace

import jax
import keras
import numpy as np
import pytest
import toys
from rich.console import Console

from saccade.errors import SaccadeError
from saccade.models.nano_vlm import NanoVLM, preset
from saccade.train import Stream, TrainConfig, Trainer, memory
from saccade.train.engine import Engine
from saccade.train.next_token import NextToken

MIB = 2**20


def tiny(**changes):
    config = preset("nano_vlm_mini")
    vision = replace(config.vision, dim=32, depth=2, num_heads=2, mlp_dim=64, image_size=(64, 64))
    language = replace(config.language, vocab_size=300, dim=32, depth=2, num_heads=4, mlp_dim=64)
    return replace(config, vision=vision, language=replace(language, num_kv_heads=2), **changes)


def prepared(config, rows=4, length=48, **settings):
    """An engine and the state before its first step, queues filled."""
    height, width = config.vision.image_size
    batch = {
        "images": np.zeros((rows, height, width, 3), np.uint8),
        "tokens": np.zeros((rows, length), np.int32),
        "padding_mask": np.ones((rows, length), bool),
        "image_mask": np.arange(length)[None].repeat(rows, 0) < config.image_tokens,
        "targets": np.ones((rows, length), np.int32),
    }
    stream = Stream(range(9), list, NextToken(), rows)
    engine = Engine(NanoVLM(config), {"chat": stream}, TrainConfig(**settings))
    return engine, engine.push(engine.initial_state({"chat": batch}), "chat", batch)


def held(predicted, *names):
    return sum(predicted.parts[name] for name in names)


STATE = ("parameters", "optimiser", "moving averages", "summed gradients", "carries and metrics")


def check_against_the_compiler(engine, state):
    predicted = memory.predict(engine, state)
    found = engine.program(state).call.memory_analysis()
    laid_out = found.argument_size_in_bytes + found.temp_size_in_bytes
    lasting = held(predicted, *STATE, "examples in the queues")
    assert lasting == pytest.approx(found.argument_size_in_bytes, rel=0.01)
    assert lasting + predicted.parts["activations and gradients"] == pytest.approx(laid_out, rel=0.15)
    numbers = 4 * engine.model.count_params()
    assert predicted.parts["parameters"] == pytest.approx(numbers, rel=0.01)
    assert predicted.parts["optimiser"] == pytest.approx(2 * numbers, rel=0.01)
    assert predicted.parts["activations and gradients"] > numbers  # a gradient for each parameter
    return predicted, numbers


def test_it_is_what_the_compiler_laid_out():
    predicted, numbers = check_against_the_compiler(*prepared(tiny(), ema_decay=0.9, accumulate=2))
    assert predicted.parts["moving averages"] == predicted.parts["summed gradients"] == numbers


def test_it_is_what_the_compiler_laid_out_for_the_mini_preset():
    predicted, _ = check_against_the_compiler(*prepared(preset("nano_vlm_mini"), rows=2, length=64))
    assert predicted.parts["moving averages"] == predicted.parts["summed gradients"] == 0


def test_it_is_what_a_run_holds():
    """All but the step's own buffers can be counted from outside, while the run goes on."""
    counted = []

    def count(model):
        counted.append(sum({id(a): a.nbytes for a in jax.live_arrays()}.values()))
        return {}

    gc.collect()  # models of other tests lie in cycles, and would go while the run is on
    before = sum(a.nbytes for a in jax.live_arrays())
    model = keras.Sequential([keras.layers.Dense(600, name="encoder"), keras.layers.Dense(2, name="head")])
    model.build((None, 500))
    stream = Stream(toys.Points(features=500), toys.collate, toys.Regression(), 32)
    config = TrainConfig(steps=3, eval_every=1, ema_decay=0.9, log_every=1)
    run = Trainer(model, {"main": stream}, config, console=Console(quiet=True), evaluate=count)
    run.fit()
    predicted = memory.predict(run.engine, run.state)
    lasting = predicted.total - predicted.parts["activations and gradients"]
    assert max(counted) - before == pytest.approx(lasting, rel=0.15)


def test_a_run_that_cannot_fit_is_refused_with_the_cure():
    predicted = memory.Prediction({"parameters": 3 * 2**30, "activations and gradients": 9 * 2**30})
    memory.check(predicted, None)
    memory.check(predicted, 12 * 2**30)
    with pytest.raises(SaccadeError, match=r"12.0 GiB, 9.0 GiB of them for activations .* gives 8.0 GiB"):
        memory.check(predicted, 8 * 2**30)


def test_the_run_says_it_first(capsys):
    console = Console(width=100)
    run = Trainer(toys.model(), {"main": toys.stream()}, TrainConfig(steps=1), console=console)
    run.fit()
    said = capsys.readouterr().out
    predicted = memory.predict(run.engine, run.state)
    assert f"predicted peak {predicted.total / MIB:,.0f} MiB" in said
    assert said.index("predicted peak") < said.index("step 1")
    assert "moving averages" not in said
