"""Ranks of what should have been found, with every tie counted against us."""

import numpy as np


def true_ranks(scores: np.ndarray, tie_break: np.ndarray | None = None) -> np.ndarray:
    """int (N,): the rank, from 1, of candidate i in row i.

    Args:
        scores: float (N, N), higher is better; the diagonal belongs to the true pairs. NaN counts as better.
        tie_break: float (N, N), decides between equal scores. What is equal in both comes before the truth.
    """
    own = np.diagonal(scores)[:, None]
    ahead = ~(scores < own)
    if tie_break is not None:
        ahead &= ~((scores == own) & (tie_break < np.diagonal(tie_break)[:, None]))
    np.fill_diagonal(ahead, False)
    return 1 + ahead.sum(axis=1)


def rank_scores(ranks: np.ndarray, at: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """R@k for each k, median and mean rank, of ranks int (N,) from 1."""
    recalls = {f"r@{k}": float(np.mean(ranks <= k)) for k in at}
    return {**recalls, "median_rank": float(np.median(ranks)), "mean_rank": float(np.mean(ranks))}


def top_candidates(scores: np.ndarray, count: int) -> np.ndarray:
    """int (N, count): the columns of the highest scores of each row, best first; ties by column."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def caption_ranks(similarity: np.ndarray, image_of) -> tuple[np.ndarray, np.ndarray]:
    """Ranks where images have several captions (COCO, Flickr30k): image to text, and text to image.

    An image's rank is that of the best of its captions, its other captions not counted; ties count as ahead.

    Args:
        similarity: float (N images, M captions), higher is better. NaN counts as better.
        image_of: int (M,), the image that each caption describes; every image has at least one.
    Returns: int (N,) and int (M,), ranks from 1.
    Raises: ValueError: shapes do not fit (states both), or an image has no caption (states the first).
    Source: Karpathy and Fei-Fei 2015, arXiv:1412.2306.
    """
    similarity, image_of = np.asarray(similarity, np.float64), np.asarray(image_of)
    images, captions = similarity.shape
    if image_of.shape != (captions,):
        raise ValueError(
            f"similarity is {similarity.shape}, image_of {image_of.shape}: give one image a caption"
        )
    own = image_of[None] == np.arange(images)[:, None]
    if not own.any(1).all():
        raise ValueError(f"image {int(np.argmin(own.any(1)))} of {images} has no caption: leave it out")
    # NaN is not below anything, and a true pair without a number has nothing behind it.
    best = np.where(own & ~np.isnan(similarity), similarity, -np.inf).max(1, keepdims=True)
    to_text = 1 + (~own & ~(similarity < best)).sum(1)
    truth = similarity[image_of, np.arange(captions)]
    to_image = 1 + (~own & ~(similarity < truth)).sum(0)
    return to_text, to_image
