"""Pictures in: any JPEG, PNG or WEBP to uint8 (H, W, 3), and onto the model's canvas with its boxes.

Files come from strangers: the size is checked in the header before a pixel is decoded, and whatever is wrong
ends in a SaccadeError of one line.
"""

import io
import os
import re
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from saccade.errors import SaccadeError, printable

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
MIN_SIDE_PX = 2
PADDING_GRAY = 127

_RESAVE = "save it again as a PNG or JPEG"
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_EIGHT_BIT = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB")


def read_image(source: str | os.PathLike | bytes | Image.Image | np.ndarray) -> np.ndarray:
    """Decode one picture, upright and in color, transparent parts on white.

    Args:
        source: a path, the bytes of a file, a Pillow image, or an array: uint8, uint16 or float in [0, 1],
            of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
    Returns: uint8 (H, W, 3). It may share memory with an array that already has this form.
    Raises: SaccadeError: not a picture, truncated, animated, another format, under 2 or over 50,000,000
        pixels (as the header says), missing, a directory, empty or unreadable.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, "the image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_stream(io.BytesIO(source), "the image data", len(source))
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source))
    raise SaccadeError(
        f"cannot read an image from {type(source).__name__}; give a path, bytes, Pillow image or array"
    )


def _from_path(path: Path) -> np.ndarray:
    name = printable(str(path))
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SaccadeError(f"{name} is a directory; give the path of one PNG, JPEG or WEBP file")
        if not stat.S_ISREG(status.st_mode):
            raise SaccadeError(f"{name} is not a regular file; give the path of one PNG, JPEG or WEBP file")
        with path.open("rb") as stream:
            return _from_stream(stream, name, status.st_size)
    except FileNotFoundError:
        raise SaccadeError(f"{name} does not exist; check the path") from None
    except PermissionError:
        raise SaccadeError(f"{name} cannot be read: permission denied; change its permissions") from None
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, a broken disk
        raise SaccadeError(f"{name} cannot be read: {printable(str(error))}; check the path") from None


def _from_stream(stream, name: str, size: int) -> np.ndarray:
    if size == 0:
        raise SaccadeError(f"{name} is empty (0 bytes); give a PNG, JPEG or WEBP file")
    with warnings.catch_warnings():
        # Pillow warns of large files, damaged EXIF and odd palettes; we check the size ourselves, and the
        # other two leave a usable picture.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(stream, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise SaccadeError(_too_large(name, re.search(r"\d+", str(error)))) from None
        except Exception as error:  # Pillow's parsers raise a dozen types on hostile bytes
            raise SaccadeError(_unreadable(stream, name, error)) from None
        with image:
            return _decode(image, name)


def _unreadable(stream, name: str, error: Exception) -> str:
    """Say whether the file is of another kind, or of ours and broken."""
    try:
        stream.seek(0)
        head = stream.read(26)
    except (OSError, ValueError):
        head = b""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR" and len(head) >= 24:
        width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        if min(width, height) < MIN_SIDE_PX:
            return _too_small(name, width, height)
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return f"{name} is damaged or truncated ({_reason(error)}); get the file again, or {_RESAVE}"
    return f"{name} is not a PNG, JPEG or WEBP image; {_RESAVE}"


def _decode(image: Image.Image, name: str) -> np.ndarray:
    """An opened image to pixels; every check that the header allows comes before the first of them."""
    width, height = image.size
    if min(width, height) < MIN_SIDE_PX:
        raise SaccadeError(_too_small(name, width, height))
    if width * height > MAX_PIXELS:
        raise SaccadeError(_too_large(name, None, width, height))
    # A phone's JPEG may carry a second picture (MPO: depth, gain map); the first is the photograph.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise SaccadeError(f"{name} is animated ({frames} frames); save the frame you mean as a PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return np.ascontiguousarray(_to_rgb(upright, name))
        except SaccadeError:
            raise
        except MemoryError:
            raise SaccadeError(f"{name}: no memory for {width} x {height} pixels; make it smaller") from None
        except Exception as error:  # as above: any type may come out of hostile bytes
            raise SaccadeError(
                f"{name} is damaged or truncated ({_reason(error)}); get the file again, or {_RESAVE}"
            ) from None


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    if image.mode in _SIXTEEN_BIT:
        return _from_array(np.asarray(image), name)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return np.array(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    if image.mode in _EIGHT_BIT:
        return np.array(image.convert("RGB"))
    raise SaccadeError(f"{name} has pixels of kind {image.mode!r}, not supported; {_RESAVE} of 8 bits")


def _from_array(array: np.ndarray, name: str = "the image array") -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise SaccadeError(f"{name} has shape {array.shape}; give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    height, width, channels = array.shape
    if min(width, height) < MIN_SIDE_PX:
        raise SaccadeError(_too_small(name, width, height))
    if width * height > MAX_PIXELS:
        raise SaccadeError(_too_large(name, None, width, height))
    array = _to_uint8(array, name)
    if channels == 4:
        alpha = array[:, :, 3:].astype(np.uint32)
        mixed = array[:, :, :3] * alpha + 255 * (255 - alpha)
        return ((mixed + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (height, width, 3)))


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    lowest, highest = array.min(), array.max()
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1 and lowest >= 0 and highest <= 65535:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind == "f" and lowest >= 0 and highest <= 1:
        return np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    raise SaccadeError(
        f"{name} is {array.dtype} from {lowest} to {highest}; give uint8, uint16, or floats in [0, 1]"
    )


def _too_small(name: str, width: int, height: int) -> str:
    return f"{name} is {width} x {height} pixels, each side needs {MIN_SIDE_PX}; give a larger image"


def _too_large(name: str, count: re.Match | None, width: int = 0, height: int = 0) -> str:
    pixels = int(count.group()) if count else width * height
    shape = "" if count else f" ({width} x {height})"
    return (
        f"{name} has {pixels / 1e6:.0f} megapixels{shape}, the limit is {MAX_PIXELS // 10**6}; "
        "make it smaller first, the model sees far less"
    )


def _reason(error: Exception) -> str:
    return printable(str(error) or type(error).__name__)[:100]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image lies on a canvas; takes boxes there and back.

    Boxes are xyxy in [0, 1] of the image or of the canvas, float (..., 4).

    Args:
        image_size, canvas_size: (height, width), pixels.
        top_px, left_px, height_px, width_px: the part of the canvas that the image covers.
    """

    image_size: tuple[int, int]
    canvas_size: tuple[int, int]
    top_px: int
    left_px: int
    height_px: int
    width_px: int

    def _scale_shift(self) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.canvas_size
        scale = np.array([self.width_px / width, self.height_px / height] * 2)
        shift = np.array([self.left_px / width, self.top_px / height] * 2)
        return scale, shift

    def to_canvas(self, box) -> np.ndarray:
        """Box of the image -> the same box of the canvas, float32 (..., 4)."""
        scale, shift = self._scale_shift()
        return (np.asarray(box, np.float64) * scale + shift).astype(np.float32)

    def to_image(self, box) -> np.ndarray:
        """Box of the canvas -> box of the image, cut at its edges, float32 (..., 4)."""
        scale, shift = self._scale_shift()
        return np.clip((np.asarray(box, np.float64) - shift) / scale, 0, 1).astype(np.float32)

    def to_image_px(self, box) -> tuple[float, float, float, float]:
        """One box of the canvas -> (x0, y0, x1, y1) in pixels of the image."""
        height, width = self.image_size
        x0, y0, x1, y1 = self.to_image(box) * np.array([width, height] * 2, np.float32)
        return float(x0), float(y0), float(x1), float(y1)


def _fit(image_size: tuple[int, int], canvas_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the image when it just fits the canvas, at least one pixel each."""
    scale = min(canvas_size[0] / image_size[0], canvas_size[1] / image_size[1])
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def letterbox(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Placement]:
    """Put an image on a canvas: aspect kept, centred, gray around it.

    The filter is Pillow's bilinear, which widens when it reduces (so it does not alias) and never rings.

    Args:
        image: uint8 (H, W, 3).  size: (height, width) of the canvas.
    Returns: uint8 (height, width, 3), which is `image` itself if it has this size already; and the Placement.
    """
    image_size = (image.shape[0], image.shape[1])
    height, width = _fit(image_size, size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    placement = Placement(image_size, (size[0], size[1]), top, left, height, width)
    if image_size != (height, width):
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        image = np.asarray(resized)
    if (height, width) == tuple(size):
        return image, placement
    canvas = np.full((*size, 3), PADDING_GRAY, np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas, placement


def choose_size(image_size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The canvas that an image fills best; of equally filled ones the largest. All are (height, width)."""

    def waste_then_area(size: tuple[int, int]) -> tuple[float, int]:
        height, width = _fit(image_size, size)
        area = size[0] * size[1]
        return round(1 - height * width / area, 6), -area

    return min(sizes, key=waste_then_area)
