"""An answerer whose every prediction is scripted, and data for it. Run as a program, it is killed.

python answering.py FOLDER OUT BATCHES SHARD   # SIGKILL in the batch after so many; SHARD "-" = none
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

WORDS = ("red", "blue", "two")
NUM, BATCH = 11, 3


class Script:
    """Answers a row by `script`, id -> prediction, else by its place among WORDS; counts what it is asked."""

    follows = True

    def __init__(self, script=None, verb="answer", die_after=None, follows=True, decoding="scripted"):
        self.script, self.die_after, self.asked, self.texts = script, die_after, [], []
        self.settings = {"decoding": decoding}
        self.model = SimpleNamespace(dtype_policy=SimpleNamespace(name="float32"))
        self.follows = follows
        setattr(self, verb, self._told)

    def _told(self, rows, texts):
        if self.die_after is not None and len(self.asked) >= self.die_after * BATCH:
            os.kill(os.getpid(), signal.SIGKILL)
        self.asked += [row.id for row in rows]
        self.texts += texts
        if self.script is not None:
            return [{"prediction": self.script[row.id]} for row in rows]
        return [{"prediction": WORDS[int(row.id) % 3], "confidence": 0.1 * int(row.id)} for row in rows]


def write_rows(folder: Path, num: int = NUM) -> Path:
    """Rows 0 .. num - 1 whose right answers go by twos: some predictions are wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 4)).save(folder / "a.png")
    rows = [
        {"image": "a.png", "text": f"q{i}", "answers": [WORDS[i // 2 % 3]], "kind": f"k{i % 2}"}
        for i in range(num)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(answerer, folder, out=None, **options):
    from saccade.evaluation import evaluate

    given = {"data": "jsonl", "rule": "exact", "batch_size": BATCH, "progress": False, "name": "script"}
    return evaluate(answerer, folder=folder, out=out, **{**given, **options})


if __name__ == "__main__":
    where, there, batches, part = sys.argv[1:]
    run(Script(die_after=int(batches)), where, there, **({} if part == "-" else {"shard": part}))
