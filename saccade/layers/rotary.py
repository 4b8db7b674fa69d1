"""Rotary positions: queries and keys turn with their place, so that scores see distances only."""

import numpy as np
from keras import ops


def rotary_table(length: int, head_dim: int, theta: float = 1e4):
    """Cosines and sines of positions 0..length-1, as constants: nothing is computed on the device.

    Angle of position t and pair i: t * theta ** (-2i / E).

    Returns: two float32 NumPy arrays (length, E / 2).
    Source: RoFormer, arXiv:2104.09864, section 3.2.2.
    """
    angles = np.arange(length)[:, None] * frequencies(head_dim, theta)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotary_at(positions, head_dim: int, theta: float = 1e4):
    """As `rotary_table`, at given positions: int32 (..., T) -> two float32 (..., T, E / 2)."""
    angles = ops.expand_dims(ops.cast(positions, "float32"), -1) * frequencies(head_dim, theta)
    return ops.cos(angles), ops.sin(angles)


def grid_table(rows: int, columns: int, head_dim: int, periods: tuple[float, float] = (4.0, 20.0)):
    """Cosines and sines of the places of a grid, row by row: half of the pairs turn by row, half by column.

    The turns of one axis have periods from the first to the second number of cells, spaced geometrically.

    Returns: two float32 NumPy arrays (rows * columns, E / 2).
    Raises: ValueError: the pairs do not split in two (states the width).
    Source: axial rotary positions, EVA-02, arXiv:2303.11331, section 2; as in RoPE-ViT, arXiv:2403.13298.
    """
    if head_dim % 4:
        raise ValueError(
            f"a grid turns half of the pairs by row, but a head is {head_dim} wide; choose a multiple of 4"
        )
    turns = 2 * np.pi / np.geomspace(*periods, head_dim // 4)
    row, column = np.divmod(np.arange(rows * columns)[:, None], columns)
    angles = np.concatenate([row * turns, column * turns], axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x, cos, sin):
    """Turn each pair (i, i + E/2) of a head's vector by its position's angle (half-split, as in Llama).

    Args:
        x: float (B, T, A, E).  cos, sin: float32 (T, E / 2) or, positions per row, (B, T, E / 2).
    Returns: float (B, T, A, E), dtype of x; computed in float32.
    """
    cos, sin = (ops.expand_dims(ops.convert_to_tensor(t), -2) for t in (cos, sin))
    first, second = ops.split(ops.cast(x, "float32"), 2, axis=-1)
    turned = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.cast(turned, x.dtype)


def frequencies(head_dim: int, theta: float) -> np.ndarray:
    """Turns per position of each pair, radians: float32 (E / 2,)."""
    return (float(theta) ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
