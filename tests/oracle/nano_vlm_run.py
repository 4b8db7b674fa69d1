"""Run a published checkpoint on the backend of the environment: python nano_vlm_run.py FOLDER OUT.npz"""

import sys

import nano
import numpy as np
from keras import ops
from reference import to_numpy

from saccade import backend
from saccade.hub.nano_vlm import read_model


def outputs(folder) -> dict:
    """Logits of the golden batch, and five tokens written with a cache."""
    model, batch = read_model(folder), nano.part(nano.golden(), "batch")
    run = backend.compiled(lambda batch: (model(batch), *model.prefill(batch, 5)), model)
    step = backend.compiled(model.step, model)
    logits, last, cache = run(batch)
    written = []
    for i in range(5):
        best = ops.cast(ops.argmax(last, -1), "int32")
        written.append(to_numpy(best))
        last, cache = step(best, ops.convert_to_tensor(batch["tokens"].shape[1] + i, "int32"), cache)
    return {"logits": to_numpy(logits), "written": np.stack(written, 1), "last": to_numpy(last)}


if __name__ == "__main__":
    np.savez(sys.argv[2], **outputs(sys.argv[1]))
