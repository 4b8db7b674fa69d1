"""What is learnt: tasks say what is right, objectives turn them into one training step.

An objective is called as objective(model, carry, batch, seed) -> (loss, carry, metrics, consumed), see
`saccade.train.engine`. Objectives of one `group` are computed together: their rows share one pass through the
model, which compiles once and fills the device better. `Recursive` works for every model with encode / layout
/ initial_carry / step.
"""

from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from saccade import backend, losses
from saccade.heads.region import best_box, containing_patch
from saccade.models.vlm_hrm import for_task
from saccade.recursion.halting import explore_min_steps, halting_loss, q_continue_target, should_halt
from saccade.recursion.scheduler import refill, where_rows


@dataclass(frozen=True)
class Recursive:
    """One reasoning step with deep supervision; halted slots take fresh examples, no example is discarded.

    loss = task + halt_weight * BCE(q_halt, done) [+ ponder_weight * (1 - sigmoid(q_halt))]

    done: the task's answer is right, and so is all that a loss of `also` says must be settled before it
    (`Refer`: the marks of every hop), so that an answer guessed early is no reason to stop.

    Args:
        task: see the classes below.
        also: further losses on the same rows, see `saccade.train.labels`, added to the task's.
        exploration: probability that a row must take a random minimum number of steps.
        halt_weight, ponder_weight: above; the ponder cost is off by default.
        group: rows of one group reason in one pass; their texts are of one length.
        stagger: slots end their first example after 1, 2, ... max_steps steps by turns, so that every update
            has rows of every age. Else all begin together, and until rows learn to halt, one update in
            max_steps sees fresh examples alone and the next the same ones again.
    Source: TRM, arXiv:2510.04871, figure 3; with model.config.q_learning also HRM's q_continue target.
    """

    task: Any
    also: tuple = ()
    exploration: float = 0.1
    halt_weight: float = 0.5
    ponder_weight: float = 0.0
    group: str = ""
    stagger: bool = False

    def initial_carry(self, model, batch) -> dict:
        """Every slot free: the first step fills it, so its states need a shape only."""

        def fresh(batch):
            return model.initial_carry(model.encode(self.task.inputs(batch))[0])

        blank = keras.tree.map_structure(
            lambda t: ops.zeros(t.shape, dtype=t.dtype), backend.shapes(fresh, batch)
        )
        state = {**blank, "halted": ops.ones_like(blank["halted"])}
        one, limit = blank["steps"] + 1, model.config.halt_max_steps
        max_steps = ops.arange(one.shape[0], dtype="int32") % limit + 1 if self.stagger else one * limit
        return {"data": batch, "state": state, "min_steps": one, "max_steps": max_steps}

    def __call__(self, model, carry, batch, seed):
        return self.together(model, {"": self}, {"": carry}, {"": batch}, seed)[""]

    @staticmethod
    def together(model, objectives: dict, carries: dict, batches: dict, seed) -> dict:
        """One step for the rows of several objectives at once; each keeps its own slots and losses.

        Args: name -> Recursive, its carry, its fresh batch. Texts are of one length; images may be of several
            shapes with equally many patches: they are encoded apart and reasoned over together.
        Returns: name -> (loss, carry, metrics, consumed).
        """
        data, consumed, inputs = {}, {}, {}
        for name, objective in objectives.items():
            free = carries[name]["state"]["halted"]
            data[name], consumed[name] = refill(free, carries[name]["data"], batches[name])
            inputs[name] = objective.task.inputs(data[name])
        encoded = _encode(model, inputs)
        x, mask = _concatenate([encoded[name][:2] for name in objectives])
        held = _concatenate([carries[name]["state"] for name in objectives])
        state = where_rows(held["halted"], model.initial_carry(x), held)
        layout = _joined_layout([encoded[name] for name in objectives])
        state, outputs = model.step(state, x, mask, layout)
        if model.config.q_learning:
            outputs["q_target"] = _continue_target(model, state, x, mask, layout)
        outputs |= {"encoded": x, "steps": state["steps"]}
        rows, start = {}, 0
        for name in objectives:
            rows[name] = slice(start, start + carries[name]["min_steps"].shape[0])
            start = rows[name].stop
        layouts = {name: encoded[name][2] for name in objectives}
        further = _further(model, objectives, outputs, data, layouts, rows)
        results = {}
        for name, objective in objectives.items():
            own = keras.tree.map_structure(lambda t, r=rows[name]: t[r], (state, outputs))
            loss, carry, metrics = objective._finish(
                model, carries[name], data[name], *own, layouts[name], seed, *further[name]
            )
            results[name] = (loss, carry, metrics, consumed[name])
        return results

    def _finish(self, model, carry, data, state, outputs, layout, seed, further, further_metrics, settled):
        """Losses and halting of this objective's own rows."""
        limit = model.config.halt_max_steps
        free = carry["state"]["halted"]
        drawn = explore_min_steps(free.shape[0], limit, self.exploration, seed)
        min_steps = ops.where(free, drawn, carry["min_steps"])
        used = ops.logical_and(free, carry["state"]["steps"] > 0)  # a slot's first keeps its own limit
        max_steps = ops.where(used, limit, carry["max_steps"])
        halting = outputs.get("halting", outputs["q_halt"])  # a model may compare something else
        halted = should_halt(halting, state["steps"], max_steps, model.config.halt_threshold, min_steps)
        rows, correct, metrics = self.task(model, outputs, data, layout)
        q_loss = halting_loss(outputs["q_halt"], ops.cast(correct, "float32") * settled)
        if model.config.q_learning:
            q_loss = q_loss + halting_loss(outputs["q_continue"], outputs["q_target"])
        metrics |= further_metrics
        total = ops.mean(rows + further + self.halt_weight * q_loss)
        if self.ponder_weight:
            total = total + self.ponder_weight * ops.mean(1 - ops.sigmoid(outputs["q_halt"]))
        done = ops.cast(halted, "float32")
        count = ops.sum(done)
        metrics |= {
            "correct": (ops.sum(ops.cast(correct, "float32") * done), count),
            "steps": (ops.sum(ops.cast(state["steps"], "float32") * done), count),
            "q_loss": ops.mean(q_loss),
        }
        state = {**state, "halted": halted}
        carry = {"data": data, "state": state, "min_steps": min_steps, "max_steps": max_steps}
        return total, carry, metrics


def _encode(model, inputs: dict) -> dict:
    """Encode the rows of all names, those of one shape in one pass.

    Returns: name -> (x, mask, layout).
    """
    by_shape: dict = {}
    for name, batch in inputs.items():
        shapes = tuple(tuple(leaf.shape[1:]) for leaf in keras.tree.flatten(batch))
        by_shape.setdefault(shapes, []).append(name)
    encoded = {}
    for names in by_shape.values():
        joined = _concatenate([inputs[name] for name in names])
        x, mask = model.encode(joined)
        layout, start = model.layout(joined), 0
        for name in names:
            rows = slice(start, start + inputs[name]["tokens"].shape[0])
            encoded[name] = x[rows], mask[rows], layout
            start = rows.stop
    spans = {(layout.vision.stop, layout.text.stop) for _, _, layout in encoded.values() if layout}
    if len(spans) > 1:
        raise ValueError(
            f"vision and text of one group's objectives end at {sorted(spans)}; make them end alike, or "
            "group them apart"
        )
    return encoded


def _joined_layout(encoded: list):
    """The layout of all rows together: each keeps the grid of its own image."""
    layouts = [layout for _, _, layout in encoded]
    if len(set(layouts)) == 1:
        return layouts[0]
    return replace(layouts[0], grids=tuple((x.shape[0], layout.grid) for x, _, layout in encoded))


def _further(model, objectives: dict, outputs, data: dict, layouts: dict, rows: dict) -> dict:
    """The losses in `also`, each computed once for the rows of all objectives that name it and see one grid.

    Returns: name -> (loss float32 (B,) or 0, metrics, settled float32 (B,) or 1).
    """
    users: dict = {}
    for name, objective in objectives.items():
        for loss in objective.also:
            users.setdefault((loss, layouts[name].grid), []).append(name)
    results: dict = {name: (0.0, {}, 1.0) for name in objectives}
    for (loss, _), names in users.items():
        shown = _concatenate(
            [keras.tree.map_structure(lambda t, r=rows[name]: t[r], outputs) for name in names]
        )
        labels = _concatenate([{key: data[name][key] for key in loss.reads} for name in names])
        values, metrics, *settled = loss(model, shown, labels, layouts[names[0]])
        start = 0
        for name in names:
            own = slice(start, start + rows[name].stop - rows[name].start)
            start = own.stop
            total, found, before = results[name]
            shares = {
                key: (ops.sum(hits[own]), ops.sum(among[own])) for key, (hits, among) in metrics.items()
            }
            now = ops.cast(settled[0][own], "float32") if settled else 1.0
            results[name] = total + values[own], found | shares, before * now
    return results


def _concatenate(trees: list):
    """Trees of tensors, joined along the first axis."""
    if len(trees) == 1:
        return trees[0]
    return keras.tree.map_structure(lambda *leaves: ops.concatenate(leaves, axis=0), *trees)


def _continue_target(model, state, x, mask, layout):
    """HRM's bootstrapped target: what the halting head will say one step later."""
    following, ahead = model.step(state, ops.stop_gradient(x), mask, layout)
    last = following["steps"] >= model.config.halt_max_steps
    return q_continue_target(ahead["q_halt"], ahead["q_continue"], last)


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

    With `mentions` bool (B, L, N) in the data, the last block is also told where to look while it writes of
    an object: what is learnt is -log of the attention that falls on the cells that its words fit. Metric
    `pointed`: that attention.
    """

    name: str = "caption"
    point_weight: float = 0.5

    def inputs(self, data):
        return for_task(data, self.name)

    def __call__(self, model, outputs, data, layout):
        loss, share, scores = write_loss(model, outputs, data)
        metrics = {"token_accuracy": ops.mean(share)}
        if "mentions" in data:
            looked = ops.mean(scores[..., layout.vision], axis=1)
            pointing, mass = point_loss(looked, data["mentions"])
            loss = loss + self.point_weight * pointing
            metrics["pointed"] = ops.mean(mass)
        return loss, share, metrics


@dataclass(frozen=True)
class AnswerAndExplain:
    """A `vqa` answer plus its rationale, from the same states; halting follows the answer."""

    write_weight: float = 1.0
    name: str = "vqa"

    def inputs(self, data):
        return for_task(data, self.name)

    def __call__(self, model, outputs, data, layout):
        loss, correct, metrics = Answer(self.name)(model, outputs, data, layout)
        written, share, _ = write_loss(model, outputs, data)
        return loss + self.write_weight * written, correct, {**metrics, "token_accuracy": ops.mean(share)}


def write_loss(model, outputs, data):
    """Mean token cross-entropy and share of tokens predicted right, each float32 (B,); what the writer looked
    at, float32 (B, A, L, S)."""
    logits, scores = model.heads["write"](
        data["decoder_tokens"], outputs["memory"], outputs["padding_mask"], return_scores=True
    )
    loss = losses.masked_mean(losses.cross_entropy(logits, data["targets"]), data["loss_mask"])
    return loss, token_share(logits, data["targets"], data["loss_mask"]), scores


def token_share(logits, targets, mask):
    """Share of the tokens that `mask` (B, L) counts predicted right, float32 (B,)."""
    hits = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), targets)
    return losses.masked_mean(ops.cast(hits, "float32"), mask)


def point_loss(looked, mentions):
    """-log of the attention that falls on what a word speaks of, and that attention: each the mean over the
    words that speak of something, float32 (B,).

    Args: looked: float32 (B, L, N), what each word looked at.  mentions: bool (B, L, N), see `Collate`.
    """
    mass = ops.sum(ops.where(mentions, looked, 0.0), axis=-1)
    pointing = ops.any(mentions, axis=-1)
    return -losses.masked_mean(ops.log(mass + 1e-4), pointing), losses.masked_mean(mass, pointing)


@dataclass(frozen=True)
class Ground:
    """Point at what a phrase means. data: `boxes` xyxy float32 (B, 4). Correct: IoU >= 0.5.

    The loss is `ground_loss`.
    """

    name: str = "ground"

    def inputs(self, data):
        return for_task(data, self.name)

    def __call__(self, model, outputs, data, layout):
        head = model.heads["ground"](outputs["hidden"][:, layout.vision], grid=layout.grid)
        loss, iou = ground_loss(head, data["boxes"], layout.grid)
        correct = iou >= 0.5
        return loss, correct, {"accuracy": ops.mean(ops.cast(correct, "float32")), "iou": ops.mean(iou)}


def ground_loss(outputs: dict, boxes, grid, kept=None):
    """Point at the patch that holds the centre, and fit its box.

    The patch is the class to find; boxes learn there and wherever the scores now point, so that a near miss
    still gives a good box.

    Args: outputs: `boxes` cxcywh (B, N, 4), `score_logits` (B, N).  boxes: the true ones, xyxy (B, 4).
        grid: (rows, columns) of the N patches.  kept: bool (B, N), False = padded; None = all are kept. A row
            whose centre lies on a padded patch has no patch to find: its boxes learn only where its scores
            point. Boxes of padded patches learn nothing, so a row of padding alone has a loss of 0.
    Returns: loss float32 (B,); IoU of the best box, float32 (B,).
    """
    patch = containing_patch(boxes, grid)
    pointing = losses.cross_entropy(outputs["score_logits"], patch)
    believed = ops.stop_gradient(ops.softmax(outputs["score_logits"], axis=-1))
    weights = (ops.one_hot(patch, believed.shape[1], dtype="float32") + believed) / 2
    if kept is not None:
        there = ops.take_along_axis(kept, ops.expand_dims(patch, 1), axis=1)[:, 0]
        pointing = ops.where(there, pointing, 0.0)
        weights = ops.where(kept, weights, 0.0)
    fit, _ = losses.box_loss(outputs["boxes"], ops.expand_dims(boxes, 1))
    iou, _ = losses.box_iou(best_box(outputs)[0], boxes)
    return pointing + ops.sum(weights * fit, axis=-1), iou
