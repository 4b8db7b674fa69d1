"""Answer about images after demonstrations: a model that reads interleaved texts, and its processor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from keras import ops

from saccade import backend
from saccade.chat import Reply
from saccade.clip import BATCH, Retrieval
from saccade.data import blip2_processor
from saccade.data.blip2_processor import BLIP2Processor
from saccade.data.clip_processor import published_pixels
from saccade.data.interleaved import Chunk, InterleavedProcessor, asked, few_shot, parse
from saccade.data.text import check_text
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.files import atomic_directory
from saccade.generate import Writer
from saccade.hub import blip2 as published
from saccade.metrics.retrieval import top_candidates
from saccade.model import read_config
from saccade.models.blip2 import BLIP2
from saccade.models.flamingo import Flamingo
from saccade.pipeline import Result, check_learned

MODELS = {"Flamingo": Flamingo, "BLIP2": BLIP2}


@dataclass(frozen=True, slots=True)
class PairMatch(Result):
    """`probability` that a text is true of an image (ITM); `similarity`: cosine with the best query (ITC)."""

    probability: float
    similarity: float


class FewShot:
    """Writes what follows an interleaved prompt; a BLIP-2 of stage one compares images with texts instead.

    Args: model: Flamingo or BLIP2.  processor: with which it was trained; a BLIP2Processor for one published.
    Raises: SaccadeError: the tokenizer has more words than the model.
    """

    def __init__(self, model, processor: InterleavedProcessor | BLIP2Processor):
        self.model, self.processor = model, processor
        words = model.config.qformer if model.config.language is None else model.config.language
        if processor.vocab_size > words.vocab_size:
            raise SaccadeError(
                f"the tokenizer has {processor.vocab_size} tokens, the model {words.vocab_size}; use the "
                "tokenizer that belongs to it"
            )
        self._writer = Writer(model)
        self._compare = backend.compiled(self._compared, model)
        self._embed = backend.compiled(self._embedded, model)

    def ask(self, image, text: str, shots: Sequence[Chunk] = (), **settings) -> Reply:
        """The answer to `text` about `image`, after demonstrations. `settings`: of GenerationConfig."""
        return self.reply([few_shot(shots, image, text)], **settings)[0]

    def caption(self, image, **settings) -> Reply:
        """What the model writes of an image of which nothing is asked."""
        return self.ask(image, "", **{"max_new_tokens": 64, **settings})

    def complete(self, text: str, images: Sequence, **settings) -> Reply:
        """What follows a text with <image> and <|endofchunk|> in it; see `parse` for what it refuses."""
        return self.reply([parse(text, images)], **settings)[0]

    def reply(self, prompts: Sequence[Sequence[Chunk]], **settings) -> list[Reply]:
        """What follows each prompt, all in one batch.

        Raises: SaccadeError: no prompt; a model without a decoder, such as a BLIP-2 of stage one; see also
            InterleavedProcessor.
        """
        check_learned(self.model, "chat")
        chosen = GenerationConfig(**{"max_new_tokens": 8, "eos_token_id": self.processor.end_id, **settings})
        batch = self.processor(prompts)
        known = {name: batch[name] for name in ("tokens", "padding_mask")}
        written, log_probability = self._writer.generate((batch,), chosen, **known)
        replies = []
        for row, mean in zip(written, log_probability, strict=True):
            ends = np.flatnonzero(np.isin(row, chosen.ends))
            length = int(ends[0]) + 1 if len(ends) else len(row)
            text = self.processor.decode(row[:length].tolist())
            replies.append(Reply(text, math.exp(float(mean)), length))
        return replies

    def match(self, image, text: str) -> PairMatch:
        """How well a text describes an image. Raises: SaccadeError: no BLIP-2 of stage one; a long text."""
        check_learned(self.model, "match")
        found = self._compare(self._pairs([image], [check_text(text)]))
        return PairMatch(*(float(np.asarray(value)[0]) for value in found))

    def retrieve(self, images: Sequence, texts: Sequence[str], k: int = 5) -> Retrieval:
        """Rank images for each text and texts for each image by ITC; see `CLIPPipeline.retrieve`.

        `images` of the result are (B, Q, E), a vector for each query, of which the best one counts.

        Raises: SaccadeError: no BLIP-2 of stage one; a long text; no image or no text; k below 1.
        """
        check_learned(self.model, "retrieve")
        if k < 1 or not len(images) or not len(texts):
            raise SaccadeError(
                f"{len(images)} images, {len(texts)} texts and k {k}; each must be 1 or more to rank"
            )
        found: dict[str, list] = {"images": [], "texts": []}
        for start in range(0, max(len(images), len(texts)), BATCH):
            # Rows past the end are the last one again: one program for all batches.
            rows = np.arange(start, start + min(BATCH, max(len(images), len(texts))))
            pick = [[given[min(row, len(given) - 1)] for row in rows] for given in (images, texts)]
            for name, vectors in zip(found, self._embed(self._pairs(*pick)), strict=True):
                found[name].append(np.asarray(vectors))
        seen = np.concatenate(found["images"])[: len(images)]
        read = np.concatenate(found["texts"])[: len(texts)]
        cosine = np.einsum("bqe,ce->bqc", seen, read).max(1)
        return Retrieval(seen, read, cosine, top_candidates(cosine.T, k), top_candidates(cosine, k))

    def _pairs(self, images, texts) -> dict:
        return self.processor.pairs(images, texts, self.model.config.qformer.max_length)

    def _embedded(self, batch):
        return self._vectors(self.model.see(batch["images"]), batch)

    def _vectors(self, vision, batch):
        texts = self.model.text_vectors(batch["tokens"], batch["padding_mask"])
        return self.model.image_vectors(vision), texts

    def _compared(self, batch):
        """Probability of ITM and cosine of ITC of each pair: float32 (B,) both."""
        vision = self.model.see(batch["images"])
        logits = self.model.match(vision, batch["tokens"], batch["padding_mask"])
        images, texts = self._vectors(vision, batch)
        return ops.softmax(logits)[:, 1], ops.diagonal(self.model.similarity(images, texts))

    def accuracy(self, rows: Sequence, number: int, batch_size: int = 64, **settings) -> float:
        """Share of the first `number` rows whose last answer is written exactly, greedily."""
        right = 0
        for start in range(0, number, batch_size):
            pairs = [asked(rows[i]) for i in range(start, min(start + batch_size, number))]
            replies = self.reply([prompt for prompt, _ in pairs], **settings)
            right += sum(reply.text == answer for reply, (_, answer) in zip(replies, pairs, strict=True))
        return right / number

    def save(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write model and processor to one directory, all or nothing. `dtype`: as `Model.save`."""
        with atomic_directory(Path(folder)) as partial:
            self.model.write(partial, dtype)
            self.processor.save(partial)

    @classmethod
    def load(cls, folder: str | Path, dtype: str = "float32") -> "FewShot":
        """Read what `save` wrote, or a BLIP-2 of transformers, its tokenizer.json beside it.

        Raises: SaccadeError: of another model; altered or unreadable files.
        """
        folder = Path(folder)
        if published.is_published(read_config(folder)):
            model = published.read_model(folder, dtype, published_pixels(folder))
            c = model.config
            side, retrieval = c.vision.image_size[0], c.language is None
            return cls(model, blip2_processor.published(folder, side, c.image_tokens, retrieval))
        kind = read_config(folder).get("model")
        if kind not in MODELS:
            raise SaccadeError(f"{folder} holds a {kind!r}; few-shot prompts need {' or '.join(MODELS)}")
        own = (folder / BLIP2Processor.FILE).is_file()
        processor = (BLIP2Processor if own else InterleavedProcessor).load(folder)
        return cls(MODELS[kind].load(folder, dtype), processor)
