"""Decoders that read image tokens as if they were words."""

from keras import ops

from saccade.fusion.projection import splice
from saccade.model import Model


class SplicedDecoder(Model):
    """A Model with `language`, a Llama or OPT, and `encode_images(images (N, H, W, 3)) -> float (N, M, D)`.

    Call: batch: see NanoVLM.
    Returns: logits float32 (B, S, V); logits[:, t] predicts token t + 1.
    """

    def embed(self, batch):
        """What the decoder reads: float (B, S, D)."""
        x, images = self.language.embed(batch["tokens"]), batch["images"]
        if 0 in images.shape:
            return x
        soft = self.encode_images(ops.reshape(images, (-1, *images.shape[-3:])))
        if len(images.shape) == 5:
            soft = ops.reshape(soft, (*images.shape[:2], *soft.shape[1:]))
        return splice(x, soft, batch["image_mask"])

    def read(self, batch):
        """What the decoder makes of a batch: float (B, S, D); `language.unembed` makes logits of it."""
        return self.language(self.embed(batch), batch.get("padding_mask"), batch.get("segments"))

    def call(self, batch):
        return self.language.unembed(self.read(batch))

    def prefill(self, batch, room: int):
        """Read a batch whose padding stands first; see Llama.prefill."""
        return self.language.prefill(self.embed(batch), batch["padding_mask"], room)

    def step(self, tokens, cache):
        """Read tokens int32 (B, T) more; see Llama.step."""
        return self.language.step(tokens, cache)
