"""A captioner, its processor and its one verb: caption."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saccade import backend
from saccade.data.processor import Processor
from saccade.data.text import BOS, EOS
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.files import atomic_directory
from saccade.generate import Writer
from saccade.models.captioners import KINDS, Captioner
from saccade.pipeline import Result, crop_attention


@dataclass(frozen=True, slots=True)
class Word(Result):
    """`confidence`: its tokens' probability.  `attention`: float32 (h, w) over the image, sums to 1, the mean
    over its tokens; None for a model that does not look again."""

    text: str
    confidence: float
    attention: np.ndarray | None


@dataclass(frozen=True, slots=True)
class CaptionOfWords(Result):
    """`confidence`: geometric mean of the tokens' probabilities.  `words`: empty unless asked for."""

    text: str
    confidence: float
    words: tuple[Word, ...] = ()


class CaptionPipeline:
    """What `saccade.load` returns for a captioner. Images are paths, bytes, Pillow images or arrays.

    Args: model: a ShowAndTell or ShowAttendTell.  processor: the Processor it was trained with.
    Raises: SaccadeError: the tokenizer has more words than the model.
    """

    def __init__(self, model: Captioner, processor: Processor):
        words, rows = processor.tokenizer.vocab_size, model.config.vocab_size
        if words > rows:
            raise SaccadeError(
                f"the tokenizer has {words} tokens, the model {rows}; use the tokenizer that belongs to it"
            )
        self.model, self.processor = model, processor
        self._writer = Writer(model)
        self._score = backend.compiled(model, model)

    def caption(self, image, words: bool = False, **options) -> CaptionOfWords:
        """Describe the image.

        Args: words: also say of each word how sure it was and what it looked at.  options: as `write`.
        """
        batch = self._batch(image)
        written = self.write(batch, **options)
        tokens = written["tokens"][0].tolist()
        said = self._words(image, batch, tokens) if words else ()
        confidence = math.exp(float(written["log_probability"][0]))
        return CaptionOfWords(self.processor.tokenizer.decode(tokens), confidence, said)

    def write(self, batch: dict, **options) -> dict:
        """Texts of a batch as Processor or Collate make it: `tokens` int32 (B, L), `log_probability` float32
        (B,), the mean over a row's tokens.

        Args: options: of GenerationConfig: num_beams, temperature, max_new_tokens, seed, ...
        """
        settings = GenerationConfig(**{"max_new_tokens": self.model.max_new_tokens, **options})
        tokens, score = self._writer.generate((batch["images"],), settings)
        return {"tokens": tokens, "log_probability": score}

    def save(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write model and processor to one directory, all or nothing. `dtype`: as `Model.save`."""
        with atomic_directory(Path(folder)) as partial:
            self.model.write(partial, dtype)
            self.processor.save(partial)

    def _batch(self, image) -> dict:
        canvas, _ = self.processor.place(image, self.model.config.image_size)
        return {"images": canvas[None].astype(np.float32) / np.float32(255)}

    def _words(self, image, batch: dict, tokens: list[int]) -> tuple[Word, ...]:
        """The whole text scored once more: what each token looked at, gathered into words."""
        length = tokens.index(EOS) if EOS in tokens else len(tokens)
        read = np.array([[BOS, *tokens]], np.int32)[:, :-1]
        found = self._score({**batch, "decoder_tokens": read})
        logits = np.asarray(found["logits"][0], np.float64)
        log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        looked = found.get("attention")
        placement = self.processor.place(image, self.model.config.image_size)[1]
        said = []
        for start, stop, text in _by_word(self.processor.tokenizer, tokens[:length]):
            confidence = math.exp(sum(log_p[t, tokens[t]] for t in range(start, stop)))
            attention = None
            if looked is not None:
                mean = np.asarray(looked)[0, start:stop].mean(0)
                attention = crop_attention(mean.reshape(self.model.layout.grid), placement)
            said.append(Word(text, confidence, attention))
        return tuple(said)


def _by_word(tokenizer, tokens: list[int]):
    """(first token, one past the last, text) of each word between spaces."""
    text = tokenizer.decode(tokens).split()
    counts = [len(tokenizer.decode(tokens[: t + 1]).split()) for t in range(len(tokens))]
    starts = [next(t for t, count in enumerate(counts) if count > w) for w in range(len(text))]
    stops = [*starts[1:], len(tokens)][: len(text)]
    # A token that says two words at once belongs to both.
    return [
        (start, max(stop, start + 1), word) for start, stop, word in zip(starts, stops, text, strict=True)
    ]


def read(folder: Path, record: dict) -> CaptionPipeline:
    """The pipeline in a directory that `save` wrote. `record`: its config.json."""
    kind = next(kind for kind in KINDS.values() if kind.__name__ == record["model"])
    return CaptionPipeline(kind.load(folder), Processor.load(folder))
