"""Refilling and running, against plain Python loops, on a toy whose rows say when they halt."""

import keras
import numpy as np
import pytest
from keras import ops
from reference import to_numpy

from saccade import backend
from saccade.recursion.scheduler import refill, run_fixed, run_slots, run_until_halted, where_rows

S, D, LIMIT = 3, 5, 7


def test_where_rows():
    yes = {"a": np.ones((3, 2, 4)), "b": np.arange(3)}
    no = {"a": np.zeros((3, 2, 4)), "b": -np.ones(3, int)}
    got = where_rows(np.array([True, False, True]), yes, no)
    np.testing.assert_array_equal(to_numpy(got["a"])[:, 0, 0], [1, 0, 1])
    np.testing.assert_array_equal(to_numpy(got["b"]), [0, -1, 2])


def test_refill_is_first_in_first_out_and_drops_nothing():
    rng = np.random.default_rng(0)
    slots, waiting = 5, np.arange(100, 1000)
    held = {"id": np.arange(slots, dtype=np.int32), "x": rng.normal(size=(slots, 2)).astype(np.float32)}
    pixels = rng.normal(size=(2000, 2)).astype(np.float32)
    seen, head = [], 0
    for _ in range(30):
        halted = rng.random(slots) < rng.random()
        batch = {"id": waiting[head : head + slots].astype(np.int32)}
        batch["x"] = pixels[batch["id"]]
        before = dict(held)
        held, consumed = refill(halted, held, batch)
        held = {key: to_numpy(value) for key, value in held.items()}
        assert int(consumed) == halted.sum()
        head += int(consumed)
        seen += held["id"][halted].tolist()
        for key in held:
            np.testing.assert_array_equal(held[key][~halted], before[key][~halted])
        np.testing.assert_array_equal(held["x"][halted], pixels[held["id"][halted]])
    assert seen == waiting[: len(seen)].tolist()


class Toy(keras.layers.Layer):
    """Row b halts when its state has grown past its own limit, x[b, 0, 0]; steps mix the row's own x in."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight((), "ones", name="scale")
        self.built = True

    def initial_carry(self, x):
        rows = ops.shape(x)[0]
        return {
            "z": ops.zeros_like(x),
            "steps": ops.zeros((rows,), "int32"),
            "halted": ops.zeros((rows,), "bool"),
        }

    def step(self, carry, x, mask):
        z = ops.sin(carry["z"] * 1.3 + x * self.scale) + ops.cast(mask, "float32")[..., None]
        steps = carry["steps"] + 1
        halted = ops.cast(steps, "float32") >= ops.minimum(x[:, 0, 0], float(LIMIT))
        return {"z": z, "steps": steps, "halted": halted}, {"z": z, "steps": steps}


def read(outputs):
    return {"sum": ops.sum(outputs["z"], axis=(1, 2)), "z": outputs["z"][:, 0]}


def examples(rows, seed=0):
    """x, mask and the step at which each row halts, 1 to LIMIT; rows that never would are cut off there."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, S, D)).astype(np.float32)
    halts = rng.integers(1, LIMIT + 3, size=rows)
    x[:, 0, 0] = halts
    return x, rng.random((rows, S)) < 0.5, np.minimum(halts, LIMIT)


def by_python(toy, x, mask, steps_of):
    """Each row alone, for as many steps as `steps_of` says."""
    results = []
    for b, limit in enumerate(steps_of):
        carry = toy.initial_carry(x[b : b + 1])
        for _ in range(limit):
            carry, outputs = toy.step(carry, x[b : b + 1], mask[b : b + 1])
        results.append({key: to_numpy(value)[0] for key, value in read(outputs).items()})
    return {key: np.stack([r[key] for r in results]) for key in results[0]}


def check(result, expected):
    for key, value in expected.items():
        np.testing.assert_allclose(to_numpy(result[key]), value, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_halted_row_keeps_its_own_result(seed):
    toy = Toy()
    x, mask, halts = examples(6, seed)

    def run(x, mask):
        return run_until_halted(lambda carry: toy.step(carry, x, mask), toy.initial_carry(x), read)

    result, steps = backend.compiled(run, toy)(x, mask)
    np.testing.assert_array_equal(to_numpy(steps), halts)
    check(result, by_python(toy, x, mask, halts))


def test_fixed_steps():
    toy = Toy()
    x, mask, _ = examples(4)
    for count in (1, 5):
        result, steps = backend.compiled(
            lambda x, mask, count=count: run_fixed(
                lambda carry: toy.step(carry, x, mask), toy.initial_carry(x), read, count
            ),
            toy,
        )(x, mask)
        assert set(to_numpy(steps)) == {count}
        check(result, by_python(toy, x, mask, [count] * 4))


@pytest.mark.parametrize(
    ("rows", "num_slots", "seed"), [(12, 4, 0), (13, 4, 1), (3, 8, 2), (1, 1, 3), (29, 5, 4), (9, 9, 5)]
)
def test_slots_give_every_row_its_own_result(rows, num_slots, seed):
    toy = Toy()
    x, mask, halts = examples(rows, seed)
    calls = backend.compiled(
        lambda x, mask: run_slots(toy.step, toy.initial_carry, x, mask, read, num_slots), toy
    )
    result, steps = calls(x, mask)
    np.testing.assert_array_equal(to_numpy(steps), halts)
    check(result, by_python(toy, x, mask, halts))


def test_slots_step_only_as_often_as_needed():
    """Equal rows in s slots: ceil(N / s) * steps trips round the loop, none for the slots that fall empty."""
    toy, trips = Toy(), []
    x, mask, _ = examples(7)
    x[:, 0, 0] = 3

    def step(carry, x, mask):
        trips.append(1)
        return toy.step(carry, x, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "while_loop", python_while)
        run_slots(step, toy.initial_carry, x, mask, read, 3)
    assert len(trips) == 1 + 3 * 3  # one more to learn the shapes


def python_while(condition, body, state):
    while bool(condition(*state)):
        state = body(*state)
    return state
