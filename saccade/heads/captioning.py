"""Captioning: a sentence about the image, and about what the text asks of it."""

import keras
from keras import ops

from saccade.errors import SaccadeError
from saccade.heads.task import VLMTaskConfig
from saccade.heads.writing import WritingHead, check_tokens, texts


@keras.saving.register_keras_serializable(package="saccade")
class CaptioningHead(WritingHead):
    """A causal decoder that reads the fused features.

    Without `text_dim` the head reads images only, and a batch with text is refused; with it, a batch may have
    text or leave it out, all rows alike.

    Call: batch: as of TaskHead, but `text_features` may be left out; `tokens` int32 (B, T), see WritingHead.
    Returns: dict: `logits` float32 (B, T, V); logits[:, t] is for token t + 1 and sees tokens[:, : t + 1].
    """

    def __init__(self, config: VLMTaskConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.compile_once()

    def check(self, batch):
        self.check_features(batch)
        if "tokens" not in batch:
            raise SaccadeError("the batch has no 'tokens' to score; add them, or write some: see prompt")
        check_tokens(batch, "tokens", "B, T", self.config)

    def call(self, batch):
        return {"logits": self.decoder(ops.cast(batch["tokens"], "int32"), *self.read(batch))}

    def decode(self, outputs, tokenizer) -> list[str]:
        """Strings of what a Writer wrote, int (B, T), or of a call's outputs: the likeliest next tokens."""
        if isinstance(outputs, dict):
            outputs = ops.argmax(outputs["logits"], axis=-1)
        return texts(outputs, tokenizer)
