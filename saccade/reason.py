"""Compiled reasoning over batches: until halted, or every step with what it saw."""

import keras
import numpy as np
from keras import ops

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.generate import generate
from saccade.heads.region import best_box
from saccade.models.vlm_hrm import for_task
from saccade.recursion.halting import halting_threshold
from saccade.recursion.scheduler import run_fixed, run_slots, run_until_halted

_INPUTS = ("images", "tokens", "padding_mask")


def readout(model, task: str, layout):
    """What a task wants to know of a step's outputs: outputs -> dict of tensors (B, ...).

    answers: `probabilities` (B, K).  ground: `box` (B, 4) xyxy of the canvas, `confidence` (B,).
    Writing tasks: `memory`, (B, S, D) and its padding mask.  All: `q_halt` (B,).
    """

    def read(outputs):
        result = {"q_halt": outputs["q_halt"]}
        if task == "ground":
            head = model.heads["ground"](outputs["hidden"][:, layout.vision], grid=layout.grid)
            result["box"], result["confidence"] = best_box(head)
        elif task == "caption":
            result["memory"] = (outputs["memory"], outputs["padding_mask"])
        else:
            result["probabilities"] = ops.softmax(model.heads[task](outputs["task"]), axis=-1)
        return result

    return read


class Reasoner:
    """A VLM-HRM's reasoning as compiled calls; each (task, shape) compiles once.

    Batches are dicts of NumPy arrays as `Processor` or `Collate` make them; results are NumPy arrays.

    Args:
        model: a built VLMHRM.
    """

    def __init__(self, model):
        self.model = model
        self._compiled: dict = {}

    def _call(self, key, function, batch, *args):
        if key not in self._compiled:
            self._compiled[key] = backend.compiled(function, self.model)
        result = self._compiled[key]({name: batch[name] for name in _INPUTS}, *args)
        return keras.tree.map_structure(lambda t: np.asarray(ops.convert_to_numpy(t)), result)

    def _limits(self, threshold, max_steps):
        config = self.model.config
        threshold = halting_threshold(config, threshold)
        max_steps = config.halt_max_steps if max_steps is None else max_steps
        return np.float32(threshold), np.int32(max_steps)

    def _encode(self, batch, task):
        batch = for_task(batch, task)
        return *self.model.encode(batch), self.model.layout(batch)

    def run(self, batch: dict, task: str, threshold=None, max_steps=None) -> dict:
        """Reason until every row has halted.

        Args:
            task: one of TASKS.  threshold, max_steps: of halting; None = the model's.
        Returns: what `readout` names, at each row's own halting step, and `steps` int32 (B,). Task "caption"
            gives `tokens` int32 (B, L) and `log_probability` (B,) instead of the hidden states.
        """

        def function(batch, threshold, max_steps):
            x, mask, layout = self._encode(batch, task)

            def step(carry):
                return self.model.step(carry, x, mask, layout, threshold, max_steps)

            read = readout(self.model, task, layout)
            result, steps = run_until_halted(step, self.model.initial_carry(x), read)
            if task == "caption":
                result |= self._write(*result.pop("memory"))
            return {**result, "steps": steps}

        return self._call(("run", task), function, batch, *self._limits(threshold, max_steps))

    def _write(self, hidden, mask):
        settings = GenerationConfig(max_new_tokens=self.model.config.max_length)
        tokens, score = generate(self.model.heads["write"], (hidden, mask), settings)
        return {"tokens": tokens, "log_probability": score}

    def trace(self, batch: dict, task: str) -> dict:
        """Take every step of every row and keep them all: nothing halts.

        Returns: what `readout` names, and `attention` float32 (K, B, rows, columns): what the task token
            looked at; the first axis is the step.
        """

        def function(batch):
            x, mask, layout = self._encode(batch, task)
            read = readout(self.model, task, layout)

            def body(carry, _):
                carry, outputs = self.model.step(carry, x, mask, layout, return_scores=True)
                return carry, {**read(outputs), "attention": _looked_at(outputs["scores"], layout)}

            carry = self.model.initial_carry(x)
            return ops.scan(body, carry, length=self.model.config.halt_max_steps)[1]

        return self._call(("trace", task), function, batch)

    def explain(
        self, batch: dict, threshold=None, max_steps=None, *, task: str = "vqa", write: bool = True
    ) -> dict:
        """Reason until every row has halted, keep every step, and say why: one compiled call.

        Args:
            task: "vqa", "statement" or "match".  threshold, max_steps: as `run`.
            write: also write the rationale, from the states in which the rows halted.
        Returns: `steps` int32 (B,); what `trace` gives, of each row's own steps, zeros after them; with
            `write`, `tokens` int32 (B, L) and `log_probability` float32 (B,).
        """
        num_steps = self.model.config.halt_max_steps

        def function(batch, threshold, max_steps):
            x, mask, layout = self._encode(batch, task)
            read = readout(self.model, task, layout)

            def step(carry):
                new, outputs = self.model.step(
                    carry, x, mask, layout, threshold, max_steps, return_scores=True
                )
                now = {**read(outputs), "attention": _looked_at(outputs["scores"], layout)}
                here = ops.arange(num_steps) == ops.expand_dims(carry["steps"], 1)
                new["kept"] = {key: _put(carry["kept"][key], here, value) for key, value in now.items()}
                return new, {**outputs, "kept": new["kept"]}

            shapes = {
                "q_halt": (),
                "probabilities": (self.model.heads[task].num_classes,),
                "attention": layout.grid,
            }
            kept = {key: ops.zeros((x.shape[0], num_steps, *shape)) for key, shape in shapes.items()}
            names = ("kept", "memory", "padding_mask") if write else ("kept",)
            found, steps = run_until_halted(
                step,
                {**self.model.initial_carry(x), "kept": kept},
                lambda outputs: [outputs[name] for name in names],
            )
            result = {key: ops.moveaxis(value, 1, 0) for key, value in found[0].items()}
            return {**result, **(self._write(*found[1:]) if write else {}), "steps": steps}

        return self._call(("explain", task, write), function, batch, *self._limits(threshold, max_steps))

    def embed(self, batch: dict) -> dict:
        """Unit vectors for retrieval: `images` and `texts`, each float32 (B, E)."""

        def function(batch):
            head = self.model.heads["retrieve"]
            text = self.model.encode_text(batch["tokens"], batch["padding_mask"])
            return {
                "images": head(self.model.encode_images(batch["images"]), side="image"),
                "texts": head(text, batch["padding_mask"], side="text"),
            }

        return self._call(("embed",), function, batch)

    def sweep(self, batch: dict, task: str, num_slots: int, fixed: bool = False, threshold=None) -> dict:
        """Work through N examples with num_slots slots on the device, in one compiled call.

        Args:
            batch: N rows.  num_slots: rows that reason at once; must divide N.
            fixed: run every row for all steps, batch after batch, as the published TRM and HRM do, instead of
                refilling the slots of halted rows.
        Returns: as `run`.
        """

        def function(batch, threshold, max_steps):
            chunks = keras.tree.map_structure(lambda t: ops.reshape(t, (-1, num_slots, *t.shape[1:])), batch)
            first = keras.tree.map_structure(lambda t: t[0], chunks)
            layout = self.model.layout(first)
            read = readout(self.model, task, layout)

            def step(carry, x, mask):
                return self.model.step(carry, x, mask, layout, threshold, max_steps)

            def encode(chunk):
                return self._encode(chunk, task)[:2]

            if fixed:

                def work(chunk):
                    x, mask = encode(chunk)
                    steps = self.model.config.halt_max_steps
                    carry = self.model.initial_carry(x)
                    return run_fixed(lambda carry: step(carry, x, mask), carry, read, steps)

                result, steps = ops.map(work, chunks)
                result, steps = keras.tree.map_structure(_merge, (result, steps))
            else:
                x, mask = keras.tree.map_structure(_merge, ops.map(encode, chunks))
                result, steps = run_slots(step, self.model.initial_carry, x, mask, read, num_slots)
            return {**result, "steps": steps}

        key = ("sweep", task, num_slots, fixed)
        return self._call(key, function, batch, *self._limits(threshold, None))


def _looked_at(scores, layout):
    """Scores (B, A, S, S) -> what the task token looked at, (B, rows, columns), the mean over heads."""
    return ops.reshape(ops.mean(scores[:, :, 0, layout.vision], axis=1), (-1, *layout.grid))


def _put(kept, here, value):
    """kept (B, K, ...) with value (B, ...) where here (B, K) is True."""
    here = ops.reshape(here, (*here.shape, *(1 for _ in value.shape[1:])))
    return ops.where(here, ops.expand_dims(ops.cast(value, kept.dtype), 1), kept)


def _merge(t):
    return ops.reshape(t, (-1, *t.shape[2:]))
