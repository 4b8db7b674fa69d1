"""ARC-AGI as TRM was published (arXiv:2510.04871): attention, l_cycles 4, 1,000 views, a puzzle embedding.

    saccade train recipes/arc_trm.py eval_folder=evaluation 'folders=[training, concept]' --out runs/arc_trm

Trains on the demonstrations of all tasks, each turned, mirrored, recolored and moved; the tests of
`eval_folder` are answered in several views, which vote (pass@2).
"""

from saccade.train.config import Part, TrainConfig
from saccade.train.puzzle_run import PUBLISHED, SMOKE_TRAIN, ArcConfig, build_arc

ARC = {
    "weight_decay": 0.1,
    # Embeddings of single views see few examples: a hundred times the rate of the rest.
    "parts": {"puzzle_table": Part(optimizer="sign_sgd", learning_rate_scale=100.0)},
}


class Config(ArcConfig):
    preset: str = "trm_arc"
    train: TrainConfig = PUBLISHED.model_copy(update=ARC)


SMOKE = {
    **SMOKE_TRAIN,
    "made": 3,
    "side": 6,
    "views": 3,
    "eval_views": 2,
    "model": {"dim": 32, "num_heads": 2, "multiple": 16, "prefix_tokens": 1, "h_cycles": 2, "l_cycles": 1},
}
recipe = build_arc
