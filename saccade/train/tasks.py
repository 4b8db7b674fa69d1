"""What the task heads learn: one objective, the loss and the labels picked by the head's task."""

from dataclasses import dataclass

from keras import ops

from saccade import losses
from saccade.heads.task import VLMTaskType


@dataclass(frozen=True)
class HeadLoss:
    """The mean loss of a task head over the rows of a batch.

    | task | labels in the batch | loss | metric |
    |---|---|---|---|
    | vqa | `answer_targets` (B, K), `answer_types` (B,) optional | sum of BCE + CE of type | `accuracy` |

    data: what the head reads, and the labels above.
    Source: vqa: Tips and Tricks for Visual Question Answering, section 3.5, arXiv:1708.02711.
    """

    def initial_carry(self, model, batch) -> dict:
        return {}

    def __call__(self, model, carry, batch, seed):
        loss, metrics = _LOSSES[model.config.task](model(batch), batch)
        return ops.mean(loss), carry, metrics, loss.shape[0]


def _vqa(outputs: dict, batch: dict):
    logits, targets = outputs["answer_logits"], ops.cast(batch["answer_targets"], "float32")
    loss = ops.sum(losses.binary_cross_entropy(logits, targets), axis=-1)
    if "answer_types" in batch:
        loss = loss + losses.cross_entropy(outputs["answer_type_logits"], batch["answer_types"])
    best = ops.argmax(logits, axis=-1)
    return loss, {"accuracy": ops.mean(ops.take_along_axis(targets, best[:, None], axis=1))}


_LOSSES = {VLMTaskType.VQA: _vqa}
