"""How fast a model solves Sudokus on this machine: `python benchmarks/solve_speed.py --model DIR`.

Prints the time of the second `saccade solve` as a process, start included (the first fills the compilation
cache), the median time of one puzzle with a loaded model, and puzzles/s of a batch of --num. Without --model
it takes a small untrained model, which shows that everything runs and nothing about speed.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import saccade
from saccade.data.puzzles import sudoku
from saccade.evaluation import environment
from saccade.models.trm import TRM, preset

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


def seconds(function) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a directory that training wrote")
    parser.add_argument("--num", type=int, default=256, help="puzzles in the batch")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        name = options.model or str(Path(folder) / "untrained")
        if not options.model:
            small = preset("trm_sudoku_fast", dim=64, h_cycles=1, l_cycles=2, halt_max_steps=4)
            TRM(small).save(name, dtype="bfloat16")
        command = [
            sys.executable,
            "-m",
            "saccade.cli",
            "solve",
            "sudoku",
            PUZZLE,
            "--mode",
            "halting",
            "-m",
            name,
        ]
        # An untrained model solves nothing, and says so: the time is the same.
        times = [seconds(lambda: subprocess.run(command, capture_output=True)) for _ in range(2)]
        print(f"saccade solve: first {times[0]:.2f} s, second {times[1]:.2f} s")
        model = saccade.load(name)
    cells = sudoku.parse(PUZZLE)[None]
    many = sudoku.draw_moves(np.random.default_rng(0), np.repeat(cells, options.num, 0)).apply(
        np.repeat(cells, options.num, 0)
    )
    for mode in ("halting", "fixed"):
        model.solve_many(cells, mode)
        one = statistics.median(
            seconds(lambda m=mode: model.solve_many(cells, m)) for _ in range(options.repeats)
        )
        model.solve_many(many, mode)
        found = []
        batch = seconds(lambda m=mode, f=found: f.extend(model.solve_many(many, m)))
        steps = statistics.mean(solution.steps for solution in found)
        print(
            f"{mode:8} one puzzle {1000 * one:7.1f} ms"
            f"   batch of {options.num}: {options.num / batch:7.2f} puzzles/s"
            f"   mean steps {steps:.2f}   solved {np.mean([s.valid for s in found]):.3f}"
        )
    print(" ".join(f"{key}={value}" for key, value in environment(model.model).items()))


if __name__ == "__main__":
    main()
