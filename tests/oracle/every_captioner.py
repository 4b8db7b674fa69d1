"""Outputs, losses and gradients of saved tiny captioners: `python every_captioner.py FOLDER OUT.npz`.

The same code runs on JAX, inside the test, and on torch, as a script.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from reference import to_numpy

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer
from saccade.models.captioners import CaptionerConfig, ShowAndTell, ShowAttendTell
from saccade.train.captions import Describe
from saccade.train.labels import Perceive

B, L, SIDE, WORDS = 3, 5, 16, 13
CONFIG = CaptionerConfig(
    vocab_size=WORDS,
    dim=24,
    word_dim=14,
    max_length=L,
    vision_dim=18,
    depth=1,
    patch_size=8,
    stem=(10,),
    image_size=(SIDE, SIDE),
    cell_dim=6,
    attributes=(3, 2),
)
KINDS = {"tell": ShowAndTell, "attend": ShowAttendTell}
OBJECTIVES = {"tell": Describe((Perceive(),)), "attend": Describe((Perceive(),), 0.5, 0.3)}


def batch() -> dict:
    rng = np.random.default_rng(0)
    kinds = np.stack([rng.integers(-1, n, size=(B, 4)) for n in CONFIG.attributes], -1)
    low = rng.random((B, 4, 2)) * 0.5
    return {
        "images": rng.random((B, SIDE, SIDE, 3)).astype(np.float32),
        "decoder_tokens": rng.integers(4, WORDS, size=(B, L)).astype(np.int32),
        "targets": rng.integers(4, WORDS, size=(B, L)).astype(np.int32),
        "loss_mask": np.arange(L) < np.array([[5], [3], [2]]),
        "mentions": rng.random((B, L, 4)) < 0.4,
        "objects": np.where(kinds[..., :1] < 0, -1, np.maximum(kinds, 0)).astype(np.int8),
        "object_boxes": np.concatenate([low, low + 0.2], -1).astype(np.float32),
    }


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
