"""Answer about images after demonstrations: a model that reads interleaved texts, and its processor."""

from collections.abc import Sequence
from pathlib import Path

from saccade.data.interleaved import Chunk, InterleavedProcessor, asked, few_shot, parse
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.files import atomic_directory
from saccade.generate import Writer
from saccade.model import read_config
from saccade.models.blip2 import BLIP2
from saccade.models.flamingo import Flamingo

MODELS = {"Flamingo": Flamingo, "BLIP2": BLIP2}


class FewShot:
    """Writes what follows an interleaved prompt.

    Args: model: Flamingo or BLIP2.  processor: with which it was trained.
    """

    def __init__(self, model, processor: InterleavedProcessor):
        self.model, self.processor = model, processor
        self._writer = Writer(model)

    def ask(self, image, text: str, shots: Sequence[Chunk] = (), **settings) -> str:
        """The answer to `text` about `image`, after demonstrations. `settings`: of GenerationConfig."""
        return self.write([few_shot(shots, image, text)], **settings)[0]

    def complete(self, text: str, images: Sequence, **settings) -> str:
        """What follows a text with <image> and <|endofchunk|> in it; see `parse` for what it refuses."""
        return self.write([parse(text, images)], **settings)[0]

    def write(self, prompts: Sequence[Sequence[Chunk]], **settings) -> list[str]:
        """What follows each prompt, all in one batch."""
        chosen = GenerationConfig(**{"max_new_tokens": 8, "eos_token_id": self.processor.end_id, **settings})
        batch = self.processor(prompts)
        known = {name: batch[name] for name in ("tokens", "padding_mask")}
        tokens, _ = self._writer.generate((batch,), chosen, **known)
        return [self.processor.decode(row) for row in tokens.tolist()]

    def accuracy(self, rows: Sequence, number: int, batch_size: int = 64, **settings) -> float:
        """Share of the first `number` rows whose last answer is written exactly, greedily."""
        right = 0
        for start in range(0, number, batch_size):
            pairs = [asked(rows[i]) for i in range(start, min(start + batch_size, number))]
            written = self.write([prompt for prompt, _ in pairs], **settings)
            right += sum(text == answer for text, (_, answer) in zip(written, pairs, strict=True))
        return right / number

    def save(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write model and processor to one directory, all or nothing. `dtype`: as `Model.save`."""
        with atomic_directory(Path(folder)) as partial:
            self.model.write(partial, dtype)
            self.processor.save(partial)

    @classmethod
    def load(cls, folder: str | Path, dtype: str = "float32") -> "FewShot":
        """Read what `save` wrote. Raises: SaccadeError: of another model; altered or unreadable files."""
        kind = read_config(Path(folder)).get("model")
        if kind not in MODELS:
            raise SaccadeError(f"{folder} holds a {kind!r}; few-shot prompts need {' or '.join(MODELS)}")
        return cls(MODELS[kind].load(folder, dtype), InterleavedProcessor.load(folder))
