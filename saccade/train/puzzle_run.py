"""What the puzzle recipes share: their settings and the Trainer made from them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from saccade import backend
from saccade.data.puzzles import arc, maze, sudoku
from saccade.errors import SaccadeError
from saccade.models.trm import HRM, TRM, TRMConfig, preset
from saccade.solve import Solver, measure
from saccade.train.config import Part, Precision, TrainConfig
from saccade.train.objectives import Recursive
from saccade.train.puzzles import (
    ArcDraws,
    Drawn,
    Fill,
    Indices,
    MazeMirrors,
    SudokuSymmetries,
    WinnerTakesAll,
    collate_indices,
)
from saccade.train.stages import InTurn
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

# The published TRM's optimisers: AdamATan2 for everything, sign SGD for the puzzle embedding.
PUBLISHED = TrainConfig(
    steps=65_104,
    learning_rate=1e-4,
    warmup_steps=2_000,
    schedule="constant",
    weight_decay=1.0,
    decay="all",
    optimizer="adam_atan2",
    parts={"puzzle_table": Part(optimizer="sign_sgd")},
    clip_norm=None,
    ema_decay=0.999,
    log_every=200,
    save_every=2_000,
    eval_every=1_000,
)
# Those of Speed is Confidence (arXiv:2601.19085): Muon for the nets; what is looked up, or read once at the
# end, by Adam at 1e-4 beside Muon's 0.02.
FAST = TrainConfig(
    learning_rate=0.02,
    warmup_steps=100,
    min_ratio=0.0,
    weight_decay=0.005,
    decay="all",
    optimizer="shape_muon",
    parts={"(?!core/)": Part(optimizer="adamw", learning_rate_scale=0.005, weight_decay=1.0)},
    clip_norm=1.0,
    ema_decay=0.998,
    log_every=200,
    save_every=2_000,
    eval_every=2_000,
)
SMOKE_TRAIN = {
    "precision": "float32",
    "batch": 6,
    "train.steps": 3,
    "train.log_every": 1,
    "train.eval_every": 2,
    "train.save_every": 3,
    "train.warmup_steps": 1,
}


class PuzzleConfig(BaseModel):
    """Everything that can be overridden.

    Args:
        preset, model: of saccade.models.trm, and fields of it to replace.  init: a model directory to start
        from instead of the preset, with its cycles and threshold, unless `model` says others.
        batch: rows that reason at once.
        solve: fields to replace once it has learnt, for validation and in what is written: with more h_cycles
        than it was trained with a model may solve more.
        smoothing, stablemax: of the cells' cross-entropy.  halt_weight, exploration, stagger: see Recursive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str
    model: dict = {}
    solve: dict = {}
    init: str | None = None
    precision: Precision = "mixed_bfloat16"
    batch: int = 768
    smoothing: float = 0.0
    stablemax: bool = True
    halt_weight: float = 0.5
    exploration: float = 0.1
    stagger: bool = False
    seed: int = 0
    train: TrainConfig = PUBLISHED


def build(
    config: PuzzleConfig,
    out_dir: Path | None,
    name: str,
    draw: Callable,
    size: int,
    evaluate: Callable[[Solver], dict[str, float]],
    start: TRM | None = None,
    **changes,
) -> Trainer:
    """A Trainer that draws puzzles on the device, solves held-out ones as it goes, and writes out_dir/model.

    Args:
        name: of the stream.  draw, size: of the training puzzles, see Drawn.
        evaluate: what to log of a solver.  start: whose weights to start from.
        changes: fields of the preset that the data decides.
    Raises: SaccadeError: no such preset or field of it; `init` or `model` do not fit the data.
    """
    kind = HRM if config.preset.startswith("hrm") else TRM
    if config.init:
        model = kind.load(config.init, dtype=config.precision, **config.model)
        if model.config.any_side and changes.get("seq_len", model.config.seq_len) != model.config.seq_len:
            model = model.resized(changes["seq_len"])
    else:
        backend.seed_everything(config.seed)
        model = kind(_architecture(config, changes), dtype=config.precision)
    solving = _for_solving(model, config.solve)
    for key, wanted in changes.items():
        for found in (getattr(m.config, key) for m in (model, solving)):
            if found != wanted:
                raise SaccadeError(
                    f"these puzzles need a model of {key}={wanted}, {config.init or config.preset} has "
                    f"{found}; leave {key} to the puzzles, or start from another model"
                )
    if start is not None:
        model.copy_from(start)
    task = Fill(config.smoothing, config.stablemax)
    learn = WinnerTakesAll if model.config.num_chains > 1 else Recursive
    objective = learn(
        task, exploration=config.exploration, halt_weight=config.halt_weight, stagger=config.stagger
    )
    stream = Stream(Indices(size), collate_indices, Drawn(objective, draw), config.batch)
    solver = Solver(solving)

    def learnt() -> TRM:
        if solving is not model:
            solving.copy_from(model)
        return solving

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            if config.train.ema_decay:
                trainer.use_ema()
            learnt().save(out_dir / "model", dtype="bfloat16")

    def score(_: Trainer) -> dict[str, float]:
        learnt()
        return evaluate(solver)

    return Trainer(model, {name: stream}, config.train, out_dir, on_save=export, evaluate=score)


def _for_solving(model: TRM, fields: dict) -> TRM:
    """The model itself, or one of its weights with other settings."""
    if not fields:
        return model
    try:
        return model.changed(**fields)
    except (TypeError, ValueError) as error:
        raise SaccadeError(f"solve={fields} does not fit the model: {error}") from error


def _architecture(config: PuzzleConfig, changes: dict) -> TRMConfig:
    try:
        return preset(config.preset, **(changes | config.model))
    except ValueError as error:
        raise SaccadeError(f"preset {config.preset} with model={config.model}: {error}") from error


class Stage(BaseModel):
    """Steps of training with fewer cycles, at a constant rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    h_cycles: int
    l_cycles: int
    steps: int


class SudokuConfig(PuzzleConfig):
    """As PuzzleConfig, and the puzzles.

    Args:
        train_file, val_file: text, one puzzle a line.  made: puzzles to make where there is no file.
        box: of the puzzles made, 3 or 2.
        reveal: share of the training draws that are made easier, see SudokuSymmetries.
        variants: so many others made near each training puzzle (see sudoku.vary), drawn as often as it is;
            made anew at every start, 15 a second and core.
        stages: what to train before, see build_sudoku.
    """

    stages: tuple[Stage, ...] = ()
    train_file: str | None = None
    val_file: str | None = None
    made: int = Field(64, ge=1)
    box: Literal[2, 3] = 3
    reveal: float = Field(0.0, ge=0, le=1)
    variants: int = Field(0, ge=0)


class Sudokus(NamedTuple):
    """What a run trains on and is measured by: int8 (N, cells), (N, cells), (M, cells)."""

    puzzles: np.ndarray
    solutions: np.ndarray
    val: np.ndarray


def read_sudokus(config: SudokuConfig) -> Sudokus:
    """The puzzles of the files, or made ones, and the variants. Raises: SaccadeError: files of two sizes."""

    def read(file: str | None, seed: int) -> np.ndarray:
        if file is not None:
            return sudoku.read(file)
        rng = np.random.default_rng(seed)
        return np.stack([sudoku.generate(rng, config.box)[0] for _ in range(config.made)])

    train, val = read(config.train_file, seed=1), read(config.val_file, seed=2)
    if val.shape[1] != train.shape[1]:
        raise SaccadeError(
            f"puzzles of {train.shape[1]} cells for training, of {val.shape[1]} for validation; give files "
            "of one size (without a file, `box` decides the size)"
        )
    known = train, sudoku.check_all(train)
    if config.variants:
        as_often = (np.repeat(t, config.variants, axis=0) for t in known)
        more = sudoku.vary_all(train, config.variants, config.seed)
        known = tuple(np.concatenate(pair) for pair in zip(as_often, more, strict=True))
    return Sudokus(*known, val)


def build_sudoku(config: SudokuConfig, out_dir: Path | None) -> Trainer | InTurn:
    """A Trainer, or where the config names stages, all of them in turn: more cycles each time.

    Source: cycles that grow, CGAR, arXiv:2511.08653.
    """
    data = read_sudokus(config)
    draw = SudokuSymmetries(data.puzzles, data.solutions, config.reveal)
    cells = data.val.shape[1]
    changes = {"seq_len": cells, "vocab_size": round(cells**0.5) + 1}

    def evaluate(solver: Solver) -> dict[str, float]:
        return measure(solver, data.val, lambda grids: sudoku.solved(data.val, grids))

    def make(stage: Stage | None, folder: Path | None, start: TRM | None) -> Trainer:
        own = config
        if stage is not None:  # None: the last, the config as it stands
            cycles = {"h_cycles": stage.h_cycles, "l_cycles": stage.l_cycles}
            train = config.train.model_copy(update={"steps": stage.steps, "schedule": "constant"})
            own = config.model_copy(update={"model": config.model | cycles, "train": train})
        return build(own, folder, "sudoku", draw, len(data.puzzles), evaluate, start, **changes)

    return InTurn((*config.stages, None), make, out_dir) if config.stages else make(None, out_dir, None)


class MazeConfig(PuzzleConfig):
    """As PuzzleConfig, and the mazes.

    Args:
        file: the published arrays (see maze.load).  held_out: so many of its last mazes are for validation.
        made, side: without a file, how many to make and how large.
        more: so many made ones to train on beside those of the file, on boards as large, with shorter ways.
        varied: those made, for validation too, are of many sides and some wind, see maze.generate_many.
    """

    file: str | None = None
    held_out: int = Field(100, ge=1)
    made: int = Field(40, ge=2)
    side: int = 30
    more: int = Field(0, ge=0)
    varied: bool = False


def build_maze(config: MazeConfig, out_dir: Path | None) -> Trainer:
    """`eval/exact` compares with the published labels; another shortest path counts as wrong."""
    if config.file is not None:
        inputs, labels = maze.load(config.file)
    else:
        inputs, labels = maze.generate_many(np.random.default_rng(1), config.made, config.side, config.varied)
    if config.varied and config.file is not None and not config.more:
        raise SaccadeError("varied=true is for mazes that are made, and none are; give more=, or no file")
    if len(inputs) < 2:
        raise SaccadeError(f"{config.file} holds one maze; training and validation need one each at least")
    held = min(config.held_out, len(inputs) // 2)
    val = inputs[-held:]
    train = inputs[:-held]
    if config.more:
        side = round(inputs.shape[1] ** 0.5)
        made = maze.generate_many(np.random.default_rng(3), config.more, side, config.varied)[0]
        train = np.concatenate([train, made])
    draw = MazeMirrors(train)

    def evaluate(solver: Solver) -> dict[str, float]:
        return measure(solver, val, lambda cells: (cells == labels[-held:]).all(1))

    return build(config, out_dir, "maze", draw, len(train), evaluate, seq_len=val.shape[1])


class ArcConfig(PuzzleConfig):
    """As PuzzleConfig, and the tasks.

    Args:
        folders: of tasks whose demonstrations are trained on, those of `eval_folder` included.
        eval_folder: the tasks whose tests are scored.
        views, eval_views: of each task, for training and for voting (at most `views`).
        made, side: without folders, how many tasks to make; side of the canvas.
    """

    folders: list[str] = []
    eval_folder: str | None = None
    views: int = 1_001
    eval_views: int = 32
    made: int = 6
    side: int = 30


def build_arc(config: ArcConfig, out_dir: Path | None) -> Trainer:
    """`eval/pass@2` lets each test's views vote, see arc.vote. The outputs of tests are never trained on."""
    rng = np.random.default_rng(config.seed)
    if config.eval_folder is None:
        scored = [arc.generate(rng, config.side) for _ in range(config.made)]
    else:
        scored = arc.read_folder(config.eval_folder)
        for task in scored:
            if any(output is None for _, output in task.test):  # or the first evaluation would find out
                raise SaccadeError(
                    f"ARC task {task.name}: a test has no output, so no score; give another folder"
                )
    names = {task.name for task in scored}
    others = [task for folder in config.folders for task in arc.read_folder(folder) if task.name not in names]
    table = arc.make_table([*scored, *others], config.views, rng, config.side)
    tests = _first_views([test for test in table.tests if test["task"] in names], config.eval_views)
    cells = np.stack([test["cells"] for test in tests])
    puzzles = np.array([test["puzzle"] for test in tests])

    def evaluate(solver: Solver) -> dict[str, float]:
        answers, sure = solver.last(cells, puzzles, config.batch)
        return {"pass@2": arc.score(scored, arc.vote(tests, answers, sure))}

    changes = {"seq_len": config.side**2, "num_puzzles": table.num_puzzles}
    return build(config, out_dir, "arc", ArcDraws(table), len(table.start), evaluate, **changes)


def _first_views(tests: list[dict], count: int) -> list[dict]:
    seen: Counter = Counter()
    kept = []
    for test in tests:
        key = (test["task"], test["test"])
        if seen[key] < count:
            kept.append(test)
        seen[key] += 1
    return kept
