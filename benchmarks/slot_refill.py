"""What slot refill saves: `python benchmarks/slot_refill.py [--model DIR] [--num 5000 --slots 250]`.

In one process, on the same examples of the scenes' test split: every row for all steps, batch after batch, as
TRM and HRM are published ("fixed"), and with the slot of a halted row given to the next example ("refill").
Both are one compiled call. After a warm-up the median of --repeats runs, taken in turn, counts. Prints
examples/s, accuracy and mean steps of both, and the ratio. Encoding the examples is part of both times,
drawing them is not.
"""

import argparse
import statistics
import time

import saccade
from saccade import backend
from saccade.data.scenes import Source
from saccade.evaluation import environment
from saccade.evaluation.batches import collate, common_length, scene_items

TASKS = ("vqa", "statement", "match")


def draw(pipeline, task: str, num: int, seed: int) -> dict:
    """One batch of `num` rows of the scenes' test split."""
    return joined(pipeline, task, scene_items(Source(task, split="test", seed=seed), num))


def joined(pipeline, task: str, items) -> dict:
    """Items as one batch."""
    examples = [item.example for item in items]
    length = common_length(pipeline.processor, examples)
    return collate(pipeline.processor, task, examples, length)


def measure(
    reasoner, batch: dict, task: str, slots: int, repeats: int, threshold=None, schedules=("fixed", "refill")
) -> dict:
    """{"fixed" or "refill": seconds (median), accuracy, mean_steps}."""
    found: dict[str, dict] = {}
    for name in schedules:  # compiles
        result = reasoner.sweep(batch, task, slots, fixed=name == "fixed", threshold=threshold)
        right = result["probabilities"].argmax(axis=-1) == batch["answer"]
        found[name] = {
            "accuracy": float(right.mean()),
            "mean_steps": float(result["steps"].mean()),
            "times": [],
        }
    for _ in range(repeats):
        for name, row in found.items():
            start = time.perf_counter()
            reasoner.sweep(batch, task, slots, fixed=name == "fixed", threshold=threshold)
            row["times"].append(time.perf_counter() - start)
    return {name: {**row, "seconds": statistics.median(row.pop("times"))} for name, row in found.items()}


def say(found: dict, num: int, wide: int = 7) -> None:
    """What `measure` found, a line a name, and the ratio of the two schedules where both are there."""
    for name, row in found.items():
        print(
            f"{name:{wide}} {num / row['seconds']:9.1f} examples/s   accuracy {row['accuracy']:.4f}   "
            f"mean steps {row['mean_steps']:.3f}"
        )
    if found.keys() == {"fixed", "refill"}:
        print(f"refill / fixed: {found['fixed']['seconds'] / found['refill']['seconds']:.3f}")


def parser(description: str, model: str = "vlm_hrm_scenes", repeats: int = 5) -> argparse.ArgumentParser:
    """What every measure of schedules takes; `parse` fills in the rest."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--model", default=model)
    made.add_argument("--num", type=int, help="examples; default: 5000, on a CPU 200")
    made.add_argument(
        "--slots", type=int, help="rows that reason at once; default: 250, on a CPU 20; must divide num"
    )
    made.add_argument("--repeats", type=int, default=repeats)
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line's options, num and slots by the device; --slots must divide --num."""
    options = made.parse_args()
    on_cpu = backend.device_name() == "cpu"
    options.num = options.num or (200 if on_cpu else 5000)
    options.slots = options.slots or (20 if on_cpu else 250)
    if options.num < 1 or options.slots < 1 or options.num % options.slots:
        made.error(f"--slots {options.slots} must divide --num {options.num}")
    if options.repeats < 1:
        made.error(f"--repeats {options.repeats}: use 1 or more")
    return options


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--task", default="vqa", choices=TASKS)
    made.add_argument("--seed", type=int, default=99)
    made.add_argument("--threshold", type=float, help="halting logit; default: the model's")
    options = parse(made)
    pipeline = saccade.load(options.model)
    batch = draw(pipeline, options.task, options.num, options.seed)
    found = measure(pipeline.reasoner, batch, options.task, options.slots, options.repeats, options.threshold)
    print(" ".join(f"{key}={value}" for key, value in environment(pipeline.model).items()))
    print(
        f"{options.model}, {options.task}: {options.num} examples, {options.slots} slots, "
        f"median of {options.repeats}"
    )
    say(found, options.num)


if __name__ == "__main__":
    main()
