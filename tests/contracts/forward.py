"""The parts of a model as compiled functions of a batch; each compiles once per shape in a test session."""

import functools

from reference import to_numpy

from saccade import backend
from saccade.models.vlm_hrm import for_task


def everything(model, batch, task="vqa"):
    """Two steps and every head that reads it."""
    inputs = for_task(batch, task)
    x, mask = model.encode(inputs)
    layout, heads = model.layout(inputs), model.heads
    carry = model.initial_carry(x)
    for _ in range(2):  # from states of their own too, not the initial ones only
        carry, outputs = model.step(carry, x, mask, layout)
    # Every patch's box and score, not the best one: a tie that flips is no error of rounding.
    ground = heads["ground"](outputs["hidden"][:, layout.vision], grid=layout.grid)
    texts = heads["retrieve"](
        model.encode_text(batch["tokens"], batch["padding_mask"]), batch["padding_mask"], side="text"
    )
    return {
        "answer": heads["vqa"](outputs["task"]),
        "statement": heads["statement"](outputs["task"]),
        "match": heads["match"](outputs["task"]),
        "q_halt": outputs["q_halt"],
        **ground,
        "written": heads["write"](batch["decoder_tokens"], outputs["memory"], mask),
        "image_vector": heads["retrieve"](model.encode_images(batch["images"]), side="image"),
        "text_vector": texts,
    }


@functools.cache
def _compiled(model, task):
    return backend.compiled(lambda batch: everything(model, batch, task), model)


def run(model, batch, task="vqa") -> dict:
    keys = ("images", "tokens", "padding_mask", "decoder_tokens")
    result = _compiled(model, task)({key: batch[key] for key in keys})
    return {key: to_numpy(value) for key, value in result.items()}
