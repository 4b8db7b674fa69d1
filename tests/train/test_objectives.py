"""Objectives of one group share a pass through the model, and nothing else."""

from dataclasses import replace

import jax
import keras
import numpy as np
import pytest
import tiny
from reference import to_numpy

from saccade.train.objectives import Answer, Ground, Recursive

# Exploration draws random numbers, and one pass draws others than two do.
OBJECTIVES = {
    "vqa": Recursive(Answer("vqa", smoothing=0.1), exploration=0.0, ponder_weight=0.1, group="all"),
    "ground": Recursive(Ground(), exploration=0.0, halt_weight=0.3, group="all"),
}
ROWS = {"vqa": 3, "ground": 2}
FREE = {"vqa": [True, False, True], "ground": [False, True]}


def carries_of(model):
    """Slots in the middle of their work: some rows still think, the others wait for an example."""
    rng = np.random.default_rng(0)
    carries = {}
    for seed, (name, objective) in enumerate(OBJECTIVES.items()):
        carry = objective.initial_carry(model, tiny.batch(rows=ROWS[name], seed=10 + seed))
        state = carry["state"]
        thought = {key: rng.normal(size=state[key].shape).astype(np.float32) for key in ("z_h", "z_l")}
        taken = np.arange(1, ROWS[name] + 1, dtype=np.int32)
        free = np.array(FREE[name])
        carries[name] = {**carry, "state": {**state, **thought, "steps": taken, "halted": free}}
    return keras.tree.map_structure(to_numpy, carries)


def alone(model, carries, batches, seed):
    return {name: o(model, carries[name], batches[name], seed) for name, o in OBJECTIVES.items()}


def grouped(model, carries, batches, seed):
    return Recursive.together(model, OBJECTIVES, carries, batches, seed)


@pytest.fixture(scope="module")
def outcomes():
    """Of `alone` and of `grouped`: each loss's gradients, and name -> (loss, carry, metrics, consumed)."""
    model = tiny.fresh(config=replace(tiny.CONFIG, h_cycles=1))
    carries = carries_of(model)
    batches = {name: tiny.batch(rows=rows, seed=rows) for name, rows in ROWS.items()}
    seed = keras.random.SeedGenerator(0)

    def outcome(way):
        def losses(trained, state):
            pairs = [*zip(model.trainable_variables, trained, strict=True), (seed.state, state)]
            with keras.StatelessScope(state_mapping=pairs):
                results = way(model, carries, batches, seed)
            return keras.ops.stack([results[name][0] for name in OBJECTIVES]), results

        values = [v.value for v in model.trainable_variables], seed.state.value
        compiled = jax.jit(jax.jacrev(losses, has_aux=True)).lower(*values)
        gradients, results = compiled.compile(compiler_options=tiny.FAST_TO_COMPILE)(*values)
        return [to_numpy(g) for g in gradients], keras.tree.map_structure(to_numpy, results)

    return outcome(alone), outcome(grouped)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_carries_and_metrics_are_those_of_each_alone(outcomes, name):
    (_, expected), (_, results) = outcomes
    keras.tree.assert_same_structure(expected[name], results[name])
    for one, other in zip(keras.tree.flatten(expected[name]), keras.tree.flatten(results[name]), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(other, one, atol=1e-4)
    assert results[name][3] == sum(FREE[name])


def test_gradients_are_those_of_each_alone(outcomes):
    (expected, _), (gradients, _) = outcomes
    for one, other in zip(expected, gradients, strict=True):
        assert one.shape[0] == len(OBJECTIVES)
        np.testing.assert_allclose(other, one, atol=1e-3 * max(1.0, np.abs(one).max()))
    assert all(any(g[i].any() for g in gradients) for i in range(len(OBJECTIVES)))
