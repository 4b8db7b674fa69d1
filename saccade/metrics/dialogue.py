"""Visual dialogue: how a model ranks the candidate answers of each round."""

import numpy as np

from saccade.metrics.retrieval import rank_scores


def answer_ranks(scores, truth) -> np.ndarray:
    """int (N,): the rank, from 1, of the human answer among the candidates; ties count as ahead of it.

    Args:
        scores: float (N, C), higher is better; C is 100 in VisDial. NaN counts as better.
        truth: int (N,), the index of the human answer.
    Raises: ValueError: shapes do not fit, or an index lies outside (states them).
    """
    scores, truth = np.asarray(scores, np.float64), np.asarray(truth)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not scores.size:
        raise ValueError(
            f"scores are {scores.shape}, truth {truth.shape}: give (N, C) and (N,), none of them 0"
        )
    if truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise ValueError(
            f"truth goes from {truth.min()} to {truth.max()}: there are {scores.shape[1]} candidates"
        )
    own = scores[np.arange(len(truth)), truth]
    ahead = ~(scores < own[:, None])
    ahead[np.arange(len(truth)), truth] = False
    return 1 + ahead.sum(1)


def ndcg(scores, relevance) -> float:
    """NDCG@k, in [0, 1]: mean over rounds; k is the number of candidates with relevance above 0.

    Discounted gain of the k best ranked, relevance / log2(rank + 1), over that of the best possible order.
    Equal scores are ranked with the least relevant first.

    Args:
        scores: float (N, C), higher is better; finite.
        relevance: float (N, C), at least 0: the share of annotators who found the candidate right.
    Raises: ValueError: shapes differ; a score is not finite; relevance is below 0 or nowhere above it
        (states the round).
    Source: Das et al. 2017, arXiv:1611.08669; https://visualdialog.org/challenge/2020 (evaluation).
    """
    scores, relevance = np.asarray(scores, np.float64), np.asarray(relevance, np.float64)
    if scores.shape != relevance.shape or scores.ndim != 2 or not scores.size:
        raise ValueError(
            f"scores are {scores.shape}, relevance {relevance.shape}: give (N, C) twice, neither 0"
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"round {int(np.argmin(np.isfinite(scores).all(1)))} has scores that are no finite numbers"
        )
    usable = (relevance >= 0).all(1) & (relevance > 0).any(1)
    if not usable.all():
        row = int(np.argmin(usable))
        raise ValueError(
            f"round {row} has relevance from {relevance[row].min()} to {relevance[row].max()}: "
            "none may be below 0, and one must be above it"
        )
    discounts = 1 / np.log2(np.arange(scores.shape[1]) + 2)
    counts = np.arange(scores.shape[1]) < (relevance > 0).sum(1, keepdims=True)
    order = np.lexsort((relevance, -scores), axis=1)
    gained = np.take_along_axis(relevance, order, 1) * discounts * counts
    best = -np.sort(-relevance, axis=1) * discounts * counts
    return float(np.mean(gained.sum(1) / best.sum(1)))


def dialogue_scores(scores, truth, relevance=None) -> dict[str, float]:
    """`mrr` (mean of 1 / rank), `r@1`, `r@5`, `r@10`, `mean_rank`, `median_rank`; with relevance `ndcg`.

    Args: see answer_ranks and ndcg. VisDial has dense relevance for one round a dialogue: call ndcg with
        those alone if it is not known for all rounds.
    """
    ranks = answer_ranks(scores, truth)
    found = {"mrr": float(np.mean(1 / ranks)), **rank_scores(ranks)}
    return found if relevance is None else {**found, "ndcg": ndcg(scores, relevance)}
