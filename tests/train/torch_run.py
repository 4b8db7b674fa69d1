"""Trains from fixed weights and saves what was learnt: `python torch_run.py OUT.npz`."""

import sys

import numpy as np
import toys
from keras import ops
from rich.console import Console

from saccade.train import TrainConfig, Trainer


def learn() -> list[np.ndarray]:
    """Weights after a few updates with everything on: two streams, accumulation, clipping, decay, EMA."""
    model = toys.model()
    rng = np.random.default_rng(11)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape, scale=0.4))
    streams = {"a": toys.stream(batch_size=4), "b": toys.stream(batch_size=3, weight=0.5)}
    config = TrainConfig(
        steps=9, learning_rate=0.01, warmup_steps=3, weight_decay=0.1, accumulate=2, ema_decay=0.8
    )
    run = Trainer(model, streams, config, console=Console(quiet=True))
    run.fit()
    weights = [ops.convert_to_numpy(v.value) for v in model.trainable_variables]
    run.use_ema()
    return weights + [ops.convert_to_numpy(v.value) for v in model.trainable_variables]


if __name__ == "__main__":
    np.savez(sys.argv[1], *learn())
