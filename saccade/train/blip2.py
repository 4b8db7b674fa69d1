"""The objective of BLIP-2's first stage: see what texts say."""

from dataclasses import dataclass

from keras import ops

from saccade import losses
from saccade.data.text import EOS


@dataclass(frozen=True)
class StageOne:
    """Contrast (ITC), matching with hard negatives (ITM) and writing (ITG), summed.

    ITC: symmetric InfoNCE between each text and the query that fits it best. ITM: of each true pair against
    the same image with a hard text and the same text with a hard image, drawn by their similarity; texts that
    are word for word equal are no negatives. ITG: the text written from the queries alone.

    data: images (B, H, W, 3), tokens int32 (B, T), padding_mask bool (B, T): saccade.data.interleaved.Pairs.

    Args: decode_token: stands for the text's first token where it is written, as [DEC] does for [CLS].
    Metrics: the three losses; `rank_1`: images whose own text is the most similar; `match_accuracy`.
    Source: BLIP-2, section 3.2, arXiv:2301.12597; negatives as in ALBEF, section 3.2, arXiv:2107.07651.
    """

    decode_token: int = EOS

    def initial_carry(self, model, batch) -> dict:
        return {}

    def __call__(self, model, carry, batch, seed):
        tokens, kept = batch["tokens"], batch["padding_mask"]
        vision = ops.stop_gradient(model.see(batch["images"]))  # the tower is frozen
        similarity = model.similarity(model.image_vectors(vision), model.text_vectors(tokens, kept))
        similarity = model.temperature * similarity
        contrast = ops.mean(losses.info_nce(similarity))
        matching, right = self._match(model, vision, tokens, kept, similarity, seed)
        rows = tokens.shape[0]
        first = ops.full((rows, 1), self.decode_token, "int32")
        logits = model.caption_logits(vision, ops.concatenate([first, tokens[:, 1:]], axis=1), kept)
        writing = ops.mean(losses.token_loss(logits, tokens, kept))
        own = ops.arange(rows, dtype="int32")
        best = ops.cast(ops.argmax(similarity, axis=1), "int32")
        metrics = {
            "contrast": contrast,
            "matching": matching,
            "writing": writing,
            "rank_1": ops.mean(ops.cast(ops.equal(best, own), "float32")),
            "match_accuracy": right,
        }
        return contrast + matching + writing, carry, metrics, rows

    def _match(self, model, vision, tokens, kept, similarity, seed):
        """ITM's loss and the share of the 3 B pairs that are judged right."""
        rows = tokens.shape[0]
        same = ops.all(ops.equal(ops.expand_dims(tokens, 1), ops.expand_dims(tokens, 0)), axis=-1)
        text, text_found = losses.hard_negatives(similarity, same, seed)
        image, image_found = losses.hard_negatives(ops.transpose(similarity), same, seed)

        def three(own, by_text, by_image):
            return ops.concatenate([own, by_text, by_image], axis=0)

        logits = model.match(
            three(vision, vision, ops.take(vision, image, axis=0)),
            three(tokens, ops.take(tokens, text, axis=0), tokens),
            three(kept, ops.take(kept, text, axis=0), kept),
        )
        logit = logits[:, 1] - logits[:, 0]  # softmax over two classes is a sigmoid of this
        true, *false = ops.split(logit, 3, axis=0)
        others, found = ops.stack(false, axis=1), ops.stack([text_found, image_found], axis=1)
        loss = ops.mean(losses.itm_loss(true, others, found))
        right = ops.equal(logit > 0, ops.arange(3 * rows) < rows)
        return loss, ops.mean(ops.cast(right, "float32"))
