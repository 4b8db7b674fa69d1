"""The objective of a CLIP: each image is most like its own text, each text most like its own image."""

from dataclasses import dataclass

import numpy as np
from keras import ops

from saccade import losses


@dataclass(frozen=True)
class Contrastive:
    """InfoNCE, or the sigmoid loss for a model with `logit_bias`, and a term of mined hard negatives.

        loss = mean over rows + hard_weight * recall * mean of log(1 + exp(scale * (wrong - own)))

    `wrong` is the cosine with the hardest text (image) of the batch, mined from the vectors of this step; the
    mean is over rows and both ways. `recall`, the share of rows that beat it, lets the term wait until the
    model tells pairs apart: from the start, the hardest negatives make all vectors collapse into one.

    data: `images` (B, H, W, 3); `tokens` int32 (B, T); `padding_mask` bool (B, T), may be left out. Row i of
        one belongs to row i of the other. Rows of the same text are no negatives of each other to the mined
        term; to the rest of the loss they are, as in the papers: better keep them out of one batch.

    Args:
        hard_weight: of the mined term; 0 = none.
        chunk: None computes the B x B similarities at once; a number, so many columns at a time, in memory
            that grows linearly with B (`saccade.losses.chunked_info_nce`).
    Metrics: `recall`: rows whose own text (image) beats all others of the batch, mean of both ways; `scale`.
    Source: CLIP, arXiv:2103.00020; SigLIP, arXiv:2303.15343; the mined term is the pairwise ranking loss of
        RankNet on what VSE++, section 3.2, arXiv:1707.05612, calls the hardest negatives.
    """

    hard_weight: float = 0.0
    chunk: int | None = None

    def initial_carry(self, model, batch) -> dict:
        return {}

    def __call__(self, model, carry, batch, seed):
        images = model.embed_images(batch["images"])
        texts = model.embed_texts(batch["tokens"], batch.get("padding_mask"))
        scale = model.scale()
        loss = ops.mean(self._rows(images, texts, scale, model.bias() if model.config.logit_bias else None))
        groups = text_groups(batch["tokens"], batch.get("padding_mask"))
        to_text, found_texts = self._hard(images, texts, scale, groups)
        to_image, found_images = self._hard(texts, images, scale, groups)
        recall = (found_texts + found_images) / 2
        if self.hard_weight:
            loss = loss + self.hard_weight * recall * (to_text + to_image) / 2
        metrics = {"recall": recall, "scale": scale}
        return loss, carry, metrics, images.shape[0]

    def _rows(self, images, texts, scale, bias):
        if self.chunk is None:
            similarity = scale * ops.matmul(images, ops.transpose(texts))
            return losses.info_nce(similarity) if bias is None else losses.siglip_loss(similarity, bias)
        if bias is None:
            return losses.chunked_info_nce(images, texts, scale, self.chunk)
        return losses.chunked_siglip_loss(images, texts, scale, bias, self.chunk)

    def _hard(self, ones, others, scale, groups):
        """The mined term of one direction, and the share of rows that beat it."""
        index, found = losses.hardest(ones, others, self.chunk or 1024, groups)
        wrong = ops.sum(ones * ops.take(others, index, axis=0), axis=-1)
        own = ops.sum(ones * others, axis=-1)
        rows = ops.where(found, ops.softplus(scale * (wrong - own)), 0.0)
        beaten = ops.logical_or(own > wrong, ops.logical_not(found))
        return ops.mean(rows), ops.mean(ops.cast(beaten, "float32"))


def text_groups(tokens, padding_mask=None):
    """int32 (B,): a number of each text, the same for the same tokens (for others by chance, 1 in 2^32)."""
    if padding_mask is not None:
        tokens = ops.where(padding_mask, tokens, -1)
    factors = np.random.default_rng(0).integers(-(2**31), 2**31, tokens.shape[1]).astype(np.int32) | 1
    return ops.cast(ops.sum(tokens * ops.convert_to_tensor(factors), axis=1), "int32")
