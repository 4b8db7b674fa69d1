"""A NanoVLM, its processor and the verbs a user knows: ask, chat, stream."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from saccade.data.chat import ChatTokenizer
from saccade.data.chat_processor import ChatProcessor, published_config, published_keys
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.files import atomic_directory
from saccade.generate import Writer
from saccade.hub import nano_vlm
from saccade.hub.fetch import fetch
from saccade.model import read_config
from saccade.models.nano_vlm import NanoVLM
from saccade.pipeline import Result


@dataclass(frozen=True, slots=True)
class Reply(Result):
    """`confidence`: geometric mean of the tokens' probabilities.  `tokens`: written, the end included."""

    text: str
    confidence: float
    tokens: int


class ChatPipeline:
    """What `saccade.load` returns for a NanoVLM. Images are paths, bytes, Pillow images or arrays.

    Args:
        model, processor.  record: the flat config.json that they came from, kept for `save_published`.
    Raises: SaccadeError: the tokenizer has more words than the model, or the processor keeps other places for
        an image than the model fills.
    """

    def __init__(self, model: NanoVLM, processor: ChatProcessor, record: dict | None = None):
        words, rows = processor.tokenizer.vocab_size, model.config.language.vocab_size
        if words > rows:
            raise SaccadeError(
                f"the tokenizer has {words} tokens, the model {rows}; use the tokenizer that belongs to it"
            )
        cell = model.config.vision.patch_size * model.config.shuffle
        side, places = processor.config.image_size, processor.config.image_tokens
        if side % cell or (side // cell) ** 2 != places:
            raise SaccadeError(
                f"image_size {side} with image_tokens {places} does not fit the model, which makes a token "
                f"of {cell} x {cell} pixels; set image_size to n * {cell} and image_tokens to n * n"
            )
        self.model = model
        self.processor = processor
        self.record = dict(record or {})
        self._writer = Writer(model)

    def ask(self, image, text: str, **options) -> Reply:
        """Answer a question about an image, a list of images, or none (None). `options`: as `chat`."""
        return self.chat([_list(image)], [text], **options)[0]

    def chat(self, images: Sequence[Sequence], conversations: Sequence, **options) -> list[Reply]:
        """The assistant's next turn in each conversation, all in one batch.

        Args:
            images, conversations: as ChatProcessor.
            options: of GenerationConfig: max_new_tokens, temperature, top_p, num_beams, seed, ...
        """
        if not images and not conversations:
            return []
        batch, settings = self._prepare(images, conversations, options)
        tokens, log_probability = self._writer.generate((_model_part(batch),), settings, **_known(batch))
        replies = []
        for row, mean in zip(tokens, log_probability, strict=True):
            ends = np.flatnonzero(np.isin(row, settings.ends))
            length = int(ends[0]) + 1 if len(ends) else len(row)
            text = self.processor.tokenizer.decode(row[:length])
            replies.append(Reply(text.strip(), math.exp(float(mean)), length))
        return replies

    def stream(self, image, text: str, **options) -> Iterator[str]:
        """As `ask`, but the answer's text in pieces as it is written."""
        batch, settings = self._prepare([_list(image)], [text], options)
        written: list[int] = []
        shown = ""
        for tokens in self._writer.stream((_model_part(batch),), settings, **_known(batch)):
            new = [token for token in tokens[0].tolist() if token not in settings.ends]
            written += new
            whole = self.processor.tokenizer.decode(written)
            # Half a character is not shown before its other half, or the end, comes.
            if new and not whole.endswith("\ufffd") and whole != shown:
                yield whole[len(shown) :]
                shown = whole
        whole = self.processor.tokenizer.decode(written)
        if whole != shown:
            yield whole[len(shown) :]

    def _prepare(self, images, conversations, options: dict):
        end = self.processor.tokenizer.eos_id
        settings = GenerationConfig(**{"eos_token_id": end, "pad_token_id": end, **options})
        room = settings.max_new_tokens
        if room >= self.processor.limit:
            raise SaccadeError(
                f"max_new_tokens is {room}, but the model takes {self.processor.limit} tokens, the prompt "
                "included; ask for fewer"
            )
        if not self.processor.config.template:
            room = 0  # v0.1 was trained on 79 tokens of question and answer, and writes beyond
        return self.processor(images, conversations, room=room), settings

    def save(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write model and processor to one directory of Saccade's, all or nothing."""
        with atomic_directory(Path(folder)) as partial:
            self.model.write(partial, dtype)
            self.processor.save(partial)

    def save_published(self, folder: str | Path) -> None:
        """Write a directory in nanoVLM's published format, with the tokenizer beside it, all or nothing."""
        with atomic_directory(Path(folder)) as partial:
            nano_vlm.write(partial, self.model, {**self.record, **published_keys(self.processor.config)})
            self.processor.tokenizer.save(partial)

    def configure(self, **changes) -> "ChatPipeline":
        """The same weights under a changed ChatConfig, as `max_tiles=5` or `reference_tiles=True`."""
        config = replace(self.processor.config, **changes)
        return ChatPipeline(self.model, ChatProcessor(self.processor.tokenizer, config), self.record)


def _list(image) -> list:
    if image is None:
        return []
    return list(image) if isinstance(image, (list, tuple)) else [image]


def _model_part(batch: dict) -> dict:
    return {name: batch[name] for name in ("images", "tokens", "padding_mask", "image_mask")}


def _known(batch: dict) -> dict:
    """The words of the prompt: what stands where an image does (in v0.1 the end of an answer) is none."""
    return {"tokens": batch["tokens"], "padding_mask": batch["padding_mask"] & ~batch["image_mask"]}


def read(folder: Path, dtype: str = "float32") -> ChatPipeline:
    """The pipeline of a directory: one that `save` wrote, or one in the published format.

    The published format names its tokenizer (`lm_tokenizer`) instead of holding it; a tokenizer.json in the
    directory comes first, else the hub is asked.
    """
    if (folder / ChatProcessor.FILE).is_file():
        return ChatPipeline(NanoVLM.load(folder, dtype), ChatProcessor.load(folder))
    record = read_config(folder)
    model = nano_vlm.read_model(folder, dtype)
    config = published_config(record, model.config.image_tokens)
    if (folder / "tokenizer.json").is_file():
        where = folder
    else:
        named = record.get("lm_tokenizer")
        if not isinstance(named, str):
            raise SaccadeError(f"{folder} has no tokenizer.json and names no lm_tokenizer; put one beside it")
        where = Path(named) if Path(named).is_dir() else fetch(named, weights=False)
    eos_id = record.get("lm_eos_token_id")
    return ChatPipeline(model, ChatProcessor(ChatTokenizer.load(where, eos_id), config), record)
