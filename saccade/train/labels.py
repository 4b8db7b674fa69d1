"""Further losses on the rows of a task: labels for what a model sees and works out on its way to an answer.

Each is called as loss(model, outputs, data, layout) -> (loss float32 (B,), metrics[, settled bool (B,)])
with the labels that it `reads`; see `Recursive.also`.
"""

from dataclasses import dataclass

from keras import ops

from saccade import losses
from saccade.data.scenes.referents import BRANCHES, CHANNELS


@dataclass(frozen=True)
class Perceive:
    """Name what each vision token sees, before any reasoning: dense supervision for a tower from scratch.

    data: `objects` int (B, N, attributes), class of the object centred in each token, -1 = none;
    `object_boxes` float32 (B, N, 4) xyxy.
    Returns: loss float32 (B,); metric `perceived`: objects with every attribute named right, of all objects.
    """

    weight: float = 1.0
    reads = ("objects", "object_boxes")

    def __call__(self, model, outputs, data, layout):
        labels = ops.cast(data["objects"], "int32")
        head = model.heads["objects"](outputs["encoded"][:, layout.vision], grid=layout.grid)
        present = labels[..., 0] >= 0
        found = losses.binary_cross_entropy(head["presence"], ops.cast(present, "float32"))
        fit, _ = losses.box_loss(head["boxes"], data["object_boxes"])
        rows = ops.mean(found, axis=-1) * 4 + losses.masked_mean(fit, present)  # few tokens hold an object
        right = present
        for i, logits in enumerate(head["attributes"]):
            target = ops.maximum(labels[..., i], 0)
            rows = rows + losses.masked_mean(losses.cross_entropy(logits, target), present)
            hit = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), target)
            right = ops.logical_and(right, hit)
        return self.weight * rows, {"perceived": (_count(right), _count(present))}


@dataclass(frozen=True)
class Refer:
    """Mark, after each step, the objects that the text means on its way: supervision for every hop.

    Args:
        hops_per_step: ask for the marks of a level from the step on that allows so many hops each; None = for
            all marks at every step.
    data: `referents` int (B, N, channels), 1 = meant, 0 = an object that is not, -1 = nothing to say.
    Returns: loss float32 (B,); metric `referred`: rows with every mark right, of those with any; settled bool
        (B,): the marks of every hop are asked for by now, and right.
    """

    weight: float = 1.0
    hops_per_step: int | None = None
    reads = ("referents",)

    def __call__(self, model, outputs, data, layout):
        logits = model.heads["referents"](outputs["hidden"][:, layout.vision])
        labelled, wanted = data["referents"] >= 0, data["referents"] > 0
        known = labelled
        if self.hops_per_step:
            level = ops.arange(CHANNELS, dtype="int32") // BRANCHES + 1
            within = ops.expand_dims(outputs["steps"], 1) * self.hops_per_step >= level
            known = ops.logical_and(labelled, ops.expand_dims(within, 1))
        loss = losses.binary_cross_entropy(logits, ops.cast(wanted, "float32"))
        flat = (logits.shape[0], -1)
        rows = losses.masked_mean(ops.reshape(loss, flat), ops.reshape(known, flat))
        wrong = ops.any(ops.logical_and(known, ops.not_equal(logits > 0, wanted)), axis=(1, 2))
        told = ops.any(known, axis=(1, 2))
        hits = ops.cast(ops.logical_and(told, ops.logical_not(wrong)), "float32")
        waiting = ops.any(ops.not_equal(labelled, known), axis=(1, 2))
        settled = ops.logical_not(ops.logical_or(wrong, waiting))
        return self.weight * rows, {"referred": (hits, ops.cast(told, "float32"))}, settled


@dataclass(frozen=True)
class Tell:
    """Say at each object what the text asks of it, with the head that answers questions.

    What a question asks ("what color is ...") is first worked out where the object is; the task token has
    only to fetch it.

    data: `told` int (B, N), an answer, -1 = nothing is asked of what is there.
    Returns: loss float32 (B,); metric `told`: objects whose value is said right, of those asked about.
    """

    weight: float = 1.0
    reads = ("told",)

    def __call__(self, model, outputs, data, layout):
        logits = model.heads["vqa"](outputs["hidden"][:, layout.vision])
        asked, target = data["told"] >= 0, ops.maximum(ops.cast(data["told"], "int32"), 0)
        rows = losses.masked_mean(losses.cross_entropy(logits, target), asked)
        hits = ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), target)
        return self.weight * rows, {"told": (_count(ops.logical_and(hits, asked)), _count(asked))}


@dataclass(frozen=True)
class Contrast:
    """Dual-encoder retrieval: InfoNCE over the rows, where the wrong description of each is a hard negative.

    data: `answer` int32 (B,), 1 = the row's text is true of its image; `other_tokens` and
    `other_padding_mask` (B, T): the description of the opposite truth.
    Returns: loss float32 (B,); metric `recall_at_1`: images that prefer their own text to all others.
    """

    weight: float = 1.0
    reads = ("answer", "other_tokens", "other_padding_mask")

    def __call__(self, model, outputs, data, layout):
        head = model.heads["retrieve"]
        mask, other_mask = outputs["padding_mask"][:, layout.text], data["other_padding_mask"]
        images = head(outputs["encoded"][:, layout.vision], side="image")
        shown = head(outputs["encoded"][:, layout.text], mask, side="text")
        other = head(model.encode_text(data["other_tokens"], other_mask), other_mask, side="text")
        true = ops.expand_dims(data["answer"] > 0, 1)
        texts = ops.concatenate([ops.where(true, shown, other), ops.where(true, other, shown)], axis=0)
        similarity = head.similarity(images, texts)
        best = ops.cast(ops.argmax(similarity, axis=1), "int32")
        hits = ops.cast(ops.equal(best, ops.arange(best.shape[0], dtype="int32")), "float32")
        return self.weight * losses.info_nce(similarity), {"recall_at_1": (hits, ops.ones_like(hits))}


def _count(flags):
    """How many are True in each row: bool (B, N) -> float32 (B,)."""
    return ops.sum(ops.cast(flags, "float32"), axis=-1)
