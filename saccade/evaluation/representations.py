"""What a model's vectors, attention and texts look like: numbers, and pictures of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from saccade.draw import draw_histogram, draw_matrix, save_image
from saccade.errors import SaccadeError
from saccade.files import write_text
from saccade.metrics.alignment import alignment, embedding_similarity, similarity_statistics, uniformity, unit
from saccade.metrics.captions import caption_scores
from saccade.metrics.entropy import entropy_scores
from saccade.metrics.ptb import tokenize
from saccade.metrics.retrieval import rank_scores, true_ranks
from saccade.metrics.text import distinct


class VisionLanguageEvaluator:
    """Measures embeddings, attention, predictions and texts; arrays in, plain values out.

    Args:
        encoder: texts -> float (N, D), for the similarity of texts; None = it is not measured.
        encoder_name: what the scores call it; needed with an encoder, for a similarity means nothing without.
        temperature: of the row and column entropies, see `similarity_statistics`.
    Raises: SaccadeError: an encoder without a name.
    """

    def __init__(
        self,
        encoder: Callable[[Sequence[str]], np.ndarray] | None = None,
        encoder_name: str = "",
        temperature: float = 0.07,
    ):
        if encoder is not None and not encoder_name:
            raise SaccadeError("an encoder of texts has no name; give encoder_name, which the scores state")
        self.encoder, self.encoder_name, self.temperature = encoder, encoder_name, temperature

    def embeddings(self, images, texts) -> dict:
        """How pairs lie: row i of images belongs to row i of texts, each float (N, D), N at least 2.

        Returns: `alignment`; `uniformity_images`, `uniformity_texts`; what `similarity_statistics` gives;
            `image_to_text`, `text_to_image`: R@1, R@5, R@10, median and mean rank, ties against the model.
        Raises: ValueError: see saccade.metrics.alignment.
        """
        similarity = unit(images) @ unit(texts).T
        return {
            "alignment": alignment(images, texts),
            "uniformity_images": uniformity(images),
            "uniformity_texts": uniformity(texts),
            **similarity_statistics(images, texts, self.temperature),
            "image_to_text": rank_scores(true_ranks(similarity)),
            "text_to_image": rank_scores(true_ranks(similarity.T)),
        }

    def attention(self, weights, mask=None) -> dict[str, float]:
        """How widely a model looks. weights: float (..., N), at least 0.  mask: see `entropies`."""
        return entropy_scores(weights, mask)

    def predictions(self, probabilities) -> dict[str, float]:
        """How sure answers are. probabilities: float (N, K).

        Returns: what `entropy_scores` gives; `confidence`: mean of the highest share; `answers`: share of the
            K that are the first choice of some row.
        """
        found = entropy_scores(probabilities)
        shares = np.asarray(probabilities, np.float64)
        shares = shares / shares.sum(-1, keepdims=True)
        chosen = len(np.unique(shares.argmax(-1))) / shares.shape[-1]
        return {**found, "confidence": float(shares.max(-1).mean()), "answers": chosen}

    def texts(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict:
        """Texts against one or more references each.

        Returns: `distinct_1`, `distinct_2`; what `caption_scores` gives; with an encoder
            `embedding_similarity`, that of the nearest reference, and `encoder`, its name.
        Raises: ValueError: no predictions, or as `caption_scores`.
        """
        if not predictions:
            raise ValueError("there are no predictions: give one or more texts")
        tokens = [tokenize(text) for text in predictions]
        scores: dict = {f"distinct_{order}": distinct(tokens, order) for order in (1, 2)}
        scores |= caption_scores(predictions, references)
        if self.encoder is not None:
            scores["embedding_similarity"] = self._similarity(self.encoder, predictions, references)
            scores["encoder"] = self.encoder_name
        return scores

    @staticmethod
    def _similarity(encode, predictions, references) -> float:
        own = np.asarray(encode(list(predictions)))
        best = []
        for vector, group in zip(own, references, strict=True):
            best.append(max(embedding_similarity([vector], [other]) for other in encode(list(group))))
        return float(np.mean(best))

    def draw(self, folder: str | Path, images, texts) -> list[Path]:
        """Write similarity.png, the matrix of cosines, and histogram.png, true pairs beside all others.

        Returns: the two paths. Raises: SaccadeError: the folder does not exist or cannot be written.
        """
        cosines = unit(images) @ unit(texts).T
        others = cosines[~np.eye(len(cosines), dtype=bool)]
        pictures = {
            "similarity.png": draw_matrix(cosines, "cosine of image and text", "images", "texts"),
            "histogram.png": draw_histogram(
                {"true pairs": np.diagonal(cosines), "all others": others}, "cosine of image and text"
            ),
        }
        paths = [Path(folder) / name for name in pictures]
        for path, picture in zip(paths, pictures.values(), strict=True):
            save_image(picture, path)
        return paths

    def report(self, folder: str | Path, images, texts, **further) -> dict:
        """`embeddings` and what else was measured, to folder/representations.json beside the pictures.

        Args: further: name -> dict, such as attention=evaluator.attention(...).
        """
        scores = {"embeddings": self.embeddings(images, texts), **further}
        self.draw(folder, images, texts)
        write_text(Path(folder) / "representations.json", json.dumps(scores, indent=1) + "\n")
        return scores


def text_encoder(pipeline) -> Callable[[Sequence[str]], np.ndarray]:
    """The text side of a VLM-HRM's dual encoder: texts -> float32 (N, E), of length 1.

    Raises: SaccadeError: the checkpoint has not learned to retrieve.
    """
    if "retrieve" not in pipeline.model.tasks:
        raise SaccadeError("this checkpoint has not learned 'retrieve', so it embeds no texts; use another")

    def encode(texts: Sequence[str]) -> np.ndarray:
        blank = np.zeros((*pipeline.processor.config.image_sizes[0], 3), np.uint8)
        batch = pipeline.processor([blank] * len(texts), list(texts))
        return pipeline.reasoner.embed(batch)["texts"]

    return encode
