"""Pictures out: what each reasoning step looked at, and boxes. Pillow only."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from saccade.errors import SaccadeError
from saccade.files import write_bytes

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

INK = (28, 30, 38)
FAINT = (120, 124, 136)
RULE = (222, 224, 230)
ACCENT = (226, 74, 51)
PAPER = (255, 255, 255)

# Anchors of a dark-to-light map (close to matplotlib's inferno); between them it is linear.
_HEAT = np.array(
    [(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)], np.float32
)
_MAX_COLUMNS = 4
_MARGIN = 16
_LEAST_SIDE_PX = 224
_MOST_SIDE_PX = 640


@dataclass(frozen=True, slots=True)
class Panel:
    """One step to draw. attention: float (h, w), a grid over the whole image, any scale >= 0."""

    title: str
    text: str
    confidence: float
    attention: np.ndarray


def heat_overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Lay an attention grid over an image: where it is high the image glows, elsewhere it fades.

    Args:
        image: uint8 (H, W, 3).  attention: float (h, w), >= 0; its maximum becomes the hottest color, what
            gets no more than its share of an even look stays plain.
    Returns: uint8 (H, W, 3).
    """
    height, width = image.shape[:2]
    grid = np.nan_to_num(np.asarray(attention, np.float32), posinf=0.0).clip(0)
    above = (grid - grid.mean()).clip(0)
    # An almost even look has no hottest spot: rounding must not make one.
    grid = above / max(float(above.max()), 0.05 * float(grid.max()), 1e-12)
    smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    heat = np.asarray(smooth).clip(0, 1)[:, :, None]
    color = heat_colors(heat[:, :, 0])
    gray = image.mean(axis=2, keepdims=True)
    faded = 0.45 * image + 0.25 * gray + 0.3 * 255
    opacity = 0.72 * heat**0.8
    return (faded * (1 - opacity) + color * opacity).round().astype(np.uint8)


def heat_colors(values: np.ndarray) -> np.ndarray:
    """float (h, w) in [0, 1] -> colors dark to light, float32 (h, w, 3) in 0..255."""
    position = values * (len(_HEAT) - 1)
    low = np.minimum(position.astype(int), len(_HEAT) - 2)
    share = (position - low)[:, :, None]
    return _HEAT[low] * (1 - share) + _HEAT[low + 1] * share


def draw_steps(image: np.ndarray, panels: Sequence[Panel], title: str) -> Image.Image:
    """The image and then each step's overlay, side by side, each with its answer and confidence.

    Args:
        image: uint8 (H, W, 3), enlarged when small.
        panels: the steps in order.  title: the question, above.
    """
    tile = _resized(image)
    tiles = [(tile, "image", "", None)]
    tiles += [(heat_overlay(tile, p.attention), p.title, p.text, p.confidence) for p in panels]
    tile_height, tile_width = tile.shape[:2]
    columns = min(_MAX_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    font, bold = load_font(15), load_font(19)
    width = columns * (tile_width + _MARGIN) + _MARGIN
    lines = wrap(title, bold, width - 2 * _MARGIN)
    head, foot = _MARGIN + 26 * len(lines) + 8, 52
    sheet = Image.new("RGB", (width, head + rows * (tile_height + foot) + 4), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + 26 * number), line, INK, font=bold)
    for index, (pixels, name, text, confidence) in enumerate(tiles):
        x = _MARGIN + (index % columns) * (tile_width + _MARGIN)
        y = head + (index // columns) * (tile_height + foot)
        sheet.paste(Image.fromarray(pixels), (x, y))
        pen.rectangle((x - 1, y - 1, x + tile_width, y + tile_height), outline=RULE)
        y += tile_height + 8
        pen.text((x, y), name, FAINT, font=font)
        if confidence is not None:
            _caption(pen, (x, y), tile_width, name, text, confidence, font)
    return sheet


def draw_matrix(values: np.ndarray, title: str, rows: str = "", columns: str = "") -> Image.Image:
    """A matrix as colors, its least value dark, its greatest light.

    Args: values: float (N, M), finite.  title: above, with the range.  rows, columns: names of the axes.
    """
    values = np.asarray(values, np.float64)
    low, high = float(values.min()), float(values.max())
    colors = heat_colors((values - low) / max(high - low, 1e-12)).round().astype(np.uint8)
    factor = max(1, _MOST_SIDE_PX // max(values.shape))
    tile = Image.fromarray(colors.repeat(factor, axis=0).repeat(factor, axis=1))
    tile.thumbnail((_MOST_SIDE_PX, _MOST_SIDE_PX))
    font, bold = load_font(15), load_font(19)
    sheet, top = _sheet(tile.width, tile.height + 26, f"{title}  {low:.2f} .. {high:.2f}", bold)
    sheet.paste(tile, (_MARGIN, top))
    axes = "  ".join(f"{mark} {name}" for mark, name in (("down:", rows), ("right:", columns)) if name)
    ImageDraw.Draw(sheet).text((_MARGIN, top + tile.height + 6), axes, FAINT, font=font)
    return sheet


def draw_histogram(series: dict[str, np.ndarray], title: str, bins: int = 40) -> Image.Image:
    """How often values occur, of one or two series over one axis, each scaled to its own highest bar.

    Args: series: name -> float (N,), finite; the first is drawn in color, the second in grey.
    """
    values = [np.asarray(v, np.float64).ravel() for v in series.values()]
    if not 1 <= len(values) <= 2 or not all(len(v) for v in values):
        raise ValueError(
            f"{len(values)} series of {[len(v) for v in values]} values: give 1 or 2, with values"
        )
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    edges = np.linspace(low, max(high, low + 1e-9), bins + 1)
    font, width, height = load_font(15), bins * 14, 240
    sheet, top = _sheet(width, height + 48, title, load_font(19))
    pen = ImageDraw.Draw(sheet)
    for (name, own), color, inset in reversed(
        list(zip(zip(series, values, strict=True), (ACCENT, FAINT), (4, 0), strict=False))
    ):
        counts = np.histogram(own, edges)[0]
        for i, count in enumerate(counts):
            if count:
                x, y = _MARGIN + i * 14 + inset, top + height - round(height * count / counts.max())
                pen.rectangle((x, y, x + 13 - 2 * inset, top + height), fill=color)
        pen.text((_MARGIN + (width // 2 if inset == 0 else 0), top + height + 26), name, color, font=font)
    pen.text((_MARGIN, top + height + 4), f"{low:.2f}", INK, font=font)
    right = f"{high:.2f}"
    pen.text((_MARGIN + width - pen.textlength(right, font=font), top + height + 4), right, INK, font=font)
    return sheet


def _sheet(width: int, height: int, title: str, font) -> tuple[Image.Image, int]:
    """Paper with a title, and where what is below it begins."""
    lines = wrap(title, font, width)
    top = _MARGIN + 26 * len(lines) + 8
    sheet = Image.new("RGB", (width + 2 * _MARGIN, top + height + 4), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + 26 * number), line, INK, font=font)
    return sheet, top


def _caption(pen, corner, width: int, name: str, text: str, confidence: float, font) -> None:
    x, y = corner
    percent = f"{confidence:.0%}"
    start = x + pen.textlength(name + "  ", font=font)
    end = x + width - pen.textlength(percent, font=font)
    pen.text((start, y), shortened(text, font, end - start - 8), INK, font=font)
    pen.text((end, y), percent, INK, font=font)
    bar = y + 24
    pen.rounded_rectangle((x, bar, x + width - 1, bar + 5), 2, fill=RULE)
    filled = round((width - 1) * min(max(confidence, 0.0), 1.0))
    if filled >= 4:
        pen.rounded_rectangle((x, bar, x + filled, bar + 5), 2, fill=ACCENT)


def draw_box(image: np.ndarray, box_px: Sequence[float], label: str) -> Image.Image:
    """The image with one box and its label. box_px: (x0, y0, x1, y1), pixels of `image`, uint8 (H, W, 3)."""
    tile = _resized(image)
    scale = tile.shape[1] / image.shape[1]
    height, width = tile.shape[:2]
    x0, y0, x1, y1 = (value * scale for value in box_px)
    x0, x1 = max(0.0, min(x0, x1)), min(width - 1.0, max(x0, x1))
    y0, y1 = max(0.0, min(y0, y1)), min(height - 1.0, max(y0, y1))
    picture = Image.fromarray(tile)
    pen = ImageDraw.Draw(picture)
    # Two white lines around a colored one are visible on any background.
    pen.rectangle((x0 - 3, y0 - 3, max(x0, x1) + 3, max(y0, y1) + 3), outline=PAPER, width=1)
    pen.rectangle((x0 - 2, y0 - 2, max(x0, x1) + 2, max(y0, y1) + 2), outline=ACCENT, width=2)
    pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=PAPER, width=1)
    font = load_font(14)
    label = shortened(label, font, width - 12)
    length = pen.textlength(label, font=font)
    left = max(0.0, min(x0 - 3, width - length - 10))
    top = y0 - 24 if y0 >= 24 else min(y1 + 4, height - 21)
    pen.rectangle((left, top, left + length + 9, top + 20), fill=ACCENT)
    pen.text((left + 5, top + 2), label, PAPER, font=font)
    return picture


def check_output(path: str | os.PathLike) -> Path:
    """Refuse a path that a picture cannot be written to, before the work that makes the picture.

    Raises: SaccadeError: unknown ending, a directory, no such folder, no permission.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise SaccadeError(f"{path} does not end in {', '.join(FORMATS)}; choose one of these")
    if path.is_dir():
        raise SaccadeError(f"{path} is a directory; give the name of a file in it")
    if not path.parent.is_dir():
        raise SaccadeError(f"the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise SaccadeError(f"the folder {path.parent} cannot be written to; choose another")
    return path


def save_image(image: Image.Image, path: str | os.PathLike) -> None:
    """Write a picture, whole or not at all. Raises: SaccadeError: as check_output, or the disk is full."""
    path = check_output(path)
    stream = io.BytesIO()
    image.save(stream, FORMATS[path.suffix.lower()])
    write_bytes(path, [stream.getvalue()])


def _resized(image: np.ndarray) -> np.ndarray:
    """Small images enlarged by a whole factor, large ones reduced, so that captions fit and stay readable."""
    height, width = image.shape[:2]
    if max(height, width) > _MOST_SIDE_PX:
        scale = _MOST_SIDE_PX / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    factor = -(-_LEAST_SIDE_PX // width)
    if factor == 1:
        return image
    return np.asarray(
        Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    )


@cache
def load_font(size: int):
    """The font that comes with Pillow."""
    return ImageFont.load_default(size)


def wrap(text: str, font, width: float) -> list[str]:
    """The text in up to three lines of at most `width` pixels."""
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".strip()
        if font.getlength(candidate) <= width or not lines[-1]:
            lines[-1] = candidate
        else:
            lines.append(word)
    lines = lines if len(lines) <= 3 else [*lines[:2], lines[2] + " ..."]
    return [shortened(line, font, width) for line in lines]


def shortened(text: str, font, width: float) -> str:
    """The text, cut and ended by three dots where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
