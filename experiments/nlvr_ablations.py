"""What each part of the NLVR recipe is worth: `python experiments/nlvr_ablations.py NLVR --seeds 1 2 3`.

For each seed all settings train side by side on one GPU, `--seconds` each with start and compiling, so that
they share it alike. NLVR holds train_scenes.jsonl.gz; scores are those of the held-out training sentences, at
the end of each run. Prints a table of mean +- standard deviation over the seeds. Logs lie in --out, where a
run that has ended is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from curriculum import shown_as
from rich.console import Console
from rich.table import Table

HALF = "tasks={human: {batch: 160, workers: 1}, panels: {batch: 80, weight: 0.5, workers: 1}}"
SETTINGS = {
    "reference": [HALF],
    "one_step": [HALF, "model.halt_max_steps=1"],
    "two_nets": [HALF, "model.shared=false"],
    "cycles": [HALF, "model.h_cycles=2", "model.l_cycles=2"],
    "no_pretraining": [HALF, "init=null"],
    "no_halting": [HALF, "model.halt_threshold=1e6"],
    "no_panels": ["tasks={human: {batch: 240, workers: 2}}"],
    "nothing_human": ["tasks={panels: {batch: 240, workers: 2}}"],
    "no_symmetries": [HALF, "symmetries=false", "rewording=0"],
    "small_canvas": [HALF, "canvas=[64, 256]"],
}
SCORES = ("accuracy", "consistency", "accuracy_all_steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nlvr", type=Path, help="has train_scenes.jsonl.gz")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS)[:6], choices=SETTINGS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--seconds", type=float, default=315, help="of each run")
    parser.add_argument("--steps", type=int, default=1500, help="at most; where the learning rate ends")
    parser.add_argument("--out", type=Path, default=Path("runs/nlvr_ablations"))
    options = parser.parse_args()
    for seed in options.seeds:
        runs = {name: options.out / f"{name}_{seed}" for name in options.settings}
        started = {
            name: start(name, folder, seed, options) for name, folder in runs.items() if not ended(folder)
        }
        for name, process in started.items():
            if process.wait():
                sys.exit(f"{name} of seed {seed} failed: see {runs[name]}.txt")
    report(options)


def start(name: str, folder: Path, seed: int, options) -> subprocess.Popen:
    folder.parent.mkdir(parents=True, exist_ok=True)
    limits = [f"train.steps={options.steps}", f"train.time_limit_s={options.seconds}"]
    every = ["train.eval_every=500", f"train.save_every={options.steps}"]
    command = ["train", "nlvr_vlm_hrm", f"data={options.nlvr}", f"seed={seed}", *limits, *every]
    with open(f"{folder}.txt", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "saccade.cli", *command, *SETTINGS[name], "--out", str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},  # several share one GPU
        )


def ended(folder: Path) -> bool:
    return (folder / "model").exists()


def last_scores(folder: Path) -> dict:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for line in lines if "eval/accuracy" in (record := json.loads(line))][-1]


def report(options) -> None:
    table = Table("setting", "seeds", "steps", *SCORES)
    for name in options.settings:
        rows = [last_scores(options.out / f"{name}_{seed}") for seed in options.seeds]
        columns = [shown_as([100 * row[f"eval/{score}"] for row in rows]) for score in SCORES]
        steps = " ".join(f"{row['step']:,}" for row in rows)
        table.add_row(name, str(len(rows)), steps, *columns)
    Console().print(table)


if __name__ == "__main__":
    main()
