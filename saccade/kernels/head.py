"""Heads of attention, and one of queries, keys or values in shared memory: copied in, turned by its
positions, and copied out.

It lies in pieces, side by side: one as wide as the head, or two halves. Each is one memory seen in two ways.
Copies see rows one by one, and so take sequences of any length; products see blocks of eight.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import ROWS

PART = 32  # tokens that products take at least, where they sum over them


class Heads(NamedTuple):
    """What a packed row holds: `length` T, `queries` A, `shared` G, `width` E."""

    length: int
    queries: int
    shared: int
    width: int
    causal: bool

    @property
    def group(self) -> int:
        """Query heads that read one head of keys."""
        return self.queries // self.shared

    @property
    def tiles(self) -> int:
        """Of ROWS tokens, the last filled up with zeros."""
        return pl.cdiv(self.length, ROWS)

    @property
    def reach(self) -> int:
        """Tokens that products take of the tiles: T, up to a multiple of PART."""
        return PART * pl.cdiv(self.length, PART)

    @property
    def scale(self) -> float:
        return self.width**-0.5

    @property
    def unit(self) -> float:
        """Of a score, for exp2."""
        return self.scale * math.log2(math.e)

    def read(self, tile: int) -> int:
        """Keys from the first on that a tile of queries meets."""
        return min(self.reach, (tile + 1) * ROWS) if self.causal else self.reach


class Piece(NamedTuple):
    """(rows, columns) of a head, as copies and as products see them."""

    copied: jax.Ref
    seen: jax.Ref


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
    """Cosines and sines (T, E / 2) for `angles`: (E / 16, rows, 8), so that what warps read lies together, in
    float16: within 2.4e-4, an eighth of what rounding to bfloat16 loses, they leave half the cache free."""
    tables = [jnp.pad(part, ((0, rows - len(part)), (0, 0))).astype("float16") for part in table]
    return [part.reshape(rows, -1, 8).transpose(1, 0, 2) for part in tables]


def angles(table: list, tile: int):
    """Cosines and sines, float32 (ROWS, 8), for 8 columns of both halves after the other, read when they are
    asked for; none without a table."""
    rows, as_sums = tile_at(tile), {"layout": plgpu.Layout.WGMMA, "optimized": False}
    steps = range(table[0].shape[0] if table else 0)
    return ([plgpu.load(part.at[i, rows], **as_sums).astype("float32") for part in table] for i in steps)


def turned(parts: list, turns, back: bool = False) -> list:
    """Two halves, turned by their positions, or back."""
    found = []
    for i, (cos, sin) in enumerate(turns):
        first, second = (part[:, 8 * i : 8 * (i + 1)] for part in parts)
        sin = -sin if back else sin
        found.append([first * cos - second * sin, second * cos + first * sin])
    return [jnp.concatenate(part, axis=1) for part in zip(*found, strict=True)] if found else parts


def turn(head: list[Piece], tile: int, turns) -> None:
    """A tile of it, where it lies."""
    put(head, tile, turned(halves(head, tile), turns))
