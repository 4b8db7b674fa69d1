"""From vision width to model width, with fewer tokens on the way, and into the text."""

import keras
from keras import ops

from saccade.layers.embeddings import pixel_shuffle


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
    rows, which = ops.reshape(soft, (-1, soft.shape[-1])), ops.reshape(which, (-1,))
    rows = _read_once(rows, which, ops.reshape(image_mask, (-1,)))
    rows = ops.reshape(ops.cast(rows, x.dtype), ops.shape(x))
    return ops.where(ops.expand_dims(image_mask, -1), rows, x)


def _read_once(rows, which, kept):
    """rows[which] for a caller that drops the places that are not kept; no two of the kept read the same row.

    So the gradient is a gather as well, from the place that reads each row. A plain gather's is a scatter
    that adds, and there the dropped places, many of them at one row, take turns on a GPU to add zeros.

    Args: rows: float (R, D).  which: int32 (P,), R = none (NaN on JAX).  kept: bool (P,).
    Returns: float (P, D).
    """

    @ops.custom_gradient
    def read(rows):
        def gradient(*args, upstream=None):
            given = args[0] if upstream is None else upstream
            count = rows.shape[0]
            target = ops.expand_dims(ops.where(kept, which, count), 1)  # the dropped: behind the last row
            place = ops.arange(1, which.shape[0] + 1, dtype="int32")  # 0 = nowhere
            place = ops.scatter_update(ops.zeros((count + 1,), "int32"), target, place)[:count]
            found = ops.take(given, ops.maximum(place - 1, 0), axis=0)
            return ops.where(ops.expand_dims(place > 0, 1), found, ops.zeros_like(found))

        return ops.take(rows, which, axis=0), gradient

    return read(rows)
