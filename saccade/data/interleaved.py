"""Texts with images in them: few-shot prompts, their tokens and their batches.

prompt = few_shot([Chunk("this is a", red_cube, "dax")], blue_cube, "this is a")
batch  = processor([prompt])
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.image import letterbox, read_image
from saccade.data.text import BOS, EOS, PAD, Tokenizer
from saccade.errors import SaccadeError
from saccade.files import write_text

IMAGE, END_OF_CHUNK = "<image>", "<|endofchunk|>"
IGNORED = -100  # a target that does not count
FILE = "interleaved.json"


@dataclass(frozen=True, slots=True)
class Chunk:
    """An image, what is said about it, and the answer, which training learns.

    Args:
        image: as `read_image` takes it; None = text alone.
        answer: follows `text` after a space; "" = none.
        closed: <|endofchunk|> follows. The chunk that is to be answered stays open.
    """

    text: str
    image: Any = None
    answer: str = ""
    closed: bool = True


def few_shot(shots: Sequence[Chunk], image, text: str) -> tuple[Chunk, ...]:
    """Demonstrations, then what is asked now. No demonstration = zero-shot."""
    return (*shots, Chunk(text, image, closed=False))


def asked(row: tuple[Chunk, ...]) -> tuple[tuple[Chunk, ...], str]:
    """A row without its last answer, as a prompt; that answer."""
    *shots, last = row
    return few_shot(shots, last.image, last.text), last.answer


def parse(text: str, images: Sequence) -> tuple[Chunk, ...]:
    """A text with <image> where an image stands and <|endofchunk|> where a demonstration ends.

    Raises: SaccadeError: as many images as places are needed, and one at least.
    """
    places = text.count(IMAGE)
    if not places and not len(images):
        raise SaccadeError(f"the prompt has no image; write {IMAGE} where one stands and give it")
    if len(images) > places:
        raise SaccadeError(
            f"{len(images)} images but {places} {IMAGE} places in the prompt; add a place or drop an image"
        )
    if places > len(images):
        raise SaccadeError(
            f"{places} {IMAGE} places in the prompt but {len(images)} images; give every place its image"
        )
    left = iter(images)
    chunks = []
    for at, piece in enumerate(text.split(IMAGE)):
        image = next(left) if at else None
        *closed, rest = piece.split(END_OF_CHUNK)
        for said in closed:
            chunks.append(Chunk(said, image))
            image = None
        if rest or image is not None:
            chunks.append(Chunk(rest, image, closed=False))
    return tuple(chunks)


@dataclass(frozen=True)
class InterleavedConfig:
    """`image_size`: (height, width) of the canvas.  `max_length`: most tokens of a row, image places too.
    `length_multiple`: prompts are padded to a multiple of it, so that few shapes compile.  `max_images`: most
    images of a row.  `image_tokens`: places that an image takes, 1 (Flamingo) or as many
    as it becomes tokens (BLIP-2)."""

    image_size: tuple[int, int] = (128, 128)
    max_length: int = 128
    length_multiple: int = 16
    max_images: int = 8
    image_tokens: int = 1


@dataclass(frozen=True)
class InterleavedProcessor:
    """Rows of chunks -> a batch of arrays. Holds no weights; picklable.

    <image> and <|endofchunk|> are the two ids after the tokenizer's own.

    Call:
        rows: each a sequence of Chunk.
        train: padding last and lengths that never change, with `targets`; else padding first.
        learn: "answers" counts answers and the <|endofchunk|> after them, "text" all but image places.
        text_only: rows without an image are meant.
    Returns: dict: images uint8 (B, K, H, W, 3), gray where a row has fewer; tokens int32 (B, S); image_mask
        bool (B, S); padding_mask bool (B, S); with `train`, instead of padding_mask, targets int32 (B, S):
        the token after, -100 = does not count.
    Raises: SaccadeError: no row, no image, more images than max_images, more tokens than max_length.
    """

    tokenizer: Tokenizer
    config: InterleavedConfig = InterleavedConfig()

    @property
    def image_id(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def end_id(self) -> int:
        return self.tokenizer.vocab_size + 1

    @property
    def vocab_size(self) -> int:
        """Of the model: the tokenizer's, and the two."""
        return self.tokenizer.vocab_size + 2

    def __call__(self, rows: Sequence, train=False, learn="answers", text_only=False) -> dict:
        encoded = [self.encode(row, learn, text_only) for row in rows]
        if not encoded:
            raise SaccadeError("there are no prompts; give a list of at least one")
        pictures = [[chunk.image for chunk in row if chunk.image is not None] for row in rows]
        longest = self.config.max_length if train else self._length(max(len(ids) for ids, _ in encoded))
        most = 0 if text_only else self.config.max_images if train else max(map(len, pictures))
        images = np.full((len(rows), most, *self.config.image_size, 3), 127, np.uint8)
        tokens = np.full((len(rows), longest), PAD, np.int32)
        targets = np.full((len(rows), longest), IGNORED, np.int32)
        kept = np.zeros((len(rows), longest), bool)
        for i, ((ids, counts), own) in enumerate(zip(encoded, pictures, strict=True)):
            span = slice(0, len(ids)) if train else slice(longest - len(ids), longest)
            tokens[i, span], kept[i, span] = ids, True
            following = np.where(counts, ids, IGNORED)[1:]
            targets[i, span.start : span.stop - 1] = following
            for k, picture in enumerate(own):
                images[i, k] = letterbox(read_image(picture), self.config.image_size)[0]
        batch = {"images": images, "tokens": tokens, "image_mask": tokens == self.image_id}
        return batch | ({"targets": targets} if train else {"padding_mask": kept})

    def _length(self, tokens: int) -> int:
        multiple = self.config.length_multiple
        return min(-(-tokens // multiple) * multiple, self.config.max_length)

    def encode(self, row: Sequence[Chunk], learn="answers", text_only=False) -> tuple[list[int], list[bool]]:
        """The tokens of a row, <bos> first, and which of them training predicts."""
        number = sum(chunk.image is not None for chunk in row)
        if not number and not text_only:
            raise SaccadeError(f"the prompt has no image; give one of its {len(row)} chunks an image")
        if number > self.config.max_images:
            raise SaccadeError(f"a row has {number} images, at most {self.config.max_images}; give fewer")
        ids, counts = [BOS], [False]
        for chunk in row:
            places = 0 if chunk.image is None else self.config.image_tokens
            said = self.tokenizer.encode(chunk.text)
            answer = self.tokenizer.encode(f" {chunk.answer}") if chunk.answer else []
            end = [self.end_id] if chunk.closed else []
            ids += [self.image_id] * places + said + answer + end
            counts += [False] * places + [learn == "text"] * len(said)
            counts += [True] * (len(answer) + len(end))
        if len(ids) > self.config.max_length:
            raise SaccadeError(
                f"a row has {len(ids)} tokens, at most {self.config.max_length}; give fewer or shorter chunks"
            )
        return ids, counts

    def pairs(self, images: Sequence, texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
        """Pictures and what is said of them, for a model that compares the two.

        Args: length: T.
        Returns: dict: images uint8 (B, H, W, 3); tokens int32 (C, T), <bos> first and <eos> last;
            padding_mask bool (C, T).
        Raises: SaccadeError: a text has more tokens than `length`.
        """
        tokens = np.full((len(texts), length), PAD, np.int32)
        kept = np.zeros(tokens.shape, bool)
        for i, text in enumerate(texts):
            ids = [BOS, *self.tokenizer.encode(text), EOS]
            if len(ids) > length:
                raise SaccadeError(
                    f"a text has {len(ids)} tokens with <bos> and <eos>, the limit is {length}; shorten it"
                )
            tokens[i, : len(ids)], kept[i, : len(ids)] = ids, True
        pixels = [letterbox(read_image(image), self.config.image_size)[0] for image in images]
        return {"images": np.stack(pixels), "tokens": tokens, "padding_mask": kept}

    def decode(self, ids) -> str:
        """What was written, up to <|endofchunk|>, spaces around it aside."""
        kept = []
        for token in ids:
            if token == self.end_id:
                break
            if token < self.image_id:
                kept.append(token)
        return self.tokenizer.decode(kept).strip()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and interleaved.json."""
        self.tokenizer.save(Path(folder) / "tokenizer.json")
        write_text(Path(folder) / FILE, json.dumps(asdict(self.config), indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "InterleavedProcessor":
        """Read what `save` wrote. Raises: SaccadeError: it is missing or damaged."""
        path = Path(folder) / FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            values: dict[str, Any] = {**record, "image_size": tuple(record["image_size"])}
            config = InterleavedConfig(**values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SaccadeError(f"{path} cannot be read: {error!r}; restore the file") from None
        return cls(Tokenizer.load(Path(folder) / "tokenizer.json"), config)


@dataclass(frozen=True)
class Collate:
    """Rows -> a training batch. `blind`: the texts without their pictures, every token learned."""

    processor: InterleavedProcessor
    blind: bool = False

    def __call__(self, rows: Sequence[Sequence[Chunk]]) -> dict[str, np.ndarray]:
        if not self.blind:
            return self.processor(rows, train=True)
        rows = [[replace(chunk, image=None) for chunk in row] for row in rows]
        return self.processor(rows, train=True, learn="text", text_only=True)


@dataclass(frozen=True)
class Pairs:
    """Rows of one chunk -> pictures and what their answers say of them; picklable.

    Args: text_length: T.
    Returns, raises: as `InterleavedProcessor.pairs`.
    """

    processor: InterleavedProcessor
    text_length: int

    def __call__(self, rows: Sequence[Sequence[Chunk]]) -> dict[str, np.ndarray]:
        chunks = [chunk for (chunk,) in rows]
        images, texts = [chunk.image for chunk in chunks], [chunk.answer for chunk in chunks]
        return self.processor.pairs(images, texts, self.text_length)
