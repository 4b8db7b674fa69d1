"""The objective of a language model that sees: predict each token of the answers."""

from dataclasses import dataclass

from keras import ops

from saccade import losses

BY_TOKEN = ("tokens", "image_mask", "targets")


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the token that follows, averaged over all tokens of the batch that count.

    With `accumulate`, each batch's mean weighs the same, as in the published code.

    data: what NanoVLM reads, its first axis the rows, so that images are (B, H, W, 3) or (B, T, H, W, 3);
        `targets` int32 (B, S): the token after, -100 = does not count. `ChatProcessor(train=True)` makes it.

    Args: chunk: tokens whose logits exist at once.
    Metrics: `token_accuracy`: of those that count, predicted right; `tokens`: how many count in a batch.
    Source: nanoVLM, github.com/huggingface/nanoVLM.
    """

    chunk: int = 2048

    def initial_carry(self, model, batch) -> dict:
        return {}

    def __call__(self, model, carry, batch, seed):
        batch = padding_last(batch)
        hidden, targets = model.read(batch), ops.reshape(batch["targets"], (-1,))
        hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))
        total, right = ops.unstack(losses.next_token(hidden, model.language.head, targets, self.chunk))
        count = ops.sum(ops.cast(targets >= 0, "float32"))
        metrics = {"token_accuracy": (right, count), "tokens": count}
        return total / ops.maximum(count, 1.0), carry, metrics, batch["tokens"].shape[0]


def padding_last(batch: dict) -> dict:
    """The batch with each row's padding behind what it keeps, where no token sees it: no mask is needed."""
    if "padding_mask" not in batch:
        return batch
    order = ops.argsort(ops.cast(ops.logical_not(batch["padding_mask"]), "int32"), axis=1)  # stable
    moved = {key: ops.take_along_axis(batch[key], order, axis=1) for key in BY_TOKEN}
    return {**{key: value for key, value in batch.items() if key != "padding_mask"}, **moved}
