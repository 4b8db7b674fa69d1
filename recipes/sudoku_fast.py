"""Sudoku-Extreme in minutes of one GPU: TRM with a gated norm, Muon, label smoothing and growing cycles.

    saccade train recipes/sudoku_fast.py train_file=train.txt val_file=val.txt --out runs/sudoku_fast
    saccade train recipes/sudoku_fast.py --smoke

Both files hold one puzzle a line; without them, puzzles are made. Training puzzles are turned around on the
device, a new way for every draw. Every `train.eval_every` steps the moving averages solve the validation
puzzles in 16 steps: `eval/exact` in log.jsonl, beside the seconds so far. Writes out/model at every
checkpoint.

The settings are those of Speed is Confidence (arXiv:2601.19085) for one chain, with h/l cycles that grow from
1/2 to 3/6 in three stages, as CGAR (arXiv:2511.08653) proposes; `stages=[]` trains with all cycles at once.
The bundled trm_sudoku was trained so, with seed=5.
"""

from pydantic import Field

from saccade.train.config import Part, TrainConfig
from saccade.train.puzzle_run import SMOKE_TRAIN, Stage, SudokuConfig, build_sudoku_stages


class Config(SudokuConfig):
    preset: str = "trm_sudoku_fast"
    model: dict = Field({"h_cycles": 3, "l_cycles": 6})
    stages: tuple[Stage, ...] = (
        Stage(h_cycles=1, l_cycles=2, steps=11_200),
        Stage(h_cycles=2, l_cycles=4, steps=7_200),
    )
    batch: int = 384
    smoothing: float = 0.2
    stablemax: bool = False
    halt_weight: float = 0.05
    train: TrainConfig = TrainConfig(
        steps=10_000,
        learning_rate=0.02,
        warmup_steps=100,
        min_ratio=0.0,
        weight_decay=0.005,
        decay="all",
        optimizer="shape_muon",
        # What is looked up, or read once at the end: Adam at 1e-4 beside Muon's 0.02.
        parts={"(?!core/)": Part(optimizer="adamw", learning_rate_scale=0.005, weight_decay=1.0)},
        clip_norm=1.0,
        ema_decay=0.99,
        log_every=100,
        save_every=2_000,
        eval_every=1_000,
    )


SMOKE = {**SMOKE_TRAIN, "preset": "trm_sudoku_4x4", "model": {}, "stages": [], "box": 2, "made": 12}
recipe = build_sudoku_stages
