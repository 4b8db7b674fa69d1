"""Turning pixels and token ids into vectors."""

import keras
import numpy as np
from keras import ops

from saccade import backend
from saccade.layers.cache import slots_of


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


class PatchConvolution(keras.layers.Conv2D):
    """A convolution whose stride is the side of its kernel, computed as what it is: a product.

    Variables and values are Conv2D's. cuDNN has no good kernel for it: on an H100 its forward pass took
    0.53 of the 47 ms of nanoVLM's training step.

    Args:
        filters: D.  side: p, of a patch.  use_bias: as of Conv2D.
    Call: x: float (B, H, W, C).
    Returns: float (B, H / p, W / p, D).
    Raises: ValueError: p does not divide H and W.
    """

    def __init__(self, filters: int, side: int, use_bias: bool = True, **kwargs):
        super().__init__(
            filters, side, strides=side, data_format="channels_last", use_bias=use_bias, **kwargs
        )

    def convolution_op(self, inputs, kernel):
        height, width, channels = inputs.shape[1:]
        side = self.kernel_size[0]
        pixels = ops.reshape(inputs, (-1, height * width, channels))
        patches = pixel_shuffle(pixels, (height, width), side)
        y = backend.tensordot(patches, ops.reshape(kernel, (-1, self.filters)), (-1, 0))
        return ops.reshape(y, (-1, height // side, width // side, self.filters))


class PatchEmbedding(keras.layers.Layer):
    """Pixels to patch vectors with learned 2-D positions, for any H x W that the patch divides.

    Without a stem it is SigLIP's single convolution (kernel = stride = patch). With one, 3x3 convolutions of
    stride 2 come first (Early Convolutions Help Transformers See Better, arXiv:2106.14881): a model
    trained from scratch learns edges sooner.

    Args:
        dim: width of a patch vector.
        patch_size: pixels a side.
        grid: (rows, columns) of the position table; other grids get it interpolated.
        interpolation: how, see `resize_positions`.
        stem: channels of the stem's convolutions; 2 ** len(stem) must divide patch_size.
        centered: the last convolution of the stem pads above and left instead of below and right. What a
            patch sees then reaches equally far to all sides of it; otherwise nothing above or left of it.
        use_bias: of the projection; CLIP has none.
    Call: images: float (B, H, W, 3) in [0, 1].
    Returns: float (B, H * W / patch_size^2, D), row-major.
    Raises: ValueError: the patch does not divide the image, or the stem outgrows the patch.
    """

    def __init__(
        self,
        dim: int,
        patch_size: int,
        grid: tuple,
        stem: tuple = (),
        centered: bool = False,
        use_bias: bool = True,
        interpolation: str = "bilinear",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if patch_size % 2 ** len(stem):
            raise ValueError(
                f"a stem of {len(stem)} strided convolutions shrinks by {2 ** len(stem)}, which does not "
                f"divide patch_size={patch_size}; shorten the stem"
            )
        self.dim = dim
        self.patch_size = patch_size
        self.grid = tuple(grid)
        self.stem = tuple(stem)
        self.centered = centered
        self.interpolation = interpolation
        policy = self.dtype_policy
        self.convolutions = [
            keras.layers.Conv2D(width, 3, strides=2, padding="valid", dtype=policy, name=f"stem_{i}")
            for i, width in enumerate(stem)
        ]
        self.norms = [
            keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name=f"stem_norm_{i}")
            for i in range(len(stem))
        ]
        rest = patch_size // 2 ** len(stem)
        self.projection = PatchConvolution(dim, rest, use_bias=use_bias, dtype=policy, name="projection")

    def build(self, input_shape=None):
        channels = 3
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            convolution.build((None, None, None, channels))
            channels = convolution.filters
            norm.build((None, None, None, channels))
        self.projection.build((None, None, None, channels))
        self.positions = self.add_weight(
            shape=(*self.grid, self.dim),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name="positions",
        )

    def call(self, images):
        height, width = images.shape[1:3]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image of {height} x {width} px is not a multiple of patch_size={self.patch_size}; resize it"
            )
        x = images
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            side = (1, 0) if self.centered and i == len(self.stem) - 1 else (0, 1)
            x = convolution(ops.pad(x, ((0, 0), side, side, (0, 0))))
            x = ops.gelu(norm(x), approximate=True)
        x = self.projection(x)
        rows, columns = x.shape[1:3]
        x = x + ops.cast(self._positions_at((rows, columns)), x.dtype)
        return ops.reshape(x, (-1, rows * columns, self.dim))

    def _positions_at(self, grid):
        table = ops.convert_to_tensor(self.positions)
        return table if grid == self.grid else resize_positions(table, grid, self.interpolation)


# Weight of an old cell by its distance from where a new one lies. Cubic: Keys (1981), equation 15 before its
# choice of a; a = -0.75 is torch's, and so that of transformers.
_KERNELS = {
    "bilinear": lambda d: np.maximum(1 - d, 0),
    "bicubic": lambda d: np.where(
        d <= 1, (1.25 * d - 2.25) * d**2 + 1, np.where(d < 2, -0.75 * (((d - 5) * d + 8) * d - 4), 0)
    ),
}
INTERPOLATIONS = tuple(_KERNELS)


def resize_positions(table, grid: tuple[int, int], interpolation: str = "bilinear"):
    """A position table (rows, columns, D) for another grid: float32 (*grid, D).

    As torch's interpolate without align_corners and antialias: cells beyond an edge are those at it.

    Args: interpolation: `bilinear`, or `bicubic` as transformers does for SigLIP and CLIP.
    """
    rows, columns = (_weights(*sizes, interpolation) for sizes in zip(grid, table.shape[:2], strict=True))
    return ops.einsum("ir,jc,rcd->ijd", rows, columns, ops.cast(table, "float32"))


def _weights(new: int, old: int, interpolation: str) -> np.ndarray:
    """What each of `new` cells takes of each of `old`: float32 (new, old)."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    near = np.floor(centers)[:, None] + np.arange(-1, 3)
    weights = np.zeros((new, old))
    parts = _KERNELS[interpolation](abs(near - centers[:, None]))
    np.add.at(weights, (np.arange(new)[:, None], np.clip(near, 0, old - 1).astype(int)), parts)
    return weights.astype(np.float32)


LOOKUP_BY_PRODUCT = 4096  # rows of a table whose gradient is still cheaper as a product


def lookup(table, indices, dtype: str | None = None):
    """table[indices] as dtype; the gradient of a small table is one matrix product.

    The scatter that a gather's gradient is waits, on a GPU, for every token that occurs again: padding alone
    made it a fifth of a training step. That of a large table adds in the table's own float32, which a GPU
    does without taking turns as it must in bfloat16.

    Args: table: float (V, D).  indices: int (...), in [0, V).  dtype: of the result; None = of the table.
    Returns: dtype (..., D).
    """
    dtype = dtype or table.dtype
    if table.shape[0] > LOOKUP_BY_PRODUCT:
        return ops.cast(ops.take(table, indices, axis=0), dtype)

    @ops.custom_gradient
    def read(table):
        def gradient(*args, upstream=None):
            rows = ops.reshape(args[0] if upstream is None else upstream, (-1, table.shape[1]))
            chosen = ops.one_hot(ops.reshape(indices, (-1,)), table.shape[0], dtype=rows.dtype)
            return ops.matmul(ops.transpose(chosen), rows)

        return ops.take(table, indices, axis=0), gradient

    return read(ops.cast(table, dtype))


class TokenEmbedding(keras.layers.Layer):
    """Token ids to vectors plus learned positions, and the tied way back to logits.

    sqrt(D) * (table[token] + positions[t]): the tables start at standard deviation 1 / sqrt(D), so the
    vectors have unit scale while tied logits do too (Attention Is All You Need, section 3.4,
    arXiv:1706.03762; TRM).

    Args:
        vocab_size: V.  dim: D.  max_length: longest sequence.
        scaled: False leaves sqrt(D) out, the tables then start at CLIP's 0.02 and 0.01.
    Call:
        tokens: int32 (B, T).
        start: int, position of the first token; a tensor while decoding with a cache, int32 () or, a position
            per row, (B,).
    Returns: float (B, T, D).
    Raises: ValueError: T exceeds max_length (states both).
    """

    def __init__(self, vocab_size: int, dim: int, max_length: int, scaled: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.dim = dim
        self.max_length = max_length
        self.scale = dim**0.5 if scaled else 1.0
        self._spread = (dim**-0.5, dim**-0.5) if scaled else (0.02, 0.01)

    def build(self, input_shape=None):
        words, places = (keras.initializers.TruncatedNormal(stddev=spread) for spread in self._spread)
        self.table = self.add_weight(shape=(self.vocab_size, self.dim), initializer=words, name="table")
        self.positions = self.add_weight(
            shape=(self.max_length, self.dim), initializer=places, name="positions"
        )

    def call(self, tokens, start=0):
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens exceed max_length={self.max_length}; shorten the text")
        x = lookup(self.table, tokens, self.compute_dtype)
        table = ops.convert_to_tensor(self.positions)
        if len(getattr(start, "shape", ())) == 1:
            # Behind the table stand guesses that nobody keeps.
            positions = ops.take(table, ops.minimum(slots_of(start, length), self.max_length - 1), axis=0)
        else:
            positions = ops.expand_dims(ops.slice(table, (start, 0), (length, self.dim)), 0)
        return (x + ops.cast(positions, x.dtype)) * self.scale

    def unembed(self, hidden):
        """hidden (B, T, D) -> logits float32 (B, T, V), with the embedding's own table."""
        table = ops.cast(ops.transpose(self.table), hidden.dtype)
        return ops.cast(ops.matmul(hidden, table), "float32")
