"""Objectives of one group share a pass through the model, and nothing else."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import tiny
from reference import to_numpy

from saccade.models.vlm_hrm import Layout
from saccade.train.labels import Contrast, Perceive, Refer, Tell
from saccade.train.objectives import Answer, Ground, Recursive

# Exploration draws random numbers, and one pass draws others than two do. Contrast compares the rows that
# name it with each other, so one objective alone may.
OBJECTIVES = {
    "vqa": Recursive(
        Answer("vqa", smoothing=0.1), (Perceive(), Tell(0.7)), exploration=0.0, ponder_weight=0.1, group="all"
    ),
    "ground": Recursive(Ground(), (Perceive(), Refer(0.5)), exploration=0.0, halt_weight=0.3, group="all"),
    "match": Recursive(Answer("match"), (Contrast(), Refer(0.5), Perceive()), exploration=0.0, group="all"),
}
ROWS = {"vqa": 3, "ground": 2, "match": 2}
FREE = {"vqa": [True, False, True], "ground": [False, True], "match": [True, True]}
# Canvases of one group may differ in shape, but not in how many patches they have.
SIZE = {"vqa": (16, 24), "ground": (16, 24), "match": (24, 16)}
METRICS = {"vqa": {"perceived", "told"}, "ground": {"perceived", "referred"}}
METRICS["match"] = {"perceived", "referred", "recall_at_1"}


def carries_of(model):
    """Slots in the middle of their work: some rows still think, the others wait for an example."""
    rng = np.random.default_rng(0)
    carries = {}
    for seed, (name, objective) in enumerate(OBJECTIVES.items()):
        carry = objective.initial_carry(model, tiny.batch(ROWS[name], SIZE[name], seed=10 + seed))
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
    batches = {name: tiny.batch(rows, SIZE[name], seed=rows) for name, rows in ROWS.items()}
    seed = keras.random.SeedGenerator(0)

    def outcome(way):
        def losses(trained, state):
            pairs = [*zip(model.trainable_variables, trained, strict=True), (seed.state, state)]
            with keras.StatelessScope(state_mapping=pairs):
                results = way(model, carries, batches, seed)
            return jnp.stack([results[name][0] for name in OBJECTIVES]), results

        def run(trained, state, weights):
            _, backward, results = jax.vjp(lambda values: losses(values, state), trained, has_aux=True)
            return backward(weights)[0], results

        values = [v.value for v in model.trainable_variables], seed.state.value
        each = jnp.eye(len(OBJECTIVES))
        compiled = jax.jit(run).lower(*values, each[0]).compile(compiler_options=tiny.FAST_TO_COMPILE)
        found = {name: compiled(*values, each[i]) for i, name in enumerate(OBJECTIVES)}
        gradients = {name: [to_numpy(g) for g in gradients] for name, (gradients, _) in found.items()}
        return gradients, keras.tree.map_structure(to_numpy, found["vqa"][1])

    return outcome(alone), outcome(grouped)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_carries_and_metrics_are_those_of_each_alone(outcomes, name):
    (_, expected), (_, results) = outcomes
    keras.tree.assert_same_structure(expected[name], results[name])
    for one, other in zip(keras.tree.flatten(expected[name]), keras.tree.flatten(results[name]), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(other, one, atol=1e-4)
    assert results[name][2].keys() >= METRICS[name]
    assert results[name][3] == sum(FREE[name])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_each_alone(outcomes, name):
    (expected, _), (gradients, _) = outcomes
    for one, other in zip(expected[name], gradients[name], strict=True):
        np.testing.assert_allclose(other, one, atol=1e-3 * max(1.0, np.abs(one).max()))
    assert any(g.any() for g in gradients[name])


class Echo:
    """Nothing to learn: a token is its example's number, a step takes it over. One patch is 4 x 4 pixels."""

    config = SimpleNamespace(halt_max_steps=4, halt_threshold=0.0, q_learning=False)

    def layout(self, batch):
        height, width = batch["images"].shape[1:3]
        return Layout((height // 4, width // 4), batch["tokens"].shape[1])

    def encode(self, batch):
        shape = len(batch["tokens"]), self.layout(batch).text.stop
        x = jnp.broadcast_to(batch["tokens"][:, :1], shape)[..., None].astype("float32")
        return x, jnp.ones(shape, bool)

    def initial_carry(self, x):
        rows = len(x)
        return {"z_h": 0 * x, "steps": jnp.zeros(rows, "int32"), "halted": jnp.zeros(rows, bool)}

    def step(self, carry, x, mask, layout):
        carry = {**carry, "z_h": x, "steps": carry["steps"] + 1}
        return carry, {"hidden": x, "q_halt": jnp.zeros(len(x))}


@dataclass(frozen=True)
class Nothing:
    """A task whose loss is 0."""

    def inputs(self, data):
        return {key: data[key] for key in ("images", "tokens")}

    def __call__(self, model, outputs, data, layout):
        zeros = jnp.zeros(len(outputs["q_halt"]))
        return zeros, zeros > 0, {}


@dataclass(frozen=True)
class Number:
    """weight * (the number that the model says + 100 * that in the labels); keeps what it is called with."""

    weight: float
    calls: list = field(default_factory=list, compare=False)
    reads = ("label",)

    def __call__(self, model, outputs, data, layout):
        assert data.keys() == {"label"}
        assert outputs["encoded"].shape == outputs["hidden"].shape
        self.calls.append((layout.grid, data["label"].tolist()))
        rows = outputs["hidden"][:, 0, 0] + 100 * data["label"]
        return self.weight * rows, {f"number_{self.weight}": (rows, jnp.ones_like(rows))}


def numbered(first: int, rows: int, size: tuple = (8, 12), length: int = 3) -> dict:
    numbers = np.arange(first, first + rows, dtype=np.int32)
    tokens = np.repeat(numbers[:, None], length, 1)
    return {"images": np.zeros((rows, *size, 3), np.float32), "tokens": tokens, "label": numbers}


def together(objectives, batches):
    model, seed = Echo(), keras.random.SeedGenerator(0)
    carries = {name: o.initial_carry(model, batches[name]) for name, o in objectives.items()}
    return Recursive.together(model, objectives, carries, batches, seed)


def test_a_further_loss_is_computed_once_a_grid_and_added_where_it_is_named():
    one, half = Number(1.0), Number(0.5)
    objectives = {
        "a": Recursive(Nothing(), (one,), exploration=0.0, halt_weight=0.0),
        "b": Recursive(Nothing(), exploration=0.0, halt_weight=0.0),
        "c": Recursive(Nothing(), (half, one), exploration=0.0, halt_weight=0.0),
        "d": Recursive(Nothing(), (one,), exploration=0.0, halt_weight=0.0),
    }
    batches = {
        "a": numbered(1, 2),
        "b": numbered(3, 3),
        "c": numbered(6, 2),
        "d": numbered(8, 3, size=(12, 8)),
    }
    results = together(objectives, batches)
    assert one.calls == [((2, 3), [1, 2, 6, 7]), ((3, 2), [8, 9, 10])]
    assert half.calls == [((2, 3), [6, 7])]
    expected = {"a": 101 * 1.5, "b": 0.0, "c": 101 * 6.5 * 1.5, "d": 101 * 9.0}
    assert {name: pytest.approx(float(result[0])) for name, result in results.items()} == expected
    # Metrics are sums over an objective's own rows, with how many they are of.
    assert [float(v) for v in results["a"][2]["number_1.0"]] == [101 * 3, 2]
    assert [float(v) for v in results["c"][2]["number_0.5"]] == [101 * 13, 2]
    assert [float(v) for v in results["d"][2]["number_1.0"]] == [101 * 27, 3]
    assert not any(key.startswith("number") for key in results["b"][2])


@pytest.mark.parametrize(
    ("other", "ends"),
    [
        ({"size": (8, 8)}, r"\(5, 8\), \(7, 10\)"),
        ({"size": (12, 8), "length": 4}, r"\(7, 10\), \(7, 11\)"),
    ],
)
def test_segments_that_end_apart_are_refused(other, ends):
    objectives = {"a": Recursive(Nothing()), "b": Recursive(Nothing())}
    with pytest.raises(ValueError, match=rf"end at \[{ends}\]; make them end alike, or group them apart"):
        together(objectives, {"a": numbered(0, 2), "b": numbered(2, 2, **other)})


@pytest.mark.parametrize("stagger", [False, True])
def test_staggered_slots_end_by_turns_then_take_all_their_steps(stagger):
    """Six slots of at most four steps, nobody halts: when does each slot take its next example?"""
    model, rows, limit = Echo(), 6, Echo.config.halt_max_steps
    objective = Recursive(Nothing(), exploration=0.0, stagger=stagger)
    generator = keras.random.SeedGenerator(0)
    carry = objective.initial_carry(model, numbered(0, rows))
    taken = []
    for step in range(10):
        _, carry, _, consumed = objective(model, carry, numbered(100 * (step + 1), rows), generator)
        fresh = np.asarray(carry["data"]["label"]) // 100 == step + 1
        assert int(consumed) == fresh.sum()
        taken.append(fresh)
    when = [list(np.flatnonzero(slot)) for slot in np.transpose(taken)]
    first = [slot % limit + 1 if stagger else limit for slot in range(rows)]
    assert when == [[0, *range(f, 10, limit)] for f in first]
