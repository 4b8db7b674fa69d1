"""Every form a picture comes in, every way it can be wrong, and boxes on the canvas."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from saccade.data.image import MAX_PIXELS, choose_size, letterbox, read_image
from saccade.errors import SaccadeError, printable

COLOR = (200, 30, 90)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height=17, width=29, channels=3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(width: int, height: int, *, bits: int = 8, color_type: int = 2, data: bytes = b"") -> bytes:
    """A PNG written by hand, for headers that Pillow refuses to write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def assert_refused(source, *parts: str) -> None:
    with pytest.raises(SaccadeError) as caught:
        read_image(source)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "pillow", "array"])
def test_every_source_gives_the_same_pixels(tmp_path, kind):
    pixels = noise()
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(Image.fromarray(pixels)))
    sources = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "pillow": Image.fromarray(pixels),
        "array": pixels,
    }
    np.testing.assert_array_equal(read_image(sources[kind]), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_formats(kind):
    result = read_image(encoded(Image.new("RGB", (29, 17), COLOR), kind))
    assert result.shape == (17, 29, 3)
    assert result.dtype == np.uint8
    assert np.abs(result.astype(int) - COLOR).max() <= 4


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(kind):
    assert_refused(encoded(Image.new("RGB", (29, 17)), kind), "not a PNG, JPEG or WEBP", "save it again")


def test_cmyk():
    cmyk = Image.new("RGB", (29, 17), COLOR).convert("CMYK")
    result = read_image(encoded(cmyk, "JPEG", quality=95))
    assert np.abs(result.astype(int) - COLOR).max() <= 6


def test_palette():
    palette = Image.new("RGB", (29, 17), COLOR).quantize(4)
    assert palette.mode == "P"
    assert np.abs(read_image(encoded(palette)).astype(int) - COLOR).max() <= 1


def test_palette_with_transparency_lies_on_white():
    palette = Image.new("P", (5, 3), 1)
    palette.putpalette([0, 0, 0, *COLOR])
    palette.putpixel((0, 0), 0)
    result = read_image(encoded(palette, transparency=b"\x00\xff"))
    assert result[0, 0].tolist() == [255, 255, 255]
    assert result[2, 4].tolist() == list(COLOR)


def test_alpha_lies_on_white():
    image = Image.new("RGBA", (5, 3), (*COLOR, 255))
    image.putpixel((0, 0), (10, 10, 10, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    for source in (encoded(image), np.asarray(image)):
        result = read_image(source)
        assert result[0, 0].tolist() == [255, 255, 255]
        assert abs(int(result[0, 1, 0]) - 127) <= 1
        assert result[2, 4].tolist() == list(COLOR)


def test_gray_and_gray_with_alpha():
    gray = noise(channels=1)[:, :, 0]
    expected = np.repeat(gray[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(gray))), expected)
    clear = Image.merge("LA", (Image.fromarray(gray), Image.new("L", (29, 17), 0)))
    assert (read_image(encoded(clear)) == 255).all()


def test_one_bit():
    image = Image.new("1", (5, 3), 1)
    image.putpixel((2, 1), 0)
    result = read_image(encoded(image))
    assert result[1, 2].tolist() == [0, 0, 0]
    assert result[0, 0].tolist() == [255, 255, 255]


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 29).round().astype(np.uint16)[None].repeat(17, axis=0)
    expected = np.rint(ramp / 257).astype(int)
    for source in (encoded(Image.fromarray(ramp)), ramp):
        result = read_image(source)
        assert np.abs(result[:, :, 0].astype(int) - expected).max() <= 1
        assert result.max() == 255
        assert len(np.unique(result)) > 20


def test_sixteen_bit_color():
    row = b"\x00" + struct.pack(">HHH", 50000, 8000, 20000) * 3
    result = read_image(png(3, 2, bits=16, data=row * 2))
    assert np.abs(result[0, 0].astype(float) - np.array([50000, 8000, 20000]) / 257).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Transpose that makes the stored picture
    stored = Image.fromarray(upright)
    if orientation in undo:
        stored = stored.transpose(list(Image.Transpose)[undo[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = read_image(encoded(stored, "JPEG", exif=exif, quality=95))
    assert result.shape == upright.shape
    assert np.abs(result.astype(int) - upright).mean() < 3


def test_a_photograph_with_a_second_picture_is_not_an_animation():
    first, second = Image.new("RGB", (29, 17), COLOR), Image.new("RGB", (29, 17))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert np.abs(read_image(data).astype(int) - COLOR).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animated_is_refused(kind):
    frames = [Image.fromarray(noise()), Image.new("RGB", (29, 17), COLOR)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert_refused(data, "animated (2 frames)", "save the frame")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_is_refused(kind, kept):
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    assert_refused(data[: int(len(data) * kept)], "truncated", "get the file again")


def test_a_changed_byte_never_escapes_as_another_error():
    rng = np.random.default_rng(1)
    outcomes = set()
    for kind in ("PNG", "JPEG", "WEBP"):
        data = encoded(Image.fromarray(noise(24, 24)), kind)
        for _ in range(60):
            damaged = bytearray(data)
            damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            try:
                outcomes.add(read_image(bytes(damaged)).dtype.name)
            except SaccadeError as error:
                outcomes.add("refused" if "\n" not in str(error) else "refused in several lines")
    assert outcomes == {"uint8", "refused"}


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (1, 5), (5, 1), (0, 0)])
def test_no_width_or_one_pixel_is_refused(size):
    assert_refused(png(*size, data=b"\x00" * 64), f"{size[0]} x {size[1]} pixels", "larger image")
    assert_refused(np.zeros((size[1], size[0], 3), np.uint8), f"{size[0]} x {size[1]} pixels")


def test_a_hundred_megapixels_are_refused_by_the_header():
    assert_refused(png(10_000, 10_000), "100 megapixels (10000 x 10000)", "the limit is 50", "smaller")
    assert_refused(png(50_000, 50_000), "2500 megapixels", "the limit is 50")


def test_the_limit_itself_passes_the_header():
    # No pixel follows this header, so the complaint must be of truncation, not of size.
    assert MAX_PIXELS >= 7_000 * 7_000
    assert_refused(png(7_000, 7_000), "truncated")


def test_not_an_image(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("shopping list")
    assert_refused(path, "notes.png", "not a PNG, JPEG or WEBP image")


def test_missing_directory_empty_and_unreadable(tmp_path, monkeypatch):
    assert_refused(tmp_path / "none.png", "none.png does not exist", "check the path")
    assert_refused(tmp_path, "is a directory", "give the path of one")
    (tmp_path / "empty.png").touch()
    assert_refused(tmp_path / "empty.png", "is empty")
    assert_refused("a\0b", "cannot be read")
    assert_refused("n" * 5000, "cannot be read")
    assert_refused(b"", "is empty")
    assert_refused(3.5, "float")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", denied)
    assert_refused(tmp_path / "empty.png", "permission denied", "change its permissions")


def test_a_pipe_is_refused_instead_of_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert_refused(tmp_path / "pipe.png", "not a regular file")


def test_a_file_name_cannot_move_the_cursor(tmp_path):
    assert printable("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert_refused(tmp_path / "a\nb.png", "a\\nb.png does not exist")


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.zeros((5, 7, 2), np.uint8), "shape (5, 7, 2)"),
        (np.zeros((5,), np.uint8), "shape (5,)"),
        (np.full((5, 7, 3), 1.5, np.float32), "to 1.5"),
        (np.full((5, 7, 3), np.nan, np.float32), "nan"),
        (np.full((5, 7), -1, np.int32), "from -1"),
        (np.full((5, 7), 70_000, np.int32), "70000"),
        (np.zeros((5, 7), bool), "bool"),
    ],
)
def test_arrays_out_of_range_are_refused(array, part):
    assert_refused(array, part)


def test_float_array_is_scaled():
    assert read_image(np.full((5, 7, 3), 0.5, np.float32))[0, 0].tolist() == [128, 128, 128]


def test_letterbox_keeps_the_aspect_and_centres():
    image = np.full((20, 40, 3), COLOR, np.uint8)
    canvas, placement = letterbox(image, (32, 32))
    assert canvas.shape == (32, 32, 3)
    assert (placement.top_px, placement.left_px) == (8, 0)
    assert (placement.height_px, placement.width_px) == (16, 32)
    assert (canvas[:8] == 127).all()
    assert (canvas[24:] == 127).all()
    assert (canvas[8:24] == COLOR).all()


def test_letterbox_of_the_right_size_touches_nothing():
    image = noise(36, 20)
    canvas, placement = letterbox(image, (36, 20))
    assert canvas is image
    np.testing.assert_array_equal(placement.to_canvas([0.1, 0.2, 0.3, 0.4]), np.float32([0.1, 0.2, 0.3, 0.4]))


def test_letterbox_without_scaling_copies_pixels():
    image = noise(20, 36)
    canvas, _ = letterbox(image, (36, 36))
    np.testing.assert_array_equal(canvas[8:28], image)


def test_reduction_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    canvas, _ = letterbox(stripes, (16, 16))
    assert canvas.std() < 12
    assert abs(canvas.mean() - 127.5) < 4


@pytest.mark.parametrize(
    ("shape", "size"), [((40, 100), (64, 48)), ((100, 40), (64, 48)), ((33, 71), (20, 80))]
)
def test_boxes_go_to_the_canvas_and_back(shape, size):
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    box_px = (0.25 * width, 0.5 * height, 0.75 * width, 0.8 * height)
    x0, y0, x1, y1 = (round(v) for v in box_px)
    image[y0:y1, x0:x1] = 255
    box = np.array([x0 / width, y0 / height, x1 / width, y1 / height])
    canvas, placement = letterbox(image, size)
    moved = placement.to_canvas(box)
    lit = canvas[:, :, 0] > 190  # the padding is 127
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    found = [columns[0] / size[1], rows[0] / size[0], (columns[-1] + 1) / size[1], (rows[-1] + 1) / size[0]]
    assert np.abs(moved - found).max() <= 1.5 / min(size)
    np.testing.assert_allclose(placement.to_image(moved), box, atol=1e-6)
    np.testing.assert_allclose(placement.to_image_px(moved), (x0, y0, x1, y1), atol=1e-3)
    several = placement.to_image(placement.to_canvas(np.stack([box, box / 2])))
    np.testing.assert_allclose(several, np.stack([box, box / 2]), atol=1e-6)


def test_a_box_in_the_padding_is_cut_at_the_image():
    _, placement = letterbox(noise(20, 40), (32, 32))
    np.testing.assert_allclose(placement.to_image([0, 0, 1, 1]), [0, 0, 1, 1])
    np.testing.assert_allclose(placement.to_image([0.25, 0, 0.5, 0.5]), [0.25, 0, 0.5, 0.5])


def test_a_thin_image_keeps_one_pixel():
    canvas, placement = letterbox(noise(2, 900), (32, 32))
    assert canvas.shape == (32, 32, 3)
    assert placement.height_px == 1


def test_choose_size():
    sizes = ((128, 128), (64, 256))
    assert choose_size((100, 400), sizes) == (64, 256)
    assert choose_size((480, 640), sizes) == (128, 128)
    assert choose_size((640, 480), sizes) == (128, 128)
    assert choose_size((10, 10), ((64, 64), (128, 128), (96, 96))) == (128, 128)
