"""Stages for test_stages to kill: `python killed_stages.py OUT_DIR`."""

import sys

import toys

from saccade.train import Part, TrainConfig
from saccade.train.stages import MultiStageTrainer, Stage

CONFIG = TrainConfig(learning_rate=0.03, warmup_steps=2, ema_decay=0.9, save_every=7, log_every=4)
STAGES = (
    Stage(name="head", trains={"head": Part()}, steps=9, optimizer="lion", learning_rate=0.01),
    Stage(name="all", steps=60, weight_decay=0.1),
)


def trainer(out_dir, stages=STAGES, config=CONFIG, **options) -> MultiStageTrainer:
    streams = {
        "plain": toys.stream(batch_size=4, source=toys.Points(30)),
        "slots": toys.stream(toys.RandomRefill(), weight=0.5),
    }
    return MultiStageTrainer(toys.model(dropout=0.2), streams, config, stages, out_dir, **options)


if __name__ == "__main__":
    trainer(sys.argv[1]).fit()
