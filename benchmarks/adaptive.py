"""What adaptive computation gives: `python benchmarks/adaptive.py [--model DIR] [--nlvr FOLDER]`.

For each task: accuracy against mean steps as the halting threshold moves, beside stopping every row at one
step; the steps that examples of each sort take (program depth and kind; of NLVR sentence length, family, and
human disagreement where the data has raters' votes); and examples/s with slot refill against fixed steps
(benchmarks/slot_refill.py measures it): on scenes at the lowest threshold that costs at most 0.1 points on
the val split, on NLVR, where nothing is chosen, at the model's own.
"""

from slot_refill import TASKS, draw, joined, measure, parse, parser, say

import saccade
from saccade.analysis import analyse
from saccade.analysis.record import Part
from saccade.evaluation import choose_threshold, environment
from saccade.evaluation.batches import nlvr_items


def say_curve(part: Part) -> None:
    """Accuracy and mean steps at each threshold, and with all rows stopped at one step."""
    print(f"{'threshold':>10} {'mean steps':>11} {'accuracy':>9} {'spearman':>9}")
    for row in part.curve:
        rho = "-" if row["spearman"] is None else f"{row['spearman']:+.3f}"
        used = " <- in use" if row["threshold"] == part.operating["threshold"] else ""
        print(f"{row['threshold']:10.2f} {row['mean_steps']:11.3f} {row['accuracy']:9.4f} {rho:>9}{used}")
    fixed = "  ".join(f"{step}: {share:.4f}" for step, share in enumerate(part.accuracy_by_step, 1))
    print(f"all rows stopped at step  {fixed}")


def say_steps(part: Part) -> None:
    """Mean steps and accuracy of each sort of example."""
    rho = part.operating["spearman"]
    print(f"Spearman of steps with {part.difficulty}: {'not defined' if rho is None else f'{rho:+.3f}'}")
    for given in part.breakdowns:
        print(given.title)
        for group in given.groups:
            print(
                f"  {group.label:28} n {group.num:5}   mean steps {group.mean_steps:6.3f}   "
                f"accuracy {group.accuracy:.4f} [{group.low:.3f}, {group.high:.3f}]"
            )
    for note in part.notes:
        print(note)


def say_speed(pipeline, batch: dict, task: str, slots: int, repeats: int, threshold: float) -> None:
    """Slot refill against fixed steps."""
    num = len(batch["answer"])
    found = measure(pipeline.reasoner, batch, task, slots, repeats, threshold)
    print(f"{num} examples, {slots} slots, threshold {threshold:g}, median of {repeats}")
    say(found, num)


def main() -> None:
    made = parser(__doc__.splitlines()[0], repeats=3)
    made.add_argument("--tasks", nargs="*", default=["vqa", "statement"], choices=TASKS)
    made.add_argument("--nlvr", metavar="FOLDER", help="dev.jsonl and dev_images.zip")
    made.add_argument("--seed", type=int, default=99)
    options = parse(made)
    num, slots = options.num, options.slots
    pipeline = saccade.load(options.model)
    print(" ".join(f"{key}={value}" for key, value in environment(pipeline.model).items()))
    for task in options.tasks:
        part = analyse(pipeline, tasks=(task,), num=num, seed=options.seed, batch_size=slots).parts[0]
        print(f"\n== {options.model}, scenes, {task}: {part.num} examples, seed {options.seed}")
        say_curve(part)
        say_steps(part)
        threshold = choose_threshold(pipeline, tasks=(task,), num=num, batch_size=slots)["threshold"]
        batch = draw(pipeline, task, num, options.seed)
        say_speed(pipeline, batch, task, slots, options.repeats, threshold)
    if options.nlvr:
        part = analyse(pipeline, data="nlvr", folder=options.nlvr, batch_size=slots).parts[0]
        print(f"\n== {options.model}, nlvr dev, first order: {part.num} pictures")
        say_curve(part)
        say_steps(part)
        items, count = nlvr_items(options.nlvr, num, 1)
        batch = joined(pipeline, "statement", [items[i] for i in range(count - count % slots)])
        own = pipeline.model.config.halt_threshold
        say_speed(pipeline, batch, "statement", slots, options.repeats, own)


if __name__ == "__main__":
    main()
