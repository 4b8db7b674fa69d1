"""A curriculum for test_curriculum to kill: `python killed_curriculum.py OUT_DIR`."""

import sys

import toys

from saccade.train import TrainConfig, Trainer
from saccade.train.curriculum import Curriculum

CONFIG = TrainConfig(steps=60, learning_rate=0.03, ema_decay=0.9, save_every=7, log_every=10, eval_every=4)


class Level(toys.Points):
    """Ids from 100 k on, so that it shows which level an example is of."""

    def __init__(self, number: int):
        super().__init__(50)
        self.number = number

    def __getitem__(self, i):
        item = super().__getitem__(i)
        return {**item, "id": item["id"] + 100 * self.number}


def curriculum(**options) -> Curriculum:
    return Curriculum([Level(0), Level(1), Level(2)], 0.5, **options)


def trainer(out_dir, config=CONFIG, source=None, evaluate=lambda _: {"accuracy": 1.0}) -> Trainer:
    streams = {
        "slots": toys.stream(toys.RandomRefill(), source=source or curriculum()),
        "plain": toys.stream(batch_size=4, source=toys.Points(30)),
    }
    return Trainer(toys.model(dropout=0.2), streams, config, out_dir, evaluate=evaluate)


if __name__ == "__main__":
    trainer(sys.argv[1]).fit()
