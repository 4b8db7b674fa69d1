"""What share of Sudokus a model solves: `python benchmarks/sudoku_accuracy.py [--model DIR] [--file TEXT]`.

One line a mode: all steps (as published), halting at several thresholds, and search with --rounds of tries.
Every answer is checked against the rules. Prints the share solved, mean steps and puzzles/s (of the second
run of each mode; the first compiles). Without a file it makes --made puzzles.
"""

import argparse
import time
from dataclasses import replace

import numpy as np

import saccade
from saccade.data.puzzles import sudoku
from saccade.evaluation import environment
from saccade.solve import Search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="trm_sudoku", help="a bundled name or a directory")
    parser.add_argument("--file", help="one puzzle a line")
    parser.add_argument("--made", type=int, default=20)
    parser.add_argument("--slots", type=int, help="puzzles that reason at once; default: by the device")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[-2.0, 0.0, 2.0, 4.0])
    parser.add_argument("--rounds", type=int, default=8, help="of the search")
    parser.add_argument("--steps", type=int, default=8, help="at most so many in a try of the search")
    parser.add_argument("--noise", type=float, default=0.5)
    options = parser.parse_args()
    model = saccade.load(options.model)
    if options.file:
        puzzles = sudoku.read(options.file)
    else:
        rng = np.random.default_rng(0)
        box = round(model.model.config.seq_len**0.25)
        puzzles = np.stack([sudoku.generate(rng, box)[0] for _ in range(options.made)])
    search = Search(options.rounds, None, options.steps, options.noise, sudoku.draw_moves)
    runs = [("fixed", None, {}), *(("halting", t, {}) for t in options.thresholds)]
    runs += [
        ("search", 0.0, {"search": search}),
        ("search", 0.0, {"search": replace(search, moves=None)}),
    ]
    names = ["all steps", *(f"halting at {t:g}" for t in options.thresholds), "search", "search, noise only"]
    for name, (mode, threshold, further) in zip(names, runs, strict=True):
        for _ in range(2):
            begin = time.perf_counter()
            found = model.solver.solve(
                puzzles, sudoku.solved, mode, options.slots, threshold=threshold, **further
            )
            seconds = time.perf_counter() - begin
        solved, steps = (np.array([getattr(s, key) for s in found]) for key in ("valid", "steps"))
        print(
            f"{name:20} solved {100 * solved.mean():6.2f} %   mean steps {steps.mean():7.2f}"
            f"   {len(puzzles) / seconds:8.1f} puzzles/s",
            flush=True,
        )
    print(" ".join(f"{key}={value}" for key, value in environment(model.model).items()))


if __name__ == "__main__":
    main()
