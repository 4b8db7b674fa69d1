"""Encoders, frozen: pictures and texts to what a head reads."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from saccade import backend
from saccade.data.image import letterbox, read_image
from saccade.errors import SaccadeError
from saccade.features.stored import SIDES, FeatureSet, Gathered, dims_of, npz_path, pack, unpack
from saccade.progress import track
from saccade.train.stream import Stream

_KEPT = ("text_mask", "turns", "roles")  # of what is prepared, what a head reads too


@dataclass(frozen=True)
class Side:
    """One side of an encoder.

    dim: width.
    prepare: a list of pictures, or of texts -> arrays of as many rows, on the host and without the model, so
        that it pickles. Pictures: with `placements`, rows of `pack`, where they are put onto a canvas. Texts,
        or rows that have a `text`: with `text_mask` where they are padded.
    encode: those arrays -> features float32 (B, N, dim) or (B, dim), on the device.
    grid: of the patches.
    """

    dim: int
    prepare: Callable[[list], dict[str, Any]]
    encode: Callable[[dict], Any]
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class Features:
    """An encoder, frozen: pictures and texts -> a batch for a head.

    Args: together: what both sides prepared -> `vision_features` and `text_features`, of an encoder in which
        one depends on the other.
    Call: images, texts: as many of both.
    Returns: dict: `vision_features` float32 (B, P, C) or (B, C), `text_features` float32 (B, T, D) or (B, D),
        and `text_mask` bool (B, T) where texts are padded; of dialogues `turns` and `roles` int32 (B, T).
    """

    vision: Side | None
    text: Side | None
    together: Callable[[dict], dict[str, Any]] | None = None

    @property
    def dims(self) -> dict[str, Any]:
        """As of FeatureSet."""
        sides = (self.vision, self.text)
        return dims_of(*(None if side is None else side.dim for side in sides), self.grid)

    @property
    def grid(self) -> tuple[int, int] | None:
        return self.vision.grid if self.vision else None

    def with_text(self, other: "Features") -> "Features":
        """This encoder's pictures with another's texts. Raises: SaccadeError: one encodes both as one."""
        if self.together or other.together:
            raise SaccadeError("an encoder that reasons reads picture and text as one; use one with steps=0")
        return replace(self, text=other.text)

    def __call__(self, images: Sequence, texts: Sequence) -> dict[str, np.ndarray]:
        if len(images) != len(texts) or not len(images):
            raise SaccadeError(f"{len(images)} images and {len(texts)} texts; give one text for each image")
        sides = {name: self._side(name) for name in SIDES}
        arrays = sides["vision"].prepare(list(images)) | sides["text"].prepare(list(texts))
        return {name: np.asarray(ops.convert_to_numpy(v)) for name, v in self._encode(arrays, SIDES).items()}

    def encode_all(
        self,
        rows: Sequence,
        batch_size: int = 64,
        dtype: str = "float32",
        out: str | Path | None = None,
        progress: bool = True,
        sides: Sequence[str] = SIDES,
        labels: Callable[[list, int], dict[str, np.ndarray]] | None = None,
        workers: int = 0,
    ) -> FeatureSet:
        """Encode a data set once; pictures are read as they are needed, and only features are kept.

        Args:
            rows: with `image` and `text`, as of `saccade.data.readers.open_rows`; or (image, text) pairs.
            dtype: "float32", or "float16" for half the memory.
            out: a .npz to keep the features in; FeatureSet.load reads it.
            progress: a bar on standard error, if that is a terminal.
            sides: ("vision",) keeps no features of the text, for heads that read images only.
            labels: (rows, number of the first) -> arrays of as many rows, kept beside the features.
            workers: processes that read rows and make labels; 0 = this one. The result is the same. `rows`
                and `labels` must pickle, and a script needs `if __name__ == "__main__":`.
        Raises: SaccadeError: nothing to encode, a picture or text that cannot be used.
        """
        if dtype not in ("float32", "float16"):
            raise SaccadeError(f"dtype is {dtype!r}; use float32 or float16")
        if batch_size < 1 or not len(rows):
            raise SaccadeError(f"{len(rows)} rows in batches of {batch_size}; give at least 1 of both")
        if out is not None:
            npz_path(out)
        needed = SIDES if self.together else sides
        prepare = {name: self._side(name).prepare for name in needed}
        source = _Prepared(rows, min(batch_size, len(rows)), prepare, labels)
        found = Gathered(len(rows))
        with closing(_read(source, workers)) as read:
            encoded = ((self._encode(arrays, sides, dtype), arrays, own) for arrays, own in read)
            for batch, arrays, own in track(_later(encoded), len(source), "encoding", progress):
                if "vision" in sides and "placements" in arrays:
                    batch["placements"] = arrays["placements"]
                found.add({name: ops.convert_to_numpy(value) for name, value in batch.items()}, own)
        places = found.arrays.pop("placements", None)
        placements = None if places is None else tuple(map(unpack, places.tolist()))
        features = FeatureSet(found.arrays, self.grid if "vision" in sides else None, placements)
        if out is not None:
            features.save(out)
        return features

    def _side(self, name: str) -> Side:
        side = getattr(self, name)
        if side is None:
            raise SaccadeError(f"this encoder has no {name} side; add one, as with_text does")
        return side

    def _encode(self, arrays: dict, sides: Sequence[str], dtype: str = "float32") -> dict[str, Any]:
        """What was prepared -> features of the sides, on their way to the host, and what goes with them."""
        if self.together:
            found = self.together(arrays)
        else:
            found = {f"{name}_features": self._side(name).encode(arrays) for name in sides}
        found = {f"{name}_features": ops.cast(found[f"{name}_features"], dtype) for name in sides}
        for value in found.values():
            backend.start_host_copy(value)
        kept = _KEPT if "text" in sides else ()
        return {**found, **{name: arrays[name] for name in kept if name in arrays}}


@dataclass(frozen=True)
class _Prepared:
    """Rows as a source of a Stream: item i is what was prepared of batch i, and its labels."""

    rows: Sequence
    size: int
    prepare: dict[str, Callable[[list], dict]]
    labels: Callable[[list, int], dict] | None

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __getitem__(self, i: int) -> tuple[dict, dict]:
        start = i * self.size
        rows = [self.rows[k] for k in range(start, min(start + self.size, len(self.rows)))]
        filled = [_pair(row) for row in rows + rows[-1:] * (self.size - len(rows))]  # one shape: one program
        arrays: dict[str, Any] = {}
        for name, prepare in self.prepare.items():
            arrays |= prepare([pair[SIDES.index(name)] for pair in filled])
        return arrays, self.labels(rows, start) if self.labels else {}


def _pair(row) -> tuple[Any, Any]:
    """Picture, and text or what has one."""
    return row if isinstance(row, tuple) else (row.image, row)


def said(text) -> str:
    """The text of an item of Side.prepare."""
    return text if isinstance(text, str) else text.text


def _only(items: list):
    return items[0]


def _read(source: _Prepared, workers: int) -> Iterator[tuple[dict, dict]]:
    """Every item in order."""
    stream = Stream(source, _only, None, source.size, workers=workers, shuffle=False, items=1)
    with closing(stream.batches()) as batches:  # ends the workers now, not when it is collected
        yield from islice(batches, len(source))


def _later(steps: Iterable) -> Iterator:
    """The same steps, each when the next has begun: while one is copied, the device computes."""
    waiting: list = []
    for step in steps:
        yield from waiting
        waiting = [step]
    yield from waiting


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
    see = compiled(lambda pixels: _flat(image_model(pixels, training=False), "image_model"), image_model)
    shape = _output_shape(image_model, (1, *size, 3))

    def pictures(images: list):
        placed = [letterbox(read_image(image), size) for image in images]
        canvases = np.stack([canvas for canvas, _ in placed]).astype(np.float32)
        pixels = canvases if prepare is None else np.asarray(prepare(canvases))
        return {"images": pixels, "placements": np.array([pack(place) for _, place in placed])}

    grid = (shape[1], shape[2]) if len(shape) == 4 else None
    vision = Side(shape[-1], pictures, lambda arrays: see(arrays["images"]), grid)
    if text_model is None or tokenize is None:
        return Features(vision, None)
    read = compiled(lambda tokens: _flat(text_model(tokens, training=False), "text_model", 3), text_model)

    def words(texts: list):
        tokens, mask = tokenize([said(text) for text in texts])
        return {"tokens": tokens} if mask is None else {"tokens": tokens, "text_mask": np.asarray(mask, bool)}

    def encode(arrays: dict):
        return read(arrays["tokens"])

    return Features(vision, Side(encode(words(["a"])).shape[-1], words, encode))


def compiled(function: Callable, model: keras.Model) -> Callable:
    """The function as one compiled call without gradients: arrays -> float32 tensors."""

    def wide(*args):
        return keras.tree.map_structure(lambda t: ops.cast(t, "float32"), function(*args))

    return backend.compiled(wide, model)


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
