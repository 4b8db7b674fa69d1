"""Images and texts -> what a published BLIP-2 reads."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saccade.data.chat import ChatTokenizer, SavedProcessor
from saccade.data.clip_processor import check_images, fitted, read_json, token
from saccade.data.image import read_image
from saccade.data.interleaved import Chunk
from saccade.data.text import BPE
from saccade.errors import SaccadeError

LENGTH_MULTIPLE = 16  # prompts are padded to it, so that few shapes compile


@dataclass(frozen=True, slots=True)
class BLIP2ProcessorConfig:
    """What a published BLIP-2 is told.

    Args:
        image_size: pixels a side; the whole image is made square, bicubic.
        image_tokens: Q, places of an image, which stand ahead of the text.
        first, last, pad: ids around a text and after it. Of a prompt `first` alone is there, and `last` ends
            the answer (OPT: </s>, a line break); of a text to compare with images both are ([CLS], [SEP]).
    """

    image_size: int
    image_tokens: int
    first: int
    last: int
    pad: int


class BLIP2Processor(SavedProcessor):
    """Prompts or pairs -> arrays; what `saccade.few_shot.FewShot` needs of a processor.

    Call: rows: each a single Chunk with an image, as `few_shot((), image, text)` makes it.
    Returns: dict: images uint8 (B, 1, H, W, 3); tokens int32 (B, S); image_mask bool (B, S); padding_mask
        bool (B, S), padding first.
    Raises: SaccadeError: no row; a row of several chunks, or without an image.
    """

    FILE, CONFIG = "blip2_processor.json", BLIP2ProcessorConfig

    @property
    def end_id(self) -> int:
        return self.config.last

    @property
    def vocab_size(self) -> int:
        """What the model must know."""
        return 1 + max(self.tokenizer.vocab_size - 1, self.config.first, self.config.last, self.config.pad)

    def __call__(self, rows: Sequence[Sequence[Chunk]]) -> dict[str, np.ndarray]:
        if not len(rows):
            raise SaccadeError("there are no prompts; give a list of at least one")
        for row in rows:
            if len(row) != 1 or row[0].image is None:
                raise SaccadeError(
                    f"a prompt has {len(row)} parts; a published BLIP-2 reads one image and the text after it"
                )
        c, chunks = self.config, [chunk for (chunk,) in rows]
        texts = [[c.first, *self._encode(chunk.text)] for chunk in chunks]
        longest = c.image_tokens + max(map(len, texts))
        longest += -longest % LENGTH_MULTIPLE
        tokens = np.full((len(rows), longest), c.pad, np.int32)
        kept, places = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
        for i, text in enumerate(texts):
            start = longest - len(text)
            tokens[i, start:] = text
            kept[i, start - c.image_tokens :] = places[i, start - c.image_tokens : start] = True
        images = self._see(chunk.image for chunk in chunks)[:, None]
        return {"images": images, "tokens": tokens, "padding_mask": kept, "image_mask": places}

    def pairs(self, images: Sequence, texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
        """As `InterleavedProcessor.pairs`; as many tokens as the longest text has, in steps of 16."""
        c = self.config
        ids = [[c.first, *self._encode(text), c.last] for text in texts]
        longest = max(map(len, ids))
        if longest > length:
            raise SaccadeError(f"a text has {longest} tokens, the limit is {length}; shorten it")
        tokens = np.full((len(ids), min(length, longest + -longest % LENGTH_MULTIPLE)), c.pad, np.int32)
        kept = np.zeros(tokens.shape, bool)
        for i, row in enumerate(ids):
            tokens[i, : len(row)], kept[i, : len(row)] = row, True
        return {"images": self._see(images), "tokens": tokens, "padding_mask": kept}

    def decode(self, ids: Iterable[int]) -> str:
        """What was written, up to its end, spaces around it aside."""
        kept = []
        for index in ids:
            if index == self.end_id:
                break
            kept.append(index)
        return self.tokenizer.decode(kept).strip()

    def _encode(self, text: str) -> list[int]:
        """Special tokens written out in the text are left out."""
        return self.tokenizer.encode(self.tokenizer.plain(text)).ids

    def _see(self, images: Iterable) -> np.ndarray:
        return np.stack([fitted(read_image(image), self.config.image_size, "stretch") for image in images])


def published(folder: Path, image_size: int, image_tokens: int, retrieval: bool) -> BLIP2Processor:
    """The processor of a directory of transformers, of its tokenizer.json and what lies beside it.

    Raises: SaccadeError: no tokenizer.json; another image processor; a special token that is not there.
    """
    if not (folder / "tokenizer.json").is_file():
        raise SaccadeError(f"{folder} has no tokenizer.json; put the one that belongs to the model there")
    check_images(folder, True, image_size)
    said = read_json(folder / "tokenizer_config.json")
    if retrieval:
        names = [token(said, f"{kind}_token") or f"[{kind.upper()}]" for kind in ("cls", "sep", "pad")]
        tokenizer = _tokenizer(folder, names[1])
        first, last, pad = map(tokenizer.id_of, names)
    else:
        first_name, pad_name = token(said, "bos_token") or "</s>", token(said, "pad_token") or "<pad>"
        tokenizer = _tokenizer(folder, token(said, "eos_token") or "</s>")
        first, pad = tokenizer.id_of(first_name), tokenizer.id_of(pad_name)
        last = _ends_answers(folder, tokenizer.eos_id)
    return BLIP2Processor(tokenizer, BLIP2ProcessorConfig(image_size, image_tokens, first, last, pad))


def _tokenizer(folder: Path, eos: str) -> ChatTokenizer:
    path = folder / "tokenizer.json"
    try:
        return ChatTokenizer(BPE.from_str(path.read_text(encoding="utf-8")), eos, str(path))
    except SaccadeError:
        raise
    except Exception as error:  # the Rust side raises bare Exception
        raise SaccadeError(f"{path} is not a tokenizer: {error}; get the file again") from None


def _ends_answers(folder: Path, default: int) -> int:
    """The id that ends an answer: generation_config.json's, else that of the decoder's configuration."""
    text = read_json(folder / "config.json").get("text_config") or {}
    for record in (read_json(folder / "generation_config.json"), text):
        found = record.get("eos_token_id")
        found = found[0] if isinstance(found, list) and found else found
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return default
