"""The compiled ways of reasoning agree with each other and with a Python loop over the model's own step."""

import numpy as np
import pytest
import tiny
from reference import to_numpy

from saccade.metrics.reasoning import halting_steps
from saccade.models.vlm_hrm import for_task
from saccade.reason import Reasoner

LIMIT = tiny.CONFIG.halt_max_steps
ROWS = 6


@pytest.fixture(scope="module")
def reasoner():
    """A model whose rows halt at different steps at `THRESHOLD`."""
    return Reasoner(tiny.fresh(seed=3))


@pytest.fixture(scope="module")
def batch():
    return tiny.batch(rows=ROWS, seed=5)


@pytest.fixture(scope="module")
def traces(reasoner, batch):
    return {task: reasoner.trace(batch, task) for task in ("vqa", "ground")}


@pytest.fixture(scope="module")
def threshold(traces):
    """A halting threshold at which rows halt at several different steps."""
    q = traces["vqa"]["q_halt"]
    candidates = np.quantile(q, np.linspace(0.02, 0.98, 60))
    return max(candidates, key=lambda t: len(set(halting_steps(q, t, LIMIT))))


def test_the_threshold_tells_rows_apart(traces, threshold):
    assert len(set(halting_steps(traces["vqa"]["q_halt"], threshold, LIMIT))) >= 2


def test_trace_is_the_models_own_steps(reasoner, batch, traces):
    model = reasoner.model
    inputs = for_task({key: batch[key] for key in ("images", "tokens", "padding_mask")}, "vqa")
    x, mask = model.encode(inputs)
    carry = model.initial_carry(x)
    for step in range(2):
        carry, outputs = model.step(carry, x, mask, model.layout(inputs))
        np.testing.assert_allclose(traces["vqa"]["q_halt"][step], to_numpy(outputs["q_halt"]), atol=2e-5)
    assert traces["vqa"]["q_halt"].shape == (LIMIT, ROWS)


def test_attention_is_over_the_patches(traces):
    attention = traces["vqa"]["attention"]
    assert attention.shape == (LIMIT, ROWS, tiny.H // 8, tiny.W // 8)
    assert (attention >= 0).all()
    assert (attention.sum((2, 3)) <= 1 + 1e-5).all()  # the rest went to text, task and fusion tokens


def at(trace, steps):
    """The trace's results at each row's own step."""
    return {key: value[steps - 1, np.arange(ROWS)] for key, value in trace.items() if key != "attention"}


def check(result, expected):
    for key, value in expected.items():
        np.testing.assert_allclose(result[key], value, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("task", ["vqa", "ground"])
def test_run_is_the_trace_at_the_halting_steps(reasoner, batch, traces, threshold, task):
    for limit in (LIMIT, 2):
        result = reasoner.run(batch, task, threshold, limit)
        steps = halting_steps(traces[task]["q_halt"], threshold, limit)
        np.testing.assert_array_equal(result["steps"], steps)
        check(result, at(traces[task], steps))


def test_limits_are_arguments_of_one_program(reasoner, batch, traces, threshold):
    reasoner.run(batch, "vqa")
    function = reasoner._compiled[("run", "vqa")]
    cached = function.__closure__
    jitted = next(c.cell_contents for c in cached if hasattr(c.cell_contents, "_cache_size"))
    before = jitted._cache_size()
    for value, limit in ((threshold, 1), (-99.0, 4), (99.0, 3)):
        result = reasoner.run(batch, "vqa", value, limit)
        np.testing.assert_array_equal(result["steps"], halting_steps(traces["vqa"]["q_halt"], value, limit))
    assert jitted._cache_size() == before


def test_defaults_are_the_models_own(reasoner, batch, traces):
    steps = halting_steps(traces["vqa"]["q_halt"], tiny.CONFIG.halt_threshold, LIMIT)
    np.testing.assert_array_equal(reasoner.run(batch, "vqa")["steps"], steps)


@pytest.mark.parametrize("num_slots", [2, 3])
def test_sweep_with_slots_is_run(reasoner, batch, threshold, num_slots):
    result = reasoner.sweep(batch, "vqa", num_slots, threshold=threshold)
    check(result, reasoner.run(batch, "vqa", threshold))


def test_fixed_sweep_is_the_last_step(reasoner, batch, traces):
    result = reasoner.sweep(batch, "ground", 3, fixed=True)
    check(result, at(traces["ground"], np.full(ROWS, LIMIT)))
    np.testing.assert_array_equal(result["steps"], LIMIT)


def test_a_rationale_is_written_from_the_halting_state(reasoner, batch, threshold):
    explained = reasoner.explain(batch, threshold)
    steps = reasoner.run(batch, "vqa", threshold)["steps"]
    for limit in set(steps.tolist()):
        # At a limit of exactly its halting step, a row must write the same.
        rows = np.flatnonzero(steps == limit)
        early = reasoner.explain(batch, threshold, limit)
        np.testing.assert_array_equal(early["tokens"][rows], explained["tokens"][rows])
    never = reasoner.explain(batch, 99.0, 1)
    assert (never["tokens"] != explained["tokens"]).any() or (steps == 1).all()


@pytest.mark.parametrize("task", ["vqa", "statement"])
def test_an_explanation_holds_the_trace_up_to_halting(reasoner, batch, task):
    trace = reasoner.trace(batch, task)
    q_halt = np.sort(trace["q_halt"][0])
    threshold = (q_halt[0] + q_halt[-1]) / 2  # some rows halt at once, others later
    steps = halting_steps(trace["q_halt"], threshold, LIMIT)
    assert len(set(steps)) > 1
    explained = reasoner.explain(batch, threshold, task=task, write=False)
    np.testing.assert_array_equal(explained.pop("steps"), steps)
    assert explained.keys() == trace.keys()
    taken = np.arange(LIMIT)[:, None] < steps
    for key, value in trace.items():
        shown = taken.reshape(LIMIT, ROWS, *(1,) * (value.ndim - 2))
        np.testing.assert_allclose(explained[key], np.where(shown, value, 0), atol=2e-5, err_msg=key)


def test_captions_need_no_text(reasoner, batch):
    blank = {**batch, "padding_mask": np.zeros_like(batch["padding_mask"])}
    result = reasoner.run(blank, "caption")
    assert result["tokens"].shape == (ROWS, tiny.CONFIG.max_length)
    assert np.isfinite(result["log_probability"]).all()
    assert result["log_probability"].max() <= 0
    assert "memory" not in result


def padded(batch, extra):
    """The same texts in longer rows."""
    return {
        **batch,
        "tokens": np.pad(batch["tokens"], ((0, 0), (0, extra))),
        "padding_mask": np.pad(batch["padding_mask"], ((0, 0), (0, extra))),
    }


@pytest.mark.parametrize("task", ["vqa", "caption"])
def test_padding_changes_nothing(reasoner, batch, task):
    short, long = reasoner.run(batch, task), reasoner.run(padded(batch, 4), task)
    check(long, short)


def test_embeddings_are_those_of_the_head(reasoner, batch):
    vectors = reasoner.embed(batch)
    for key in ("images", "texts"):
        assert vectors[key].shape == (ROWS, tiny.CONFIG.embedding_dim)
        np.testing.assert_allclose(np.linalg.norm(vectors[key], axis=-1), 1, atol=1e-5)
    check(reasoner.embed(padded(batch, 4)), vectors)
