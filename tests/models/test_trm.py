"""TRM and HRM against NumPy: every option, and one whole training step of it."""

from dataclasses import replace

import numpy as np
import pytest
import reference
import trm_reference
from reference import to_numpy

from saccade import backend, losses
from saccade.models.trm import HRM, PRESETS, TRM, TRMConfig, preset
from saccade.train import Part, Stream, TrainConfig, optim
from saccade.train.engine import Engine
from saccade.train.objectives import Recursive
from saccade.train.puzzles import Fill

B, L, V, D = 3, 5, 7, 8
TINY = TRMConfig(
    vocab_size=V,
    seq_len=L,
    num_puzzles=4,
    prefix_tokens=2,
    dim=D,
    num_heads=2,
    expansion=1.0,
    multiple=3,
    l_layers=2,
    h_cycles=2,
    l_cycles=2,
    halt_max_steps=5,
)
HIERARCHY = {"h_layers": 1, "one_step": True, "q_learning": True}
OPTIONS = {
    "attention": {},
    "mlp_t": {"mixer": "mlp_t"},
    "no prefix": {"mixer": "mlp_t", "prefix_tokens": 0, "num_puzzles": 0},
    "gated norm": {"mixer": "mlp_t", "ffn": "gated_norm", "head_bias": True},
    "units": {"mixer": "units", "seq_len": 16},
    "units, gated norm, no prefix": {
        "mixer": "units",
        "seq_len": 16,
        "ffn": "gated_norm",
        "prefix_tokens": 0,
        "num_puzzles": 0,
    },
    "candidates": {"mixer": "candidates", "seq_len": 16, "vocab_size": 5},
    "candidates, gated norm, bias": {
        "mixer": "candidates",
        "seq_len": 16,
        "vocab_size": 5,
        "ffn": "gated_norm",
        "head_bias": True,
    },
    "neighbours": {"mixer": "neighbours", "seq_len": 9, "ffn": "gated_norm"},
    "gelu, layer norm, pre": {"ffn": "gelu", "norm_type": "layer", "norm_position": "pre"},
    "gelu, mlp_t, pre": {"mixer": "mlp_t", "ffn": "gelu", "norm_position": "pre"},
    "learned positions and states": {"positions": "learned", "learned_init": True, "h_cycles": 1},
    "no positions, three cycles": {"positions": "none", "h_cycles": 3},
    "two nets": {"h_layers": 1, "mixer": "mlp_t"},
    "hrm": HIERARCHY,
    "hrm at its last step": {**HIERARCHY, "halt_max_steps": 2},
}
LEARN = TrainConfig(
    learning_rate=0.01,
    weight_decay=0.3,
    decay="all",
    optimizer="adam_atan2",
    clip_norm=None,
    schedule="constant",
    ema_decay=0.9,
)


def make(**changes) -> TRM:
    return reference.randomize(TRM(replace(TINY, **changes), name="trm"), seed=1)


def data(seed=0, config=TINY) -> dict:
    rng = np.random.default_rng(seed)
    shape = (B, config.seq_len)
    return {
        "tokens": rng.integers(config.vocab_size, size=shape).astype(np.int32),
        "targets": rng.integers(config.vocab_size, size=shape).astype(np.int32),
        "puzzle": np.array([1, 3, 1], np.int32),
    }


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_two_steps_equal_numpy(changes):
    model = make(**changes)
    batch = data(config=model.config)
    w, c = reference.weights(model), model.config
    run = backend.compiled(lambda b: _two_steps(model, b), model)
    ours = [to_numpy(t) for t in run({key: batch[key] for key in ("tokens", "puzzle")})]
    x = trm_reference.encode(w, c, batch["tokens"], batch["puzzle"])
    z_h, z_l = trm_reference.first(w, c, x)
    z_h, z_l, *_ = trm_reference.step(w, c, z_h, z_l, x)
    z_h, z_l, logits, q = trm_reference.step(w, c, z_h, z_l, x)
    halting = q[:, 0] - q[:, 1] if c.q_learning else q[:, 0]
    for mine, theirs in zip(ours, (z_h, z_l, logits, q[:, 0], halting), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-4, rtol=2e-4)


def _two_steps(model, batch):
    x, mask = model.encode(batch)
    carry, _ = model.step(model.initial_carry(x), x, mask)
    carry, outputs = model.step(carry, x, mask)
    return carry["z_h"], carry["z_l"], outputs["logits"], outputs["q_halt"], outputs["halting"]


STEPS = {
    "as published": ({"mixer": "mlp_t"}, {}, {}),
    "attention, ponder cost": ({}, {}, {"ponder_weight": 0.3}),
    "hrm": (HIERARCHY, {}, {}),
    "fast": (
        {"mixer": "mlp_t", "ffn": "gated_norm"},
        {"stablemax": False, "smoothing": 0.2},
        {"halt_weight": 0.05},
    ),
    "units": ({"mixer": "units", "seq_len": 16, "ffn": "gated_norm"}, {"stablemax": False}, {}),
    "candidates": (
        {"mixer": "candidates", "seq_len": 16, "vocab_size": 5, "ffn": "gated_norm", "head_bias": True},
        {"stablemax": False, "smoothing": 0.2},
        {},
    ),
    "guide": (
        {"ffn": "gelu", "norm_type": "layer", "norm_position": "pre", "learned_init": True, "h_cycles": 1},
        {},
        {},
    ),
}


@pytest.mark.parametrize(("changes", "task", "objective"), STEPS.values(), ids=STEPS)
def test_a_training_step_equals_numpy(changes, task, objective):
    """Loss, gradients, AdamATan2 with decay, sign SGD on the rows used, and the moving average."""
    model = make(l_layers=1, **changes)
    batch = data(config=model.config)
    parts = {"puzzle_table": Part(optimizer="sign_sgd", learning_rate_scale=2.0, weight_decay=0.7)}
    config = LEARN.model_copy(update={"parts": parts})
    engine = Engine(model, {"p": Stream([0], list, Recursive(Fill(**task), **objective), B)}, config)
    state = engine.push(engine.initial_state({"p": batch}), "p", batch)
    start = optim.split(engine.groups, state["trained"])
    (loss, _), gradients = backend.value_and_grad(engine._loss, start, state)
    names = [v.path.split("/", 1)[1] for v in engine.trained]
    w = reference.weights(model)

    def numpy_loss(other):
        options = {
            "ponder": objective.get("ponder_weight", 0.0),
            "halt_weight": objective.get("halt_weight", 0.5),
        }
        return trm_reference.loss(other, model.config, batch, **options, **task, w0=w)

    assert float(loss) == pytest.approx(numpy_loss(w), rel=1e-5)
    expected = trm_reference.gradients(w, names, numpy_loss)
    for name, gradient in zip(names, gradients, strict=True):
        np.testing.assert_allclose(to_numpy(gradient), expected[name], atol=2e-5, rtol=2e-3, err_msg=name)

    state, _ = engine.step(state)
    sure = 0
    after_step = [optim.split(engine.groups, state[key]) for key in ("trained", "ema")]
    for name, value, average in zip(names, *after_step, strict=True):
        g, before = expected[name], w[name]
        if name == "puzzle_table":
            used = np.isin(np.arange(4), batch["puzzle"])[:, None]
            after = np.where(used, before - 0.02 * (np.sign(g) + 0.7 * before), before)
        else:
            # First step: m = 0.1 g, v = 0.05 g^2, both bias corrections make them whole.
            after = before * (1 - 0.01 * 0.3) - 0.01 / 0.1 * np.arctan2(0.1 * g, np.abs(g))
        clear = (np.abs(g) > 1e-4) | (g == 0)  # elsewhere rounding decides the sign
        sure += clear.sum()
        np.testing.assert_allclose(to_numpy(value)[clear], after[clear], atol=2e-6, err_msg=name)
        np.testing.assert_allclose(to_numpy(average), 0.9 * before + 0.1 * to_numpy(value), atol=1e-6)
    assert sure > 0.8 * sum(e.size for e in expected.values())


def test_published_sizes():
    import keras

    with keras.StatelessScope():
        counts = {
            name: sum(
                int(np.prod(v.shape))
                for v in (HRM if name[0] == "h" else TRM)(preset(name)).trainable_variables
            )
            for name in ("trm_sudoku", "trm_sudoku_attention", "hrm_sudoku")
        }
    assert {name: round(count / 1e6, 2) for name, count in counts.items()} == {
        "trm_sudoku": 5.03,
        "trm_sudoku_attention": 6.83,
        "hrm_sudoku": 27.27,
    }


def test_a_fresh_model_starts_as_published():
    model = TRM(replace(TINY, dim=64, num_heads=4))
    w = reference.weights(model)
    assert (w["puzzle_table"] == 0).all()
    assert (w["halting/linear/kernel"] == 0).all()
    assert (w["halting/linear/bias"] == -5).all()
    assert not model.initial_h.trainable
    assert not model.initial_l.trainable
    kernel = w["core/net/block_0/mlp/gate_up/kernel"]
    assert kernel.std() == pytest.approx(64**-0.5, rel=0.1)
    assert np.abs(kernel).max() < 2.3 * 64**-0.5  # truncated at two (wider) standard deviations
    other = w["core/net/block_1/mlp/gate_up/kernel"]
    assert np.abs(kernel - other).max() > 0.1


def test_round_trip_and_other_class_refused(tmp_path):
    model = make(mixer="mlp_t")
    model.save(tmp_path / "m")
    again = TRM.load(tmp_path / "m")
    assert again.config == model.config
    for a, b in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
    from saccade.errors import SaccadeError

    with pytest.raises(SaccadeError, match="describes a 'TRM', not a HRM"):
        HRM.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": "conv"}, "mixer='conv' is not one of attention, mlp_t, units"),
        ({"ffn": "relu"}, "ffn='relu' is not one of"),
        ({"prefix_tokens": 0}, "num_puzzles=4 needs a prefix"),
        ({"mixer": "units"}, "needs a Sudoku, 16 or 81 cells; seq_len=5"),
        ({"mixer": "candidates", "vocab_size": 5}, "mixer='candidates' needs a Sudoku, .*seq_len=5"),
        ({"mixer": "neighbours"}, "needs a square board; seq_len=5"),
        ({"mixer": "neighbours", "seq_len": 9, "ffn": "gelu"}, "has no ffn='gelu'"),
        ({"mixer": "candidates", "seq_len": 16}, "4 digits and the blank; vocab_size=7 must be 5"),
        ({"mixer": "units", "seq_len": 16, "ffn": "gelu"}, "has no ffn='gelu'"),
        ({"num_chains": 0}, "num_chains=0 must be at least 1"),
        ({"num_chains": 2, "q_learning": True}, "does not go with q_learning"),
    ],
)
def test_options_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_a_config_that_is_no_hrm():
    with pytest.raises(ValueError, match="is no HRM"):
        HRM(TINY)
    assert PRESETS["hrm_sudoku"].one_step


def test_rows_do_not_see_each_other():
    model, batch = make(mixer="mlp_t"), data()
    whole = to_numpy(model({key: batch[key] for key in ("tokens", "puzzle")})["logits"])
    alone = to_numpy(model({key: batch[key][1:2] for key in ("tokens", "puzzle")})["logits"])
    np.testing.assert_allclose(whole[1:2], alone, atol=1e-5)


@pytest.mark.parametrize("mixer", ["mlp_t", "attention"])
def test_unrolling_changes_nothing(mixer):
    batch = {key: np.repeat(value, 2, 0) for key, value in data().items() if key != "targets"}
    results = [
        to_numpy(make(mixer=mixer, h_cycles=3, **changes)(batch)["logits"])
        for changes in ({}, {"unroll": True})
    ]
    np.testing.assert_allclose(results[1], results[0], atol=1e-4)


def test_mixed_bfloat16():
    batch = {key: data()[key] for key in ("tokens", "puzzle")}
    full = make(mixer="mlp_t")
    half = reference.randomize(TRM(full.config, dtype="mixed_bfloat16", name="trm"), seed=1)
    assert {str(v.dtype) for v in half.variables} == {"float32"}
    a, b = to_numpy(full(batch)["logits"]), to_numpy(half(batch)["logits"])
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).mean() < 0.1 * a.std()


def test_stablemax_is_stable():
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(50, V)) * np.array([1, 1e3, 1e6, 1e-6, 1, 1e4, 30])).astype(np.float32)
    targets = rng.integers(V, size=50).astype(np.int32)
    ours = to_numpy(losses.cross_entropy(logits, targets, stablemax=True))
    np.testing.assert_allclose(
        ours, trm_reference.stablemax_loss(logits.astype(float), targets), rtol=2e-5, atol=1e-6
    )


def test_stablemax_has_slope_one_at_zero():
    import jax

    slopes = jax.grad(lambda x: losses.log_stablemax(x)[0])(np.zeros(V, np.float32))
    np.testing.assert_allclose(slopes, np.eye(V)[0] - 1 / V, atol=1e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras reads its variables that way
@pytest.mark.parametrize("changes", [{"mixer": "mlp_t"}, HIERARCHY], ids=["trm", "hrm"])
def test_keras_file_round_trip(tmp_path, changes):
    import keras

    kind = HRM if changes is HIERARCHY else TRM
    model = reference.randomize(kind(replace(TINY, **changes)), seed=1)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again) is kind
    assert again.config == model.config
    for a, b in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_every_weight_gets_a_gradient(changes):
    model = make(**changes)
    batch = data(config=model.config)
    if not model.config.num_puzzles:
        batch["puzzle"] = np.zeros(B, np.int32)
    engine = Engine(model, {"p": Stream([0], list, Recursive(Fill()), B)}, LEARN)
    state = engine.push(engine.initial_state({"p": batch}), "p", batch)
    start = optim.split(engine.groups, state["trained"])
    gradients = backend.value_and_grad(engine._loss, start, state)[1]
    assert len(gradients) == len(model.trainable_variables)
    for variable, gradient in zip(engine.trained, gradients, strict=True):
        assert np.abs(to_numpy(gradient)).max() > 0, variable.path
