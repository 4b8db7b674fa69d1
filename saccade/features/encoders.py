"""Encoders, frozen: pictures and texts to what a head reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from saccade import backend
from saccade.data.image import Placement, letterbox, read_image
from saccade.data.processor import Processor
from saccade.errors import SaccadeError
from saccade.features.stored import SIDES, FeatureSet, dims_of, npz_path
from saccade.progress import track


@dataclass(frozen=True)
class Side:
    """One side of an encoder.

    dim: width.  encode: a list of pictures or texts, of any length -> features and mask (None = all kept).
    grid: of the patches.  place: picture -> its Placement; None = pictures are taken as they come.
    """

    dim: int
    encode: Callable[[list], tuple[np.ndarray, np.ndarray | None]]
    grid: tuple[int, int] | None = None
    place: Callable[[Any], Placement] | None = None


@dataclass(frozen=True)
class Features:
    """An encoder, frozen: pictures and texts -> a batch for a head.

    Call: images, texts: as many of both.
    Returns: dict: `vision_features` float32 (B, P, C) or (B, C), `text_features` float32 (B, T, D) or (B, D),
        and `text_mask` bool (B, T) where texts are padded.
    """

    vision: Side | None
    text: Side | None

    @property
    def dims(self) -> dict[str, Any]:
        """As of FeatureSet."""
        sides = (self.vision, self.text)
        return dims_of(*(None if side is None else side.dim for side in sides), self.grid)

    @property
    def grid(self) -> tuple[int, int] | None:
        return self.vision.grid if self.vision else None

    def with_text(self, other: "Features") -> "Features":
        """This encoder's pictures with another's texts."""
        return replace(self, text=other.text)

    def __call__(self, images: Sequence, texts: Sequence) -> dict[str, np.ndarray]:
        if len(images) != len(texts) or not len(images):
            raise SaccadeError(f"{len(images)} images and {len(texts)} texts; give one text for each image")
        found: dict[str, np.ndarray] = {}
        for name, values in zip(SIDES, (images, texts), strict=True):
            side = getattr(self, name)
            if side is None:
                raise SaccadeError(f"this encoder has no {name} side; add one, as with_text does")
            features, mask = side.encode(list(values))
            found[f"{name}_features"] = features
            if mask is not None:
                found[f"{name}_mask"] = mask
        return found

    def encode_all(
        self,
        rows: Sequence,
        batch_size: int = 64,
        dtype: str = "float32",
        out: str | Path | None = None,
        progress: bool = True,
    ) -> FeatureSet:
        """Encode a data set once; pictures are read as they are needed.

        Args:
            rows: with `image` and `text`, as of `saccade.data.readers.open_rows`; or (image, text) pairs.
            dtype: "float32", or "float16" for half the memory.
            out: a .npz to keep the features in; FeatureSet.load reads it.
            progress: a bar on standard error, if that is a terminal.
        Raises: SaccadeError: nothing to encode, a picture or text that cannot be used.
        """
        if dtype not in ("float32", "float16"):
            raise SaccadeError(f"dtype is {dtype!r}; use float32 or float16")
        if batch_size < 1 or not len(rows):
            raise SaccadeError(f"{len(rows)} rows in batches of {batch_size}; give at least 1 of both")
        if out is not None:
            npz_path(out)
        parts, placements = [], []
        starts = range(0, len(rows), batch_size)
        for start in track(starts, len(starts), "encoding", progress):
            pairs = [_pair(rows[i]) for i in range(start, min(start + batch_size, len(rows)))]
            filled = pairs + [pairs[-1]] * (batch_size - len(pairs))  # one shape: one program
            batch = self([image for image, _ in filled], [text for _, text in filled])
            parts.append({name: _narrow(array[: len(pairs)], dtype) for name, array in batch.items()})
            if self.vision and self.vision.place:
                placements += [self.vision.place(image) for image, _ in pairs]
        _check_lengths(parts)
        arrays = {name: _joined([part[name] for part in parts]) for name in parts[0]}
        found = FeatureSet(arrays, self.grid, tuple(placements) or None)
        if out is not None:
            found.save(out)
        return found


def _pair(row) -> tuple[Any, str]:
    return row if isinstance(row, tuple) else (row.image, row.text)


def _narrow(array: np.ndarray, dtype: str) -> np.ndarray:
    return array if array.dtype == bool else array.astype(dtype)


def _check_lengths(parts: list[dict]) -> None:
    lengths = sorted({part["text_features"].shape[1] for part in parts if part["text_features"].ndim == 3})
    if len(lengths) > 1 and "text_mask" not in parts[0]:
        raise SaccadeError(
            f"texts are of {lengths[0]} and of {lengths[-1]} tokens without a mask; have tokenize give one"
        )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Parts one behind the other; where they differ in length they are padded with zeros, False in a mask."""
    if parts[0].ndim < 2:
        return np.concatenate(parts)
    length = max(part.shape[1] for part in parts)
    wide = [np.pad(p, [(0, 0), (0, length - p.shape[1]), *[(0, 0)] * (p.ndim - 2)]) for p in parts]
    return np.concatenate(wide)


def from_saccade(model="vlm_hrm_scenes", image_size: tuple[int, int] | None = None) -> Features:
    """What a VLM-HRM reads before it reasons: vision tokens of its tower, and its encoded text, with padding.

    Args:
        model: a Pipeline, or what `saccade.load` takes.
        image_size: (height, width) of the canvas for every picture; None = the processor's first.
    Raises: SaccadeError: another kind of model, a canvas that it was not trained on.
    """
    from saccade.pipeline import Pipeline, load

    pipeline = load(model) if isinstance(model, (str, Path)) else model
    if not isinstance(pipeline, Pipeline):
        raise SaccadeError(f"a {type(pipeline).__name__} is no VLM-HRM; use from_keras or from_arrays")
    model, processor = pipeline.model, pipeline.processor
    sizes = processor.config.image_sizes
    size = tuple(image_size or sizes[0])
    if size not in sizes:
        raise SaccadeError(f"image_size is {size}; this model has {', '.join(map(str, sizes))}")
    rows, columns = model.config.vision.grid(size)
    shuffle = model.config.shuffle
    see = _compiled(model.encode_images, model)
    read = _compiled(model.encode_text, model)

    def encode_images(images: list):
        canvases = np.stack([processor.place(image, size)[0] for image in images])
        return see(canvases), None

    def encode_texts(texts: list):
        tokens, mask = _tokens(processor, texts)
        return read(tokens, mask), mask

    dim = model.config.dim
    vision = Side(
        dim, encode_images, (rows // shuffle, columns // shuffle), lambda i: processor.place(i, size)[1]
    )
    return Features(vision, Side(dim, encode_texts))


def _tokens(processor: Processor, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return processor.pad([processor.encode(processor.check(text)) for text in texts])


def from_keras(
    image_model: keras.Model,
    text_model: keras.Model | None = None,
    tokenize: Callable[[list[str]], tuple[Any, np.ndarray | None]] | None = None,
    image_size: tuple[int, int] | None = None,
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Features:
    """Any Keras models: pictures -> (B, H, W, C), (B, P, C) or (B, C); tokens -> (B, T, D) or (B, D).

    Args:
        image_model: reads float32 (B, H, W, 3). Spatial features are flattened row-major.
        text_model: reads what `tokenize` gives. None = no texts; see Features.with_text.
        tokenize: texts -> the text model's input (an array, or a dict of them) and its mask, bool (B, T) or
            None.
        image_size: (height, width); None = that of the model's input.
        prepare: pixels float32 (B, H, W, 3) in 0..255 -> what the image model reads, as the
            `preprocess_input` of keras.applications; None = pixels as they are.
    Raises: SaccadeError: the size is not known, features of another rank, a text model without tokenize.
    """
    size = _input_size(image_model, image_size)
    if (text_model is None) != (tokenize is None):
        raise SaccadeError("text_model and tokenize go together; give both or neither")
    see = _compiled(lambda pixels: _flat(image_model(pixels, training=False), "image_model"), image_model)
    shape = _output_shape(image_model, (1, *size, 3))

    def encode_images(images: list):
        canvases = np.stack([letterbox(read_image(image), size)[0] for image in images]).astype(np.float32)
        return see(canvases if prepare is None else np.asarray(prepare(canvases))), None

    grid = (shape[1], shape[2]) if len(shape) == 4 else None
    vision = Side(shape[-1], encode_images, grid, lambda image: letterbox(read_image(image), size)[1])
    if text_model is None or tokenize is None:
        return Features(vision, None)
    read = _compiled(lambda tokens: _flat(text_model(tokens, training=False), "text_model", 3), text_model)

    def encode_texts(texts: list):
        tokens, mask = tokenize(texts)
        return read(tokens), None if mask is None else np.asarray(mask, bool)

    width = encode_texts(["a"])[0].shape[-1]
    return Features(vision, Side(width, encode_texts))


def _compiled(function: Callable, model: keras.Model) -> Callable:
    """The function as one compiled call without gradients: arrays -> a float32 array."""
    call = backend.compiled(lambda *args: ops.cast(function(*args), "float32"), model)
    return lambda *args: np.asarray(ops.convert_to_numpy(call(*args)))


def _input_size(model: keras.Model, image_size) -> tuple[int, int]:
    if image_size is not None:
        return int(image_size[0]), int(image_size[1])
    shape = getattr(model, "input_shape", None) if getattr(model, "inputs", None) else None
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:3]:
        raise SaccadeError(f"the image model's input is {shape}; give image_size, (height, width)")
    return shape[1], shape[2]


def _output_shape(model: keras.Model, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of one picture. Raises: SaccadeError: it is not 2 to 4 dimensions."""
    if not model.built:
        model(np.zeros(shape, np.float32))  # a subclass makes its weights in its first call
    found = model(np.zeros(shape, np.float32), training=False)
    return tuple(_checked(found, "image_model", 4).shape)


def _checked(values, name: str, most: int):
    if not hasattr(values, "shape") or not 2 <= len(values.shape) <= most:
        what = tuple(values.shape) if hasattr(values, "shape") else type(values).__name__
        raise SaccadeError(f"{name} gives {what}; features have 2 to {most} dimensions, width last")
    return values


def _flat(values, name: str, most: int = 4):
    """(B, H, W, C) -> (B, H W, C), row-major; the others pass."""
    values = _checked(values, name, most)
    shape = values.shape
    return ops.reshape(values, (-1, shape[1] * shape[2], shape[3])) if len(shape) == 4 else values
