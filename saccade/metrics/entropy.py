"""How spread a choice is: of attention over places, of predictions over answers."""

import numpy as np


def entropies(shares, mask=None) -> np.ndarray:
    """Entropy of each row in nats, float64 (...), in [0, log K]: 0 = one choice, log K = all alike.

    Args:
        shares: float (..., K), at least 0; each row is brought to the sum 1.
        mask: bool, broadcastable to shares, True = may be chosen; None = all.
    Raises: ValueError: a share is negative or no number, or a row has nothing (says which).
    """
    shares = np.asarray(shares, np.float64)
    if mask is not None:
        shares = np.where(mask, shares, 0.0)
    if not shares.size or not (np.isfinite(shares) & (shares >= 0)).all():
        raise ValueError(f"shares {shares.shape} hold negative values, no numbers, or nothing: give weights")
    totals = shares.sum(-1)
    if not (totals > 0).all():
        raise ValueError(f"row {int(np.argmin(totals.ravel() > 0))} of the shares is all 0: leave it out")
    shares = shares / totals[..., None]
    return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)


def entropy_scores(shares, mask=None) -> dict[str, float]:
    """`entropy_mean`, `entropy_std`, in nats; `spread`: mean of entropy over log of the choices a row has.

    Args, Raises: as `entropies`. A row with a single choice has the spread 0.
    """
    found = entropies(shares, mask)
    allowed = np.ones(np.shape(shares)) if mask is None else np.broadcast_to(mask, np.shape(shares))
    most = np.log(allowed.sum(-1))
    spread = np.where(most > 0, found / np.where(most > 0, most, 1.0), 0.0)
    return {
        "entropy_mean": float(found.mean()),
        "entropy_std": float(found.std()),
        "spread": float(spread.mean()),
    }
