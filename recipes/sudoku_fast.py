"""Sudoku-Extreme in minutes of one GPU: a token for each digit of each cell, and other puzzles of its own.

    saccade train recipes/sudoku_fast.py train_file=train.txt val_file=val.txt --out runs/first
    saccade train recipes/sudoku_fast.py train_file=train.txt val_file=val.txt init=runs/first/model \\
        seed=3 reveal=0.3 'model={h_cycles: 3, l_cycles: 6}' train.learning_rate=0.01 train.steps=7500 \\
        'solve={h_cycles: 8, halt_threshold: 2}' --out runs/second
    saccade train recipes/sudoku_fast.py --smoke

Both files hold one puzzle a line; without them, puzzles are made. Training puzzles, and `variants` made near
each, are turned around on the device, a new way for every draw. Every `train.eval_every` steps the moving
averages solve the validation puzzles in 16 steps: `eval/exact` in log.jsonl, beside the seconds so far.
Writes out/model at every checkpoint.

The bundled trm_sudoku comes from the two commands above (docs/log.md). Gated norm, Muon and label smoothing
are those of Speed is Confidence (arXiv:2601.19085) for one chain.
`preset=trm_sudoku_fast` is TRM's mlp_t instead, and `stages=[{h_cycles: 1, l_cycles: 2, steps: 11200}, ...]`
trains with fewer cycles before.
"""

from pydantic import Field

from saccade.train.config import TrainConfig
from saccade.train.puzzle_run import FAST, SMOKE_TRAIN, SudokuConfig, build_sudoku


class Config(SudokuConfig):
    preset: str = "trm_sudoku_candidates"
    model: dict = Field({"h_cycles": 2, "l_cycles": 4})
    batch: int = 256
    reveal: float = 0.5
    variants: int = 16
    stagger: bool = True
    smoothing: float = 0.2
    stablemax: bool = False
    halt_weight: float = 0.05
    train: TrainConfig = FAST.model_copy(update={"steps": 30_000})


SMOKE = {**SMOKE_TRAIN, "model": {"dim": 8, "multiple": 8}, "box": 2, "made": 12, "variants": 1}
recipe = build_sudoku
