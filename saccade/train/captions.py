"""The objective of captioners: predict each word of a text about an image, and look where it says."""

from dataclasses import dataclass

from keras import ops

from saccade.train.objectives import point_loss, write_loss


@dataclass(frozen=True)
class Describe:
    """Cross-entropy of every token, and what else is asked of the model in training.

    data: `images`; `decoder_tokens`, `targets` int32 (B, L), `loss_mask` bool (B, L), as `Collate` makes them
        for task caption; `mentions` bool (B, L, N) with `point_weight`; what the losses of `also` read.

    Args:
        also: further losses on the cells, called as those of `Recursive` (`Perceive`).
        point_weight: of `point_loss`; 0 = not asked.
        attend_weight: doubly stochastic attention: mean_i (1 - sum_t alpha_ti)^2 over the words that count,
            so that every cell is looked at once in a text; 0 = not asked.
    Metrics: `token_accuracy`; `pointed`: attention on the cells that a word speaks of; those of `also`.
    Raises: ValueError: attention is asked of a model that does not look again.
    Source: Show, Attend and Tell, equation 14, arXiv:1502.03044 (a mean over cells in place of their sum).
    """

    also: tuple = ()
    point_weight: float = 0.0
    attend_weight: float = 0.0

    def initial_carry(self, model, batch) -> dict:
        return {}

    def __call__(self, model, carry, batch, seed):
        cells = model.encode(batch["images"], training=True)
        everything = ops.ones(cells.shape[:2], "bool")
        outputs = {"encoded": cells, "memory": cells, "padding_mask": everything}
        rows, share, scores = write_loss(model, outputs, batch)
        metrics = {"token_accuracy": ops.mean(share)}
        if scores is None and (self.point_weight or self.attend_weight):
            raise ValueError(
                f"point_weight={self.point_weight}, attend_weight={self.attend_weight}: a "
                f"{type(model).__name__} has no attention to teach; leave both 0"
            )
        if self.point_weight:
            pointing, mass = point_loss(scores[:, 0], batch["mentions"])
            rows, metrics["pointed"] = rows + self.point_weight * pointing, ops.mean(mass)
        if self.attend_weight:
            counted = ops.expand_dims(ops.cast(batch["loss_mask"], "float32"), -1)
            looked = ops.sum(scores[:, 0] * counted, axis=1)
            rows = rows + self.attend_weight * ops.mean(ops.square(1.0 - looked), axis=-1)
        for loss in self.also:
            value, found = loss(model, outputs, batch, model.layout)
            rows = rows + value
            metrics |= {name: (ops.sum(hits), ops.sum(among)) for name, (hits, among) in found.items()}
        return ops.mean(rows), carry, metrics, rows.shape[0]
