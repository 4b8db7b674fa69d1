"""A CLIP, its processor and the verbs a user knows: classify, retrieve."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from keras import ops

from saccade import backend
from saccade.data.chat import ChatTokenizer
from saccade.data.clip_processor import CLIPProcessor, check_labels, published_config, published_pixels
from saccade.errors import SaccadeError
from saccade.files import atomic_directory
from saccade.hub import clip as published
from saccade.metrics.retrieval import top_candidates
from saccade.model import read_config
from saccade.models.clip import CLIP
from saccade.pipeline import Result

BATCH = 64  # rows that are embedded at once, at most


@dataclass(frozen=True, slots=True)
class Label(Result):
    """`probability`: among all labels (CLIP), or of this one by itself (SigLIP). `similarity`: cosine."""

    text: str
    probability: float
    similarity: float


@dataclass(frozen=True, slots=True)
class Classification(Result):
    """Labels of one image, the most probable first."""

    labels: tuple[Label, ...]

    @property
    def text(self) -> str:
        return self.labels[0].text


@dataclass(frozen=True, slots=True)
class Retrieval(Result):
    """`images` (B, E), `texts` (C, E): unit vectors. `similarity` float32 (B, C): cosines.
    `images_of` int (C, k): the images that fit each text, best first; `texts_of` int (B, k) likewise."""

    images: np.ndarray
    texts: np.ndarray
    similarity: np.ndarray
    images_of: np.ndarray
    texts_of: np.ndarray


class CLIPPipeline:
    """What `saccade.load` returns for a CLIP or SigLIP. Images are paths, bytes, Pillow images or arrays.

    Raises: SaccadeError: the tokenizer has more words than the model, or texts are longer.
    """

    def __init__(self, model: CLIP, processor: CLIPProcessor):
        text, words = model.config.text, processor.tokenizer.vocab_size
        for what, has, takes in (
            ("the tokenizer's vocabulary", words, text.vocab_size),
            ("max_length", processor.config.max_length, text.max_length),
        ):
            if has > takes:
                raise SaccadeError(f"{what} is {has}, the model's {takes}; use what was saved with it")
        self.model = model
        self.processor = processor
        self._see = backend.compiled(model.embed_images, model)
        self._read = backend.compiled(model.embed_texts, model)

    def embed_images(self, images: Sequence) -> np.ndarray:
        """Unit vectors float32 (B, E)."""
        return self._in_batches(lambda rows: self._see(self.processor.see(rows)), images)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 (C, E). Raises: SaccadeError: a text is empty or too long."""
        return self._in_batches(lambda rows: self._read(*self.processor.read(rows).values()), texts)

    def _in_batches(self, embed, rows: Sequence) -> np.ndarray:
        """Embed so many at once that few shapes compile: 1, 2, 4, ... BATCH, the last row repeated."""
        if isinstance(rows, (str, bytes)) or not len(rows):
            raise SaccadeError("there is nothing to embed; give a list of at least one")
        found = []
        for part in _parts(list(rows)):
            size = 1 << (len(part) - 1).bit_length()
            made = embed(part + part[-1:] * (size - len(part)))
            found.append(np.asarray(ops.convert_to_numpy(made))[: len(part)])
        return np.concatenate(found)

    def classify(self, images: Sequence, labels: Sequence[str], template: str = "{}") -> list[Classification]:
        """Which of the labels fits each image, in words that nobody trained it on.

        Args: template: the text of a label, its place marked {}, as "a photo of {}".
        Raises: SaccadeError: no label, the same one twice, two that this model reads alike ("Ball", "ball"),
            a single one for a CLIP (its probability would be 1 whatever it says), a label that is empty or
            too long, a template without {}.
        """
        labels = check_labels(labels, template)
        if len(labels) < 2 and not self.model.config.logit_bias:
            raise SaccadeError(
                f"a single label, {labels[0]!r}, is always right: this model says which of several fits "
                "best; give at least two"
            )
        prompts = [template.replace("{}", label) for label in labels]
        known: dict[tuple[int, ...], str] = {}
        for label, prompt in zip(labels, prompts, strict=True):
            same = known.setdefault(tuple(self.processor.encode(prompt)), label)
            if same != label:
                raise SaccadeError(
                    f"the labels {same!r} and {label!r} are the same text to this model; give one of them"
                )
        texts = self.embed_texts(prompts)
        cosine = self.embed_images(images) @ texts.T
        scale, bias = (np.float32(ops.convert_to_numpy(f())) for f in (self.model.scale, self.model.bias))
        probability = _probabilities(cosine * scale + bias, self.model.config.logit_bias)
        return [
            Classification(
                tuple(Label(labels[i], float(p[i]), float(c[i])) for i in np.argsort(-p, kind="stable"))
            )
            for p, c in zip(probability, cosine, strict=True)
        ]

    def retrieve(self, images: Sequence, texts: Sequence[str], k: int = 5) -> Retrieval:
        """Rank images for each text and texts for each image.

        Args: k: how many to name, fewer if there are fewer.
        Raises: SaccadeError: k is below 1; see also `embed_texts`.
        """
        if k < 1:
            raise SaccadeError(f"k is {k}; ask for at least 1")
        seen, read = self.embed_images(images), self.embed_texts(texts)
        cosine = seen @ read.T
        return Retrieval(seen, read, cosine, top_candidates(cosine.T, k), top_candidates(cosine, k))

    def save(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write model and processor to one directory of Saccade's, all or nothing."""
        with atomic_directory(Path(folder)) as partial:
            self.model.write(partial, dtype)
            self.processor.save(partial)


def _parts(rows: list) -> Iterator[list]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


def _probabilities(logits: np.ndarray, alone: bool) -> np.ndarray:
    logits = logits.astype(np.float64)
    if alone:
        return np.exp(-np.logaddexp(0.0, -logits))
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def read(folder: Path, dtype: str = "float32") -> CLIPPipeline:
    """The pipeline of a directory: one that `save` wrote, or one of transformers with a tokenizer.json."""
    if (folder / CLIPProcessor.FILE).is_file():
        return CLIPPipeline(CLIP.load(folder, dtype), CLIPProcessor.load(folder))
    if not (folder / "tokenizer.json").is_file():
        raise SaccadeError(f"{folder} has no tokenizer.json; put the one that belongs to the model there")
    siglip = read_config(folder).get("model_type") == "siglip"
    model = published.read_model(folder, dtype, published_pixels(folder))
    c = model.config
    config = published_config(folder, siglip, c.vision.image_size[0], c.text.max_length)
    tokenizer = ChatTokenizer.load(folder, None if siglip else c.text.eos_id)
    return CLIPPipeline(model, CLIPProcessor(tokenizer, config))
