"""Outputs, losses and gradients of a saved tiny VLM-HRM: `python every_objective.py MODEL_DIR OUT.npz`.

The same code runs on JAX, inside the test, and on torch, as a script.
"""

import sys

import keras
import numpy as np
import tiny
from keras import ops
from reference import to_numpy

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.generate import generate
from saccade.models.vlm_hrm import VLMHRM, for_task
from saccade.recursion.scheduler import run_slots
from saccade.train.labels import Contrast, Perceive, Refer, Tell
from saccade.train.objectives import Answer, AnswerAndExplain, Ground, Recursive, Write

OBJECTIVES = {
    "vqa": Recursive(Answer("vqa", smoothing=0.1), (Perceive(), Refer(), Tell()), ponder_weight=0.1),
    "statement": Recursive(Answer("statement")),
    "match": Recursive(Answer("match")),
    "caption": Recursive(Write(), (Perceive(2.0),)),
    "rationale": Recursive(AnswerAndExplain(), (Tell(0.5),)),
    "ground": Recursive(Ground(), (Refer(),)),
    "contrast": Recursive(Answer("match"), (Contrast(),)),
}


def outputs(model) -> dict:
    """A step of every task, and what is built on steps: writing and the slot scheduler."""

    def run(batch):
        inputs = for_task(batch, "vqa")
        x, mask = model.encode(inputs)
        layout = model.layout(inputs)

        def step(carry, x, mask):
            return model.step(carry, x, mask, layout)

        def read(outputs):
            return {"q_halt": outputs["q_halt"], "answer": model.heads["vqa"](outputs["task"])}

        result, steps = run_slots(step, model.initial_carry, x, mask, read, 2)
        _, outputs = model.step(model.initial_carry(x), x, mask, layout, return_scores=True)
        tokens, score = generate(
            model.heads["write"], (outputs["memory"], mask), GenerationConfig(max_new_tokens=9)
        )
        ground = model.heads["ground"](outputs["hidden"][:, layout.vision], grid=layout.grid)
        wide = {"slots": result, "steps": steps, "tokens": tokens, "score": score, "ground": ground}
        return {**wide, "hidden": outputs["hidden"], "scores": outputs["scores"]}

    names = ("images", "tokens", "padding_mask")
    batch = {name: ops.convert_to_tensor(tiny.batch()[name]) for name in names}
    tree = backend.compiled(run, model)(batch)
    return {"/".join(map(str, path)): to_numpy(leaf) for path, leaf in keras.tree.flatten_with_path(tree)}


def losses(model) -> dict:
    """Every objective's loss, and the gradient of their sum by every trainable weight."""
    batches = {name: tiny.batch(seed=i) for i, name in enumerate(OBJECTIVES)}
    batches = keras.tree.map_structure(ops.convert_to_tensor, batches)
    seed = keras.random.SeedGenerator(0)

    def total(values, batches):
        mapping = [*zip(model.trainable_variables, values, strict=True), (seed.state, seed.state.value)]
        with keras.StatelessScope(state_mapping=mapping):
            each = {
                name: objective(model, objective.initial_carry(model, batches[name]), batches[name], seed)[0]
                for name, objective in OBJECTIVES.items()
            }
        return sum(each.values()), each

    values = [v.value for v in model.trainable_variables]
    run = backend.jit(lambda values, batches: backend.value_and_grad(total, values, batches))
    (_, each), gradients = run(values, batches)
    named = {id(v): name for name, v in model.named_variables().items()}
    found = {f"loss {name}": to_numpy(loss) for name, loss in each.items()}
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        found[f"gradient {named[id(variable)]}"] = to_numpy(gradient)
    return found


def everything(folder) -> dict:
    model = VLMHRM.load(folder)
    return outputs(model) | losses(model)


if __name__ == "__main__":
    np.savez(sys.argv[2], **everything(sys.argv[1]))
