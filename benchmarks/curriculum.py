"""Does a curriculum help? `python benchmarks/curriculum.py` on one GPU; `--smoke` on a CPU, in minutes.

A VLM-HRM learns to answer questions of one to three hops with the losses of recipes/scenes_vlm_hrm.py, once
with a curriculum (a level for each number of hops), once with all levels from the start: same seeds, same
steps, same validation questions. Its vision tower starts as the bundled model's, so that steps go into
reasoning; `--tower ""` starts from nothing. Prints what was run, accuracy by hops, mean +- standard deviation
over the seeds, and when each level began.

`--jobs` runs go on at once, each in a process of its own: on a GPU their small steps overlap. They share its
memory only with XLA_PYTHON_CLIENT_PREALLOCATE=false. What each run measured is printed as it ends.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from rich.console import Console

from saccade import backend
from saccade.data.batching import Collate
from saccade.data.scenes import Source
from saccade.pipeline import BUNDLED
from saccade.reason import Reasoner
from saccade.train.curriculum import IN_A_ROW, Curriculum
from saccade.train.recipe import apply_overrides, load_recipe
from saccade.train.scene_chunks import tower_of
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

RECIPE = Path(__file__).parent.parent / "recipes" / "scenes_vlm_hrm.py"
HOPS = (1, 2, 3)
OBJECTS = (3, 6)
HELD_OUT = {"split": "val", "seed": 7}


def levels(split: str, seed: int) -> list[Source]:
    return [
        Source("vqa", split=split, seed=seed, min_depth=hops, max_depth=hops, num_objects=OBJECTS)
        for hops in HOPS
    ]


class Judge:
    """Accuracy on the same validation questions every time, hop by hop; `watched` at the level in force."""

    def __init__(self, name: str, collate: Collate, num: int, curriculum: Curriculum):
        self.name = name
        self.batches = [collate([source[i] for i in range(num)]) for source in levels(**HELD_OUT)]
        self.curriculum = curriculum
        self.levels: list[int] = []  # in force at each call
        self.reasoner: Reasoner | None = None

    def __call__(self, model) -> dict[str, float]:
        self.reasoner = self.reasoner or Reasoner(model)
        self.levels.append(self.curriculum.level)
        found = {}
        for hops, batch in zip(HOPS, self.batches, strict=True):
            said = self.reasoner.run(batch, "vqa")["probabilities"].argmax(-1)
            found[f"{hops}_hops"] = float(np.mean(said == batch["answer"]))
        shown = ", ".join(f"{name} {100 * value:.1f} %" for name, value in found.items())
        print(
            f"{self.name}, evaluation {len(self.levels)}, level {self.curriculum.level}: {shown}", flush=True
        )
        return {**found, "watched": found[f"{HOPS[self.curriculum.level]}_hops"]}


def train(seed: int, way: str, options) -> dict:
    """One run. Returns: accuracy by hops at the end, the step at which each level began, seconds."""
    begin = time.monotonic()
    backend.enable_compilation_cache()
    made = load_recipe(RECIPE)
    config = apply_overrides(made.Config(), settings(seed, options))
    processor = made.make_processor(made.Config())
    model = made.make_model(config, processor)
    if options.tower:
        _, seen = tower_of(options.tower)
        for name, value in seen.items():
            model.named_variables()[name].assign(value)
    cell_px = model.config.vision.patch_size * model.config.shuffle
    collate = Collate(
        processor, "vqa", text_length=config.text_length, image_size=config.square, cell_px=cell_px
    )
    curriculum = Curriculum(levels("train", seed), options.threshold, "watched", options.sampler, seed)
    if way == "plain":
        curriculum.level = len(HOPS) - 1  # all levels alike, from the start
        curriculum.weights = (1.0,)
    objective = made.make_objectives(config)["vqa"]
    stream = Stream(curriculum, collate, objective, options.batch, workers=options.workers)
    judge = Judge(f"{way}, seed {seed}", collate, options.num, curriculum)
    quiet = Console(quiet=True)  # several runs speak at once: the judge alone does
    trainer = Trainer(model, {"vqa": stream}, config.train, evaluate=judge, console=quiet)
    trainer.fit()
    if config.train.ema_decay:
        trainer.use_ema()
    # Evaluation n, from 0, is at step (n + 1) * eval_every and sees what the one before has raised.
    begun = [judge.levels.index(level) * options.eval_every for level in sorted(set(judge.levels))]
    return {**judge(trainer.model), "begun": begun, "seconds": round(time.monotonic() - begin)}


def settings(seed: int, options) -> list[str]:
    """Overrides of the recipe for one run."""
    values = {
        "seed": seed,
        "train.seed": seed,
        "train.steps": options.steps,
        "train.warmup_steps": min(100, options.steps // 4),
        "train.eval_every": options.eval_every,
        "train.log_every": options.eval_every,
        "train.ema_decay": 0.99,
    }
    small = ["preset=vlm_hrm_nano", "precision=float32"] if options.smoke else []
    return [*small, *(f"{key}={value}" for key, value in values.items())]


def run_all(runs: list[tuple[int, str]], options):
    """(way, seed, what it measured) of each run as it ends."""
    spawn = multiprocessing.get_context("spawn")  # a forked process could not use the GPU
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(train, seed, way, options): (way, seed) for seed, way in runs}
        for done in as_completed(waiting):
            yield *waiting[done], done.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threshold", type=float, default=0.8, help="accuracy that passes a level")
    parser.add_argument("--sampler", default="up_to", help="current or up_to")
    parser.add_argument("--num", type=int, default=500, help="validation questions of each level")
    parser.add_argument("--jobs", type=int, default=3, help="runs at once")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw examples, of each run")
    parser.add_argument("--eval-every", type=int, default=75)
    parser.add_argument("--tower", default=str(BUNDLED / "vlm_hrm_scenes"), help="a VLM-HRM directory")
    parser.add_argument("--smoke", action="store_true", help="the nano model, a few steps, on a CPU")
    options = parser.parse_args()
    if options.smoke:
        # Evaluations enough, and a threshold low enough, that every level begins.
        options.steps, options.batch, options.num, options.workers, options.eval_every = 14, 4, 8, 0, 2
        options.threshold, options.jobs, options.tower = 0.0, 1, ""
    results: dict[str, list[dict]] = {"curriculum": [], "plain": []}
    for way, seed, row in run_all([(seed, way) for seed in options.seeds for way in results], options):
        results[way].append(row)
        print(json.dumps({"way": way, "seed": seed, **row}), flush=True)
    for line in described(options):
        print(line)
    print(f"{'':<12}" + "".join(f"{hops} hops".rjust(16) for hops in HOPS) + "  levels begin at step")
    for way, rows in results.items():
        cells = [shown_as([100 * row[f"{hops}_hops"] for row in rows]) for hops in HOPS]
        begun = "all at 0"
        if way == "curriculum":
            begun = "; ".join(" ".join(str(step) for step in row["begun"]) for row in rows)
        print(f"{way:<12}" + "".join(cell.rjust(16) for cell in cells) + f"  {begun}")


def described(options) -> list[str]:
    """What the table is of."""
    values = apply_overrides(load_recipe(RECIPE).Config(), settings(options.seeds[0], options))
    low, high = OBJECTS
    held_out = ", ".join(f"{key} {value}" for key, value in HELD_OUT.items())
    return [
        f"accuracy in % of {options.num} vqa questions of each number of hops, {low} to {high} objects "
        f"({held_out}), moving averages; seeds {' '.join(map(str, options.seeds))}",
        f"{values.preset}, tower {Path(options.tower).name or 'from nothing'}, {options.steps} steps of "
        f"{options.batch} rows of split train, {backend.device_name()}",
        f"a level is passed by {IN_A_ROW} evaluations in a row, one every {options.eval_every} steps, at "
        f"{100 * options.threshold:g} % or more of its own questions; sampler {options.sampler}",
    ]


def shown_as(values: list[float]) -> str:
    """Mean +- standard deviation; of one value itself."""
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
