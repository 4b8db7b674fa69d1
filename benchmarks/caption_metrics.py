"""Seconds that the caption metrics take: `python benchmarks/caption_metrics.py`.

5,000 predictions with 5 references each, as in COCO's test split by Karpathy, of about 10 words with Zipf's
frequencies. No model, no accelerator. The target: CIDEr-D, tokenisation not counted, in under 5 seconds.
"""

import argparse
import os
import platform
import time

import numpy as np

from saccade.metrics.cider import cider_d
from saccade.metrics.meteor import meteor_exact_stem
from saccade.metrics.ptb import tokenize
from saccade.metrics.text import bleu, rouge_l

METRICS = {"cider_d": cider_d, "bleu": bleu, "rouge_l": rouge_l, "meteor_exact_stem": meteor_exact_stem}


def captions(images: int, references: int, words: int = 9000) -> list[list[str]]:
    """For each image 1 + references captions that share its words, 3 of 10 words being other ones."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, words + 1)
    cumulated = np.cumsum(share / share.sum())

    def draw(count: int) -> np.ndarray:
        return np.minimum(np.searchsorted(cumulated, rng.random(count)), words - 1)

    found = []
    for _ in range(images):
        topic, rows = draw(14), []
        for _ in range(1 + references):
            length = int(rng.integers(8, 14))
            text = np.where(rng.random(length) < 0.3, draw(length), topic[:length])
            rows.append(" ".join(f"word{number}" for number in text).capitalize() + ".")
        found.append(rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--references", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    rows = captions(options.images, options.references)
    start = time.perf_counter()
    tokens = [[tokenize(text) for text in texts] for texts in rows]
    print(f"{'tokenize':20}{time.perf_counter() - start:7.2f} s  {sum(map(len, rows))} captions")
    predictions, references = [texts[0] for texts in tokens], [texts[1:] for texts in tokens]
    for name, metric in METRICS.items():
        start = time.perf_counter()
        corpus = metric(predictions, references).corpus
        print(f"{name:20}{time.perf_counter() - start:7.2f} s  {np.round(corpus, 4)}")


if __name__ == "__main__":
    main()
