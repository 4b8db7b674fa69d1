"""Sudoku-Extreme as TRM was published (arXiv:2510.04871): mlp_t, AdamATan2, stablemax, batch 768.

    saccade train recipes/sudoku_trm.py train_file=train.txt val_file=val.txt --out runs/sudoku_trm

`preset=trm_sudoku_attention` for the attention variant, `preset=hrm_sudoku` for HRM (published without moving
averages: train.ema_decay=null). Differs: halted slots take the next puzzle, where the published code throws
the rest of a batch away.
"""

from saccade.train.puzzle_run import SMOKE_TRAIN, SudokuConfig, build_sudoku


class Config(SudokuConfig):
    preset: str = "trm_sudoku"


SMOKE = {**SMOKE_TRAIN, "preset": "trm_sudoku_4x4", "box": 2, "made": 12}
recipe = build_sudoku
