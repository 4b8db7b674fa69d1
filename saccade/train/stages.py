"""Training in stages: what trains, how fast and how long, one after another in one run."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from saccade.errors import SaccadeError
from saccade.train.config import OptimizerName, Part, Schedule, TrainConfig, first_error
from saccade.train.optim import assign_parts, local_path
from saccade.train.stream import Stream
from saccade.train.trainer import Result, Trainer

ENDLESS = 2**31 - 1  # examples of a source that draws ever new ones


@dataclass(frozen=True)
class InTurn:
    """Trainers one after another, each from the weights of the one before (their moving averages, if it keeps
    any).

    Stage i writes out_dir/stage_i, the last out_dir itself. Started again, a finished stage takes no step,
    and the one that was cut off goes on where its newest checkpoint is.

    Args:
        stages: what `make` makes Trainers of, in order.
        make: (stage, folder or None, the model of the stage before or None) -> Trainer.
        out_dir: of the run; None = nothing is written.
    """

    stages: Sequence[Any]
    make: Callable[[Any, Path | None, Any], Trainer]
    out_dir: Path | None = None

    def fit(self) -> Result:
        """Train all stages. Returns: the result of the last."""
        if not self.stages:
            raise SaccadeError("there are no stages; give one or more")
        model, result = None, None
        for number, stage in enumerate(self.stages, 1):
            last = number == len(self.stages)
            folder = self.out_dir if last or self.out_dir is None else self.out_dir / f"stage_{number}"
            trainer = self.make(stage, folder, model)
            result = trainer.fit()
            if trainer.config.ema_decay and not last:
                trainer.use_ema()
            model = trainer.model
        assert result is not None
        return result


class Stage(BaseModel):
    """One stage; what is None is the run's own setting.

    Args:
        name: in errors and for people.
        trains: regular expression -> Part, as `TrainConfig.parts`; what none of them matches is frozen. None:
            everything trains, by the run's own parts.
        steps: updates, or `epochs`: passes over the longest stream of this stage. One of the two.
        learning_rate, warmup_steps, schedule, min_ratio, optimizer, weight_decay, ema_decay: see TrainConfig.
            Every stage begins with a fresh optimiser and its own schedule.
        streams: names of the streams that this stage learns from; None = all.
    Raises: SaccadeError: a value that does not fit (names it), or an unknown one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    trains: dict[str, Part] | None = None
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    learning_rate: float | None = Field(None, ge=0)
    warmup_steps: int | None = Field(None, ge=0)
    schedule: Schedule | None = None
    min_ratio: float | None = Field(None, ge=0, le=1)
    optimizer: OptimizerName | None = None
    weight_decay: float | None = Field(None, ge=0)
    ema_decay: float | None = Field(None, gt=0, lt=1)
    streams: tuple[str, ...] | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, values, validate):
        try:
            return validate(values)
        except ValidationError as error:
            name = values.get("name") if isinstance(values, dict) else None
            raise SaccadeError(f"{f'stage {name!r}' if name else 'a stage'}: {first_error(error)}") from error


class MultiStageTrainer(InTurn):
    """Trains one model in stages, such as the projection alone and then everything.

    Every stage is checked before the first begins.

    Args:
        model: built.  streams: name -> Stream.  config: what the stages do not say.
        stages: in order; see Stage.
        out_dir: stage i writes its checkpoints and log.jsonl to out_dir/stage_i, the last to out_dir itself.
        options: of every Trainer: evaluate, on_save, resume, console.
    Raises: SaccadeError: a stage trains nothing, names an unknown part or stream, says not how long it is, or
        is shorter than its warm-up.
    Source: staged training of vision-language models, such as BLIP-2, arXiv:2301.12597, section 3.
    """

    def __init__(
        self,
        model,
        streams: Mapping[str, Stream],
        config: TrainConfig,
        stages: Sequence[Stage],
        out_dir: str | Path | None = None,
        **options,
    ):
        names = [stage.name for stage in stages]
        if len(set(names)) != len(names):
            raise SaccadeError(f"stages are called {', '.join(names)}; give each a name of its own")
        plans = [_plan(stage, i, model, streams, config) for i, stage in enumerate(stages)]

        def make(plan, folder, _):
            return Trainer(model, plan[0], plan[1], folder, **options)

        super().__init__(plans, make, Path(out_dir) if out_dir is not None else None)


def _plan(stage: Stage, number: int, model, streams, config: TrainConfig):
    """(streams, settings) of a stage's Trainer."""
    unknown = set(stage.streams or ()) - set(streams)
    if unknown or stage.streams == ():
        raise SaccadeError(
            f"stage {stage.name!r} learns from {', '.join(sorted(unknown)) or 'no stream'}; "
            f"the streams are {', '.join(streams)}"
        )
    used = {name: streams[name] for name in stage.streams or streams}
    given = stage.model_dump(exclude_none=True, exclude={"name", "trains", "steps", "epochs", "streams"})
    # Another order of examples than in the stage before; where a source is random by index, other examples
    # come of another seed of the source.
    given |= {"steps": _steps(stage, used, config), "seed": config.seed + number}
    given["parts"] = _parts(stage, config.parts, model)
    own = TrainConfig.model_validate({**config.model_dump(), **given})
    if not any(own.learning_rate * scale for scale in _scales(own.parts, model)):
        raise SaccadeError(f"stage {stage.name!r} trains nothing: its learning rates are 0; raise one")
    if own.warmup_steps > own.steps:
        raise SaccadeError(
            f"stage {stage.name!r} has steps {own.steps}, fewer than its warmup_steps {own.warmup_steps}, so "
            "it never reaches its learning rate; change one of the two"
        )
    return used, own


def _steps(stage: Stage, streams: Mapping[str, Stream], config: TrainConfig) -> int:
    if (stage.steps is None) == (stage.epochs is None):
        raise SaccadeError(
            f"stage {stage.name!r} has steps {stage.steps} and epochs {stage.epochs}; give one of the two"
        )
    if stage.steps is not None:
        return stage.steps
    assert stage.epochs is not None
    endless = [name for name, stream in streams.items() if len(stream.source) >= ENDLESS]
    if endless:
        raise SaccadeError(
            f"stage {stage.name!r} has epochs {stage.epochs:g}, but {endless[0]!r} never ends; give steps"
        )
    rows = max(len(stream.source) / (stream.items or stream.batch_size) for stream in streams.values())
    return math.ceil(stage.epochs * rows / config.accumulate)


def _parts(stage: Stage, given: dict[str, Part], model) -> dict[str, Part]:
    """The stage's parts, and one that freezes all others."""
    trains = given if stage.trains is None else stage.trains
    try:
        chosen = assign_parts(model, trains)
    except SaccadeError as error:
        raise SaccadeError(f"stage {stage.name!r}: {error}") from error
    except re.error as error:
        raise SaccadeError(
            f"stage {stage.name!r}: part {error.pattern!r} is no regular expression, {error}; correct it"
        ) from error
    parts = dict(trains)
    if stage.trains is not None and "rest" in chosen:
        others = "|".join(f"(?:{pattern})" for pattern in trains)
        parts[f"(?!{others})" if others else ""] = Part(freeze=True)
    if not _scales(parts, model):
        known = sorted({local_path(v, model).split("/")[0] for v in model.trainable_variables})
        raise SaccadeError(
            f"stage {stage.name!r} trains nothing; name in `trains` what should learn: {', '.join(known)}"
        )
    return parts


def _scales(parts: dict[str, Part], model) -> list[float]:
    """The scale of the learning rate of every part that trains, that of the rest included."""
    chosen = assign_parts(model, parts)
    used = [parts.get(pattern, Part()) for pattern in chosen]
    return [part.learning_rate_scale for part in used if not part.freeze]
