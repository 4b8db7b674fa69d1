"""Image-text matching: one shared space, and a closer look at a pair."""

import keras
import numpy as np
from keras import ops

from saccade.fusion.multimodal import project_tokens
from saccade.heads.classify import Classifier
from saccade.heads.dual_encoder import DualEncoderHead
from saccade.heads.task import FusedPool, TaskHead, VLMTaskConfig


@keras.saving.register_keras_serializable(package="saccade")
class MatchingHead(TaskHead):
    """Embeddings of both sides with one learned temperature, and a logit of the fused pair.

    Call: batch: as of TaskHead; row i of the text belongs to row i of the images.
    Returns: dict: `image_embeddings`, `text_embeddings` float32 (B, E), unit length (zeros for a row of
        padding); `similarity` float32 (B, B), images by texts, scaled; `match_logit` float32 (B,).
    """

    def __init__(self, config: VLMTaskConfig, **kwargs):
        super().__init__(config, **kwargs)
        c, policy = config, self.dtype_policy
        self.image_projection = keras.layers.Dense(c.dim, dtype=policy, name="image_projection")
        self.text_projection = keras.layers.Dense(c.dim, dtype=policy, name="text_projection")
        self.dual = DualEncoderHead(c.dim, c.embedding_dim, dtype=policy, name="dual")
        self.read = FusedPool(c, dtype=policy, name="read")
        self.pair = Classifier(c.dim, 1, dtype=policy, name="pair")
        self.compile_once()

    def build(self, input_shape=None):
        self.image_projection.build((None, None, self.config.vision_dim))
        self.text_projection.build((None, None, self.config.text_dim))
        for layer in (self.dual, self.read, self.pair):
            layer.build()
        self.built = True

    def call(self, batch):
        images = project_tokens(batch["vision_features"], batch.get("vision_mask"), self.image_projection)
        texts = project_tokens(batch["text_features"], batch.get("text_mask"), self.text_projection)
        images, texts = self.dual(*images, side="image"), self.dual(*texts, side="text")
        return {
            "image_embeddings": images,
            "text_embeddings": texts,
            "similarity": self.dual.similarity(images, texts),
            "match_logit": self.match(batch),
        }

    def match(self, batch):
        """float32 (B,): the logit that text i belongs to image i."""
        return self.pair(self.read(batch))[:, 0]

    def decode(self, outputs: dict) -> np.ndarray:
        """For each image the texts by falling similarity, int (B, B)."""
        return np.argsort(-ops.convert_to_numpy(outputs["similarity"]), axis=-1, kind="stable")
