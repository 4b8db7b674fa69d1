"""A large picture as one small view of the whole and a grid of tiles, within a budget of image tokens."""

import math

import numpy as np
from PIL import Image

from saccade.errors import SaccadeError


def choose_grid(
    image_size: tuple[int, int],
    tile: int,
    max_side: int,
    max_tiles: int | None = None,
    reference: bool = False,
    fill: bool = False,
) -> tuple[int, int]:
    """(rows, columns) of tiles for an image; (1, 1) is the whole image alone.

    By default no side is scaled up: the grid is the finest whose tiles all hold at least the image's own
    pixels, so an image below two tiles a side is seen once.

    Args:
        image_size: (height, width), pixels.  tile: pixels a side.  max_side: most pixels of the longer side.
        max_tiles: most tiles, the view of the whole counted; None = as max_side allows.
        reference: the published choice: sides are rounded up to whole tiles, whatever that costs.
        fill: with `reference`, scale every image up until its longer side is max_side.
    Raises: SaccadeError: max_tiles is under 1.
    """
    if max_tiles is not None and max_tiles < 1:
        raise SaccadeError(f"max_tiles is {max_tiles}, an image needs at least 1; raise it")
    longer, shorter = max(image_size), min(image_size)
    most = max(1, max_side // tile)
    if reference:
        finest = most if fill else min(most, math.ceil(longer / tile))
    else:
        finest = max(1, min(most, longer // tile))
    for long_tiles in range(finest, 0, -1):
        exact = shorter * (long_tiles * tile / longer) / tile
        short_tiles = max(1, math.ceil(exact) if reference else math.floor(exact + 1e-9))
        if max_tiles is None or count_tiles((long_tiles, short_tiles)) <= max_tiles:
            break
    else:
        long_tiles = short_tiles = 1
    return (short_tiles, long_tiles) if image_size[1] >= image_size[0] else (long_tiles, short_tiles)


def count_tiles(grid: tuple[int, int]) -> int:
    """Tiles of a grid, the view of the whole counted."""
    return 1 if grid == (1, 1) else 1 + grid[0] * grid[1]


def cut(image: np.ndarray, tile: int, grid: tuple[int, int], reference: bool = False) -> np.ndarray:
    """The view of the whole, then the tiles, row by row. Sides are stretched to whole tiles.

    Args:
        image: uint8 (H, W, 3).
        reference: the view of the whole is made from the resized image and not rounded to bytes.
    Returns: uint8 (n, tile, tile, 3), n = `count_tiles(grid)`; float32 in [0, 1] with `reference`.
    """
    rows, columns = grid
    picture = Image.fromarray(image)
    resized = np.asarray(picture.resize((columns * tile, rows * tile), Image.Resampling.BICUBIC))
    parts = resized.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    if reference:
        parts = parts.astype(np.float32) / np.float32(255)
    if grid == (1, 1):
        return parts
    if reference:
        whole = _shrink(resized, tile)
    else:
        whole = np.asarray(picture.resize((tile, tile), Image.Resampling.BICUBIC))
    return np.concatenate([whole[None], parts])


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Bilinear with antialiasing, in floats: as torchvision resizes a tensor."""
    channels = [
        np.asarray(
            Image.fromarray(image[..., c].astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
        )
        for c in range(3)
    ]
    return np.stack(channels, -1) / np.float32(255)


def stretch(image: np.ndarray, side: int) -> np.ndarray:
    """The whole image as one square, its aspect lost, as nanoVLM's first checkpoints see it: uint8."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
