import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import HERE
from rich.console import Console

from saccade.train import TrainConfig, Trainer, queue

BATCH = 3


def batch(number: int) -> dict:
    rows = np.arange(number * BATCH, (number + 1) * BATCH, dtype="int32")
    return {"id": rows, "image": np.broadcast_to(rows[:, None], (BATCH, 2)).astype("float32")}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, BATCH), min_size=1, max_size=30), st.integers(1, queue.READ_LAG))
def test_rows_come_in_order_whatever_is_consumed(takes, lag):
    ring, budget, numbers = queue.create(batch(0)), queue.Budget(BATCH), itertools.count()
    position, unread = 0, []
    for taken in takes:
        while len(unread) >= lag:
            budget.settle(unread.pop(0))
        while budget.must_push:
            ring = queue.push(ring, batch(next(numbers)))
            budget.note_push()
        rows = queue.peek(ring, BATCH)
        expected = np.arange(position, position + BATCH)
        np.testing.assert_array_equal(rows["id"], expected)
        np.testing.assert_array_equal(rows["image"][:, 1], expected)
        ring = queue.advance(ring, np.int32(taken))
        budget.note_step()
        unread.append(taken)
        position += taken
        assert budget.pushed - position <= queue.RING_BATCHES * BATCH


def test_consuming_more_than_a_batch_is_refused():
    budget = queue.Budget(BATCH)
    with pytest.raises(ValueError, match="consumed 4 rows of a batch of 3"):
        budget.settle(4)


@pytest.mark.parametrize("batch_size", [1, 6])
def test_every_example_is_seen_once_and_in_order(batch_size):
    stream = toys.stream(toys.RandomRefill(), batch_size=batch_size, shuffle=False)
    run = Trainer(
        toys.model(), {"main": stream}, TrainConfig(steps=40, log_every=9), console=Console(quiet=True)
    )
    run.fit()
    consumed = run.budgets["main"].consumed
    assert batch_size < consumed < 40 * batch_size
    seen = np.asarray(run.state["carries"]["main"]["seen"])
    np.testing.assert_array_equal(seen, np.arange(1000) < consumed)


def test_an_epoch_is_every_example_once_in_a_new_order():
    batches = toys.stream(source=toys.Points(10), batch_size=4).batches(seed=5)
    ids = np.concatenate([next(batches)["id"] for _ in range(5)])
    assert sorted(ids[:10]) == sorted(ids[10:]) == list(range(10))
    assert list(ids[:10]) != list(ids[10:])
    later = toys.stream(source=toys.Points(10), batch_size=4).batches(seed=5, start=3)
    np.testing.assert_array_equal(next(later)["id"], ids[12:16])


def test_workers_change_nothing():
    plain, workers = (toys.stream(workers=n).batches(seed=2, start=1) for n in (0, 2))
    for _ in range(5):
        np.testing.assert_array_equal(next(plain)["id"], next(workers)["id"])


@pytest.mark.slow
def test_a_closed_reader_has_ended_all_workers():
    """One after the other, which takes more than ten seconds; a process that ended before said so loudly."""
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent.parent}{os.pathsep}{HERE}"}
    command = [sys.executable, str(HERE / "reading.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout == "0 workers left\n"
    assert "Traceback" not in done.stderr
