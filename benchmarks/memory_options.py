"""What each way to save memory costs: `python benchmarks/memory_options.py` (docs/fine_tune.md#memory).

One line for each of `saccade.fine_tuning.MEMORY`, and for each smaller preset: an update of a VLM-HRM on
statements about three panels, the loss and optimiser of fine_tune, no data to wait for. Each is measured in a
process of its own, since a device's peak memory is that of a process: ms of an update (median), rows a
second, the peak that was predicted and the one that was held. A CPU tells no peak of its own: there it is
that of the process, compiler included, and the default is a small update.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace

from saccade import backend
from saccade.data.batching import Collate
from saccade.data.processor import Processor
from saccade.data.scenes.panels import PanelStatements
from saccade.evaluation import environment
from saccade.fine_tuning import MEMORY, TRAIN
from saccade.models.vlm_hrm import PRESETS, VLMHRM, preset
from saccade.pipeline import find_model
from saccade.train import memory
from saccade.train.engine import Engine
from saccade.train.labels import Perceive
from saccade.train.objectives import Answer, Recursive
from saccade.train.stream import Stream


def measure(name: str, way: str, options) -> dict:
    """An update of preset `name` with MEMORY[way]: ms, rows_per_s, predicted_mib, peak_mib, parameters."""
    on_cpu = backend.device_name() == "cpu"
    options.batch = options.batch or (16 if on_cpu else 320)
    options.updates = options.updates or (3 if on_cpu else 40)
    backend.seed_everything(0)
    backend.enable_compilation_cache()
    folder = find_model("vlm_hrm_nlvr")
    processor, settings = Processor.load(folder), MEMORY[way]
    canvas, trained = tuple(options.canvas), VLMHRM.load(folder).config
    fields = {key: getattr(trained, key) for key in ("vocab_size", "num_answers", "attributes", "max_length")}
    vision = replace(PRESETS[name].vision, image_size=canvas)
    config = preset(name, **fields, vision=vision, decoder_depth=0, remat=settings["remat"])
    model = VLMHRM(config, dtype=settings["precision"])
    parts = settings["accumulate"]
    cell_px = config.vision.patch_size * config.shuffle
    collate = Collate(processor, "statement", 48, canvas, cell_px=cell_px)
    panels = PanelStatements(seed=1)
    batch = collate([panels[i] for i in range(options.batch // parts)])
    train = TRAIN.model_copy(update={"accumulate": parts, "steps": 10_000})
    objective = Recursive(Answer("statement", 0.05), (Perceive(),))
    engine = Engine(model, {"statement": Stream(panels, collate, objective, options.batch // parts)}, train)
    batch = {key: backend.to_device(value) for key, value in batch.items()}
    state = engine.initial_state({"statement": batch})
    predicted = memory.predict(engine, state)
    seconds = []
    for number in range(options.updates + 3):
        begin = time.perf_counter()
        for _ in range(parts):
            state = engine.push(state, "statement", batch)
            state, consumed = engine.step(state)
        backend.to_host([consumed])
        if number >= 3:  # the first compile and warm up
            seconds.append(time.perf_counter() - begin)
    update = statistics.median(seconds)
    return {
        "batch": options.batch,
        "ms": round(1000 * update, 2),
        "rows_per_s": round(options.batch / update, 1),
        "predicted_mib": round(predicted.total / 2**20) if predicted else None,
        "peak_mib": round(backend.memory_peak_bytes() / 2**20),
        "parameters": model.count_params(),
        "environment": environment(model),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, help="rows of an update; default: 320, on a CPU 16")
    parser.add_argument("--canvas", type=int, nargs=2, default=(96, 384), help="height and width in pixels")
    parser.add_argument("--updates", type=int, help="default: 40, on a CPU 3")
    parser.add_argument("--only", nargs=2, metavar=("PRESET", "MEMORY"), help="one, in this process, as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(*options.only, options)))
        return
    cases = [("vlm_hrm_small", way) for way in MEMORY]
    cases += [(name, "fast") for name in PRESETS if name != "vlm_hrm_small"]
    rows = []
    for name, way in cases:
        command = [sys.executable, __file__, "--only", name, way, *sys.argv[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        if not rows:
            print(" ".join(f"{key}={value}" for key, value in row["environment"].items()))
            print(f"an update of {row['batch']} rows of {' x '.join(map(str, options.canvas))} pixels")
        rows.append(row)
        times = row["ms"] / rows[0]["ms"]
        speed = f"{row['ms']:8.1f} ms ({times:.2f})  {row['rows_per_s']:8.1f} rows/s"
        held = f"predicted {row['predicted_mib']} MiB, peak {row['peak_mib']} MiB"
        print(f"{name:<14} {way:<9} {row['parameters']:>11,} parameters  {speed}  {held}", flush=True)


if __name__ == "__main__":
    main()
