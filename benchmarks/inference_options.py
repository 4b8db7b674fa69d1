"""What the options of inference change: `python benchmarks/inference_options.py [--nlvr FOLDER --num 980]`.

One model of statements, loaded anew for each option (docs/fine_tune.md#inference): accuracy, mean steps and
examples/s with slot refill, on the same statements about made panels, or on NLVR's development pictures.
After a warm-up the median of --repeats runs counts, encoding included.
"""

from slot_refill import joined, measure, parse, parser, say

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
    made = parser(__doc__.splitlines()[0], model="vlm_hrm_nlvr", repeats=3)
    made.add_argument("--nlvr", metavar="FOLDER", help="dev.jsonl and dev_images.zip; default: made panels")
    options = parse(made)
    backend.enable_compilation_cache()
    folder = find_model(options.model)
    processor, plain = Processor.load(folder), VLMHRM.load(folder)
    if options.nlvr:
        source, count = nlvr_items(options.nlvr, options.num, 1)
        items = [source[i] for i in range(count - count % options.slots)]
    else:
        panels = PanelStatements(seed=99)
        items = [Item(str(i), panels[i]) for i in range(options.num)]
    batch = joined(Pipeline(plain, processor), "statement", items)
    print(" ".join(f"{key}={value}" for key, value in environment(plain).items()))
    print(f"{options.model}: {len(items)} statements, {options.slots} slots, median of {options.repeats}")
    for name, changes in options_of(plain.config.halt_threshold).items():
        reasoner = Pipeline(VLMHRM.load(folder, **changes), processor).reasoner
        found = measure(reasoner, batch, "statement", options.slots, options.repeats, schedules=("refill",))
        say({name: found["refill"]}, len(items), wide=20)


if __name__ == "__main__":
    main()
