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
