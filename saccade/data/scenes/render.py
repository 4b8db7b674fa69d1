"""From a scene to pixels: backgrounds, world objects, and the flat shapes of NLVR."""

import zlib
from functools import lru_cache

import numpy as np
from PIL import Image

from saccade.data.scenes.scene import NLVR_SHAPES, Scene
from saccade.data.scenes.sprites import margin, sprite
from saccade.errors import SaccadeError

BACKGROUNDS = ("paper", "slate", "sand", "grass", "night", "grid", "noise")
NUM_VARIANTS = 8  # "sand:0" to "sand:7": same look, other grains
_VARIANTS = {str(i) for i in range(NUM_VARIANTS)}

NLVR_RGB = {"black": (0, 0, 0), "blue": (0, 153, 255), "yellow": (255, 255, 0)}
NLVR_PANEL_X_PX = (0, 150, 300)
NLVR_PANEL_PX = 100
_NLVR_PANEL_GRAY, _NLVR_GAP_GRAY = 211, 128

# Upper left quarter of the circles in the published images, coverage in sixteenths ("g" = 16, left out at the
# end of a row). They came from a rasterizer that flattens arcs, so no formula for a disc gives these numbers.
_NLVR_CIRCLES = {
    10: ("004cf", "08", "4", "c", "f"),
    20: ("00000058cf", "00003d", "0008", "008", "03", "0d", "5", "8", "c", "f"),
    30: (
        *("000000000059cd", "000000018f", "0000006f", "000009", "0000a"),
        *("0009", "006", "01f", "08", "0f", "5", "9", "c", "e", "g"),
    ),
}
# Below the diagonal the rasterizer rounded a few pixels (y, x) one sixteenth lower than their mirror images.
_NLVR_DENTS = {
    20: ((3, 17), (16, 17), (17, 16)),
    30: ((2, 23), (6, 27), (13, 29), (16, 29), (23, 27), (24, 26), (26, 24), (27, 6), (27, 23)),
}


def render(scene: Scene, scale: int = 1) -> np.ndarray:
    """Draw a scene.

    Args:
        scene: of style "world" or "nlvr".
        scale: draw everything this many times larger, with finer edges; the layout stays.
    Returns: uint8 (scale * height_px, scale * width_px, 3).
    Raises: SaccadeError: unknown style or background, or scale not in 1..16.
    """
    if not 1 <= scale <= 16 or scale != int(scale):
        raise SaccadeError(f"scale={scale}: must be a whole number from 1 to 16")
    if scene.style == "nlvr":
        return _render_nlvr(scene, scale)
    if scene.style != "world":
        raise SaccadeError(f'scene style "{scene.style}": must be "world" or "nlvr"')
    # A large canvas is for a figure, drawn once: keeping it would only fill the cache.
    make = background_image if scale == 1 else background_image.__wrapped__
    canvas = make(scene.background, scene.width_px, scene.height_px, scale).copy()
    for item in sorted(scene.objects, key=_layer):
        x0, y0, x1, y1 = item.box_px
        height = (y1 - y0) * scale
        picture, opacity = sprite(item.shape, item.color, item.material, (x1 - x0) * scale, height)
        m = margin(height)
        canvas.paste(picture, (x0 * scale - m, y0 * scale - m), opacity)
    return np.array(canvas)


def _layer(item):
    return item.layer


@lru_cache(maxsize=512)
def background_image(name: str, width_px: int, height_px: int, scale: int = 1) -> Image.Image:
    """An empty canvas. `name` is one of BACKGROUNDS, with ":variant" for other grains of the same look."""
    kind, variant = split_background(name)
    rng = np.random.default_rng(zlib.crc32(f"{kind}:{variant or 0}".encode()))
    width, height = width_px * scale, height_px * scale
    v = np.linspace(0, 1, height)[:, None, None]
    u = np.linspace(0, 1, width)[None, :, None]
    slope = rng.uniform(-0.5, 0.5)
    if kind == "paper":
        pixels = (246, 242, 234) + 5 * _grain(rng, width_px, height_px, scale, 8)
    elif kind == "slate":
        pixels = (70, 77, 90) - 20.0 * v + 10 * slope * u + 2 * _grain(rng, width_px, height_px, scale, 2)
    elif kind == "sand":
        pixels = (228, 208, 170) + 8 * _grain(rng, width_px, height_px, scale, 1) - 8.0 * v
    elif kind == "grass":
        pixels = (198, 216, 178) + 9 * _grain(rng, width_px, height_px, scale, (1, 6)) - 10.0 * v
    elif kind == "night":
        pixels = (16, 17, 40) + np.array([44, 26, 52]) * np.clip(v + slope * (u - 0.5), 0, 1)
    elif kind == "grid":
        step, shift = max(width_px, height_px) // 8 * scale, int(rng.integers(8)) * scale
        line = np.zeros((height, width, 1))
        for k in range(scale):
            line[shift + k :: step], line[:, shift + k :: step] = 1, 1
        pixels = (234, 239, 246) - np.array([26, 20, 12]) * line
    else:
        pixels = (214, 206, 216) + 14 * _grain(rng, width_px, height_px, scale, 1, channels=3)
    return Image.fromarray(
        np.rint(np.clip(np.broadcast_to(pixels, (height, width, 3)), 0, 255)).astype(np.uint8)
    )


def split_background(name: str) -> tuple[str, int | None]:
    """("sand", 3) for "sand:3", ("sand", None) for "sand". Raises: SaccadeError: any other name."""
    kind, colon, variant = name.partition(":")
    if kind not in BACKGROUNDS or (colon and variant not in _VARIANTS):
        known = ", ".join(BACKGROUNDS)
        raise SaccadeError(
            f'background "{name}": must be one of {known}, or one with ":0" to ":{NUM_VARIANTS - 1}"'
        )
    return kind, int(variant) if colon else None


def _grain(rng, width_px, height_px, scale, size, channels=1):
    """Noise of about unit strength whose grains are `size` (x, y) pixels large."""
    across, down = (size, size) if isinstance(size, int) else size
    small = rng.uniform(-1, 1, (height_px // down + 2, width_px // across + 2, channels)).astype(np.float32)
    target = (small.shape[1] * across * scale, small.shape[0] * down * scale)
    smooth = Image.Resampling.BICUBIC if max(across, down) > 1 else Image.Resampling.NEAREST
    layers = [np.asarray(Image.fromarray(small[..., c]).resize(target, smooth)) for c in range(channels)]
    return np.stack(layers, -1)[: height_px * scale, : width_px * scale]


@lru_cache(maxsize=64)
def _nlvr_sprite(shape, color, size_px, scale):
    if shape not in NLVR_SHAPES or color not in NLVR_RGB or size_px < 1:
        raise SaccadeError(f'"{color} {shape}" of {size_px} px: style "nlvr" cannot draw it')
    side = size_px * scale
    if shape == "square":
        cover = np.ones((side, side))
    elif shape == "circle" and scale == 1 and size_px in _NLVR_CIRCLES:
        half = size_px // 2
        rows = [[int(c, 17) for c in row.ljust(half, "g")] for row in _NLVR_CIRCLES[size_px]]
        quarter = np.array(rows) / 16
        left = np.concatenate([quarter, quarter[::-1]])
        cover = np.concatenate([left, left[:, ::-1]], axis=1)
        for y, x in _NLVR_DENTS.get(size_px, ()):
            cover[y, x] -= 1 / 16
    else:
        grid = (np.arange(4 * side) + 0.5) / (4 * side) - 0.5
        x, y = np.meshgrid(grid, grid)
        inside = x * x + y * y <= 0.25 if shape == "circle" else np.abs(x) <= (y + 0.5) / 2
        cover = inside.reshape(side, 4, side, 4).mean((1, 3))
    opacity = Image.fromarray(np.rint(cover * 255).astype(np.uint8))
    return Image.new("RGB", (side, side), NLVR_RGB[color]), opacity


@lru_cache(maxsize=4)
def _nlvr_canvas(width_px, height_px, scale):
    canvas = Image.new("RGB", (width_px * scale, height_px * scale), (_NLVR_GAP_GRAY,) * 3)
    for x in NLVR_PANEL_X_PX:
        side = NLVR_PANEL_PX * scale
        canvas.paste((_NLVR_PANEL_GRAY,) * 3, (x * scale, 0, x * scale + side, side))
    return canvas


def _render_nlvr(scene, scale):
    canvas = _nlvr_canvas(scene.width_px, scene.height_px, scale).copy()
    for item in scene.objects:
        x0, y0, x1, _ = item.box_px
        picture, opacity = _nlvr_sprite(item.shape, item.color, x1 - x0, scale)
        canvas.paste(picture, (x0 * scale, y0 * scale), opacity)
    return np.array(canvas)
