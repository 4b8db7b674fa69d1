"""The smallest things a Trainer can train."""

import keras
import numpy as np
from keras import ops

from saccade.train import Stream


class Points:
    """y = x @ w with fixed w; item i is a function of i."""

    def __init__(self, length: int = 1000, features: int = 5):
        self.length, self.features = length, features
        self.w = np.random.default_rng(7).normal(size=(features, 2)).astype(np.float32)

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        x = np.random.default_rng([3, i]).normal(size=self.features).astype(np.float32)
        return {"x": x, "y": x @ self.w, "id": np.int32(i)}


def collate(items):
    return {key: np.stack([item[key] for item in items]) for key in items[0]}


class Regression:
    """Mean squared error on every fresh example."""

    def initial_carry(self, model, batch):
        return {}

    def __call__(self, model, carry, batch, seed):
        error = ops.cast(model(batch["x"], training=True), "float32") - batch["y"]
        return ops.mean(ops.square(error)), carry, {"error": ops.mean(ops.abs(error))}, error.shape[0]


class RandomRefill(Regression):
    """Slots that keep their example for a random time, as in recursion with halting; counts what they saw."""

    def initial_carry(self, model, batch):
        size = batch["id"].shape[0]
        return {
            "x": ops.zeros_like(batch["x"]),
            "y": ops.zeros_like(batch["y"]),
            "id": ops.full((size,), -1, "int32"),
            "halted": ops.ones((size,), "bool"),
            "seen": ops.zeros((1000,), "int32"),
        }

    def __call__(self, model, carry, batch, seed):
        halted = carry["halted"]
        row = ops.maximum(ops.cumsum(ops.cast(halted, "int32")) - 1, 0)
        new = {key: ops.take(batch[key], row, axis=0) for key in ("x", "y", "id")}
        x = ops.where(halted[:, None], new["x"], carry["x"])
        y = ops.where(halted[:, None], new["y"], carry["y"])
        ids = ops.where(halted, new["id"], carry["id"])
        hits = ops.cast(
            ops.one_hot(ids, 1000, dtype="float32") * ops.cast(halted, "float32")[:, None], "int32"
        )
        loss, _, metrics, _ = super().__call__(model, {}, {"x": x, "y": y}, seed)
        carry = {
            "x": x,
            "y": y,
            "id": ids,
            "halted": keras.random.uniform(halted.shape, seed=seed) < 0.4,
            "seen": carry["seen"] + ops.sum(hits, axis=0),
        }
        return loss, carry, metrics, ops.sum(ops.cast(halted, "int32"))


def model(width: int = 7, dropout: float = 0.0, seed: int = 1, dtype=None) -> keras.Model:
    keras.utils.set_random_seed(seed)
    net = keras.Sequential(
        [
            keras.layers.Dense(width, activation="tanh", name="encoder", dtype=dtype),
            keras.layers.Dropout(dropout, seed=4),
            keras.layers.Dense(2, name="head", dtype=dtype),
        ],
        name="toy",
    )
    net.build((None, 5))
    return net


def stream(objective=None, batch_size: int = 6, **options) -> Stream:
    return Stream(options.pop("source", Points()), collate, objective or Regression(), batch_size, **options)
