"""Maze-Hard 30 x 30 as TRM was published (arXiv:2510.04871): attention, l_cycles 4, AdamATan2, batch 768.

    saccade train recipes/maze_trm.py file=maze_30x30_hard_train.npz --out runs/maze_trm

The last `held_out` mazes are kept for validation. Training mazes are mirrored and turned on the device;
where the shortest path is not unique, the label rule picks one, so mirrored labels are made again by the
rule.
"""

from saccade.train.puzzle_run import SMOKE_TRAIN, MazeConfig, build_maze


class Config(MazeConfig):
    preset: str = "trm_maze"


SMOKE = {
    **SMOKE_TRAIN,
    "made": 6,
    "side": 6,
    "model": {"dim": 32, "num_heads": 2, "multiple": 16, "prefix_tokens": 1, "h_cycles": 2, "l_cycles": 1},
}
recipe = build_maze
