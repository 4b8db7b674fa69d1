"""What a training run is told: plain validated data, no Keras."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Schedule = Literal["cosine", "constant"]
Precision = Literal["mixed_bfloat16", "float32"]  # of a recipe; weights are float32 in both
OptimizerName = Literal["adamw", "adam_atan2", "muon", "shape_muon", "lion", "sgd", "sign_sgd"]


class Part(BaseModel):
    """How the variables of one part of the model train.

    Args:
        learning_rate_scale: multiplies the run's learning rate.
        freeze: no gradient is computed and no optimiser memory is held.
        weight_decay, optimizer: instead of the run's; None = the run's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate_scale: float = Field(1.0, ge=0)
    freeze: bool = False
    weight_decay: float | None = Field(None, ge=0)
    optimizer: OptimizerName | None = None


class TrainConfig(BaseModel):
    """Settings of one run.

    Args:
        steps: optimiser updates. With `accumulate` = k, each update averages the gradients of k batches.
        learning_rate, warmup_steps, schedule, min_ratio: linear warm-up to `learning_rate`, then `constant`,
            or `cosine` down to `min_ratio` times it at the last step.
        weight_decay: decoupled; `decay` says what it touches: variables named `kernel` only (no bias, norm
            scale or embedding), or `all`.
        betas: first and second moment decay. `sgd` uses the first as momentum.
        clip_norm: limit of the global gradient norm; None = none.
        optimizer: `muon` orthogonalises the kernels of products and 2-D convolutions and treats everything
            else as Adam does (a patch embedding that reads pixels does better with `adamw`, see `parts`);
            `shape_muon` is the same with Muon's first step size (rates near 0.02). `sign_sgd` is for tables
            whose rows are looked up. See saccade.train.optimizers.
        parts: regular expression -> Part. An expression picks the variables whose `path` it matches from the
            start (`vision` or `.*/encoder/`), after the model's own name, which is left out. Each must match
            something, and no variable may be picked twice.
        ema_decay: keep an exponential moving average of the trained weights; None = none.
        log_every, save_every, eval_every: in steps; eval_every None = never. keep: newest checkpoints kept.
        kernels: on a Hopper GPU, use saccade.kernels where they fit; an error where none does.
        time_limit_s: stop cleanly, with a checkpoint, after so many seconds of this process; None = no limit.
        profile: write a JAX profile of steps 11 to 15 to out_dir/profile.
        tensorboard: also write TensorBoard events to out_dir/tensorboard.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(1000, ge=1)
    learning_rate: float = Field(1e-3, ge=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Schedule = "cosine"
    min_ratio: float = Field(0.1, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    decay: Literal["kernels", "all"] = "kernels"
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float | None = Field(1.0, gt=0)
    optimizer: OptimizerName = "adamw"
    parts: dict[str, Part] = Field(default_factory=dict)
    ema_decay: float | None = Field(None, gt=0, lt=1)
    accumulate: int = Field(1, ge=1)
    log_every: int = Field(50, ge=1)
    save_every: int = Field(1000, ge=1)
    eval_every: int | None = Field(None, ge=1)
    keep: int = Field(2, ge=1)
    kernels: bool = False
    time_limit_s: float | None = Field(None, gt=0)
    seed: int = 0
    profile: bool = False
    tensorboard: bool = False


class StreamConfig(BaseModel):
    """One stream of a recipe: its rows per step, the weight of its loss, the processes that draw it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    weight: float = 1.0
    workers: int = 1


def first_error(error: ValidationError) -> str:
    """The first thing that is wrong, as one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the config"
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}; remove it"
    return f"{where}: {first['input']!r} does not fit: {first['msg'][0].lower()}{first['msg'][1:]}"
