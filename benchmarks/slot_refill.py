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


def draw(pipeline, task: str, num: int, seed: int) -> dict:
    """One batch of `num` rows of the scenes' test split."""
    return joined(pipeline, task, scene_items(Source(task, split="test", seed=seed), num))


def joined(pipeline, task: str, items) -> dict:
    """Items as one batch."""
    examples = [item.example for item in items]
    length = common_length(pipeline.processor, examples)
    return collate(pipeline.processor, task, examples, length)


def measure(reasoner, batch: dict, task: str, slots: int, repeats: int, threshold=None) -> dict:
    """{"fixed" or "refill": seconds (median), accuracy, mean_steps}."""
    found: dict[str, dict] = {}
    for name in ("fixed", "refill"):  # compiles
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


def say(found: dict, num: int) -> None:
    """What `measure` found, and the ratio."""
    for name, row in found.items():
        print(
            f"{name:7} {num / row['seconds']:9.1f} examples/s   accuracy {row['accuracy']:.4f}   "
            f"mean steps {row['mean_steps']:.3f}"
        )
    print(f"refill / fixed: {found['fixed']['seconds'] / found['refill']['seconds']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vlm_hrm_scenes")
    parser.add_argument("--task", default="vqa", choices=("vqa", "statement", "match"))
    parser.add_argument("--num", type=int, help="default: 5000, on a CPU 200")
    parser.add_argument("--slots", type=int, help="default: 250, on a CPU 20; must divide num")
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threshold", type=float, help="halting logit; default: the model's")
    options = parser.parse_args()
    on_cpu = backend.device_name() == "cpu"
    num = options.num or (200 if on_cpu else 5000)
    slots = options.slots or (20 if on_cpu else 250)
    if num % slots:
        parser.error(f"--slots {slots} must divide --num {num}")
    pipeline = saccade.load(options.model)
    batch = draw(pipeline, options.task, num, options.seed)
    found = measure(pipeline.reasoner, batch, options.task, slots, options.repeats, options.threshold)
    print(" ".join(f"{key}={value}" for key, value in environment(pipeline.model).items()))
    print(f"{options.model}, {options.task}: {num} examples, {slots} slots, median of {options.repeats}")
    say(found, num)


if __name__ == "__main__":
    main()
