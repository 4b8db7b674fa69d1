"""Generated text against reference texts: BLEU, ROUGE-L, and how varied the generated texts are.

Texts come as lists of tokens; `saccade.metrics.ptb.tokenize` makes those that published caption scores use.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Tokens = Sequence[str]

# coco-caption's guards: they keep a score of no matches finite, and make sentence scores comparable with its
# own.
_TINY, _SMALL = 1e-15, 1e-9
_ROUGE_BETA = 1.2


class Scores(NamedTuple):
    """`corpus`: the score to report.  `each`: float64 (N,), or (N, orders) for BLEU, of each prediction."""

    corpus: float | np.ndarray
    each: np.ndarray


def check_pairs(predictions: Sequence, references: Sequence[Sequence]) -> None:
    """Raises ValueError unless every prediction has at least one reference, and all are lists of tokens."""
    if len(predictions) != len(references) or not len(predictions):
        raise ValueError(
            f"{len(predictions)} predictions and {len(references)} lists of references: "
            "give as many of one as of the other, at least 1"
        )
    for index, (prediction, texts) in enumerate(zip(predictions, references, strict=True)):
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"prediction {index} has references {texts!r}: give a list of at least 1 text")
        if isinstance(prediction, str) or any(isinstance(text, str) for text in texts):
            raise ValueError(f"texts of prediction {index} are strings: give lists of tokens (ptb.tokenize)")


def ngrams(tokens: Tokens, order: int) -> Counter[tuple[str, ...]]:
    """How often each run of `order` tokens occurs."""
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def bleu(predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]], orders: int = 4) -> Scores:
    """BLEU-1 to -`orders`, in [0, 1]: geometric mean of clipped n-gram precisions times the brevity penalty.

    The corpus score pools all counts first, so it is not the mean of `each`. Of several references the one
    nearest in length counts for the penalty, the shorter of two equally near.

    Args:
        predictions: N lists of tokens.  references: N lists of one or more lists of tokens.
    Returns: Scores: corpus float64 (orders,), each float64 (N, orders). A text without any match of an order
        has a score of about 1e-4 there instead of 0, as in the source.
    Raises: ValueError: see check_pairs.
    Source: Papineni et al. 2002, as coco-caption computes it (`closest`).
    """
    check_pairs(predictions, references)
    matches = np.zeros((len(predictions), orders))
    lengths = np.zeros((len(predictions), 2))  # of the prediction and of its nearest reference
    for row, (prediction, texts) in enumerate(zip(predictions, references, strict=True)):
        near = min((abs(len(text) - len(prediction)), len(text)) for text in texts)[1]
        lengths[row] = len(prediction), near
        for order in range(1, orders + 1):
            allowed: Counter = Counter()
            for text in texts:
                allowed |= ngrams(text, order)  # | keeps the larger count
            matches[row, order - 1] = (ngrams(prediction, order) & allowed).total()
    guesses = np.maximum(lengths[:, :1] - np.arange(orders), 0)
    corpus = _bleu(matches.sum(0), guesses.sum(0), lengths.sum(0))
    return Scores(corpus, _bleu(matches, guesses, lengths))


def _bleu(matches: np.ndarray, guesses: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Matches and guesses (..., orders), lengths (..., 2) -> BLEU (..., orders)."""
    precision = np.cumprod((matches + _TINY) / (guesses + _SMALL), axis=-1)
    mean = precision ** (1 / np.arange(1, matches.shape[-1] + 1))
    ratio = (lengths[..., :1] + _TINY) / (lengths[..., 1:] + _SMALL)
    return mean * np.exp(np.minimum(1 - 1 / ratio, 0))


def rouge_l(predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Scores:
    """ROUGE-L, in [0, 1]: F-measure (beta 1.2) of the longest common subsequence; the corpus has the mean.

    With several references the best precision and the best recall count, also if of different ones. A text
    without tokens scores 0 (in the source it matches an empty reference).

    Args:
        predictions: N lists of tokens.  references: N lists of one or more lists of tokens.
    Raises: ValueError: see check_pairs.
    Source: Lin 2004, as coco-caption computes it.
    """
    check_pairs(predictions, references)
    each = np.zeros(len(predictions))
    for row, (prediction, texts) in enumerate(zip(predictions, references, strict=True)):
        common = [common_length(prediction, text) for text in texts]
        if not max(common):
            continue
        precision = max(common) / len(prediction)
        recall = max(length / len(text) for length, text in zip(common, texts, strict=True) if text)
        weight = _ROUGE_BETA**2
        each[row] = (1 + weight) * precision * recall / (recall + weight * precision)
    return Scores(float(each.mean()), each)


def common_length(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence."""
    best = [0] * (len(b) + 1)  # of what was read of a, with the first j tokens of b
    for token in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            diagonal, best[j] = best[j], diagonal + 1 if token == other else max(best[j], best[j - 1])
    return best[-1]


def distinct(texts: Sequence[Tokens], order: int = 1) -> float:
    """Distinct-n, in [0, 1]: different n-grams over all n-grams of all texts; 0 without any.

    Source: Li et al. 2016, arXiv:1510.03055.
    """
    counts: Counter = Counter()
    for text in texts:
        counts.update(ngrams(text, order))
    return len(counts) / counts.total() if counts else 0.0
