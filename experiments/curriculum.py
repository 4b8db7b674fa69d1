"""Does a curriculum help? `python experiments/curriculum.py`, forty minutes of two CPU cores; `--smoke`: one.

A tiny VLM-HRM learns from nothing to answer "what color, shape, size or material is the ..." of one to three
hops, in small scenes on paper, with the losses of recipes/scenes_vlm_hrm.py: once with a curriculum (a level
for each number of hops), once with all levels from the start: same seeds, same steps, same validation
questions. Prints accuracy by hops, mean +- standard deviation over the seeds, and when each level began.

`--jobs` runs go on at once, each in a process of its own. What each run measured is printed as it ends.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from saccade import backend
from saccade.data.batching import ATTRIBUTES, Collate
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import ANSWERS, Source, lexicon
from saccade.data.scenes.kept import Kept
from saccade.data.scenes.referents import CHANNELS
from saccade.data.text import Tokenizer
from saccade.models.vit import ViTConfig
from saccade.models.vlm_hrm import VLMHRM, VLMHRMConfig
from saccade.reason import Reasoner
from saccade.train.config import Part, TrainConfig
from saccade.train.curriculum import IN_A_ROW, Curriculum
from saccade.train.labels import Perceive, Refer, Tell
from saccade.train.objectives import Answer, Recursive
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

HOPS = (1, 2, 3)
OBJECTS = (3, 4)
SIDE_PX, PATCH_PX, TOKENS = 48, 8, 48
SPARSE = 100  # a question about an attribute is one in three, so among so many there is one
KEPT = 6000  # training questions of each level
HELD_OUT = {"split": "val", "seed": 7}


@dataclass(frozen=True)
class AttributeQuestions(Sequence):
    """Questions of so many hops, of kind query_color, _shape, _size or _material."""

    split: str
    seed: int
    hops: int
    side_px: int = SIDE_PX

    def __len__(self):
        return 2**20

    def __getitem__(self, index):
        source = Source(
            "vqa",
            split=self.split,
            seed=self.seed,
            min_depth=self.hops,
            max_depth=self.hops,
            num_objects=OBJECTS,
            size_px=(self.side_px, self.side_px),
            background="paper",
        )
        drawn = (source[SPARSE * index + i] for i in range(SPARSE))
        return next(example for example in drawn if example.kind.startswith("query_"))


def levels(split: str, seed: int) -> list[AttributeQuestions]:
    return [AttributeQuestions(split, seed, hops) for hops in HOPS]


def make_processor() -> Processor:
    config = ProcessorConfig(
        image_sizes=((SIDE_PX, SIDE_PX),), answers=ANSWERS, max_length=TOKENS, length_multiple=TOKENS
    )
    questions = [source[i].text for source in levels("train", 0) for i in range(100)]
    return Processor(Tokenizer.train(questions + [" ".join(lexicon())] * 50, 1024), config)


def make_model(processor: Processor) -> VLMHRM:
    """One step of reasoning of three cycles: each row is news, so the core learns to find objects soon."""
    tower = ViTConfig(
        dim=96,
        depth=0,
        patch_size=PATCH_PX,
        image_size=(SIDE_PX, SIDE_PX),
        stem=(24, 48, 96),
        centered=True,
    )
    config = VLMHRMConfig(
        vocab_size=processor.tokenizer.vocab_size,
        num_answers=len(ANSWERS),
        vision=tower,
        dim=64,
        depth=1,
        mlp_dim=128,
        cross=False,
        shared=False,
        l_cycles=3,
        halt_max_steps=1,
        text_depth=0,
        max_length=TOKENS,
        fusion_tokens=1,
        decoder_depth=0,
        embedding_dim=16,
        attributes=tuple(len(values) for values in ATTRIBUTES.values()),
        referents=CHANNELS,
    )
    return VLMHRM(config)


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
    backend.seed_everything(seed)
    processor = make_processor()
    model = make_model(processor)
    collate = Collate(processor, "vqa", text_length=TOKENS, image_size=(SIDE_PX, SIDE_PX), cell_px=PATCH_PX)
    kept = [Kept(source, KEPT) for source in levels("train", seed)]
    curriculum = Curriculum(kept, options.threshold, "watched", options.sampler, seed)
    if way == "plain":
        curriculum.level = len(HOPS) - 1  # all levels alike, from the start
        curriculum.weights = (1.0,)
    objective = Recursive(Answer("vqa"), (Perceive(), Refer(weight=2.0), Tell()))
    stream = Stream(curriculum, collate, objective, options.batch)
    judge = Judge(f"{way}, seed {seed}", collate, options.num, curriculum)
    quiet = Console(quiet=True)  # several runs speak at once: the judge alone does
    trainer = Trainer(model, {"vqa": stream}, settings(seed, options), evaluate=judge, console=quiet)
    trainer.fit()
    trainer.use_ema()
    # Evaluation n, from 0, is at step (n + 1) * eval_every and sees what the one before has raised.
    begun = [judge.levels.index(level) * options.eval_every for level in sorted(set(judge.levels))]
    return {**judge(trainer.model), "begun": begun, "seconds": round(time.monotonic() - begin)}


def settings(seed: int, options) -> TrainConfig:
    """As in tests/learning/test_one_hop.py."""
    return TrainConfig(
        steps=options.steps,
        optimizer="muon",
        learning_rate=0.005,
        warmup_steps=min(30, options.steps // 4),
        parts={
            # Seeing bears, and needs, larger steps than reading and reasoning do.
            "(vision|projection|objects)/.*kernel": Part(learning_rate_scale=5),
            "(?!.*kernel)": Part(learning_rate_scale=0.6),
        },
        ema_decay=0.99,
        eval_every=options.eval_every,
        log_every=options.eval_every,
        seed=seed,
    )


def run_all(runs: list[tuple[int, str]], options):
    """(way, seed, what it measured) of each run as it ends."""
    spawn = multiprocessing.get_context("spawn")  # a forked process could not use the GPU
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(train, seed, way, options): (way, seed) for seed, way in runs}
        for done in as_completed(waiting):
            yield *waiting[done], done.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threshold", type=float, default=0.7, help="accuracy that passes a level")
    parser.add_argument("--sampler", default="up_to", help="current or up_to")
    parser.add_argument("--num", type=int, default=500, help="validation questions of each level")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--smoke", action="store_true", help="a few steps")
    options = parser.parse_args()
    if options.smoke:
        # Evaluations enough, and a threshold low enough, that every level begins.
        options.steps, options.batch, options.num, options.eval_every = 14, 4, 8, 2
        options.threshold, options.jobs = 0.0, 1
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
    low, high = OBJECTS
    held_out = ", ".join(f"{key} {value}" for key, value in HELD_OUT.items())
    return [
        f"accuracy in % of {options.num} attribute questions of each number of hops, {low} to {high} "
        f"objects ({held_out}), moving averages; seeds {' '.join(map(str, options.seeds))}",
        f"a VLM-HRM of {make_model(make_processor()).count_params():,} parameters from nothing, "
        f"{options.steps} steps of {options.batch} rows of split train, {backend.device_name()}",
        f"a level is passed by {IN_A_ROW} evaluations in a row, one every {options.eval_every} steps, at "
        f"{100 * options.threshold:g} % or more of its own questions; sampler {options.sampler}",
    ]


def shown_as(values: list[float]) -> str:
    """Mean +- standard deviation; of one value itself."""
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
