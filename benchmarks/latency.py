"""How long a loaded model takes to answer: `python benchmarks/latency.py [--model DIR] [--repeats 50]`.

`Pipeline.ask` on one new scene and question at a time, image array to answer, after warm-up questions of each
text length. Prints median and 95th percentile in ms, and with --explain the same for `explain`.
"""

import argparse
import time

import numpy as np

import saccade
from saccade.data.scenes import Source
from saccade.evaluation import environment


def measure(answer, examples, max_steps: int | None) -> np.ndarray:
    """Seconds of each call."""
    times = []
    for example in examples:
        start = time.perf_counter()
        answer(example.image, example.text, max_steps=max_steps)
        times.append(time.perf_counter() - start)
    return np.array(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vlm_hrm_scenes")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--explain", action="store_true")
    parser.add_argument("--max-steps", type=int, help="for a model that does not halt of itself")
    options = parser.parse_args()
    pipeline = saccade.load(options.model)
    source = Source("vqa", split="test", seed=7, size_px=(128, 128))
    examples = [source[i] for i in range(options.repeats)]
    print(" ".join(f"{key}={value}" for key, value in environment(pipeline.model).items()))
    verbs = {"ask": pipeline.ask, **({"explain": pipeline.explain} if options.explain else {})}
    for name, answer in verbs.items():
        measure(answer, examples, options.max_steps)  # every text length compiles once
        ms = measure(answer, examples, options.max_steps) * 1000
        print(f"{name:8} median {np.median(ms):7.1f} ms   p95 {np.percentile(ms, 95):7.1f} ms   of {len(ms)}")


if __name__ == "__main__":
    main()
