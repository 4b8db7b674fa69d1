"""Does a curriculum help? `python benchmarks/curriculum.py` on one GPU; `--smoke` on a CPU, in minutes.

A VLM-HRM learns to answer questions of one to three hops with the losses of recipes/scenes_vlm_hrm.py, once
with a curriculum (a level for each number of hops), once with all levels from the start: same seeds, same
steps, same validation questions. Prints accuracy on three-hop questions, mean +- standard deviation over the
seeds, and when each level began.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np

from saccade import backend
from saccade.data.batching import Collate
from saccade.data.scenes import Source
from saccade.reason import Reasoner
from saccade.train.curriculum import Curriculum
from saccade.train.recipe import apply_overrides, load_recipe
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

RECIPE = Path(__file__).parent.parent / "recipes" / "scenes_vlm_hrm.py"
HOPS = (1, 2, 3)
OBJECTS = (3, 6)


def levels(split: str, seed: int) -> list[Source]:
    return [
        Source("vqa", split=split, seed=seed, min_depth=hops, max_depth=hops, num_objects=OBJECTS)
        for hops in HOPS
    ]


class Judge:
    """Accuracy on the same validation questions every time, hop by hop; `watched` at the level in force."""

    def __init__(self, collate: Collate, num: int, curriculum: Curriculum):
        self.batches = [collate([source[i] for i in range(num)]) for source in levels("val", 7)]
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
        return {**found, "watched": found[f"{HOPS[self.curriculum.level]}_hops"]}


def train(made, config, processor, way: str, options) -> dict:
    """One run. Returns: accuracy by hops at the end, and the step at which each level began."""
    model = made.make_model(config, processor)
    cell_px = model.config.vision.patch_size * model.config.shuffle
    collate = Collate(
        processor, "vqa", text_length=config.text_length, image_size=config.square, cell_px=cell_px
    )
    sources = levels("train", config.seed)
    curriculum = Curriculum(sources, options.threshold, "watched", options.sampler, config.seed)
    if way == "plain":
        curriculum.level = len(HOPS) - 1  # all levels alike, from the start
        curriculum.weights = (1.0,)
    objective = made.make_objectives(config)["vqa"]
    stream = Stream(curriculum, collate, objective, options.batch, workers=options.workers)
    judge = Judge(collate, options.num, curriculum)
    trainer = Trainer(model, {"vqa": stream}, config.train, evaluate=judge)
    trainer.fit()
    if config.train.ema_decay:
        trainer.use_ema()
    # Evaluation n, from 0, is at step (n + 1) * eval_every and sees what the one before has raised.
    begun = [judge.levels.index(level) * options.eval_every for level in sorted(set(judge.levels))]
    return {**judge(trainer.model), "begun": begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threshold", type=float, default=0.8, help="accuracy that passes a level")
    parser.add_argument("--sampler", default="up_to", help="current or up_to")
    parser.add_argument("--num", type=int, default=500, help="validation questions of each level")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--eval-every", type=int, default=50)
    parser.add_argument("--smoke", action="store_true", help="the nano model, a few steps, on a CPU")
    options = parser.parse_args()
    overrides = []
    if options.smoke:
        options.steps, options.batch, options.num, options.workers, options.eval_every = 8, 4, 8, 0, 2
        options.threshold = 0.0  # so that the levels rise
        overrides = ["preset=vlm_hrm_nano", "precision=float32"]
    backend.enable_compilation_cache()
    made = load_recipe(RECIPE)
    processor = made.make_processor(made.Config())
    results: dict[str, list[dict]] = {"curriculum": [], "plain": []}
    for seed in options.seeds:
        settings = {
            "seed": seed,
            "train.seed": seed,
            "train.steps": options.steps,
            "train.warmup_steps": min(100, options.steps // 4),
            "train.eval_every": options.eval_every,
            "train.log_every": max(1, options.steps // 10),
            "train.ema_decay": 0.99,
        }
        config = apply_overrides(made.Config(), [*overrides, *(f"{k}={v}" for k, v in settings.items())])
        for way, rows in results.items():
            rows.append(train(made, config, processor, way, options))
    shown = (
        f"{len(options.seeds)} seeds, {options.steps} steps of {options.batch} rows, {options.num} questions"
    )
    print(f"accuracy in %, {shown}, {backend.device_name()}")
    print(f"{'':<12}" + "".join(f"{hops} hops".rjust(16) for hops in HOPS) + "  levels begin at step")
    for way, rows in results.items():
        cells = [shown_as([100 * row[f"{hops}_hops"] for row in rows]) for hops in HOPS]
        begun = "; ".join(" ".join(str(step) for step in row["begun"]) for row in rows)
        print(f"{way:<12}" + "".join(cell.rjust(16) for cell in cells) + f"  {begun}")


def shown_as(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} +- {spread:.1f}"


if __name__ == "__main__":
    main()
