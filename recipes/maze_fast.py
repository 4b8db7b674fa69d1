"""Mazes on a CPU: a TRM whose cells hear their neighbours, from small mazes that it makes to 30 x 30.

    saccade train recipes/maze_fast.py --out runs/small
    saccade train recipes/maze_fast.py init=runs/small/model file=maze_30x30_hard_train.npz batch=16 \\
        train.learning_rate=0.01 train.steps=2400 train.min_ratio=0.02 --out runs/maze
    saccade train recipes/maze_fast.py --smoke

The first learns on 1,000 made mazes of 12 x 12; no place has weights of its own (`mixer=neighbours`), so the
second goes on with mazes of another side. Validation as in maze_trm: the last mazes, the published label.
The bundled trm_maze is 64 wide and learnt from mazes of many kinds (varied=true) on a GPU; its model card has
the two commands.
"""

from saccade.train.config import Precision, TrainConfig
from saccade.train.puzzle_run import FAST, SMOKE_TRAIN, MazeConfig, build_maze


class Config(MazeConfig):
    preset: str = "trm_maze_neighbours"
    precision: Precision = "float32"
    made: int = 1_100
    side: int = 12
    batch: int = 32
    stagger: bool = True
    smoothing: float = 0.1
    stablemax: bool = False
    halt_weight: float = 0.05
    train: TrainConfig = FAST.model_copy(
        update={
            "steps": 900,
            "warmup_steps": 50,
            "min_ratio": 0.2,
            "ema_decay": 0.99,
            "log_every": 50,
            "eval_every": 300,
            "save_every": 300,
        }
    )


SMOKE = {**SMOKE_TRAIN, "made": 6, "side": 6, "model": {"dim": 8, "multiple": 8}}
recipe = build_maze
