"""Which objective trains which part: every trainable weight gets a gradient from some objective."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import tiny

from saccade.train.objectives import (
    Answer,
    AnswerAndExplain,
    Contrastive,
    Ground,
    Perceive,
    Recursive,
    Write,
)

OBJECTIVES = {
    "vqa": Recursive(Answer("vqa", smoothing=0.1)),
    "statement": Recursive(Answer("statement")),
    "match": Recursive(Answer("match")),
    "caption": Recursive(Write()),
    "rationale": Recursive(AnswerAndExplain()),
    "ground": Recursive(Ground()),
    "retrieve": Contrastive(),
    "perceive": Perceive(),
}
SEEN = {"vision", "projection"}
READ = {"text", "text_block_0"}
REASONED = SEEN | READ | {"fusion", "core", "task_table", "modality_table", "halting"}
FED = {
    "vqa": REASONED | {"vqa"},
    "statement": REASONED | {"statement"},
    "match": REASONED | {"match"},
    "caption": REASONED | {"write"},
    "rationale": REASONED | {"vqa", "write"},
    "ground": REASONED | {"ground"},
    "retrieve": SEEN | READ | {"retrieve"},
    "perceive": SEEN | {"objects"},
}


def losses_of(model, seed):
    """Every objective's loss, at a step in which every slot has just been refilled."""
    recursive = {name: o for name, o in OBJECTIVES.items() if isinstance(o, Recursive)}
    batches = {name: tiny.batch(rows=2) for name in recursive}
    carries = {name: o.initial_carry(model, batches[name]) for name, o in recursive.items()}
    results = Recursive.together(model, recursive, carries, batches, seed)
    for name, batch in (("retrieve", tiny.twins(2)), ("perceive", tiny.batch(rows=2))):
        results[name] = OBJECTIVES[name](model, {}, batch, seed)
    return jnp.stack([results[name][0] for name in OBJECTIVES])


@pytest.fixture(scope="module")
def all_gradients():
    """objective -> name of a variable -> gradient."""
    model = tiny.vlm_hrm()
    others = [v for v in model.variables if not v.trainable]
    seed = keras.random.SeedGenerator(0)

    def losses(trained, rest, state):
        pairs = [
            *zip(model.trainable_variables, trained, strict=True),
            *zip(others, rest, strict=True),
            (seed.state, state),
        ]
        with keras.StatelessScope(state_mapping=pairs):
            return losses_of(model, seed)

    def gradients(trained, rest, state, weights):
        return jax.vjp(lambda values: losses(values, rest, state), trained)[1](weights)[0]

    values = [v.value for v in model.trainable_variables], [v.value for v in others], seed.state.value
    # One compiled backward pass, called for each objective. Not jacrev: its batched cotangents leaked from
    # one objective into another here (jaxlib 0.10.2, CPU); with one cotangent, as in training, nothing does.
    each = jnp.eye(len(OBJECTIVES))
    compiled = jax.jit(gradients).lower(*values, each[0]).compile(compiler_options=tiny.FAST_TO_COMPILE)
    found = [compiled(*values, weights) for weights in each]
    names = {id(v): name for name, v in model.named_variables().items()}
    return {
        objective: {
            names[id(v)]: np.asarray(g) for v, g in zip(model.trainable_variables, found[i], strict=True)
        }
        for i, objective in enumerate(OBJECTIVES)
    }


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_trains_its_parts_and_no_others(all_gradients, objective):
    found = all_gradients[objective]
    for name, gradient in found.items():
        assert np.isfinite(gradient).all(), name
    assert {name.split("/")[0] for name, gradient in found.items() if gradient.any()} == FED[objective]


def test_every_weight_is_trained_by_some_objective(all_gradients):
    for name in all_gradients["vqa"]:
        assert any(found[name].any() for found in all_gradients.values()), name


def test_the_starting_states_are_not_trained():
    model = tiny.vlm_hrm()
    assert [v.name for v in model.variables if not v.trainable] == ["initial_h", "initial_l"]
