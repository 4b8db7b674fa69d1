"""What a model sees of a picture and a text, and what its answer indices mean."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.image import Placement, choose_size, letterbox, read_image
from saccade.data.text import BOS, PAD, Tokenizer, check_text, lexicon_of
from saccade.errors import SaccadeError
from saccade.files import write_text


@dataclass(frozen=True)
class ProcessorConfig:
    """Sizes and vocabularies, written once beside the weights.

    Args:
        image_sizes: canvases (height, width) in pixels; an image goes onto the one it fills best.
        answers: the closed set of answers of task `vqa`; an index into it is the label.
        max_length: most tokens of a text, <bos> included.
        length_multiple: lengths of text are padded to a multiple of it, so that few shapes compile.
        target_length: length of every caption and rationale, <eos> included.
        lexicon: words that the model has learned; empty = any word is let through.
    """

    image_sizes: tuple[tuple[int, int], ...] = ((128, 128), (64, 256))
    answers: tuple[str, ...] = ()
    max_length: int = 64
    length_multiple: int = 16
    target_length: int = 64
    lexicon: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.image_sizes or min(min(size) for size in self.image_sizes) < 1:
            raise SaccadeError(f"image_sizes is {self.image_sizes}; give at least one (height, width)")
        if len(set(self.answers)) != len(self.answers):
            raise SaccadeError("answers holds a word twice; list each once")
        if self.max_length % self.length_multiple:
            raise SaccadeError(
                f"max_length {self.max_length} must be a multiple of {self.length_multiple}, length_multiple"
            )

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict) -> "ProcessorConfig":
        """Raises: SaccadeError: a key that is missing from, or unknown to, this class."""
        names = {field.name for field in fields(cls)}
        if not isinstance(record, dict) or set(record) != names:
            given = set(record) if isinstance(record, dict) else set()
            raise SaccadeError(
                f"the processor's JSON lacks {sorted(names - given)} and adds {sorted(given - names)}; "
                "use the file saved with the weights"
            )
        values: dict[str, Any] = {
            **record,
            "image_sizes": tuple((int(height), int(width)) for height, width in record["image_sizes"]),
            "answers": tuple(record["answers"]),
            "lexicon": tuple(record["lexicon"]),
        }
        return cls(**values)


class Processor:
    """Pictures and texts -> a batch of arrays; an index -> an answer. Holds no weights.

    Call:
        images: pictures as `read_image` takes them; all must go onto one canvas size.
        texts: as many strings, or None for no text (captioning).
    Returns: dict: images float32 (B, H, W, 3) in [0, 1]; tokens int32 (B, T), <bos> first, T a multiple of
        length_multiple; padding_mask bool (B, T), True = keep.
    Raises: SaccadeError: a picture or text that cannot be used; canvases differ; counts differ.
    """

    def __init__(self, tokenizer: Tokenizer, config: ProcessorConfig):
        self.tokenizer = tokenizer
        self.config = config
        self._index = {answer: index for index, answer in enumerate(config.answers)}
        self._lexicon = frozenset(lexicon_of(config.lexicon)) or None  # "mid-sized" is two words

    def __call__(self, images: Sequence, texts: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        if texts is not None and len(texts) != len(images):
            raise SaccadeError(f"{len(images)} images and {len(texts)} texts; give one text for each image")
        rows = (
            [self.encode(self.check(text)) for text in texts] if texts is not None else [[BOS]] * len(images)
        )
        canvases = [self.place(image)[0] for image in images]
        tokens, padding_mask = self.pad(rows)
        return {
            "images": stack(canvases).astype(np.float32) / np.float32(255),
            "tokens": tokens,
            "padding_mask": padding_mask,
        }

    def place(self, image, size: tuple[int, int] | None = None) -> tuple[np.ndarray, Placement]:
        """One picture -> its canvas, uint8 (H, W, 3), and where it lies there. size None = the best fit."""
        pixels = read_image(image)
        return letterbox(pixels, size or choose_size(pixels.shape[:2], self.config.image_sizes))

    def check(self, text: str) -> str:
        """The text cleaned, in words that the model knows; see `check_text` for what becomes of others."""
        return check_text(text, lexicon=self._lexicon)

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Text -> ids with <bos> first. `limit` defaults to max_length."""
        limit = limit or self.config.max_length
        ids = [BOS, *self.tokenizer.encode(text)]
        if len(ids) > limit:
            raise SaccadeError(f"the text has {len(ids)} tokens, the limit is {limit}; shorten it")
        return ids

    def pad(self, rows: Sequence[Sequence[int]], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows of ids -> tokens int32 (B, T), padding_mask bool (B, T). length None = the next multiple."""
        multiple = self.config.length_multiple
        length = length or -(-max((len(row) for row in rows), default=1) // multiple) * multiple
        tokens = np.full((len(rows), length), PAD, np.int32)
        padding_mask = np.zeros((len(rows), length), bool)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
            padding_mask[index, : len(row)] = True
        return tokens, padding_mask

    def encode_answer(self, answer: str) -> int:
        """The label of an answer of task `vqa`."""
        if answer not in self._index:
            raise SaccadeError(
                f"{answer!r} is not among the {len(self._index)} answers of the processor; add it"
            )
        return self._index[answer]

    def decode_answer(self, index: int) -> str:
        """The answer of a label."""
        index = int(index)
        if not 0 <= index < len(self.config.answers):
            raise SaccadeError(
                f"answer index {index} is outside 0..{len(self.config.answers) - 1}; check the model"
            )
        return self.config.answers[index]

    def save(self, directory: str | os.PathLike) -> None:
        """Write tokenizer.json and processor.json. Raises: SaccadeError: disk full, no permission."""
        folder = Path(directory)
        self.tokenizer.save(folder / "tokenizer.json")
        text = json.dumps(self.config.to_json(), indent=1, ensure_ascii=False) + "\n"
        write_text(folder / "processor.json", text)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> "Processor":
        """Read what `save` wrote."""
        folder = Path(directory)
        path = folder / "processor.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SaccadeError(f"{path} cannot be read: {error}; restore the file") from None
        return cls(Tokenizer.load(folder / "tokenizer.json"), ProcessorConfig.from_json(record))


def stack(canvases: Iterable[np.ndarray]) -> np.ndarray:
    """Canvases of one size -> uint8 (B, H, W, 3)."""
    canvases = list(canvases)
    sizes = sorted({canvas.shape[:2] for canvas in canvases})
    if len(sizes) != 1:
        raise SaccadeError(f"a batch has one canvas size, these images need {sizes}; split them by shape")
    return np.stack(canvases)
