"""CIDEr and CIDEr-D: n-grams of captions, weighted by how rare they are among those of other images."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from saccade.metrics.text import Scores, Tokens, check_pairs, ngrams

_ORDERS = 4
_SIGMA = 6.0  # of the length penalty of CIDEr-D, in tokens


class DocumentFrequencies(NamedTuple):
    """In the references of how many of `images` images each n-gram (tuple of 1 to 4 tokens) occurs."""

    counts: Counter[tuple[str, ...]]
    images: int

    def weight(self, ngram: tuple[str, ...]) -> float:
        """Inverse document frequency, log(images / count); an unseen n-gram counts as seen once."""
        return math.log(self.images) - math.log(max(self.counts[ngram], 1))


def document_frequencies(references: Iterable[Sequence[Tokens]]) -> DocumentFrequencies:
    """Frequencies of a corpus: for each image its reference captions, as lists of tokens."""
    counts: Counter[tuple[str, ...]] = Counter()
    images = 0
    for texts in references:
        images += 1
        counts.update(
            {gram for text in texts for order in range(1, _ORDERS + 1) for gram in ngrams(text, order)}
        )
    return DocumentFrequencies(counts, images)


class _Vector(NamedTuple):
    """The tf-idf weights of a caption's n-grams, one dict for each order, and their norms."""

    weights: list[dict[tuple[str, ...], float]]
    norms: list[float]
    length: int


def _vector(text: Tokens, idf: dict[tuple[str, ...], float], frequencies: DocumentFrequencies) -> _Vector:
    weights = []
    for order in range(1, _ORDERS + 1):
        row = {}
        for gram, count in ngrams(text, order).items():
            rarity = idf.get(gram)
            if rarity is None:
                rarity = idf[gram] = frequencies.weight(gram)
            row[gram] = count * rarity
        weights.append(row)
    norms = [math.sqrt(sum(value * value for value in row.values())) for row in weights]
    return _Vector(weights, norms, len(text))


def _similarity(ours: _Vector, theirs: _Vector, clipped: bool) -> float:
    """Mean over the orders of the cosine; `clipped`: what we repeat beyond the reference earns nothing."""
    total = 0.0
    for a, b, norm_a, norm_b in zip(ours.weights, theirs.weights, ours.norms, theirs.norms, strict=True):
        if norm_a == 0 or norm_b == 0:
            continue
        common = a.keys() & b.keys()
        if clipped:
            product = sum(min(a[gram], b[gram]) * b[gram] for gram in common)
        else:
            product = sum(a[gram] * b[gram] for gram in common)
        total += product / (norm_a * norm_b)
    return total / _ORDERS


def _cider(predictions, references, frequencies: DocumentFrequencies | None, variant_d: bool) -> Scores:
    check_pairs(predictions, references)
    frequencies = frequencies or document_frequencies(references)
    idf: dict[tuple[str, ...], float] = {}
    each = np.zeros(len(predictions))
    for row, (prediction, texts) in enumerate(zip(predictions, references, strict=True)):
        ours = _vector(prediction, idf, frequencies)
        found = []
        for text in texts:
            theirs = _vector(text, idf, frequencies)
            # The source counts bigrams as the length, so that a caption of no token is as long as one of one.
            gap = max(ours.length, 1) - max(theirs.length, 1)
            penalty = math.exp(-(gap**2) / (2 * _SIGMA**2)) if variant_d else 1.0
            found.append(penalty * _similarity(ours, theirs, variant_d))
        each[row] = 10 * sum(found) / len(found)
    return Scores(float(each.mean()), each)


def cider_d(
    predictions: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    frequencies: DocumentFrequencies | None = None,
) -> Scores:
    """CIDEr-D, in [0, 10]: what coco-caption and leaderboards call "CIDEr" (often times 100); mean over N.

    Cosine of tf-idf vectors of 1- to 4-grams, averaged over orders and references, clipped to the reference's
    weights, with a Gaussian penalty (sigma 6) on the difference of lengths, times 10.

    Args:
        predictions: N lists of tokens.  references: N lists of one or more lists of tokens.
        frequencies: of another corpus; None = of these references. Then scores depend on all N images, and
            of one image alone, or of images with the same references, they are 0.
    Raises: ValueError: see check_pairs.
    Source: Vedantam et al. 2015, arXiv:1411.5726, as coco-caption computes it (no stemming).
    """
    return _cider(predictions, references, frequencies, variant_d=True)


def cider(
    predictions: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    frequencies: DocumentFrequencies | None = None,
) -> Scores:
    """CIDEr, in [0, 10]: as cider_d, without clipping and length penalty. The paper also stems all words.

    Source: Vedantam et al. 2015, arXiv:1411.5726, equations 1 to 3.
    """
    return _cider(predictions, references, frequencies, variant_d=False)
