"""From vision width to model width, with fewer tokens on the way, and into the text."""

import keras
from keras import ops


def pixel_shuffle(x, grid: tuple, factor: int):
    """Fold each factor x factor square of patches into one longer vector.

    Args:
        x: (B, H * W, C), row-major over grid = (H, W).
        factor: r; must divide H and W.
    Returns: (B, H * W / r^2, r^2 * C), row-major over (H / r, W / r).
    Raises: ValueError: r does not divide the grid (states both).
    Source: nanoVLM's modality projector; equal to Idefics3Connector.pixel_shuffle in transformers.
    """
    rows, columns = grid
    if rows % factor or columns % factor:
        raise ValueError(f"pixel shuffle by {factor} does not divide the patch grid {rows} x {columns}")
    channels = x.shape[-1]
    x = ops.reshape(x, (-1, rows // factor, factor, columns // factor, factor, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, rows * columns // factor**2, factor**2 * channels))


class Projection(keras.layers.Layer):
    """Pixel shuffle, then one Linear without bias.

    Args:
        vision_dim: C.  dim: D.  shuffle: r, 1 = keep every patch.
    Call: x: float (B, N, C).  grid: (rows, columns) with rows * columns = N.
    Returns: float (B, N / r^2, D).
    """

    def __init__(self, vision_dim: int, dim: int, shuffle: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.vision_dim = vision_dim
        self.dim = dim
        self.shuffle = shuffle
        self.linear = keras.layers.Dense(dim, use_bias=False, dtype=self.dtype_policy, name="linear")

    def build(self, input_shape=None):
        self.linear.build((None, None, self.vision_dim * self.shuffle**2))

    def call(self, x, grid):
        return self.linear(pixel_shuffle(x, grid, self.shuffle))


def splice(x, soft, image_mask):
    """Put image tokens into the places that a sequence keeps for them.

    Args:
        x: float (B, S, D), embedded tokens.
        soft: float (N, M, D), the image tokens of all rows of the batch, in reading order; N * M places of
            image_mask are True. Or float (B, T, M, D), those of each row; what a row has no place for is not
            read.
        image_mask: bool (B, S), True where an image token belongs.
    Returns: float (B, S, D), dtype of x. Places without an image token (too few images) are NaN on JAX:
        `saccade.data.chat_processor` counts them beforehand.
    """
    groups = soft.shape[0] if len(soft.shape) == 4 else 1
    soft = ops.reshape(soft, (groups, -1, soft.shape[-1]))
    which = ops.maximum(ops.cumsum(ops.cast(ops.reshape(image_mask, (groups, -1)), "int32"), axis=1) - 1, 0)
    first = ops.expand_dims(ops.arange(groups, dtype="int32") * soft.shape[1], 1)
    missing = groups * soft.shape[1]  # a row never reads the images of the next
    which = ops.where(which < soft.shape[1], first + which, missing)
    rows = ops.take(ops.reshape(soft, (-1, soft.shape[-1])), ops.reshape(which, (-1,)), axis=0)
    rows = ops.reshape(ops.cast(rows, x.dtype), ops.shape(x))
    return ops.where(ops.expand_dims(image_mask, -1), rows, x)
