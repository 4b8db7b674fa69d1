import math

import keras
import numpy as np
import pytest
import toys

from saccade.train import Part, TrainConfig, optim
from saccade.train.optim import Warmup


@pytest.mark.parametrize("warmup", [0, 5])
def test_warmup_and_cosine(warmup):
    steps, ratio, peak = 21, 0.1, 0.4
    rate = Warmup(peak, warmup, steps, "cosine", ratio)
    for n in range(steps):
        t = (n - warmup) / (steps - 1 - warmup)
        expected = (n + 1) / warmup if n < warmup else ratio + (1 - ratio) * (1 + math.cos(math.pi * t)) / 2
        assert float(rate(n)) == pytest.approx(peak * expected, rel=1e-5)
    assert float(rate(steps - 1)) == pytest.approx(peak * ratio)
    assert float(rate(steps + 50)) == pytest.approx(peak * ratio)


def test_constant():
    rate = Warmup(0.4, 4, 9, "constant")
    np.testing.assert_allclose([float(rate(n)) for n in range(6)], [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)


def test_steps_that_all_warm_up():
    assert float(Warmup(1.0, 8, 4, "cosine")(3)) == pytest.approx(0.5)


def numbered(groups):
    """One array for each trained variable, no two numbers alike."""
    variables = [v for group in groups if group.optimizer for v in group.variables]
    edges = np.cumsum([0] + [math.prod(v.shape) for v in variables])
    return [
        np.arange(start, stop, dtype=np.float32).reshape(v.shape)
        for v, start, stop in zip(variables, edges[:-1], edges[1:], strict=True)
    ]


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        # Kernels and biases are groups of their own: encoder (5, 7) + (7,), head (7, 2) + (2,).
        ({"optimizer": "adamw"}, [(49,), (9,)]),
        ({"optimizer": "muon"}, [(5, 7), (7, 2), (9,)]),
        ({"optimizer": "adamw", "parts": {"encoder": Part(freeze=True)}}, [(14,), (2,)]),
        ({"optimizer": "lion", "parts": {"head": Part(optimizer="muon")}}, [(7, 2), (2,), (35,), (7,)]),
    ],
)
def test_join_and_split_are_inverse(settings, seen):
    groups = optim.make_groups(toys.model(), TrainConfig(**settings))
    values = numbered(groups)
    joined = optim.join(groups, values)
    assert [tuple(t.shape) for t in joined] == seen
    assert sum(group.count for group in groups) == len(seen)
    assert [group.count for group in groups] == [
        0 if group.optimizer is None else 1 if any(group.joined) else len(group.variables) for group in groups
    ]
    again = optim.split(groups, joined)
    assert len(again) == len(values)
    for one, other in zip(values, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_long_variables_are_not_joined(monkeypatch):
    monkeypatch.setattr(optim, "LONG", 20)
    groups = optim.make_groups(toys.model(), TrainConfig(optimizer="adamw"))
    values = numbered(groups)
    joined = optim.join(groups, values)
    assert [tuple(t.shape) for t in joined] == [(14,), (5, 7), (9,)]
    for one, other in zip(values, optim.split(groups, joined), strict=True):
        np.testing.assert_array_equal(one, other)


def test_variables_of_two_types_are_not_joined():
    variables = [keras.Variable(np.ones(3, np.float32)), keras.Variable(np.ones(3), dtype="bfloat16")]
    group = optim.Group("rest", variables, 0.1, 0.0, keras.optimizers.AdamW()).build()
    assert group.joined == [False, False]
    assert group.count == 2
    assert [t.dtype for t in optim.join([group], [v.value for v in variables])] == ["float32", "bfloat16"]


OPTIMIZERS = {"adamw": keras.optimizers.AdamW, "lion": keras.optimizers.Lion}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("long", [20, optim.LONG])
def test_one_vector_is_updated_as_each_variable_alone(monkeypatch, name, long):
    monkeypatch.setattr(optim, "LONG", long)
    config = TrainConfig(
        optimizer=name, learning_rate=0.1, warmup_steps=2, steps=6, weight_decay=0.3, betas=(0.8, 0.9)
    )
    model = toys.model()
    groups = optim.make_groups(model, config)
    variables = [v for group in groups for v in group.variables]
    assert all(any(group.joined) for group in groups)
    assert all(all(group.joined) for group in groups) == (long > 20)
    rate = Warmup(0.1, 2, 6, config.schedule, config.min_ratio)
    apart = [keras.Variable(v.value) for v in variables]
    rules = []
    for v, own in zip(variables, apart, strict=True):
        decay = 0.3 if v.name == "kernel" else 0.0
        rules.append(OPTIMIZERS[name](rate, weight_decay=decay, beta_1=0.8, beta_2=0.9))
        rules[-1].build([own])
    values = optim.join(groups, [v.value for v in variables])
    slots = optim.initial_state(groups)
    rng = np.random.default_rng(0)
    for _ in range(4):
        gradients = [rng.normal(size=v.shape).astype(np.float32) for v in variables]
        values, slots = optim.apply(groups, values, optim.join(groups, gradients), slots)
        for rule, own, gradient in zip(rules, apart, gradients, strict=True):
            rule.apply([keras.ops.convert_to_tensor(gradient)])
            assert own.value.shape == gradient.shape
    for own, value, first in zip(apart, optim.split(groups, values), variables, strict=True):
        np.testing.assert_allclose(value, own.value, atol=1e-6)
        assert np.abs(np.asarray(value) - np.asarray(first.value)).min() > 1e-3
