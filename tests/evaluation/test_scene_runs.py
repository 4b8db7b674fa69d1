"""Scenes in shards and in two sittings: the same scores, to the byte, as in one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import ANSWERS, Source, lexicon
from saccade.data.text import Tokenizer
from saccade.errors import SaccadeError
from saccade.evaluation import evaluate, merge

STEPS, NUM, BATCH = 4, 13, 4


class Reasoner:
    """Its answers depend on the row alone, as a model's do."""

    def trace(self, batch, task):
        seeds = [np.random.default_rng(tokens) for tokens in batch["tokens"].sum(axis=1)]
        draws = np.stack([rng.normal(size=(STEPS, 40)) for rng in seeds], axis=1).astype(np.float32)
        found = {"q_halt": draws[:, :, 0]}
        if task == "ground":
            noise = np.abs(draws[:, :, 1:5]) * 0.05
            return {**found, "box": batch["boxes"] + noise, "confidence": 1 / (1 + np.abs(draws[:, :, 5]))}
        classes = len(ANSWERS) if task == "vqa" else 2
        p = np.exp(draws[:, :, :classes])
        p[:, np.arange(len(seeds)), batch["answer"]] *= 6
        return {**found, "probabilities": p / p.sum(-1, keepdims=True)}


@pytest.fixture(scope="module")
def pipeline():
    texts = [text for e in map(Source("rationale").__getitem__, range(40)) for text in (e.text, e.target)]
    config = ProcessorConfig(
        image_sizes=((32, 32), (16, 64)), answers=ANSWERS, max_length=96, length_multiple=16, target_length=96
    )
    words = Processor(Tokenizer.train([*texts, *[" ".join(lexicon())] * 20], 900), config)
    model = SimpleNamespace(
        config=SimpleNamespace(halt_max_steps=STEPS, halt_threshold=0.0),
        dtype_policy=SimpleNamespace(name="float32"),
        tasks=("vqa", "statement", "ground", "retrieve"),
    )
    return SimpleNamespace(reasoner=Reasoner(), processor=words, model=model)


@pytest.mark.parametrize("task", ["vqa", "panels", "ground"])
def test_shards_and_sittings(pipeline, tmp_path, task):
    options = {"task": task, "num": NUM, "batch_size": BATCH, "progress": False, "name": "m"}
    scores = evaluate(pipeline, out=tmp_path / "whole", **options)
    assert 0 < scores["accuracy"] < 1
    assert 1 < scores["mean_steps"] < STEPS
    without = evaluate(pipeline, **options)
    without.pop("seconds")
    assert without == scores
    names = ("run.json", "predictions.jsonl", "scores.json")
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in names}
    assert json.loads(whole["scores.json"]) == scores
    out = tmp_path / "shards"
    for shard in ("2/3", "1/3", "3/3"):
        evaluate(pipeline, out=out, shard=shard, **options)
    assert merge(out) == scores
    assert {name: (out / name).read_bytes() for name in names} == whole
    path = tmp_path / "whole" / "predictions.jsonl"
    path.write_bytes(whole["predictions.jsonl"][:-700])
    (tmp_path / "whole" / "scores.json").unlink()
    assert evaluate(pipeline, out=tmp_path / "whole", **options) == scores
    assert {name: (tmp_path / "whole" / name).read_bytes() for name in names} == whole
    with pytest.raises(SaccadeError, match=r"with seed 99, this one has 98|seed 99, this one has 98"):
        evaluate(pipeline, out=out, shard="1/3", seed=98, **options)


def test_a_gallery_is_not_split(pipeline, tmp_path):
    with pytest.raises(SaccadeError, match="2 shards of 1 batches"):
        evaluate(pipeline, task="retrieve", num=8, out=tmp_path / "out", shard="1/2", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "exact"}, "rule is for published data"),
        ({"max_tokens": 3}, "max_tokens is for published data"),
        ({"data": "gqa", "task": "vqa", "folder": "."}, "gqa has its own rule"),
        ({"data": "gqa"}, "gqa needs the folder"),
        ({"data": "gqa", "folder": ".", "occlusion": True}, "occlusion is an option of scenes"),
        ({"data": "nlvr", "folder": ".", "prompt": "{text}"}, "prompt is for published data"),
    ],
)
def test_options_that_do_not_belong(pipeline, options, message):
    with pytest.raises(SaccadeError, match=message):
        evaluate(pipeline, progress=False, **options)
