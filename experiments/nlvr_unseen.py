"""NLVR by whether a sentence was trained on: `python experiments/nlvr_unseen.py RUN NLVR`.

Writers of both splits wrote "There is 1 yellow square", so sentences of the development split recur in the
training split. RUN is the folder that `saccade evaluate MODEL --data nlvr --folder NLVR --task statement
--orders 6 --out RUN` wrote; NLVR holds train_scenes.jsonl.gz. Sentences are the same if their words are. What
the recipe holds out of training counts as unseen.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from saccade.data.scenes.sentences import Sentences, normal_form
from saccade.metrics.reasoning import consistency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="has predictions.jsonl")
    parser.add_argument("nlvr", type=Path, help="has train_scenes.jsonl.gz")
    options = parser.parse_args()
    trained = {normal_form(text) for text in Sentences(options.nlvr, "train").texts}
    lines = (options.run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    parts = {"trained on": [], "unseen": []}
    for row in rows:
        parts["trained on" if normal_form(row["text"]) in trained else "unseen"].append(row)
    for name, part in {"all": rows, **parts}.items():
        if not part:
            continue
        right, groups = np.array([row["correct"] for row in part]), [row["group"] for row in part]
        print(
            f"{name:10}  {len(part):5} pictures of {len(set(groups)):3} sentences   "
            f"accuracy {right.mean():.4f}   consistency {consistency(groups, right):.4f}"
        )


if __name__ == "__main__":
    main()
