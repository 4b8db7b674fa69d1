"""A run for test_resume to kill: `python killed_run.py OUT_DIR`."""

import sys

import toys

from saccade.train import TrainConfig, Trainer

CONFIG = TrainConfig(
    steps=60,
    learning_rate=0.03,
    warmup_steps=5,
    weight_decay=0.1,
    ema_decay=0.9,
    accumulate=2,
    save_every=7,
    log_every=4,
)


def trainer(out_dir, config=CONFIG, **options) -> Trainer:
    """Dropout, two streams, one of them with slots that refill at random: all there is to restore."""
    streams = {
        "plain": toys.stream(batch_size=4, source=toys.Points(30)),
        "slots": toys.stream(toys.RandomRefill(), weight=0.5),
    }
    return Trainer(toys.model(dropout=0.2), streams, config, out_dir, **options)


if __name__ == "__main__":
    trainer(sys.argv[1]).fit()
