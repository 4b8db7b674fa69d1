"""Every task head under every fusion, on features of the frozen bundled model: a table in Markdown.

    python benchmarks/heads_table.py --tasks vqa grounding --examples 20000 --steps 1000 --out table.jsonl

For each task the examples are drawn and encoded once. Each line of --out is a task, a fusion and the scores
of held-out examples; a combination that is there already is not trained again. `--print` shows the table of
what --out holds. Without options: a run of seconds that says nothing about the scores.
"""

import argparse
import json
import time
from pathlib import Path

from saccade import backend
from saccade.errors import SaccadeError
from saccade.fusion.multimodal import STRATEGIES
from saccade.train.recipe import load_recipe

# The score of a task that the table shows.
SHOWN = {
    "vqa": "vqa/accuracy",
    "grounding": "grounding/accuracy",
    "matching": "matching/r@1",
    "captioning": "captioning/all_true",
    "dense_captioning": "dense_captioning/map",
    "dialogue": "dialogue/mrr",
}
IMAGES_ONLY = ("captioning", "dense_captioning")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=SHOWN, default=["vqa"])
    parser.add_argument("--fusions", nargs="+", choices=STRATEGIES, default=["attention"])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--fusion-depth", type=int, help="instead of each task's own")
    parser.add_argument("--decoder-depth", type=int, help="instead of the recipe's")
    parser.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw examples")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file of JSON lines; default: printed only")
    parser.add_argument("--print", action="store_true", dest="show", help="only print the table of --out")
    options = parser.parse_args()
    done = read(options.out)
    backend.enable_compilation_cache()
    if not options.show:
        for task in options.tasks:
            train(task, options, done)
    print(table(done))


def read(path: Path | None) -> dict[tuple[str, str], dict]:
    """(task, fusion) -> its line."""
    if path is None or not path.exists():
        return {}
    lines = map(json.loads, path.read_text().splitlines())
    return {(line["task"], line["fusion"]): line for line in lines}


def train(task: str, options, done: dict) -> None:
    """Train and score a task's head under each fusion, the data prepared once."""
    module = load_recipe("heads_scenes")
    fusions = ["attention"] if task in IMAGES_ONLY else options.fusions
    fusions = [fusion for fusion in fusions if (task, fusion) not in done]
    data = None
    settings = module.Config().train.model_copy(
        update={
            "steps": options.steps,
            "save_every": options.steps,
            "eval_every": None,
            "warmup_steps": min(100, options.steps // 4),
            "log_every": options.steps,
            **given(options, "learning_rate"),
        }
    )
    for fusion in fusions:
        config = module.Config(
            tasks=(task,),
            fusion=fusion,
            dim=options.dim,
            examples=options.examples,
            held_out=options.held_out,
            batch=options.batch,
            precision=options.precision,
            seed=options.seed,
            workers=options.workers,
            train=settings,
            **given(options, "fusion_depth", "decoder_depth"),
        )
        pipeline = module.load_encoder(config)
        data = data or {task: module.prepare(config, task, pipeline)}
        begin = time.perf_counter()
        try:
            trainer = module.make_trainer(config, pipeline, data)
        except SaccadeError as error:  # a head may refuse a fusion, and says why
            line = {"task": task, "fusion": fusion, "refused": str(error)}
        else:
            trainer.fit()
            trainer.use_ema()
            scores = trainer.evaluate(trainer.model)
            seconds = round(time.perf_counter() - begin, 1)
            line = {
                "task": task,
                "fusion": fusion,
                "scores": scores,
                "seconds": seconds,
                **described(options),
            }
        done[task, fusion] = line
        print(json.dumps(line), flush=True)
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")


def given(options, *names: str) -> dict:
    """Those of the options that stand in for the recipe's."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def described(options) -> dict:
    names = ("examples", "held_out", "steps", "batch", "dim", "seed")
    overridden = given(options, "fusion_depth", "decoder_depth", "learning_rate")
    return {name: getattr(options, name) for name in names} | overridden


def table(done: dict) -> str:
    """Fusions down, tasks across: the score of SHOWN in percent, — where the head refuses the fusion."""
    tasks = [task for task in SHOWN if any(task == own for own, _ in done)]
    fusions = [fusion for fusion in STRATEGIES if any(fusion == own for _, own in done)]
    rows = ["| fusion | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for fusion in fusions:
        cells = [cell(done.get((task, fusion)), task) for task in tasks]
        rows.append(f"| `{fusion}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def cell(line: dict | None, task: str) -> str:
    if line is None:
        return ""
    return "—" if "refused" in line else f"{100 * line['scores'][SHOWN[task]]:.1f}"


if __name__ == "__main__":
    main()
