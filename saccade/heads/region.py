"""Boxes from patches."""

import keras
from keras import ops

from saccade.errors import SaccadeError
from saccade.layers.normalization import RMSNorm
from saccade.losses import to_xyxy


class GroundingHead(keras.layers.Layer):
    """Every patch proposes a box and says how likely it holds the centre of what is meant.

    Args:
        dim: width of a vision token.
    Call:
        vision: float (B, N, D), row-major.
        grid: (rows, columns), rows * columns = N.
    Returns: dict: `boxes` float32 (B, N, 4) cxcywh in [0, 1]; `score_logits` float32 (B, N).
    """

    def __init__(self, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.norm = RMSNorm(dim, dtype=self.dtype_policy, name="norm")
        self.hidden = keras.layers.Dense(dim, activation="silu", dtype=self.dtype_policy, name="hidden")
        self.output_projection = keras.layers.Dense(5, dtype="float32", name="output")

    def build(self, input_shape=None):
        self.norm.build()
        self.hidden.build((None, None, self.dim))
        self.output_projection.build((None, None, self.dim))

    def call(self, vision, grid):
        raw = self.output_projection(self.hidden(self.norm(vision)))
        return {"boxes": propose_boxes(raw[..., :4], grid), "score_logits": raw[..., 4]}


def propose_boxes(raw, grid):
    """Four free numbers of every patch, float32 (B, N, 4), to a box cxcywh in [0, 1] near it."""
    # A patch may point up to one patch beyond itself; sizes are shares of the whole image.
    reach = ops.convert_to_tensor([1.5 / grid[1], 1.5 / grid[0]], dtype="float32")
    center = ops.clip(patch_centers(grid) + ops.tanh(raw[..., :2]) * reach, 0.0, 1.0)
    return ops.concatenate([center, ops.sigmoid(raw[..., 2:] - 1.5)], axis=-1)


class ObjectHead(keras.layers.Layer):
    """What stands where: for every vision token, is an object's centre in it, of what kind, and its box.

    Args:
        dim: width of a vision token.
        attributes: number of classes of each attribute (shape, color, ...).
    Call:
        vision: float (B, N, D), row-major.
        grid: (rows, columns), rows * columns = N.
    Returns: dict: `presence` float32 (B, N), logits; `attributes` tuple of float32 (B, N, classes), logits;
        `boxes` float32 (B, N, 4) cxcywh in [0, 1].
    """

    def __init__(self, dim: int, attributes: tuple, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.attributes = tuple(attributes)
        self.hidden = keras.layers.Dense(dim, activation="silu", dtype=self.dtype_policy, name="hidden")
        self.output_projection = keras.layers.Dense(5 + sum(attributes), dtype="float32", name="output")

    def build(self, input_shape=None):
        self.hidden.build((None, None, self.dim))
        self.output_projection.build((None, None, self.dim))

    def call(self, vision, grid):
        raw = self.output_projection(self.hidden(vision))
        edges = [5]
        for size in self.attributes[:-1]:
            edges.append(edges[-1] + size)
        first, *attributes = ops.split(raw, edges, axis=-1)
        return {
            "presence": first[..., 4],
            "attributes": tuple(attributes),
            "boxes": propose_boxes(first[..., :4], grid),
        }


def check_grid(features, grid) -> None:
    """Raise SaccadeError, one line, unless the features (B, N, C) have the patches of the grid."""
    shape, patches = tuple(features.shape), grid[0] * grid[1]
    if len(shape) != 3 or shape[1] != patches:
        raise SaccadeError(f"vision_features are {shape}, a grid of {grid} has {patches} patches; set grid")


def patch_centers(grid):
    """float32 (1, N, 2): (x, y) of every patch centre in [0, 1], row-major."""
    rows, columns = grid
    y = (ops.arange(rows, dtype="float32") + 0.5) / rows
    x = (ops.arange(columns, dtype="float32") + 0.5) / columns
    xx, yy = ops.meshgrid(x, y, indexing="xy")
    return ops.reshape(ops.stack([xx, yy], axis=-1), (1, rows * columns, 2))


def containing_patch(boxes, grid):
    """int32 (B,): the patch that holds the centre of each xyxy box (B, 4)."""
    rows, columns = grid
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    column = ops.clip(ops.cast(center[:, 0] * columns, "int32"), 0, columns - 1)
    row = ops.clip(ops.cast(center[:, 1] * rows, "int32"), 0, rows - 1)
    return row * columns + column


def best_box(outputs):
    """The box of the highest-scoring patch.

    Returns: boxes float32 (B, 4) xyxy in [0, 1]; confidence float32 (B,), that patch's share of the scores.
    """
    scores = ops.softmax(outputs["score_logits"], axis=-1)
    best = ops.argmax(scores, axis=-1)
    picked = ops.take_along_axis(outputs["boxes"], best[:, None, None], axis=1)[:, 0]
    return ops.clip(to_xyxy(picked), 0.0, 1.0), ops.max(scores, axis=-1)
