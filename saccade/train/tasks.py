"""What the task heads learn: one objective, the loss and the labels picked by the head's task."""

from dataclasses import dataclass

from keras import ops

from saccade import losses
from saccade.heads.task import VLMTaskType
from saccade.train.objectives import ground_loss


@dataclass(frozen=True)
class HeadLoss:
    """The mean loss of a task head over the rows of a batch.

    | task | labels in the batch | loss | metric |
    |---|---|---|---|
    | vqa | `answer_targets` (B, K), `answer_types` (B,) optional | sum of BCE + CE of type | `accuracy` |
    | grounding | `box` (B, 4) xyxy, see check_boxes | `ground_loss`: CE of its centre's patch + L1 + GIoU | `iou` |
    | matching | none: row i fits row i | InfoNCE + BCE of pair and hardest text that is another | `recall` |

    data: what the head reads, and the labels above.
    Source: vqa: Tips and Tricks for Visual Question Answering, section 3.5, arXiv:1708.02711.
    """

    def initial_carry(self, model, batch) -> dict:
        return {}

    def __call__(self, model, carry, batch, seed):
        loss, metrics = _LOSSES[model.config.task](model, model(batch), batch)
        return ops.mean(loss), carry, metrics, loss.shape[0]


def _vqa(model, outputs: dict, batch: dict):
    logits, targets = outputs["answer_logits"], ops.cast(batch["answer_targets"], "float32")
    types = batch.get("answer_types")
    type_logits = None if types is None else outputs["answer_type_logits"]
    best = ops.argmax(logits, axis=-1)
    accuracy = ops.mean(ops.take_along_axis(targets, best[:, None], axis=1))
    return losses.vqa_loss(logits, targets, type_logits, types), {"accuracy": accuracy}


def _grounding(model, outputs: dict, batch: dict):
    loss, iou = ground_loss(outputs, batch["box"], model.config.grid)
    return loss, {"iou": ops.mean(iou)}


def _matching(model, outputs: dict, batch: dict):
    similarity = outputs["similarity"]
    wrong, found = losses.hard_negatives(similarity, _alike(outputs["text_embeddings"]))
    texts = {name: ops.take(batch[name], wrong, axis=0) for name in batch if name.startswith("text_")}
    others = ops.expand_dims(model.match({**batch, **texts}), 1)
    pairs = losses.itm_loss(outputs["match_logit"], others, ops.expand_dims(found, 1))
    first = ops.equal(ops.argmax(similarity, axis=-1), ops.arange(similarity.shape[0]))
    recall = ops.mean(ops.cast(first, "float32"))
    return losses.info_nce(similarity) + pairs, {"recall": recall}


def _alike(texts):
    """bool (B, B): the same text twice in a batch is no wrong text for either image."""
    return ops.matmul(texts, ops.transpose(texts)) > 1 - 1e-5


_LOSSES = {VLMTaskType.VQA: _vqa, VLMTaskType.GROUNDING: _grounding, VLMTaskType.MATCHING: _matching}
