"""Images against texts: contrastive losses, hard negatives, matching, ranking."""

import keras
from keras import ops

from saccade.losses.tokens import binary_cross_entropy, cross_entropy, masked_mean


def info_nce(similarity):
    """Symmetric InfoNCE over similarities of B images with C >= B texts; pair i is (i, i).

    Texts from B on are hard negatives: each image must also reject them, and none has an image of its own.

    Args: similarity: float (B, C), scaled.
    Returns: float32 (B,): mean of the two directions.
    Source: CLIP, figure 3, arXiv:2103.00020; negatives beyond the batch as in NegCLIP, arXiv:2210.01936.
    """
    rows = similarity.shape[0]
    targets = ops.arange(rows, dtype="int32")
    forward = cross_entropy(similarity, targets)
    backward = cross_entropy(ops.transpose(similarity[:, :rows]), targets)
    return (forward + backward) / 2


def siglip_loss(similarity, bias=0.0):
    """Every pair is its own question, match or not: sum over j of -log sigmoid(z_ij (similarity_ij + bias)).

    z is 1 on the diagonal and -1 elsewhere; texts from B on are negatives of every image.

    Args: similarity: float (B, C), C >= B, scaled.  bias: float scalar, learned; -10 at first in the paper.
    Returns: float32 (B,).
    Source: Sigmoid Loss for Language Image Pre-Training, section 3.2, arXiv:2303.15343.
    """
    logits = ops.cast(similarity, "float32") + ops.cast(bias, "float32")
    return ops.sum(binary_cross_entropy(logits, ops.eye(*similarity.shape, dtype="float32")), axis=-1)


def hard_negatives(similarity, excluded=None, seed=None):
    """For each row, the column that is most alike and yet no match.

    Args:
        similarity: float (B, C), scaled; column i is the match of row i.
        excluded: bool (B, C), True = also a match (a duplicate), never drawn.
        seed: None takes the highest; an int or SeedGenerator draws from the softmax of the row.
    Returns: index int32 (B,); found bool (B,), False where every column is a match.
    Source: ALBEF, section 3.2, arXiv:2107.07651 (draws).
    """
    barred = ops.eye(*similarity.shape, dtype="bool")
    if excluded is not None:
        barred = ops.logical_or(barred, excluded)
    scores = ops.stop_gradient(ops.cast(similarity, "float32"))
    if seed is not None:  # Gumbel: the argmax of logits plus this noise is a draw from their softmax
        uniform = keras.random.uniform(scores.shape, 1e-7, 1.0, seed=seed)
        scores = scores - ops.log(1e-7 - ops.log(uniform))
    index = ops.argmax(ops.where(barred, -1e30, scores), axis=-1)
    return ops.cast(index, "int32"), ops.logical_not(ops.all(barred, axis=-1))


def itm_loss(matching, others, mask=None):
    """Image-text matching: mean BCE of one true pair and M false pairs.

    Args:
        matching: float (B,), logit of the true pair.  others: float (B, M), of the false ones.
        mask: bool (B, M), False = not counted (`found` of `hard_negatives`).
    Returns: float32 (B,).
    Source: ALBEF, section 3.2, arXiv:2107.07651. Differs: one logit, not two classes.
    """
    mask = ops.ones(others.shape, "bool") if mask is None else mask
    logits = ops.concatenate([ops.expand_dims(matching, 1), others], axis=1)
    target = ops.cast(ops.arange(logits.shape[1]) < 1, "float32")
    counted = ops.concatenate([ops.ones((mask.shape[0], 1), "bool"), ops.cast(mask, "bool")], axis=1)
    return masked_mean(binary_cross_entropy(logits, target), counted)


def margin_loss(scores, target, mask, margin: float = 0.2):
    """Mean over the other candidates of max(0, margin - (score of the right one - score of the other)).

    Args: scores: float (B, R).  target: int32 (B,).  mask: bool (B, R), False = no candidate.
    Returns: float32 (B,); 0 where nothing else is a candidate.
    """
    scores = ops.cast(scores, "float32")
    right = _is_target(scores, target)
    best = ops.sum(ops.where(right, scores, 0.0), axis=-1, keepdims=True)
    return masked_mean(ops.relu(margin - (best - scores)), ops.logical_and(mask, ops.logical_not(right)))


def listwise_loss(scores, target, mask):
    """-log softmax over the candidates, at the right one, which always counts.

    Args, Returns: as `margin_loss`.
    Source: Visual Dialog, section 5, arXiv:1611.08669, ranks its 100 candidates so.
    """
    scores = ops.cast(scores, "float32")
    counted = ops.logical_or(mask, _is_target(scores, target))
    return cross_entropy(ops.where(counted, scores, -1e30), target)


def _is_target(scores, target):
    return ops.equal(ops.expand_dims(target, -1), ops.arange(scores.shape[-1], dtype="int32"))
