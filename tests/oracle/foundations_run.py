"""Run Flamingo, BLIP2 and the gradient of `splice` on this backend: python foundations_run.py OUT.npz"""

import sys

import keras
import numpy as np
import reference
from reference import to_numpy

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.fusion.projection import splice
from saccade.generate import Writer
from saccade.models.blip2 import BLIP2, BLIP2Config
from saccade.models.flamingo import Flamingo, FlamingoConfig
from saccade.models.llama import LlamaConfig
from saccade.models.opt import OPTConfig
from saccade.models.qformer import QFormerConfig
from saccade.models.vit import ViTConfig
from saccade.train.blip2 import StageOne

B, K, S, Q, T, V = 2, 2, 11, 3, 7, 53
TOWER = ViTConfig(20, 1, 2, 28, 4, (8, 12))
MODELS = {
    "flamingo": (Flamingo, FlamingoConfig(TOWER, LlamaConfig(V, 24, 3, 6, 2, 44), 5, 2, 4, 2)),
    "blip2": (
        BLIP2,
        BLIP2Config(
            TOWER, QFormerConfig(31, 24, 3, 3, 40, Q, 2, 16, 1e-6), OPTConfig(V, 32, 1, 4, 44, 40), 12
        ),
    ),
}


def batch(name: str) -> dict:
    rng = np.random.default_rng(1)
    image_mask = np.zeros((B, S), bool)
    places = 1 if name == "flamingo" else Q
    image_mask[:, 2 : 2 + places] = image_mask[0, 6 : 6 + places] = True
    return {
        "images": rng.random((B, K, 8, 12, 3)).astype(np.float32),
        "tokens": rng.integers(0, V, (B, S)).astype(np.int32),
        "image_mask": image_mask,
        "padding_mask": np.arange(S) >= np.array([0, 2])[:, None],
    }


def splice_gradients() -> dict:
    """By tokens and by image tokens, of which the second row has no place for all."""
    rng = np.random.default_rng(5)
    x, upstream = (rng.normal(size=(B, S, 4)).astype(np.float32) for _ in range(2))
    soft = rng.normal(size=(B, K, Q, 4)).astype(np.float32)
    values = [keras.ops.convert_to_tensor(v) for v in (x, soft)]
    mask, upstream = (keras.ops.convert_to_tensor(v) for v in (batch("blip2")["image_mask"], upstream))
    _, found = backend.value_and_grad(lambda v: (keras.ops.sum(splice(*v, mask) * upstream), {}), values)
    return dict(zip(("splice/by_x", "splice/by_soft"), map(to_numpy, found), strict=True))


def outputs() -> dict:
    """Logits, four tokens written with a cache, the loss and gradient of stage one; `splice_gradients`."""
    found = splice_gradients()
    for name, (kind, config) in MODELS.items():
        model, given = reference.randomize(kind(config)), batch(name)
        found[f"{name}/logits"] = to_numpy(backend.compiled(model, model)(given))
        settings = GenerationConfig(max_new_tokens=4, eos_token_id=V)
        found[f"{name}/written"] = Writer(model).generate((given,), settings)[0]
        if name == "blip2":
            tokens = np.random.default_rng(3).integers(3, 31, (B, T)).astype(np.int32)
            kept = np.arange(T) < np.array([T, 4])[:, None]
            pairs = {"images": given["images"][:, 0], "tokens": tokens, "padding_mask": kept}

            def losses(values, pairs, model=model):
                mapping = list(zip(model.trainable_variables, values, strict=True))
                with keras.StatelessScope(state_mapping=mapping):
                    return StageOne()(model, {}, pairs, 7)[0], {}

            values = [v.value for v in model.trainable_variables]
            pairs = {key: keras.ops.convert_to_tensor(value) for key, value in pairs.items()}
            (loss, _), gradients = backend.value_and_grad(losses, values, pairs)
            found["blip2/loss"] = to_numpy(loss)  # of two rows each is the other's only negative
            norm = sum(float((to_numpy(g).astype(np.float64) ** 2).sum()) for g in gradients)
            found["blip2/gradient_norm"] = np.float64(norm**0.5)
    return found


if __name__ == "__main__":
    np.savez(sys.argv[1], **outputs())
