"""Small pictures of single objects, computed from their geometry and cached.

A sprite is drawn in two steps. `_fields` turns (shape, material, size) into three maps: how much of the
object's own color a pixel shows, how much white light, and how opaque it is. `sprite` mixes a color into
them. Only the second step depends on the color, so eight colors cost little more than one.
"""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from saccade.data.scenes.scene import SHAPES
from saccade.errors import SaccadeError

RGB = {
    "red": (212, 40, 38),
    "blue": (40, 84, 222),
    "green": (32, 150, 62),
    "yellow": (250, 220, 28),
    "purple": (140, 52, 186),
    "orange": (244, 116, 14),
    "cyan": (26, 198, 214),
    "gray": (122, 125, 130),
}

# Width over height of the box a shape fills. A can as wide as high would be too close to a cube.
ASPECT = {"cylinder": 0.78}

_LIGHT = np.array([-0.48, -0.62, 0.62])  # from the upper left, towards the viewer; image y points down
_CUBE_DEPTH = 0.27
# What a polished surface mirrors, from straight down (-1) over the horizon (0) to straight up (1).
_SKY = ((-1.0, -0.62, -0.12, 0.08, 0.42, 0.70, 1.0), (0.22, 0.72, 0.20, 0.42, 1.30, 1.10, 0.45))


def extent(shape: str, height_px: int) -> tuple[int, int]:
    """Width and height in pixels of the box that `shape` fills when it is `height_px` high."""
    return max(2, round(height_px * ASPECT.get(shape, 1.0))), height_px


def _lambert(nx, ny, nz):
    return np.clip(nx * _LIGHT[0] + ny * _LIGHT[1] + nz * _LIGHT[2], 0, 1)


def _ball(u, v):
    x, y = 2 * u - 1, 2 * v - 1
    r2 = x * x + y * y
    z = np.sqrt(np.clip(1 - r2, 0, 1))
    spot = np.exp(-((x + 0.36) ** 2 + (y + 0.42) ** 2) / 0.035)
    return r2 <= 1, _lambert(x, y, z), -(0.85 * y + 0.4 * x), np.zeros_like(u), spot


def _cube(u, v):
    d = _CUBE_DEPTH
    mask = (u + v >= d) & (u + v <= 2 - d)
    top = (v < d) & (u + v < 1)
    side = ~top & (u > 1 - d)
    top = (v < d) & ~((u > 1 - d) & (u + v >= 1))
    side = (u > 1 - d) & (u + v >= 1)
    front = ~top & ~side
    light = np.select([top, front], [0.98, 0.62], 0.16)
    mirror = np.select([top, front], [0.20 + 0.5 * u, 0.80 - 0.62 * (u + v - d)], -0.75 + 0.9 * v)
    corner = 1 - d
    lines = [
        np.where(u <= corner, np.abs(v - d), 9),
        np.where(v >= d, np.abs(u - corner), 9),
        np.where((u >= corner) & (v <= d), np.abs(u + v - 1) * 0.7, 9),
    ]
    crease = np.exp(-((np.minimum.reduce(lines) / 0.035) ** 2))
    spot = np.exp(-((u - 0.2) ** 2 + (v - d - 0.17) ** 2) / 0.008) * front
    return mask, light, mirror, crease, spot


def _cone(u, v):
    b = 0.12  # half height of the base ellipse
    half = np.clip(0.5 * v / (1 - b), 1e-6, 0.5)
    k = np.clip((u - 0.5) / half, -1, 1)
    mask = ((v <= 1 - b) & (np.abs(u - 0.5) <= half)) | (((u - 0.5) / 0.5) ** 2 + ((v - 1 + b) / b) ** 2 <= 1)
    light = _lambert(0.9 * k, -0.3, 0.9 * np.sqrt(1 - k * k))
    spot = np.exp(-((k + 0.42) ** 2) / 0.05) * np.exp(-((v - 0.55) ** 2) / 0.03)
    return mask, light, 0.62 - 1.0 * np.abs(k + 0.3), np.zeros_like(u), spot


def _cylinder(u, v):
    b = 0.13
    k = np.clip(2 * u - 1, -1, 1)
    arc = b * np.sqrt(1 - k * k)
    mask = (v >= b - arc) & (v <= 1 - b + arc)
    lid = v <= b + arc
    light = np.where(lid, 0.95, _lambert(k, -0.05, np.sqrt(1 - k * k)))
    mirror = np.where(lid, 0.15 + 0.5 * u, 0.5 - 1.4 * np.abs(k + 0.38))
    crease = np.exp(-(((v - b - arc) / 0.03) ** 2))
    spot = np.exp(-((k + 0.42) ** 2) / 0.04) * np.exp(-((v - 0.5) ** 2) / 0.03)
    return mask, light, mirror, crease, spot


def _star(u, v):
    turns = np.arange(11) * math.pi / 5 - math.pi / 2
    radius = np.where(np.arange(11) % 2, 0.5, 1.0)
    px, py = radius * np.cos(turns), radius * np.sin(turns)
    x0, x1, y0, y1 = px.min(), px.max(), py.min(), py.max()
    x, y = u * (x1 - x0) + x0, v * (y1 - y0) + y0
    mask = np.zeros(u.shape, bool)
    light, mirror = np.zeros_like(u), np.zeros_like(u)
    crease = np.zeros_like(u)
    for i in range(10):
        ex, ey = px[i + 1] - px[i], py[i + 1] - py[i]
        inside = (px[i] * y - py[i] * x >= 0) & (x * py[i + 1] - y * px[i + 1] > 0)
        inside &= ex * (y - py[i]) - ey * (x - px[i]) >= 0
        length = math.hypot(ex, ey)
        nx, ny = 0.75 * ey / length, -0.75 * ex / length
        mask |= inside
        light = np.where(inside, _lambert(nx, ny, 0.66), light)
        mirror = np.where(inside, -1.25 * (ny + 0.4 * nx) + 0.3 * (0.5 - v), mirror)
        if i % 2 == 0:
            away = np.abs(px[i] * y - py[i] * x)
            crease = np.where(
                px[i] * x + py[i] * y > 0, np.maximum(crease, np.exp(-((away / 0.04) ** 2))), crease
            )
    spot = np.exp(-((x + 0.14) ** 2 + (y + 0.2) ** 2) / 0.02)
    return mask, light, mirror, crease, spot


_GEOMETRY = dict(zip(SHAPES, (_cube, _ball, _cone, _cylinder, _star), strict=True))


def _rubber(light, mirror, crease, rim, spot):
    shade = 0.60 + 0.46 * light - 0.12 * rim
    return shade, 0.05 * light, np.ones_like(light)


def _metal(light, mirror, crease, rim, spot):
    shade = np.interp(mirror, *_SKY)
    dark = 1 - 0.72 * rim
    white = np.clip(shade - 0.80, 0, 1) * 0.9 * dark + 0.95 * spot + 0.35 * crease
    return np.minimum(shade, 0.95) * dark * (1 - 0.4 * spot), np.clip(white, 0, 1), np.ones_like(light)


def _glass(light, mirror, crease, rim, spot):
    edge = np.maximum(rim, 0.75 * crease)
    glow = np.exp(-(((rim - 0.40) / 0.16) ** 2))  # a bright line just inside the outline
    alpha = np.clip(0.42 + 0.80 * edge**0.9 + 0.35 * glow + 0.9 * spot, 0, 1)
    return 0.95 - 0.15 * edge - 0.3 * glow - 0.8 * spot, 0.50 * glow + 1.0 * spot, alpha


_MATERIAL = {"rubber": _rubber, "metal": _metal, "glass": _glass}


def _grid(width, height):
    u, v = (np.arange(n, dtype=np.float32) + 0.5 for n in (width, height))
    return np.meshgrid(u / width, v / height)


def _rim(mask, reach):
    """1 on the outline, falling to 0 about `reach` samples inside."""
    pad = math.ceil(2 * reach)
    image = Image.fromarray(np.pad(mask.astype(np.uint8) * 255, pad))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(reach)), np.float64)[pad:-pad, pad:-pad]
    return np.clip(2 * (1 - blurred / 255), 0, 1)


def _reduce(field, k):
    height, width = field.shape
    return field.reshape(height // k, k, width // k, k).mean((1, 3))


def margin(height_px: int) -> int:
    """Pixels a sprite is wider than its box on every side, room for the shadow."""
    return math.ceil(0.08 * height_px)


@lru_cache(maxsize=2048)
def silhouette(shape: str, width_px: int, height_px: int) -> np.ndarray:
    """bool (height_px, width_px), True where the object covers at least half of the pixel."""
    mask = _GEOMETRY[shape](*_grid(4 * width_px, 4 * height_px))[0]
    return _reduce(mask.astype(np.float64), 4) >= 0.5


@lru_cache(maxsize=2048)
def _fields(shape, material, width_px, height_px):
    """Three maps (H + 2m, W + 2m): own color and white light, both times opacity; opacity with the shadow."""
    k = 4 if height_px < 80 else 2
    u, v = _grid(k * width_px, k * height_px)
    mask, light, mirror, crease, spot = _GEOMETRY[shape](u, v)
    rim = _rim(mask, max(0.055 * k * height_px, 0.6 * k))
    shade, white, alpha = _MATERIAL[material](light, mirror, crease, rim, spot)
    alpha = alpha * mask
    m = margin(height_px)
    own, white, alpha = (np.pad(_reduce(f, k), m) for f in (shade * alpha, white * alpha, alpha))
    y, x = np.mgrid[0 : alpha.shape[0], 0 : alpha.shape[1]] + 0.5 - m
    away = ((x - 0.53 * width_px) / (0.52 * width_px)) ** 2 + (
        (y - 0.97 * height_px) / (0.11 * height_px)
    ) ** 2
    shadow = 0.22 * np.clip(1.15 - away, 0, 1)
    return own, white, alpha + shadow * (1 - alpha)


@lru_cache(maxsize=8192)
def sprite(
    shape: str, color: str, material: str, width_px: int, height_px: int
) -> tuple[Image.Image, Image.Image]:
    """An object's picture and its opacity, `margin(height_px)` larger than the box on every side.

    Returns: an "RGB" and an "L" image for `Image.paste(picture, corner, opacity)`; do not change them.
    """
    if (
        shape not in _GEOMETRY
        or color not in RGB
        or material not in _MATERIAL
        or min(width_px, height_px) < 2
    ):
        raise SaccadeError(f'"{color} {material} {shape}" of {width_px} x {height_px} px: cannot be drawn')
    own, white, alpha = _fields(shape, material, width_px, height_px)
    total = own[..., None] * np.array(RGB[color], np.float64) + white[..., None] * 255
    picture = np.clip(total / np.maximum(alpha, 1e-3)[..., None], 0, 255)
    opacity = Image.fromarray(np.rint(alpha * 255).astype(np.uint8))
    return Image.fromarray(np.rint(picture).astype(np.uint8)), opacity
