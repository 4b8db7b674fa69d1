"""Run a published checkpoint on the backend of the environment: python nano_vlm_run.py FOLDER OUT.npz"""

import sys

import nano
import numpy as np
from reference import to_numpy

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer
from saccade.hub.nano_vlm import read_model


def outputs(folder) -> dict:
    """Logits of the golden batch, also packed in one row, and five tokens written with a cache."""
    model, batch = read_model(folder), nano.part(nano.golden(), "batch")
    settings = GenerationConfig(max_new_tokens=5, eos_token_id=model.config.language.vocab_size)  # no end
    written, score = Writer(model).generate((batch,), settings)
    read = backend.compiled(model, model)
    logits = {"logits": to_numpy(read(batch)), "packed": to_numpy(read(nano.packed(batch)[0]))}
    return {**logits, "written": written, "score": score}


if __name__ == "__main__":
    np.savez(sys.argv[2], **outputs(sys.argv[1]))
