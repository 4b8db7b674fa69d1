"""How well a question is answered without its picture: `python benchmarks/question_only_baseline.py`.

A multinomial logistic regression on words, bigrams and kind is trained on 20,000 texts of the train split and
tested on 5,000 of the val split, and compared, kind by kind, with the best constant answer for that kind. Its
lead, in points, is what the text gives away. Prints one line per kind and the total.
"""

import argparse
import itertools
import re
from collections import Counter, defaultdict
from unittest.mock import patch

import numpy as np

from saccade.data.scenes import builders
from saccade.data.scenes.tasks import Source


def texts(task: str, split: str, number: int, style: str) -> list[tuple[str, list[str], str]]:
    """(kind, features, answer) of `number` examples, not drawn."""
    source = Source(task, split=split, style=style)
    found = []
    for index in range(number):
        with patch.object(builders, "render"):  # pictures are not needed here
            example = source[index]
        tokens = ["^", *re.findall(r"[a-z0-9-]+", example.text), "$"]
        pairs = [f"{a} {b}" for a, b in itertools.pairwise(tokens)]
        found.append((example.kind, [f"kind={example.kind}", *tokens, *pairs], example.answer))
    return found


def matrix(rows: list[list[str]], vocabulary: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Feature indices, padded with an index past the end, and their mask as floats."""
    known = [sorted({vocabulary[word] for word in row if word in vocabulary}) for row in rows]
    width = max(map(len, known))
    indices = np.full((len(rows), width), len(vocabulary))
    for row, found in zip(indices, known, strict=True):
        row[: len(found)] = found
    return indices, (indices < len(vocabulary)).astype(np.float32)


def fit(indices: np.ndarray, labels: np.ndarray, features: int, classes: int, epochs: int) -> np.ndarray:
    """Weights (features + 1, classes) by Adagrad on mini-batches, with weight decay; the last row is zero."""
    rng = np.random.default_rng(0)
    weights = np.zeros((features + 1, classes), np.float32)
    squares = np.full_like(weights, 1e-3)
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(labels)), len(labels) // 256):
            error = softmax(weights[indices[batch]].sum(1))
            error[np.arange(len(batch)), labels[batch]] -= 1
            gradient = np.zeros_like(weights)
            np.add.at(gradient, indices[batch].ravel(), np.repeat(error, indices.shape[1], axis=0))
            gradient = gradient / len(batch) + 1e-5 * weights
            gradient[-1] = 0
            squares += gradient**2
            weights -= 0.1 * gradient / np.sqrt(squares)
    return weights


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def measure(task: str, style: str, train: int, test: int, epochs: int) -> dict[str, tuple[int, float, float]]:
    """kind -> (test examples, accuracy of the best constant answer, accuracy of the regression)."""
    seen, unseen = texts(task, "train", train, style), texts(task, "val", test, style)
    counts = Counter(word for _, words, _ in seen for word in set(words))
    vocabulary = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if n >= 5))}
    classes = {answer: i for i, answer in enumerate(sorted({answer for *_, answer in seen}))}
    indices, _ = matrix([words for _, words, _ in seen], vocabulary)
    labels = np.array([classes[answer] for *_, answer in seen])
    weights = fit(indices, labels, len(vocabulary), len(classes), epochs)
    scores = weights[matrix([words for _, words, _ in unseen], vocabulary)[0]].sum(1)
    guesses = np.array(sorted(classes))[scores.argmax(1)]
    answers_by_kind = defaultdict(Counter)
    for kind, _, answer in unseen:
        answers_by_kind[kind][answer] += 1
    hits = defaultdict(list)
    for (kind, _, answer), guess in zip(unseen, guesses, strict=True):
        hit = (answers_by_kind[kind].most_common(1)[0][0] == answer, guess == answer)
        hits[kind].append(hit)
        hits["TOTAL"].append(hit)
    return {kind: (len(rows), *np.mean(rows, axis=0)) for kind, rows in sorted(hits.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="vqa", choices=("vqa", "statement", "match", "dialogue"))
    parser.add_argument("--style", default="world")
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    print(f"{'kind':20} {'n':>6} {'majority':>9} {'text only':>9} {'lead':>6}")
    results = measure(options.task, options.style, options.train, options.test, options.epochs)
    for kind, (number, majority, accuracy) in results.items():
        print(f"{kind:20} {number:6} {majority:9.1%} {accuracy:9.1%} {100 * (accuracy - majority):+6.1f}")


if __name__ == "__main__":
    main()
