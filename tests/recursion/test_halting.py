"""The halting rule, the exploration and the halting targets."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from reference import sigmoid, to_numpy

from saccade.errors import SaccadeError
from saccade.recursion.halting import (
    explore_min_steps,
    halting_loss,
    halting_threshold,
    q_continue_target,
    should_halt,
)


def test_halting_rule():
    q = np.array([-1.0, 0.0, 0.1, 2.0, -9.0], np.float32)
    steps = np.array([1, 1, 1, 1, 6], np.int32)
    np.testing.assert_array_equal(to_numpy(should_halt(q, steps, 6)), [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(to_numpy(should_halt(q, steps, 6, threshold=1.0)), [0, 0, 0, 1, 1])
    least = np.array([1, 1, 2, 1, 9], np.int32)
    np.testing.assert_array_equal(to_numpy(should_halt(q, steps, 6, min_steps=least)), [0, 0, 0, 1, 1])


def test_a_threshold_is_given_or_the_models_and_a_number():
    config = SimpleNamespace(halt_threshold=0.5)
    assert [halting_threshold(config, given) for given in (None, -2, 0.0)] == [0.5, -2.0, 0.0]
    assert [halting_threshold(config, given) for given in (np.inf, -np.inf)] == [1e6, -1e6]
    for bad in (config, np.nan), (SimpleNamespace(halt_threshold=np.nan), None):
        with pytest.raises(SaccadeError, match="halting threshold is nan; give a number"):
            halting_threshold(*bad)


def test_exploration_draws_what_it_says():
    drawn = to_numpy(explore_min_steps(40_000, 6, 0.25, keras.random.SeedGenerator(3)))
    assert drawn.dtype == np.int32
    values, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(values, [1, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(counts / len(drawn), [0.75, *[0.05] * 5], atol=0.006)


def test_exploration_is_new_at_every_call_and_can_be_off():
    seed = keras.random.SeedGenerator(3)
    first, second = (to_numpy(explore_min_steps(500, 6, 0.5, seed)) for _ in range(2))
    assert (first != second).any()
    assert set(to_numpy(explore_min_steps(500, 6, 0.0, seed))) == {1}


def test_exploration_never_asks_for_more_than_the_limit():
    seed = keras.random.SeedGenerator(3)
    assert set(to_numpy(explore_min_steps(200, 1, 1.0, seed))) == {1}
    assert set(to_numpy(explore_min_steps(200, 2, 1.0, seed))) == {2}


def test_halting_loss_is_cross_entropy():
    q, correct = np.array([-3.0, 0.5, 2.0, 7.0]), np.array([0.0, 1.0, 0.25, 1.0])
    p = sigmoid(q)
    expected = -correct * np.log(p) - (1 - correct) * np.log1p(-p)
    np.testing.assert_allclose(to_numpy(halting_loss(q, correct)), expected, rtol=1e-5)


def test_q_continue_target():
    halt, go_on = np.array([1.0, 1.0, -2.0]), np.array([3.0, 3.0, -4.0])
    last = np.array([False, True, False])
    expected = sigmoid(np.array([3.0, 1.0, -2.0]))
    np.testing.assert_allclose(to_numpy(q_continue_target(halt, go_on, last)), expected, rtol=1e-6)
