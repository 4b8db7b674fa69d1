"""Training: the Trainer and what describes a run. Importing this package does not import Keras."""

from typing import TYPE_CHECKING

from saccade.train.config import Part, TrainConfig

if TYPE_CHECKING:
    from saccade.train.curriculum import Curriculum
    from saccade.train.stages import MultiStageTrainer, Stage
    from saccade.train.stream import Stream
    from saccade.train.trainer import Result, Trainer

__all__ = [
    "Curriculum",
    "MultiStageTrainer",
    "Part",
    "Result",
    "Stage",
    "Stream",
    "TrainConfig",
    "Trainer",
]


def __getattr__(name: str):
    if name in ("Trainer", "Result"):
        from saccade.train import trainer

        return getattr(trainer, name)
    if name in ("MultiStageTrainer", "Stage"):
        from saccade.train import stages

        return getattr(stages, name)
    if name == "Curriculum":
        from saccade.train.curriculum import Curriculum

        return Curriculum
    if name == "Stream":
        from saccade.train.stream import Stream

        return Stream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
