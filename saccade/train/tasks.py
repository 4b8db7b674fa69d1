"""What the task heads learn: one objective, the loss and the labels picked by the head's task."""

from dataclasses import dataclass

from keras import ops

from saccade import losses
from saccade.data.text import PAD
from saccade.errors import SaccadeError
from saccade.heads.dialogue import kept_candidates
from saccade.heads.task import VLMTaskType
from saccade.train.objectives import ground_loss, token_share


@dataclass(frozen=True)
class HeadLoss:
    """The mean loss of a task head over the rows of a batch.

    | task | labels in the batch | loss | metric |
    |---|---|---|---|
    | vqa | `answer_targets` (B, K), `answer_types` (B,) optional | sum of BCE + CE of type | `accuracy` |
    | grounding | `box` (B, 4) xyxy, see check_boxes | `ground_loss`: CE of the patch + L1 + GIoU | `iou` |
    | matching | none: row i fits row i | InfoNCE + BCE of pair and hardest text that is another | `recall` |
    | dense_captioning | of `region_labels`, stacked | set_loss + CE of matched captions | `iou`, `accuracy` |
    | captioning | none: `tokens` are what it reads | CE of the next token | `token_accuracy` |
    | dialogue with `response` | none | CE of the next token | `token_accuracy` |
    | dialogue with `candidates` | `answer_index` (B,) | + CE over the candidates | `recall` |

    Args: smoothing: label smoothing of the tokens of captioning and dialogue.
    data: what the head reads, and the labels above.
    task: of a MultiTaskHead, the name of the head that learns: one stream for each. The loss is then weighed
        by the model's `weigh`, whose log variances, if it has any, learn too; metric `task_loss` is the
        loss before that.
    Raises: SaccadeError: the model has no head of this name, or is a MultiTaskHead and no task is named; the
        batch lacks a label.
    Source: vqa: Tips and Tricks for Visual Question Answering, section 3.5, arXiv:1708.02711.
    """

    task: str | None = None
    smoothing: float = 0.0

    def initial_carry(self, model, batch) -> dict:
        return {}

    def __call__(self, model, carry, batch, seed):
        heads = getattr(model, "heads", {None: model})
        if self.task not in heads:
            raise SaccadeError(f"HeadLoss({self.task!r}): the model's heads are {', '.join(map(str, heads))}")
        head = heads[self.task]
        for name in _LABELS.get(head.config.task, ()):
            if name not in batch:
                raise SaccadeError(f"the batch has no {name!r} for {head.config.task} to learn from; add it")
        options = {"smoothing": self.smoothing} if head.config.task in _WRITTEN else {}
        rows, metrics = _LOSSES[head.config.task](head, head(batch), batch, **options)
        loss = ops.mean(rows)
        if head is not model:
            loss, metrics = model.weigh({self.task: loss}), {**metrics, "task_loss": loss}
        return loss, carry, metrics, rows.shape[0]


def _vqa(model, outputs: dict, batch: dict):
    logits, targets = outputs["answer_logits"], ops.cast(batch["answer_targets"], "float32")
    types = batch.get("answer_types")
    type_logits = None if types is None else outputs["answer_type_logits"]
    best = ops.argmax(logits, axis=-1)
    accuracy = ops.mean(ops.take_along_axis(targets, best[:, None], axis=1))
    return losses.vqa_loss(logits, targets, type_logits, types), {"accuracy": accuracy}


def _grounding(model, outputs: dict, batch: dict):
    loss, iou = ground_loss(outputs, batch["box"], model.config.grid, batch.get("vision_mask"))
    return loss, {"iou": ops.mean(iou)}


def _matching(model, outputs: dict, batch: dict):
    similarity = outputs["similarity"]
    same = same_text(batch["text_features"], batch.get("text_mask"))
    wrong, found = losses.hard_negatives(similarity, same)
    texts = {name: ops.take(batch[name], wrong, axis=0) for name in batch if name.startswith("text_")}
    others = ops.expand_dims(model.match({**batch, **texts}), 1)
    pairs = losses.itm_loss(outputs["match_logit"], others, ops.expand_dims(found, 1))
    first = ops.equal(ops.argmax(similarity, axis=-1), ops.arange(similarity.shape[0]))
    recall = ops.mean(ops.cast(first, "float32"))
    return losses.info_nce(similarity) + pairs, {"recall": recall}


def same_text(features, mask=None):
    """Which rows are one and the same text: no wrong text for each other's image.

    Judged by what the head reads, not by its embeddings, which are all alike before it has learnt anything.
    The same: closer than a hundredth of how far texts of this batch are from their mean; a single token that
    differs is further.

    Args: features: float (B, T, D) or (B, D).  mask: bool (B, T), True = keep; None = all.
    Returns: bool (B, B).
    """
    x = ops.stop_gradient(ops.cast(features, "float32"))
    if mask is not None:
        x = ops.where(ops.expand_dims(mask, -1), x, 0.0)
    x = ops.reshape(x, (x.shape[0], -1))
    x = x - ops.mean(x, axis=0)
    squares = ops.sum(ops.square(x), axis=-1)
    distance = ops.expand_dims(squares, 1) + squares - 2 * ops.matmul(x, ops.transpose(x))
    return distance <= 1e-4 * ops.mean(squares)


def _dense_captioning(model, outputs: dict, batch: dict):
    boxes, tokens = batch["region_boxes"], batch["region_tokens"]
    loss, match = losses.set_loss(
        outputs["boxes"],
        outputs["score_logits"],
        boxes,
        batch["region_mask"],
        score_weight=_SCORE_WEIGHT,
        kept=batch.get("vision_mask"),
    )
    found = match >= 0  # a truth that no patch was left for has no caption either
    logits = model.describe(outputs, match, tokens)
    written = losses.cross_entropy(logits[:, :, :-1], tokens[:, :, 1:])
    words = ops.not_equal(tokens[:, :, 1:], PAD)
    loss = loss + losses.masked_mean(losses.masked_mean(written, words), found)
    chosen = ops.take_along_axis(outputs["boxes"], ops.maximum(match, 0)[:, :, None], axis=1)
    iou, _ = losses.box_iou(losses.to_xyxy(chosen), boxes)
    hits = ops.equal(ops.cast(ops.argmax(logits[:, :, :-1], axis=-1), "int32"), tokens[:, :, 1:])
    words = ops.logical_and(words, ops.expand_dims(found, -1))
    return loss, {"iou": _share(iou, found), "accuracy": _share(hits, words)}


_SCORE_WEIGHT = 4.0  # of few objects among many patches; a mean over all of them


def _share(values, mask):
    """The sum of what counts, and how much does: a metric averaged by weight."""
    weights = ops.cast(mask, "float32")
    return ops.sum(ops.where(mask, ops.cast(values, "float32"), 0.0)), ops.sum(weights)


def _captioning(model, outputs: dict, batch: dict, smoothing: float):
    return _written(outputs["logits"], batch["tokens"], smoothing)


def _dialogue(model, outputs: dict, batch: dict, smoothing: float):
    ranks = "candidates" in batch and "answer_index" in batch
    if not ranks and "response" not in batch:
        raise SaccadeError("the candidates have no 'answer_index' to learn from; add it, or a response")
    loss, metrics = 0.0, {}
    if "response" in batch:
        loss, metrics = _written(outputs["logits"], batch["response"], smoothing)
    if ranks:
        scores, index = outputs["candidate_scores"], ops.cast(batch["answer_index"], "int32")
        loss = loss + losses.listwise_loss(scores, index, kept_candidates(batch))
        first = ops.equal(ops.cast(ops.argmax(scores, axis=-1), "int32"), index)
        metrics = {**metrics, "recall": ops.mean(ops.cast(first, "float32"))}
    return loss, metrics


def _written(logits, tokens, smoothing: float):
    tokens = ops.cast(tokens, "int32")
    mask = tokens != PAD
    share = token_share(logits[:, :-1], tokens[:, 1:], mask[:, 1:])
    return losses.token_loss(logits, tokens, mask, smoothing), {"token_accuracy": ops.mean(share)}


# Labels without which there is nothing to learn; the dialogue's may be one or the other.
_LABELS = {
    VLMTaskType.VQA: ("answer_targets",),
    VLMTaskType.GROUNDING: ("box",),
    VLMTaskType.DENSE_CAPTIONING: ("region_boxes", "region_mask", "region_tokens"),
}
_WRITTEN = (VLMTaskType.CAPTIONING, VLMTaskType.DIALOGUE)
_LOSSES = {
    VLMTaskType.VQA: _vqa,
    VLMTaskType.GROUNDING: _grounding,
    VLMTaskType.MATCHING: _matching,
    VLMTaskType.DENSE_CAPTIONING: _dense_captioning,
    VLMTaskType.CAPTIONING: _captioning,
    VLMTaskType.DIALOGUE: _dialogue,
}
