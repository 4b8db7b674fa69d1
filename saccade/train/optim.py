"""Which variable learns how fast: parts, schedules and the optimiser groups they make."""

import itertools
import math
import re
from dataclasses import dataclass

import keras
from keras import ops

from saccade import backend
from saccade.errors import SaccadeError
from saccade.train.config import OptimizerName, Part, TrainConfig
from saccade.train.optimizers import AdamATan2, Muon, ShapeMuon, SignSGD


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then constant or cosine.

    Update n (from 0) uses peak * (n + 1) / warmup_steps during warm-up; afterwards, with
    t = (n - warmup_steps) / (steps - 1 - warmup_steps) in [0, 1], peak * (r + (1 - r) * (1 + cos(pi t)) / 2).

    Args:
        peak: the highest rate. warmup_steps, steps: in updates. schedule: `cosine` or `constant`.
        min_ratio: r above, the rate of the last update over `peak`.
    """

    def __init__(
        self, peak: float, warmup_steps: int, steps: int, schedule: str = "cosine", min_ratio: float = 0.1
    ):
        self.peak, self.warmup_steps, self.steps = peak, warmup_steps, steps
        self.schedule, self.min_ratio = schedule, min_ratio

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = 1.0
        if self.schedule == "cosine":
            t = ops.clip((step - self.warmup_steps) / max(1, self.steps - 1 - self.warmup_steps), 0.0, 1.0)
            rate = self.min_ratio + (1.0 - self.min_ratio) * 0.5 * (1.0 + ops.cos(math.pi * t))
        if self.warmup_steps:
            rate = ops.where(step < self.warmup_steps, (step + 1.0) / self.warmup_steps, rate)
        return self.peak * rate

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "steps": self.steps,
            "schedule": self.schedule,
            "min_ratio": self.min_ratio,
        }


# Optimisers that treat every number alike. The short variables of a group are one vector, so a step updates
# them in a few passes instead of a few for each, and compiles as few. A long one is as fast alone, and its
# gradient need not be copied there first.
ELEMENTWISE = (keras.optimizers.AdamW, keras.optimizers.Lion, keras.optimizers.SGD, AdamATan2)
LONG = 2**19  # numbers


@dataclass(frozen=True)
class Group:
    """Variables that share an optimiser. `part` is the pattern they matched, `rest` for none."""

    part: str
    variables: list
    learning_rate: float
    weight_decay: float
    optimizer: keras.optimizers.Optimizer | None  # None: frozen

    @property
    def joined(self) -> list[bool]:
        """Of each variable, whether it is part of the one vector that the optimiser sees first."""
        alike = isinstance(self.optimizer, ELEMENTWISE) and len({v.dtype for v in self.variables}) == 1
        return [alike and math.prod(v.shape) < LONG for v in self.variables]

    @property
    def count(self) -> int:
        """How many tensors the optimiser sees."""
        return 0 if self.optimizer is None else any(self.joined) + self.joined.count(False)

    def build(self) -> "Group":
        """Give the optimiser its slots."""
        short = list(itertools.compress(self.variables, self.joined))
        seen = [v for v, joined in zip(self.variables, self.joined, strict=True) if not joined]
        if short:
            size = sum(math.prod(v.shape) for v in short)
            seen = [keras.Variable(ops.zeros((size,), short[0].dtype), name="joined"), *seen]
        if self.optimizer is not None:
            self.optimizer.build(seen)
        if short:
            backend.free(seen[0].value)  # its shape was needed; values always come from the state
        return self


def join(groups: list[Group], tensors: list) -> list:
    """One tensor for each trained variable, in group order -> what the optimisers see."""
    result, start = [], 0
    for group in groups:
        stop = start + (len(group.variables) if group.optimizer else 0)
        own, start = tensors[start:stop], stop
        flags = group.joined if own else []
        if any(flags):
            short = itertools.compress(own, flags)
            result.append(ops.concatenate([ops.reshape(t, (-1,)) for t in short]))
        result += [t for t, joined in zip(own, flags, strict=True) if not joined]
    return result


def split(groups: list[Group], tensors: list) -> list:
    """The inverse of `join`."""
    result, start = [], 0
    for group in groups:
        own, start = iter(tensors[start : start + group.count]), start + group.count
        if group.optimizer is None:
            continue
        short = list(itertools.compress(group.variables, group.joined))
        edges = list(itertools.accumulate(math.prod(v.shape) for v in short))
        parts = iter(ops.split(next(own), edges[:-1])) if short else iter(())
        for variable, joined in zip(group.variables, group.joined, strict=True):
            result.append(ops.reshape(next(parts), variable.shape) if joined else next(own))
    return result


def local_path(variable, model) -> str:
    """The variable's path without the model's own name, which differs between two models of one process."""
    return variable.path.removeprefix(f"{model.name}/")


def is_kernel(variable) -> bool:
    """Whether weight decay is for this variable: kernels, so no bias, norm scale or embedding."""
    return variable.path.rsplit("/", 1)[-1].endswith("kernel")


def assign_parts(model, parts: dict[str, Part]) -> dict[str, list]:
    """Sort the trainable variables by the pattern that matches their path's start; `rest` takes the others.

    Raises: SaccadeError: a pattern matches nothing (names the parts there are) or two patterns one variable.
    """
    chosen: dict[str, list] = {pattern: [] for pattern in parts}
    rest = []
    for variable in model.trainable_variables:
        path = local_path(variable, model)
        matching = [pattern for pattern in parts if re.match(pattern, path)]
        if len(matching) > 1:
            raise SaccadeError(
                f"parts {matching[0]!r} and {matching[1]!r} both match {path}; narrow one of them"
            )
        (chosen[matching[0]] if matching else rest).append(variable)
    for pattern, variables in chosen.items():
        if not variables:
            known = sorted({local_path(v, model).split("/")[0] for v in model.trainable_variables})
            raise SaccadeError(
                f"part {pattern!r} matches no trainable variable; the parts are {', '.join(known)}"
            )
    return {**chosen, "rest": rest} if rest else chosen


def make_groups(model, config: TrainConfig) -> list[Group]:
    """One optimiser per part and per decayed or not, built on its variables; frozen parts get none.

    Raises: SaccadeError: see `assign_parts`; or nothing is left to train.
    """
    groups = []
    for pattern, variables in assign_parts(model, config.parts).items():
        part = config.parts.get(pattern, Part())
        if part.freeze:
            groups.append(Group(pattern, variables, 0.0, 0.0, None))
            continue
        rate = config.learning_rate * part.learning_rate_scale
        decay = config.weight_decay if part.weight_decay is None else part.weight_decay
        kernels = [v for v in variables if is_kernel(v)]
        others = [v for v in variables if not is_kernel(v)]
        name = part.optimizer or config.optimizer
        for members, member_decay in ((kernels, decay), (others, decay if config.decay == "all" else 0.0)):
            if members:
                optimizer = _make_optimizer(config, name, rate, member_decay, members is kernels)
                groups.append(Group(pattern, members, rate, member_decay, optimizer).build())
    if not any(group.optimizer for group in groups):
        raise SaccadeError(
            "every part of the model is frozen, so there is nothing to train; unfreeze one in `parts`"
        )
    return groups


def _make_optimizer(
    config: TrainConfig, name: OptimizerName, rate: float, decay: float, for_kernels: bool
) -> keras.optimizers.Optimizer:
    schedule = Warmup(rate, config.warmup_steps, config.steps, config.schedule, config.min_ratio)
    beta_1, beta_2 = config.betas
    betas = {"beta_1": beta_1, "beta_2": beta_2}
    kinds = keras.optimizers
    # A table of embeddings is a matrix too, but its rows are looked up, not multiplied: Adam, not Muon.
    if name == "adamw" or (name in ("muon", "shape_muon") and not for_kernels):
        return kinds.AdamW(schedule, weight_decay=decay, **betas)
    if name == "adam_atan2":
        return AdamATan2(schedule, weight_decay=decay, **betas)
    if name == "lion":
        return kinds.Lion(schedule, weight_decay=decay, **betas)
    if name in ("muon", "shape_muon"):
        # Decay touches kernels only, as for the others; Muon's Adam branch has a decay of its own.
        kind = Muon if name == "muon" else ShapeMuon
        return kind(
            schedule, weight_decay=decay, adam_weight_decay=decay, adam_beta_1=beta_1, adam_beta_2=beta_2
        )
    if name == "sign_sgd":
        return SignSGD(schedule, row_decay=decay)
    return kinds.SGD(schedule, momentum=beta_1, weight_decay=decay)


def clip(gradients: list, limit: float | None) -> tuple[list, object]:
    """Scale gradients to a global norm of at most `limit`. Returns (gradients, float32 norm before)."""
    norm = ops.sqrt(sum(ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients))
    if limit is None:
        return gradients, norm
    scale = ops.minimum(1.0, limit / ops.maximum(norm, 1e-12))
    return [g * ops.cast(scale, g.dtype) for g in gradients], norm


def initial_state(groups: list[Group]) -> list[list]:
    """The optimisers' slots, one list of tensors per group (empty if frozen).

    They are handed over, not copied: the optimisers never read their own again.
    """
    return [[v.value for v in g.optimizer.variables] if g.optimizer else [] for g in groups]


def apply(groups: list[Group], values: list, gradients: list, slots: list[list]) -> tuple[list, list[list]]:
    """One update. `values` and `gradients` are as `join` makes them."""
    new_values, new_slots, start = [], [], 0
    for group, group_slots in zip(groups, slots, strict=True):
        if group.optimizer is None:
            new_slots.append([])
            continue
        stop = start + group.count
        updated, updated_slots = group.optimizer.stateless_apply(
            group_slots, gradients[start:stop], values[start:stop]
        )
        new_values += updated
        new_slots.append(updated_slots)
        start = stop
    return new_values, new_slots
