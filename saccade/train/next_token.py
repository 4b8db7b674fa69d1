"""The objective of a language model that sees: predict each token of the answers."""

from dataclasses import dataclass
from typing import Literal

from keras import ops

from saccade import losses
from saccade.errors import SaccadeError
from saccade.losses.tokens import CHUNK

BY_TOKEN = ("tokens", "image_mask", "targets")
Averaging = Literal["token", "square", "sample"]
_EXPONENTS = {"token": 0.0, "square": 0.5, "sample": 1.0}


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the token that follows, averaged over the tokens of the batch that count.

    By `token` all weigh the same, as published, and a conversation as much as it has of them: a description
    of forty tokens twenty times as much as a word with its end. By `sample` all conversations weigh the same;
    by `square` one of n tokens weighs sqrt(n).

    With `accumulate`, each batch's mean weighs the same, as in the published code.

    data: what NanoVLM reads, its first axis the rows, so that images are (B, H, W, 3) or (B, T, H, W, 3);
        `targets` int32 (B, S): the token after, -100 = does not count. `ChatProcessor(train=True)` makes it.

    Args:
        chunk: tokens whose logits exist at once.  averaging: above.
    Metrics: `token_accuracy`: of those that count, predicted right; `tokens`: how many count in a batch.
    Source: nanoVLM, github.com/huggingface/nanoVLM; averaging: InternVL 2.5, arXiv:2412.05271.
    """

    chunk: int = CHUNK
    averaging: Averaging = "token"

    def __post_init__(self):
        if self.averaging not in _EXPONENTS:
            raise SaccadeError(f"averaging={self.averaging!r}; use one of {', '.join(_EXPONENTS)}")

    def initial_carry(self, model, batch) -> dict:
        return {}

    def __call__(self, model, carry, batch, seed):
        batch = padding_last(batch)
        weights = token_weights(batch["targets"], batch.get("segments"), self.averaging)
        hidden, targets, weights = model.read(batch), _flat(batch["targets"]), _flat(weights)
        hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))
        sums = losses.next_token(hidden, model.language.head, targets, self.chunk, weights)
        total, right = ops.unstack(sums)
        count = ops.sum(ops.cast(targets >= 0, "float32"))
        metrics = {"token_accuracy": (right, count), "tokens": count}
        return total / ops.maximum(ops.sum(weights), 1e-9), carry, metrics, batch["tokens"].shape[0]


def token_weights(targets, segments=None, averaging: Averaging = "token"):
    """What each token weighs in the mean: 1, 1 / sqrt(n) or 1 / n where its conversation has n that count.

    Args: targets: int32 (B, S), negative = does not count.  segments: int32 (B, S), the conversations of a
        row; None = a row is one.
    Returns: float32 (B, S), 0 where a token does not count.
    """
    counts = ops.cast(targets >= 0, "float32")
    if averaging == "token":
        return counts
    if segments is None:
        segments = ops.ones_like(targets)
    same = ops.equal(ops.expand_dims(segments, 1), ops.expand_dims(segments, 2))
    size = ops.sum(ops.cast(same, "float32") * ops.expand_dims(counts, 1), axis=2)
    return counts * ops.maximum(size, 1.0) ** -_EXPONENTS[averaging]


def _flat(t):
    return ops.reshape(t, (-1,))


def padding_last(batch: dict) -> dict:
    """The batch with each row's padding behind what it keeps, where no token sees it: no mask is needed."""
    if "padding_mask" not in batch:
        return batch
    order = ops.argsort(ops.cast(ops.logical_not(batch["padding_mask"]), "int32"), axis=1)  # stable
    moved = {key: ops.take_along_axis(batch[key], order, axis=1) for key in BY_TOKEN}
    return {**{key: value for key, value in batch.items() if key != "padding_mask"}, **moved}
