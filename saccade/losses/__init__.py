"""Losses, one value per example in float32. Models compute none; objectives call these."""

from saccade.losses.boxes import box_iou, box_loss, to_xyxy
from saccade.losses.chunked import chunked_info_nce, chunked_siglip_loss, hardest
from saccade.losses.contrastive import (
    hard_negatives,
    info_nce,
    itm_loss,
    listwise_loss,
    margin_loss,
    siglip_loss,
)
from saccade.losses.matching import assign, set_loss
from saccade.losses.multitask import FixedWeights, GradNorm, UncertaintyWeights, grad_norm_step
from saccade.losses.tokens import (
    binary_cross_entropy,
    cross_entropy,
    log_stablemax,
    masked_mean,
    next_token,
    token_loss,
    vqa_loss,
)

__all__ = [
    "FixedWeights",
    "GradNorm",
    "UncertaintyWeights",
    "assign",
    "binary_cross_entropy",
    "box_iou",
    "box_loss",
    "chunked_info_nce",
    "chunked_siglip_loss",
    "cross_entropy",
    "grad_norm_step",
    "hard_negatives",
    "hardest",
    "info_nce",
    "itm_loss",
    "listwise_loss",
    "log_stablemax",
    "margin_loss",
    "masked_mean",
    "next_token",
    "set_loss",
    "siglip_loss",
    "to_xyxy",
    "token_loss",
    "vqa_loss",
]
