"""Which objective trains which part: every trainable weight gets a gradient from some objective."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import tiny

from saccade.models.vlm_hrm import for_task
from saccade.train.labels import Contrast, Perceive, Refer, Tell
from saccade.train.objectives import Answer, AnswerAndExplain, Ground, Recursive, Write

RECURSIVE = {
    "vqa": Recursive(Answer("vqa", smoothing=0.1)),
    "statement": Recursive(Answer("statement")),
    "match": Recursive(Answer("match")),
    "caption": Recursive(Write()),
    "rationale": Recursive(AnswerAndExplain()),
    "ground": Recursive(Ground()),
}
FURTHER = {"perceive": Perceive(), "refer": Refer(), "tell": Tell(), "contrast": Contrast()}
OBJECTIVES = (*RECURSIVE, *FURTHER)
SEEN = {"vision", "projection", "modality_table"}
READ = {"text", "text_block_0"}
THOUGHT = SEEN | READ | {"fusion", "core", "task_table"}
REASONED = THOUGHT | {"halting"}
FED = {
    "vqa": REASONED | {"vqa"},
    "statement": REASONED | {"statement"},
    "match": REASONED | {"match"},
    "caption": REASONED | {"write"},
    "rationale": REASONED | {"vqa", "write"},
    "ground": REASONED | {"ground"},
    "perceive": SEEN | {"objects"},
    "refer": THOUGHT | {"referents"},
    "tell": THOUGHT | {"vqa"},
    "contrast": SEEN | READ | {"retrieve"},
}


def losses_of(model, seed):
    """Every objective's loss, at a step in which every slot has just been refilled."""
    data = tiny.batch(rows=2)
    carries = {name: o.initial_carry(model, data) for name, o in RECURSIVE.items()}
    results = Recursive.together(model, RECURSIVE, carries, dict.fromkeys(RECURSIVE, data), seed)
    inputs = for_task(data, "match")
    x, mask = model.encode(inputs)
    layout = model.layout(inputs)
    outputs = {**model.step(model.initial_carry(x), x, mask, layout)[1], "encoded": x}
    further = [jnp.mean(loss(model, outputs, data, layout)[0]) for loss in FURTHER.values()]
    return jnp.stack([*(results[name][0] for name in RECURSIVE), *further])


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
