"""How fast a model solves Sudokus on this machine: `python benchmarks/solve_speed.py`.

For an easy, a middling and a hard puzzle: the time of the second `saccade solve` as a process, start included
(the first fills the compilation cache), the median time of one puzzle with a loaded model, and puzzles/s of a
batch of --num turned copies. Each with the steps taken and the share solved; the process searches if it must,
the loaded model halts and gives up.
"""

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np

import saccade
from saccade import backend
from saccade.data.puzzles import sudoku
from saccade.evaluation import environment

PUZZLES = {  # as in a newspaper; P. Norvig's "hard1" of 17 givens; A. Inkala's of 2012
    "easy": "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79",
    "middling": "4.....8.5.3..........7......2.....6.....8.4......1.......6.3.7.5..2.....1.4......",
    "hard": "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..",
}


def seconds(function) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="trm_sudoku", help="a name or a directory that training wrote")
    parser.add_argument("--num", type=int, help="puzzles in the batch; default: 256, on a CPU 16")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    num = options.num or (16 if backend.device_name() == "cpu" else 256)
    model = saccade.load(options.model)
    for name, puzzle in PUZZLES.items():
        command = [sys.executable, "-m", "saccade.cli", "solve", "sudoku", puzzle, "-m", options.model]
        first = seconds(lambda c=command: subprocess.run(c, capture_output=True))
        ended = []
        second = seconds(lambda c=command, e=ended: e.append(subprocess.run(c, capture_output=True)))
        print(f"{name:8} process {first:6.2f} s, then {second:6.2f} s, solved {not ended[0].returncode}")
        cells = sudoku.parse(puzzle)[None]
        model.solve_many(cells)
        found = []
        one = statistics.median(
            seconds(lambda c=cells, f=found: f.extend(model.solve_many(c))) for _ in range(options.repeats)
        )
        print(f"{'':8} loaded {1000 * one:7.1f} ms, {found[0].steps} steps, solved {found[0].valid}")
        many = np.repeat(cells, num, 0)
        many = sudoku.draw_moves(np.random.default_rng(0), many).apply(many)
        model.solve_many(many)
        found = []
        batch = seconds(lambda m=many, f=found: f.extend(model.solve_many(m)))
        steps = statistics.mean(solution.steps for solution in found)
        print(
            f"{'':8} batch of {num}: {num / batch:7.2f} puzzles/s, mean steps {steps:.2f}, "
            f"solved {np.mean([s.valid for s in found]):.3f}",
            flush=True,
        )
    print(" ".join(f"{key}={value}" for key, value in environment(model.model).items()))


if __name__ == "__main__":
    main()
