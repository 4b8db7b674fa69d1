"""Outputs, losses and gradients of saved tiny captioners: `python every_captioner.py FOLDER OUT.npz`.

The same code runs on JAX, inside the test, and on torch, as a script.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from reference import to_numpy
from small_captioners import KINDS, L, batch

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer
from saccade.train.captions import Describe
from saccade.train.labels import Perceive

OBJECTIVES = {"tell": Describe((Perceive(),)), "attend": Describe((Perceive(),), 0.5, 0.3)}


def everything(folder: Path) -> dict:
    found = {}
    for name, kind in KINDS.items():
        model = kind.load(folder / name)
        data = {key: keras.ops.convert_to_tensor(value) for key, value in batch().items()}
        for key, value in backend.compiled(model, model)(data).items():
            found[f"{name} {key}"] = to_numpy(value)
        for beams in (1, 3):
            settings = GenerationConfig(max_new_tokens=L, num_beams=beams)
            tokens, score = Writer(model).generate((data["images"],), settings)
            found |= {f"{name} tokens {beams}": tokens, f"{name} score {beams}": score}
        variables = model.trainable_variables

        def loss(values, name=name, model=model, variables=variables, data=data):
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                return OBJECTIVES[name](model, {}, data, None)[0], ()

        (value, _), gradients = backend.value_and_grad(loss, [v.value for v in variables])
        found[f"{name} loss"] = to_numpy(value)
        for variable, gradient in zip(variables, gradients, strict=True):
            found[f"gradient {name} {variable.path.split('/', 1)[1]}"] = to_numpy(gradient)
    return found


if __name__ == "__main__":
    np.savez(sys.argv[2], **everything(Path(sys.argv[1])))
