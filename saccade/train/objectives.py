"""What is learnt: tasks say what is right, objectives turn them into one training step.

An objective is called as objective(model, carry, batch, seed) -> (loss, carry, metrics, consumed), see
`saccade.train.engine`. Objectives of one `group` are computed together: their rows share one pass through the
model, which compiles once and fills the device better. `Recursive` works for every model with encode / layout
/ initial_carry / step.
"""

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from saccade import losses
from saccade.heads.region import best_box, containing_patch
from saccade.models.vlm_hrm import for_task
from saccade.recursion.halting import explore_min_steps, halting_loss, q_continue_target, should_halt
from saccade.recursion.scheduler import refill, where_rows


@dataclass(frozen=True)
class Recursive:
    """One reasoning step with deep supervision; halted slots take fresh examples, no example is discarded.

    loss = task + halt_weight * BCE(q_halt, correct) [+ ponder_weight * (1 - sigmoid(q_halt))]

    Args:
        task: see the classes below.
        exploration: probability that a row must take a random minimum number of steps.
        halt_weight, ponder_weight: above; the ponder cost is off by default.
    Source: TRM, arXiv:2510.04871, figure 3; with model.config.q_learning also HRM's q_continue target.
    """

    task: Any
    exploration: float = 0.1
    halt_weight: float = 0.5
    ponder_weight: float = 0.0
    group: str = ""

    def initial_carry(self, model, batch) -> dict:
        x, _ = model.encode(self.task.inputs(batch))
        state = model.initial_carry(x)
        everyone = ops.ones_like(state["halted"])
        return {"data": batch, "state": {**state, "halted": everyone}, "min_steps": state["steps"] + 1}

    def __call__(self, model, carry, batch, seed):
        return self.together(model, {"": self}, {"": carry}, {"": batch}, seed)[""]

    @staticmethod
    def together(model, objectives: dict, carries: dict, batches: dict, seed) -> dict:
        """One step for the rows of several objectives at once; each keeps its own slots and losses.

        Args: name -> Recursive, its carry, its fresh batch. Images and texts must be of one shape.
        Returns: name -> (loss, carry, metrics, consumed).
        """
        data, consumed, inputs = {}, {}, []
        for name, objective in objectives.items():
            free = carries[name]["state"]["halted"]
            data[name], consumed[name] = refill(free, carries[name]["data"], batches[name])
            inputs.append(objective.task.inputs(data[name]))
        inputs = _concatenate(inputs)
        x, mask = model.encode(inputs)
        layout = model.layout(inputs)
        held = _concatenate([carries[name]["state"] for name in objectives])
        free = held["halted"]
        state = where_rows(free, model.initial_carry(x), held)
        state, outputs = model.step(state, x, mask, layout)
        if model.config.q_learning:
            outputs["q_target"] = _continue_target(model, state, x, mask, layout)
        results, start = {}, 0
        for name, objective in objectives.items():
            rows = slice(start, start + carries[name]["min_steps"].shape[0])
            start = rows.stop
            own_state, own_outputs = keras.tree.map_structure(lambda t, r=rows: t[r], (state, outputs))
            loss, carry, metrics = objective._finish(
                model, carries[name], data[name], own_state, own_outputs, layout, seed
            )
            results[name] = (loss, carry, metrics, consumed[name])
        return results

    def _finish(self, model, carry, data, state, outputs, layout, seed):
        """Losses and halting of this objective's own rows."""
        limit = model.config.halt_max_steps
        free = carry["state"]["halted"]
        drawn = explore_min_steps(free.shape[0], limit, self.exploration, seed)
        min_steps = ops.where(free, drawn, carry["min_steps"])
        halting = outputs.get("halting", outputs["q_halt"])  # a model may compare something else
        halted = should_halt(halting, state["steps"], limit, min_steps=min_steps)
        rows, correct, metrics = self.task(model, outputs, data, layout)
        q_loss = halting_loss(outputs["q_halt"], correct)
        if model.config.q_learning:
            q_loss = q_loss + halting_loss(outputs["q_continue"], outputs["q_target"])
        total = ops.mean(rows + self.halt_weight * q_loss)
        if self.ponder_weight:
            total = total + self.ponder_weight * ops.mean(1 - ops.sigmoid(outputs["q_halt"]))
        done = ops.cast(halted, "float32")
        count = ops.sum(done)
        metrics |= {
            "correct": (ops.sum(ops.cast(correct, "float32") * done), count),
            "steps": (ops.sum(ops.cast(state["steps"], "float32") * done), count),
            "q_loss": ops.mean(q_loss),
        }
        return total, {"data": data, "state": {**state, "halted": halted}, "min_steps": min_steps}, metrics


def _concatenate(trees: list):
    """Trees of tensors, joined along the first axis."""
    return keras.tree.map_structure(lambda *leaves: ops.concatenate(leaves, axis=0), *trees)


def _continue_target(model, state, x, mask, layout):
    """HRM's bootstrapped target: what the halting head will say one step later."""
    following, ahead = model.step(state, ops.stop_gradient(x), mask, layout)
    last = following["steps"] >= model.config.halt_max_steps
    return q_continue_target(ahead["q_halt"], ahead["q_continue"], last)


@dataclass(frozen=True)
class Contrastive:
    """Dual-encoder retrieval: symmetric InfoNCE over the batch and its minimal-edit twins.

    batch: images, tokens, padding_mask, and the same three with the prefix `twin_`.
    """

    group: str = ""

    def initial_carry(self, model, batch) -> dict:
        return {}

    def __call__(self, model, carry, batch, seed):
        both = {
            key: ops.concatenate([batch[key], batch[f"twin_{key}"]], axis=0)
            for key in ("images", "tokens", "padding_mask")
        }
        head = model.heads["retrieve"]
        images = head(model.encode_images(both["images"]), side="image")
        text = model.encode_text(both["tokens"], both["padding_mask"])
        texts = head(text, both["padding_mask"], side="text")
        similarity = head.similarity(images, texts)
        rows = losses.info_nce(similarity)
        hit = ops.equal(ops.argmax(similarity, axis=0), ops.arange(similarity.shape[0], dtype="int32"))
        consumed = ops.convert_to_tensor(batch["tokens"].shape[0], dtype="int32")
        return ops.mean(rows), carry, {"recall_at_1": ops.mean(ops.cast(hit, "float32"))}, consumed


@dataclass(frozen=True)
class Perceive:
    """Name what each vision token sees, before any reasoning: dense supervision for a tower from scratch.

    batch: `images`; `objects` int32 (B, N, attributes), class of the object centred in each token, -1 = none.
    """

    group: str = ""

    def initial_carry(self, model, batch) -> dict:
        return {}

    def __call__(self, model, carry, batch, seed):
        labels = batch["objects"]
        presence, *attributes = model.heads["objects"](model.encode_images(batch["images"]))
        present = labels[..., 0] >= 0
        found = losses.binary_cross_entropy(presence[..., 0], ops.cast(present, "float32"))
        total = ops.mean(found) * 4  # few tokens hold an object
        right = present
        for i, logits in enumerate(attributes):
            target = ops.maximum(labels[..., i], 0)
            rows = losses.masked_mean(losses.cross_entropy(logits, target), present)
            total = total + ops.mean(rows)
            hit = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), target)
            right = ops.logical_and(right, hit)
        count = ops.sum(ops.cast(present, "float32"))
        metrics = {"all_attributes": (ops.sum(ops.cast(right, "float32")), count)}
        return total, carry, metrics, ops.convert_to_tensor(labels.shape[0], dtype="int32")


@dataclass(frozen=True)
class Answer:
    """Pick one of a fixed set: `vqa`, `statement`, `match`. data: `answer` int32 (B,)."""

    name: str
    smoothing: float = 0.0

    def inputs(self, data):
        return for_task(data, self.name)

    def __call__(self, model, outputs, data, layout):
        logits = model.heads[self.name](outputs["task"])
        loss = losses.cross_entropy(logits, data["answer"], self.smoothing)
        correct = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), data["answer"])
        return loss, correct, {"accuracy": ops.mean(ops.cast(correct, "float32"))}


@dataclass(frozen=True)
class Write:
    """Write a text, token by token. data: `decoder_tokens`, `targets` int32 (B, L), `loss_mask` bool (B, L).

    "Correct" is the share of tokens predicted right: a caption has many right wordings, so all-or-nothing
    would teach halting nothing.
    """

    name: str = "caption"

    def inputs(self, data):
        return for_task(data, self.name)

    def __call__(self, model, outputs, data, layout):
        loss, share = write_loss(model, outputs, data)
        return loss, share, {"token_accuracy": ops.mean(share)}


@dataclass(frozen=True)
class AnswerAndExplain:
    """A `vqa` answer plus its rationale, from the same states; halting follows the answer."""

    write_weight: float = 1.0
    name: str = "vqa"

    def inputs(self, data):
        return for_task(data, self.name)

    def __call__(self, model, outputs, data, layout):
        loss, correct, metrics = Answer(self.name)(model, outputs, data, layout)
        written, share = write_loss(model, outputs, data)
        return loss + self.write_weight * written, correct, {**metrics, "token_accuracy": ops.mean(share)}


def write_loss(model, outputs, data):
    """Mean token cross-entropy and share of tokens predicted right, each float32 (B,)."""
    logits = model.heads["write"](data["decoder_tokens"], outputs["hidden"], outputs["padding_mask"])
    loss = losses.masked_mean(losses.cross_entropy(logits, data["targets"]), data["loss_mask"])
    hits = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), data["targets"])
    return loss, losses.masked_mean(ops.cast(hits, "float32"), data["loss_mask"])


@dataclass(frozen=True)
class Ground:
    """Point at what a phrase means. data: `boxes` xyxy float32 (B, 4). Correct: IoU >= 0.5.

    The patch that holds the centre is the class to find; boxes learn there and wherever the scores now point,
    so that a near miss still gives a good box.
    """

    name: str = "ground"

    def inputs(self, data):
        return for_task(data, self.name)

    def __call__(self, model, outputs, data, layout):
        head = model.heads["ground"](outputs["hidden"][:, layout.vision], grid=layout.grid)
        patch = containing_patch(data["boxes"], layout.grid)
        pointing = losses.cross_entropy(head["score_logits"], patch)
        believed = ops.stop_gradient(ops.softmax(head["score_logits"], axis=-1))
        weights = (ops.one_hot(patch, believed.shape[1], dtype="float32") + believed) / 2
        fit, _ = losses.box_loss(head["boxes"], ops.expand_dims(data["boxes"], 1))
        iou, _ = losses.box_iou(best_box(head)[0], data["boxes"])
        correct = iou >= 0.5
        metrics = {"accuracy": ops.mean(ops.cast(correct, "float32")), "iou": ops.mean(iou)}
        return pointing + ops.sum(weights * fit, axis=-1), correct, metrics
