"""Grounding: the box of what the text names."""

import keras
import numpy as np
from keras import ops

from saccade.errors import SaccadeError
from saccade.fusion.multimodal import MultiModalFusion
from saccade.heads.region import GroundingHead, best_box, check_grid
from saccade.heads.task import TaskHead, VLMTaskConfig, check_label
from saccade.layers.pooling import AttentionPooling


@keras.saving.register_keras_serializable(package="saccade")
class VisualGroundingHead(TaskHead):
    """Every patch, told of the text, proposes a box and scores it.

    Call: batch: as of TaskHead; `vision_features` are (B, N, C), row-major, N of `config.grid`.
        The label `box` (B, 4), where given, is checked: see check_boxes.
    Returns: dict: `boxes` float32 (B, N, 4) cxcywh in [0, 1]; `score_logits` float32 (B, N), -1e9 where a
        patch is padded; `confidence` float32 (B, N), shares that sum to 1, 0 for a row without any patch.
    Raises: SaccadeError: features without the patches of the grid.
    """

    def __init__(self, config: VLMTaskConfig, **kwargs):
        super().__init__(config, **kwargs)
        c, policy = config, self.dtype_policy
        # The patches stand where the fusion expects text: its result is then one token for each patch.
        self.fusion = MultiModalFusion(
            c.fusion, c.dim, c.text_dim, c.vision_dim, c.num_heads, dtype=policy, name="fusion"
        )
        # Two-way attention fuses the text too: each patch is given what that text comes to.
        self.pool = None
        if c.fusion == "attention":
            self.pool = AttentionPooling(c.dim, c.num_heads, dtype=policy, name="pool")
        self.region = GroundingHead(c.dim, dtype=policy, name="region")
        self.compile_once()

    def build(self, input_shape=None):
        for layer in (self.fusion, self.pool, self.region):
            if layer is not None:
                layer.build()
        self.built = True

    def check(self, batch):
        super().check(batch)
        check_grid(batch["vision_features"], self.config.grid)
        if check_label(batch, "box", (batch["vision_features"].shape[0], 4)) and isinstance(
            batch["box"], np.ndarray
        ):
            check_boxes(batch["box"])

    def call(self, batch):
        patches, mask = batch["vision_features"], batch.get("vision_mask")
        fused, kept = self.fusion(
            batch["text_features"], patches, vision_mask=batch.get("text_mask"), text_mask=mask
        )
        told = fused[:, -patches.shape[1] :]
        if self.pool is not None:
            text = slice(0, fused.shape[1] - patches.shape[1])
            told = told + ops.expand_dims(self.pool(fused[:, text], kept[:, text]), 1)
        outputs = self.region(told, grid=self.config.grid)
        scores = outputs["score_logits"]
        if mask is None:
            return {**outputs, "confidence": ops.softmax(scores, axis=-1)}
        scores = ops.where(mask, scores, -1e9)
        confidence = ops.where(mask, ops.softmax(scores, axis=-1), 0.0)
        return {**outputs, "score_logits": scores, "confidence": confidence}

    def decode(self, outputs: dict) -> tuple[np.ndarray, np.ndarray]:
        """The best box of each row, float32 (B, 4) xyxy in [0, 1], and its confidence, float32 (B,)."""
        box, _ = best_box(outputs)
        return ops.convert_to_numpy(box), ops.convert_to_numpy(ops.max(outputs["confidence"], axis=-1))


def check_boxes(boxes) -> np.ndarray:
    """The boxes as float32 (..., 4).

    Raises: SaccadeError: not four numbers; outside [0, 1], inverted or of no area, with the first one.
    """
    boxes = np.asarray(boxes, np.float32)
    if not boxes.ndim or boxes.shape[-1] != 4:
        raise SaccadeError(f"boxes are {boxes.shape}; give (..., 4), xyxy in [0, 1]")
    flat = boxes.reshape(-1, 4)
    inside = ((flat >= 0) & (flat <= 1)).all(-1)
    if not inside.all():
        index = int(np.argmin(inside))
        raise SaccadeError(f"box {index} is {_shown(flat[index])}; give xyxy in [0, 1], not pixels")
    ordered = (flat[:, :2] < flat[:, 2:]).all(-1)
    if not ordered.all():
        index = int(np.argmin(ordered))
        raise SaccadeError(f"box {index} is {_shown(flat[index])}, of no area; give x0 < x1 and y0 < y1")
    return boxes


def _shown(box) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
