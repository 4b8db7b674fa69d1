"""How two sets of embeddings lie to one another: pictures and their texts, or texts and reference texts."""

import numpy as np

from saccade.metrics.entropy import entropies


def unit(vectors) -> np.ndarray:
    """float64 (N, D) of length 1. Raises: ValueError: not (N, D), or a row of length 0 (states it)."""
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"embeddings are {vectors.shape}: give (N, D), neither 0")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise ValueError(
            f"embedding {int(np.argmin(lengths > 0))} has the length {lengths.min()}: a cosine needs more"
        )
    return vectors / lengths


def _pairs(a, b) -> tuple[np.ndarray, np.ndarray]:
    a, b = unit(a), unit(b)
    if a.shape != b.shape:
        raise ValueError(
            f"embeddings are {a.shape} and {b.shape}: row i of one belongs to row i of the other"
        )
    return a, b


def alignment(a, b) -> float:
    """Mean squared distance of true pairs on the unit sphere, in [0, 4]; lower is better.

    Args:
        a, b: float (N, D); row i of one belongs to row i of the other. They are brought to length 1.
    Raises: ValueError: see unit; shapes differ (states both).
    Source: Wang and Isola 2020, arXiv:2005.10242, with exponent 2.
    """
    a, b = _pairs(a, b)
    return float(np.square(a - b).sum(1).mean())


def uniformity(vectors, scale: float = 2.0) -> float:
    """log of the mean over pairs of rows of exp(-scale * squared distance), in [-4 scale, 0]; low is even.

    Args:
        vectors: float (N, D), N at least 2. They are brought to length 1.
    Raises: ValueError: see unit; fewer than 2.
    Source: Wang and Isola 2020, arXiv:2005.10242.
    """
    vectors = unit(vectors)
    if len(vectors) < 2:
        raise ValueError(f"{len(vectors)} embedding: uniformity needs at least 2")
    upper = np.triu_indices(len(vectors), 1)
    squared = np.maximum(2 - 2 * (vectors @ vectors.T)[upper], 0)
    return float(np.log(np.exp(-scale * squared).mean()))


def similarity_statistics(a, b, temperature: float = 0.07) -> dict[str, float]:
    """What the (N, N) matrix of cosines looks like.

    Args:
        a, b: float (N, D); row i of one belongs to row i of the other.
        temperature: by which cosines are divided before the softmax of the entropies, above 0.
    Returns: `positive_mean`, `positive_std`: of the true pairs; `negative_mean`, `negative_std`: of all
        others (0 with one pair); `gap`: difference of the means; cosines lie in [-1, 1]. `row_entropy`,
        `column_entropy`: mean entropy, in nats, of the softmax of each row (each of `a` choosing among `b`)
            and column, in [0, log N].
    Raises: ValueError: see unit; shapes differ; temperature not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be above 0")
    a, b = _pairs(a, b)
    cosine = a @ b.T
    positive = np.diagonal(cosine)
    negative = cosine[~np.eye(len(cosine), dtype=bool)]
    negative = negative if len(negative) else np.zeros(1)
    return {
        "positive_mean": float(positive.mean()),
        "positive_std": float(positive.std()),
        "negative_mean": float(negative.mean()),
        "negative_std": float(negative.std()),
        "gap": float(positive.mean() - negative.mean()),
        "row_entropy": _entropy(cosine / temperature),
        "column_entropy": _entropy(cosine.T / temperature),
    }


def _entropy(logits: np.ndarray) -> float:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return float(entropies(powers).mean())


def embedding_similarity(a, b) -> float:
    """Mean cosine of true pairs, in [-1, 1]. It means nothing without the name of the embedding model.

    Args:
        a, b: float (N, D); embeddings of predictions and of references by one model.
    Raises: ValueError: see unit; shapes differ (states both).
    """
    a, b = _pairs(a, b)
    return float((a * b).sum(1).mean())
