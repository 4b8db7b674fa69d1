"""What the options of inference change: `python benchmarks/inference_options.py [--nlvr FOLDER --num 980]`.

One model of statements, loaded anew for each option (docs/fine_tune.md#inference): accuracy, mean steps and
examples/s with slot refill, on the same statements about made panels, or on NLVR's development pictures.
After a warm-up the median of --repeats runs counts, encoding included.
"""

import argparse
import statistics
import time

from slot_refill import joined

from saccade import backend
from saccade.data.processor import Processor
from saccade.data.scenes.panels import PanelStatements
from saccade.evaluation import environment
from saccade.evaluation.batches import Item, nlvr_items
from saccade.models.vlm_hrm import VLMHRM
from saccade.pipeline import Pipeline, find_model

ALWAYS = 1e6  # a halting logit that nothing exceeds: all steps


def options_of(threshold: float) -> dict[str, dict]:
    """Name -> fields of the configuration, and dtype."""
    return {
        "as trained": {},
        "bfloat16": {"dtype": "mixed_bfloat16"},
        "sure to halt (+4)": {"halt_threshold": threshold + 4},
        "all steps": {"halt_threshold": ALWAYS},
        "at most 2 steps": {"halt_max_steps": 2, "halt_threshold": ALWAYS},
        "one step": {"halt_max_steps": 1},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vlm_hrm_nlvr")
    parser.add_argument("--nlvr", metavar="FOLDER", help="dev.jsonl and dev_images.zip; default: made panels")
    parser.add_argument("--num", type=int, default=100)
    parser.add_argument("--slots", type=int, default=20, help="must divide num")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.num % options.slots:
        parser.error(f"--slots {options.slots} must divide --num {options.num}")
    backend.enable_compilation_cache()
    folder = find_model(options.model)
    processor, plain = Processor.load(folder), VLMHRM.load(folder)
    if options.nlvr:
        source, _ = nlvr_items(options.nlvr, options.num, 1)
        items = [source[i] for i in range(options.num)]
    else:
        panels = PanelStatements(seed=99)
        items = [Item(str(i), panels[i]) for i in range(options.num)]
    batch = joined(Pipeline(plain, processor), "statement", items)
    print(" ".join(f"{key}={value}" for key, value in environment(plain).items()))
    print(f"{options.model}: {options.num} statements, {options.slots} slots, median of {options.repeats}")
    for name, changes in options_of(plain.config.halt_threshold).items():
        reasoner = Pipeline(VLMHRM.load(folder, **changes), processor).reasoner
        result = reasoner.sweep(batch, "statement", options.slots)
        times = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            reasoner.sweep(batch, "statement", options.slots)
            times.append(time.perf_counter() - start)
        right = (result["probabilities"].argmax(axis=-1) == batch["answer"]).mean()
        rate = options.num / statistics.median(times)
        steps = result["steps"].mean()
        print(f"{name:20} {rate:9.1f} examples/s   accuracy {right:.4f}   mean steps {steps:.3f}")


if __name__ == "__main__":
    main()
