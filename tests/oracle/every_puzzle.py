"""What saved tiny TRMs compute and learn: `python every_puzzle.py FOLDER OUT.npz`, FOLDER/NAME a model each.

The same code runs on JAX, inside the test, and on torch, as a script.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops
from reference import to_numpy

from saccade import backend
from saccade.data.puzzles import maze, sudoku
from saccade.models.trm import HRM, TRM, TRMConfig
from saccade.solve import Solver
from saccade.train import Part, Stream, TrainConfig
from saccade.train.objectives import Recursive
from saccade.train.puzzles import Drawn, Fill, Indices, MazeMirrors, SudokuSymmetries, WinnerTakesAll
from saccade.train.trainer import Trainer

BASE = {
    "vocab_size": 5,
    "seq_len": 16,
    "prefix_tokens": 2,
    "dim": 24,
    "num_heads": 3,
    "multiple": 8,
    "l_layers": 1,
    "h_cycles": 2,
    "l_cycles": 2,
    "halt_max_steps": 4,
}
CONFIGS = {
    "mlp_t": TRMConfig(**BASE, mixer="mlp_t", ffn="gated_norm"),
    "attention": TRMConfig(**BASE, ffn="swiglu"),
    "hrm": TRMConfig(**BASE, h_layers=1, one_step=True, q_learning=True),
    "chains": TRMConfig(**BASE, mixer="mlp_t", num_chains=3),
}


def grids(count: int = 6):
    rng = np.random.default_rng(0)
    made = [sudoku.generate(rng, 2) for _ in range(count)]
    return np.stack([p for p, _ in made]), np.stack([g for _, g in made])


def compute(model) -> dict:
    puzzles, solutions = grids()
    solver = Solver(model)
    found = {f"trace {key}": value for key, value in solver.trace(puzzles).items()}
    found |= dict(zip(("cells", "q_halt", "steps"), solver.halting(puzzles, slots=4), strict=True))
    batch = {"tokens": puzzles, "targets": solutions, "puzzle": np.zeros(len(puzzles))}
    batch = {key: ops.convert_to_tensor(value.astype(np.int32)) for key, value in batch.items()}
    learn = WinnerTakesAll if model.config.num_chains > 1 else Recursive
    objective, seed = learn(Fill(smoothing=0.1)), keras.random.SeedGenerator(0)

    def loss(values, batch):
        mapping = [*zip(model.trainable_variables, values, strict=True), (seed.state, seed.state.value)]
        with keras.StatelessScope(state_mapping=mapping):
            return objective(model, objective.initial_carry(model, batch), batch, seed)[0], 0

    values = [v.value for v in model.trainable_variables]
    run = backend.jit(lambda values, batch: backend.value_and_grad(loss, values, batch))
    (total, _), gradients = run(values, batch)
    found["loss"] = to_numpy(total)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        found[f"gradient {variable.path.split('/', 1)[1]}"] = to_numpy(gradient)
    return found


def drawn() -> dict:
    """Whether what is drawn is proper; the draws themselves differ between the two."""
    seed, index = keras.random.SeedGenerator(0), ops.convert_to_tensor(np.arange(24, dtype=np.int32) % 3)
    boards = {key: to_numpy(value) for key, value in SudokuSymmetries(*grids())(index, seed).items()}
    mazes = maze.generate_many(np.random.default_rng(0), 3, 6)[0]
    turned = {key: to_numpy(value) for key, value in MazeMirrors(mazes)(index, seed).items()}
    return {
        "sudokus drawn": sudoku.solved(boards["tokens"], boards["targets"]),
        "mazes drawn": maze.solved(turned["tokens"], turned["targets"]),
    }


def trained() -> dict:
    """Two steps of a whole run, with each optimiser; only what does not depend on the draws."""
    puzzles, solutions = grids()
    model = TRM(CONFIGS["mlp_t"], name="trm")
    config = TrainConfig(
        steps=2,
        optimizer="shape_muon",
        ema_decay=0.9,
        parts={
            "puzzle_table": Part(optimizer="sign_sgd"),
            "(token_table|halting|output_head)": Part(optimizer="adam_atan2"),
        },
    )
    objective = Drawn(Recursive(Fill()), SudokuSymmetries(puzzles, solutions))
    stream = Stream(Indices(6), lambda items: {"index": np.asarray(items, np.int32)}, objective, 4)
    result = Trainer(model, {"sudoku": stream}, config).fit()
    return {"trained": np.array([result.steps, float(np.isfinite(result.loss))])}


def everything(folder) -> dict:
    found = {}
    for name, config in CONFIGS.items():
        model = (HRM if config.one_step else TRM).load(Path(folder) / name)
        found |= {f"{name}/{key}": value for key, value in compute(model).items()}
    return found | drawn() | trained()


if __name__ == "__main__":
    np.savez(sys.argv[2], **everything(sys.argv[1]))
