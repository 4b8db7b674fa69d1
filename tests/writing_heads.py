"""Tiny heads that write, batches for them, and their methods as programs that compile once a session."""

import keras
import numpy as np
import pytest
import reference
from reference import to_numpy

from saccade import backend
from saccade.data.text import BOS, EOS, PAD
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer
from saccade.heads.create import create_vlm_head
from saccade.heads.dialogue import ROLES
from saccade.heads.task import VLMTaskConfig
from saccade.train.config import TrainConfig
from saccade.train.stream import Stream
from saccade.train.tasks import HeadLoss
from saccade.train.trainer import Trainer

B, N, C, T, D, R, K, V, LONGEST = 3, 6, 10, 5, 14, 6, 4, 13, 9
SIZES = {"dim": 12, "num_heads": 3, "vocab_size": V, "max_length": LONGEST, "decoder_depth": 1}
CONFIGS = {
    "captioning": VLMTaskConfig("captioning", C, D, **SIZES),
    "dialogue": VLMTaskConfig("dialogue", C, D, **SIZES, max_turns=4),
}
IMAGES_ONLY = VLMTaskConfig("captioning", C, None, **SIZES)
on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="the Trainer runs on jax")


def said(rng, *shape):
    """Texts of unequal length, BOS first and, where there is room, EOS last."""
    tokens = rng.integers(3, V, size=(*shape, R)).astype(np.int32)
    tokens[..., 0] = BOS
    length = rng.integers(3, R + 1, size=(*shape, 1))
    place = np.arange(R)
    return np.where(place == length - 1, EOS, np.where(place < length, tokens, PAD)).astype(np.int32)


def batch_of(task, seed=0):
    rng = np.random.default_rng(seed)
    batch = {
        "vision_features": rng.normal(size=(B, N, C)).astype(np.float32),
        "text_features": rng.normal(size=(B, T, D)).astype(np.float32),
        "vision_mask": np.arange(N) < np.array([N, 4, 2])[:, None],
        "text_mask": np.arange(T) < np.array([2, T, 3])[:, None],
    }
    if task == "captioning":
        return {**batch, "tokens": said(rng, B)}
    return {
        **batch,
        "turns": rng.integers(4, size=(B, T)).astype(np.int32),
        "roles": rng.integers(len(ROLES), size=(B, T)).astype(np.int32),
        "response": said(rng, B),
        "candidates": said(rng, B, K),
        "candidate_mask": np.arange(K) < np.array([K, 3, 2])[:, None],
        "answer_index": np.array([3, 0, 1], np.int32),
    }


TEXT = {"captioning": "tokens", "dialogue": "response"}
_heads: dict = {}
_programs: dict = {}


def head_of(task, **kwargs):
    """Shared by the tests: not to be changed."""
    key = task, *kwargs.items()
    if key not in _heads:
        _heads[key] = reference.randomize(create_vlm_head(CONFIGS[task], **kwargs))
    return _heads[key]


def compiled(head, name):
    """A method of a head, or the objective, as one program; rank by likelihood is "likelihood"."""
    if (head, name) not in _programs:
        functions = {
            "call": head,
            "score": lambda batch: head.rank(batch),
            "likelihood": lambda batch: head.rank(batch, "likelihood"),
            "loss": lambda batch: HeadLoss()(head, {}, batch, None),
            "smooth": lambda batch: HeadLoss(smoothing=0.1)(head, {}, batch, None),
        }
        _programs[head, name] = backend.compiled(functions[name], head)
    return _programs[head, name]


def write(head, batch, settings=None):
    if (head, "write") not in _programs:
        _programs[head, "write"] = Writer(head)
    settings = settings or GenerationConfig(max_new_tokens=LONGEST)
    return _programs[head, "write"].generate(head.prompt(batch), settings)


def outputs_of(head, batch):
    """Compiled, and checked as an eager call is."""
    head.check(batch)
    return {name: to_numpy(value) for name, value in compiled(head, "call")(batch).items()}


def without(batch, *names):
    return {name: value for name, value in batch.items() if name not in names}


def same(one, other, **kwargs):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=2e-5, err_msg=name, **kwargs)


class Words:
    """Token 5 is "w5"."""

    def decode(self, ids):
        return " ".join(f"w{i}" for i in ids)


def fit(config, rows, steps):
    head = create_vlm_head(config)
    collate = lambda items: {k: np.stack([item[k] for item in items]) for k in items[0]}  # noqa: E731
    stream = Stream(rows, collate, HeadLoss(), 16)
    Trainer(head, {"task": stream}, TrainConfig(steps=steps, learning_rate=1e-2)).fit()
    return head, collate(rows)
