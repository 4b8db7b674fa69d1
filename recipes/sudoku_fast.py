"""Sudoku-Extreme in minutes of one GPU: TRM with a gated norm, Muon and label smoothing.

    saccade train recipes/sudoku_fast.py train_file=train.txt val_file=val.txt --out runs/sudoku_fast
    saccade train recipes/sudoku_fast.py --smoke

Both files hold one puzzle a line. Training puzzles are turned around on the device, a new way for every draw.
Every `train.eval_every` steps the moving averages solve the validation puzzles (16 steps): `eval/exact` in
log.jsonl, beside the seconds so far. Writes out/model at every checkpoint. Without files, puzzles are made.

The settings are those of Speed is Confidence (arXiv:2601.19085) for one chain; every run of `sudoku_trm.py` is
this recipe with the published TRM's settings.
"""

from pathlib import Path

import keras
import numpy as np
from pydantic import BaseModel, ConfigDict

from saccade import backend
from saccade.data.puzzles import sudoku
from saccade.models.trm import HRM, TRM, preset
from saccade.solve import Solver, measure
from saccade.train.config import Part, TrainConfig
from saccade.train.puzzles import Indices, collate_indices, sudoku_objective
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

# What is looked up, or read once at the end: Adam at 1e-4 beside Muon's 0.02.
OUTSIDE_CORE = {"(?!core/)": Part(optimizer="adamw", learning_rate_scale=0.005, weight_decay=1.0)}


class Config(BaseModel):
    """Everything that can be overridden. `model`: fields of the preset to replace."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_file: str | None = None
    val_file: str | None = None
    made: int = 64  # puzzles to make where there is no file
    box: int = 3  # of the puzzles made
    preset: str = "trm_sudoku_fast"
    model: dict = {}
    init: str | None = None  # a model directory to start from
    precision: str = "mixed_bfloat16"
    batch: int = 384
    smoothing: float = 0.2
    stablemax: bool = False
    halt_weight: float = 0.05
    exploration: float = 0.1
    seed: int = 0
    train: TrainConfig = TrainConfig(
        steps=14_000,
        learning_rate=0.02,
        warmup_steps=100,
        min_ratio=0.0,
        weight_decay=0.005,
        decay="all",
        optimizer="shape_muon",
        parts=OUTSIDE_CORE,
        clip_norm=1.0,
        ema_decay=0.99,
        log_every=100,
        save_every=2_000,
        eval_every=1_000,
    )


SMOKE = {
    "preset": "trm_sudoku_4x4",
    "box": 2,
    "made": 12,
    "precision": "float32",
    "batch": 6,
    "train.steps": 3,
    "train.log_every": 1,
    "train.eval_every": 2,
    "train.save_every": 3,
    "train.warmup_steps": 1,
}


def puzzles(file: str | None, config: Config, seed: int) -> np.ndarray:
    """Those of a file, or made ones."""
    if file is not None:
        return sudoku.read(file)
    rng = np.random.default_rng(seed)
    return np.stack([sudoku.generate(rng, config.box)[0] for _ in range(config.made)])


def make_model(config: Config) -> TRM:
    kind = HRM if config.preset.startswith("hrm") else TRM
    if config.init:
        return kind.load(config.init, dtype=config.precision)
    backend.seed_everything(config.seed)
    return kind(preset(config.preset, **config.model), dtype=keras.DTypePolicy(config.precision))


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    train = puzzles(config.train_file, config, seed=1)
    val = puzzles(config.val_file, config, seed=2)
    model = make_model(config)
    objective = sudoku_objective(
        train,
        sudoku.check_all(train),
        smoothing=config.smoothing,
        stablemax=config.stablemax,
        halt_weight=config.halt_weight,
        exploration=config.exploration,
    )
    stream = Stream(Indices(len(train)), collate_indices, objective, config.batch)
    solver = Solver(model)

    def evaluate(_) -> dict[str, float]:
        return measure(solver, val, lambda cells: sudoku.solved(val, cells))

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            if config.train.ema_decay:
                trainer.use_ema()
            trainer.model.save(out_dir / "model", dtype="bfloat16")

    return Trainer(model, {"sudoku": stream}, config.train, out_dir, on_save=export, evaluate=evaluate)
