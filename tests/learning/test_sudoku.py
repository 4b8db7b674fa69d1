"""TRM learns 4 x 4 Sudoku on a CPU within a minute: recursion, halting, draws and Muon together."""

import json
from pathlib import Path

import numpy as np
import pytest

from saccade.data.puzzles import sudoku
from saccade.puzzles import PuzzleModel, read_puzzle_model
from saccade.train import recipe

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "sudoku_fast.py"
OVERRIDES = [
    "made=800",
    "batch=64",
    "halt_weight=0.5",
    "variants=0",
    "reveal=0",
    "stagger=false",
    "train.ema_decay=0.95",
    "train.log_every=300",
    # A small model halts late with Adam at Muon's 1/200; here it has hundreds of steps, not thousands.
    'train.parts={"(?!core/)": {optimizer: adamw, learning_rate_scale: 0.1, weight_decay: 0.1}}',
]


MODELS = {
    "mlp_t": ("trm_sudoku_4x4", "dim: 48, num_heads: 3, multiple: 16, h_cycles: 2, l_cycles: 2", 800),
    "candidates": ("trm_sudoku_candidates", "dim: 16, multiple: 8, h_cycles: 2, l_cycles: 2", 500),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("preset", "model", "steps"), MODELS.values(), ids=MODELS)
def test_sudoku_of_four(preset, model, steps, tmp_path):
    length = [f"train.{key}={steps}" for key in ("steps", "eval_every", "save_every")]
    own = [f"preset={preset}", f"model={{{model}}}", *length]
    recipe.run_recipe(RECIPE, [*OVERRIDES, *own], smoke=True, out=tmp_path)
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["eval/exact"] >= 0.95, last
    assert last["eval/mean_steps"] < 8, last

    model: PuzzleModel = read_puzzle_model(tmp_path / "model")
    rng = np.random.default_rng(77)
    puzzles = np.stack([sudoku.generate(rng, 2)[0] for _ in range(60)])
    halting = model.solve_many(puzzles, "halting", slots=16)
    searched = model.solve_many(puzzles, "search", slots=16)
    valid = [np.mean([s.valid for s in found]) for found in (halting, searched)]
    assert valid[1] >= valid[0]
    assert valid[1] >= 0.98
    for puzzle, solution in zip(puzzles, searched, strict=True):
        assert solution.valid == sudoku.is_solution(puzzle, solution.grid)
