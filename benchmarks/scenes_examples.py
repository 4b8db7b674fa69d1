"""Examples per second and core, of each task: `python benchmarks/scenes_examples.py [--show 30]`.

Counts sampling the scene, language and rendering, in one process, after a warm-up that fills the sprite
cache. Prints task, style, examples/s of CPU time, the longest text in words, and with --show that many texts.
"""

import argparse
import time

from saccade.data.scenes.builders import STYLES_OF
from saccade.data.scenes.tasks import TASKS, Source


def measure(source: Source, number: int, warm_up: int) -> float:
    """Examples per second of CPU time."""
    for index in range(warm_up):
        source[index]
    start = time.process_time()
    for index in range(warm_up, warm_up + number):
        source[index]
    return number / (time.process_time() - start)


def show(example) -> str:
    """One example on a line or two."""
    turns = "".join(f"{question} {answer} / " for question, answer in example.turns)
    regions = "; ".join(phrase for phrase, _ in example.regions)
    said = f"{turns}{example.text} -> {example.answer} {example.target} {regions}"
    return f"  [{example.kind} {example.depth}] {said}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=1000)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--task", choices=TASKS)
    options = parser.parse_args()
    for task in [options.task] if options.task else TASKS:
        for style in STYLES_OF[task]:
            source = Source(task, style=style)
            rate = measure(source, options.number, options.warm_up)
            examples = [source[i] for i in range(max(300, options.show))]
            longest = max(len(text.split()) for e in examples for text in (e.text, e.target))
            print(f"{task:10} {style:6} {rate:7.0f} examples/s   longest text {longest} words")
            for example in examples[: options.show]:
                print(show(example))


if __name__ == "__main__":
    main()
