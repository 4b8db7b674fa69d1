"""A head of queries, keys or values in shared memory: copied in, turned by its positions, and copied out.

It lies in pieces, side by side: one as wide as the head, or two halves. Each is one memory seen in two ways.
Copies see rows one by one, and so take sequences of any length; products see blocks of eight.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import ROWS


class Piece(NamedTuple):
    """(rows, columns) of a head, as copies and as products see them."""

    copied: jax.Array
    seen: jax.Array


def memory(*shape: int) -> plgpu.RefUnion:
    """For a Piece, bfloat16 (.., rows, columns)."""
    columns = shape[-1]
    swizzle = plgpu.SwizzleTransform(2 * columns)
    ways = (plgpu.TilingTransform((columns,)), swizzle), (plgpu.TilingTransform((8, columns)), swizzle)
    return plgpu.RefUnion(*(plgpu.SMEM(shape, jnp.bfloat16, transforms=way) for way in ways))


def pieces(refs, index=None) -> list[Piece]:
    """Of what `memory` became; `index`: of the leading axis."""
    if index is None:
        return [Piece(*both) for both in refs]
    return [Piece(*(ref.at[index] for ref in both)) for both in refs]


def tile_at(tile: int):
    """Its rows."""
    return pl.ds(tile * ROWS, ROWS)


def copy_in(ref, row, column, head: list[Piece], here) -> None:
    """A head that begins at a column of a row of the batch. What is beyond T becomes zero."""
    for i, piece in enumerate(head):
        rows, columns = piece.copied.shape
        source = ref.at[row, _from(0, rows), pl.ds(column + i * columns, columns)]
        plgpu.copy_gmem_to_smem(source, piece.copied, here)


def copy_out(head: list[Piece], tile: int, ref, row, column) -> None:
    """A tile of a head, to where `copy_in` would find it. What is beyond T is left out."""
    for i, piece in enumerate(head):
        columns = piece.copied.shape[-1]
        place = ref.at[row, _from(tile * ROWS, ROWS), pl.ds(column + i * columns, columns)]
        plgpu.copy_smem_to_gmem(piece.copied.at[tile_at(tile)], place)


def _from(start: int, count: int):
    """A sum that tracing does not see: from 0.12 on, JAX refuses a slice known to be too long."""
    return pl.ds(lax.axis_index("grid") * 0 + start, count)


def halves(head: list[Piece], tile: int) -> list:
    """float32 (ROWS, E / 2), both."""
    parts = [piece.seen[tile_at(tile), :].astype(jnp.float32) for piece in head]
    if len(parts) == 2:
        return parts
    half = parts[0].shape[1] // 2
    return [parts[0][:, :half], parts[0][:, half:]]


def put(head: list[Piece], tile: int, parts: list) -> None:
    """The inverse of `halves`."""
    parts = [part.astype(jnp.bfloat16) for part in parts]
    for piece, part in zip(head, parts if len(head) == 2 else [jnp.concatenate(parts, axis=1)], strict=True):
        piece.seen[tile_at(tile), :] = part


def by_position(table: tuple, rows: int) -> list:
    """Cosines and sines (T, E / 2) for `angles`: (E / 16, rows, 8), so that what warps read lies together."""
    tables = [jnp.pad(part, ((0, rows - len(part)), (0, 0))) for part in table]
    return [part.reshape(rows, -1, 8).transpose(1, 0, 2) for part in tables]


def angles(table: list, tile: int) -> list:
    """float32 (ROWS, E / 2) of cosines, and of sines; [] if there is no table."""
    rows, as_sums = tile_at(tile), {"layout": plgpu.Layout.WGMMA, "optimized": False}
    return [
        jnp.concatenate([plgpu.load(part.at[i, rows], **as_sums) for i in range(part.shape[0])], axis=1)
        for part in table
    ]


def turned(parts: list, turns: list, back: bool = False) -> list:
    """Two halves, turned by their positions, or back."""
    if not turns:
        return parts
    first, second = parts
    cos, sin = turns
    if back:
        return [first * cos + second * sin, second * cos - first * sin]
    return [first * cos - second * sin, second * cos + first * sin]


def turn(heads: list, tile: int, turns: list) -> None:
    """A tile of each, where it lies."""
    for head in heads if turns else ():
        put(head, tile, turned(halves(head, tile), turns))
