"""One training step as a pure function of one state tree, compiled as one call on JAX.

The state holds all that changes: weights, optimiser slots, moving averages, gradient sums, the objectives'
carries, the queues of examples, the random seed and the metric sums. A checkpoint saves this tree.
"""

import contextlib
from collections.abc import Mapping

import keras
from keras import ops

from saccade import backend, kernels
from saccade.errors import SaccadeError
from saccade.train import optim, queue
from saccade.train.config import TrainConfig
from saccade.train.stream import Stream


class Engine:
    """Compiles the step of a model, its streams and its optimiser groups.

    Args:
        model: built. streams: name -> Stream. config: the run's settings.
    Raises: SaccadeError: the model has no weights yet, computes in float16, or `config.parts` does not fit
        it.
    """

    def __init__(self, model: keras.Model, streams: Mapping[str, Stream], config: TrainConfig):
        if not model.built or not model.variables:
            raise SaccadeError("the model has no weights yet; call it on one batch before training it")
        if model.compute_dtype == "float16":
            raise SaccadeError(
                "float16 needs loss scaling, which the Trainer does not do; use mixed_bfloat16"
            )
        self.model, self.streams, self.config = model, dict(streams), config
        self.groups = optim.make_groups(model, config)
        self.trained = [v for group in self.groups if group.optimizer for v in group.variables]
        trained = {id(v) for v in self.trained}
        self.others = [v for v in model.variables if id(v) not in trained]
        self.together = _groups(self.streams)
        self.seed = keras.random.SeedGenerator(config.seed)
        self._push = backend.jit(queue.push, donate=True)
        self._step = backend.jit(self._pure_step, donate=True, static=("update",))
        self._programs: dict[bool, backend.Program] = {}
        self._metric_names: list[str] = []

    # -- state

    def initial_state(self, first: Mapping[str, dict]) -> dict:
        """The state before the first step, queues empty. `first`: stream name -> a batch, for the shapes."""
        trained = optim.join(self.groups, [backend.own_copy(v.value) for v in self.trained])
        state = {
            "trained": trained,
            "others": [backend.own_copy(v.value) for v in self.others],
            "slots": optim.initial_state(self.groups),
            "ema": [backend.own_copy(v) for v in trained] if self.config.ema_decay else [],
            "gradients": [ops.zeros_like(v) for v in trained] if self.config.accumulate > 1 else [],
            "seed": backend.own_copy(self.seed.state.value),
            "queues": {name: queue.create(first[name]) for name in self.streams},
            "carries": {name: self._initial_carry(name, first[name]) for name in self.streams},
            "metrics": {},
        }
        self._metric_names = sorted(backend.shapes(self._loss_only, state)[0])
        state["metrics"] = self.zero_metrics()
        return state

    def zero_metrics(self) -> dict:
        """Fresh metric sums: name -> float32 (2,) of total and weight."""
        return {name: ops.zeros((2,), "float32") for name in self._metric_names}

    def _initial_carry(self, name: str, batch: dict):
        objective = self.streams[name].objective
        carry = backend.compiled(lambda b: objective.initial_carry(self.model, b), self.model)(batch)
        # Its own memory: two leaves may be one array, which cannot be donated twice.
        return keras.tree.map_structure(backend.own_copy, carry)

    def write_back(self, state: dict, ema: bool = False) -> None:
        """Put the state's weights into the model: trained ones, or their moving averages, and all others."""
        values = optim.split(self.groups, state["ema" if ema else "trained"])
        for variable, value in zip(self.trained, values, strict=True):
            variable.assign(backend.own_copy(value))
        for variable, value in zip(self.others, state["others"], strict=True):
            variable.assign(backend.own_copy(value))

    # -- the step

    def push(self, state: dict, name: str, batch: dict) -> dict:
        """Append a batch to the queue of one stream. The state given is used up."""
        queues = {**state["queues"], name: self._push(state["queues"][name], batch)}
        return {**state, "queues": queues}

    def step(self, state: dict, update: bool = True):
        """One forward and backward pass and, with `update`, an optimiser update. The state given is used up.

        Returns: (state, consumed); consumed int32 (streams,), rows taken from each queue, not yet computed
            perhaps.
        """
        return self.program(state, update).call(state)

    def program(self, state: dict, update: bool = True) -> backend.Program:
        """The compiled step. There is one for each `update`: a state of other shapes is refused."""
        if update not in self._programs:
            with kernels.allowed() if self.config.kernels else contextlib.nullcontext():
                self._programs[update] = backend.program(self._step, state, update=update)
        return self._programs[update]

    def _loss(self, trained: list, state: dict):
        """Sum of the streams' weighted losses. Returns (loss, (carries, consumed, metrics, others, seed))."""
        mapping = [
            *zip(self.trained, trained, strict=True),
            *zip(self.others, state["others"], strict=True),
            (self.seed.state, state["seed"]),
        ]
        carries, consumed, metrics, total = {}, [], {}, 0.0
        with keras.StatelessScope(state_mapping=mapping) as scope:
            results: dict = {}
            for names in self.together:
                results |= self._objectives(names, state)
            for name, stream in self.streams.items():
                loss, carries[name], values, taken = results[name]
                loss = ops.cast(loss, "float32")
                total = total + stream.weight * loss
                consumed.append(ops.cast(taken, "int32"))
                values = {"loss": loss, "consumed": taken, **values}
                metrics |= {f"{name}/{key}": _total_and_weight(value) for key, value in values.items()}
            others = [_current(scope, v) for v in self.others]
            seed = _current(scope, self.seed.state)
        metrics["loss"] = _total_and_weight(total)
        return total, (carries, ops.stack(consumed), metrics, others, seed)

    def _objectives(self, names: list[str], state: dict) -> dict:
        """name -> (loss, carry, metrics, consumed) of streams that are computed together."""
        objectives = {name: self.streams[name].objective for name in names}
        batches = {name: queue.peek(state["queues"][name], self.streams[name].batch_size) for name in names}
        carries = {name: state["carries"][name] for name in names}
        first = objectives[names[0]]
        if len(names) > 1:
            return first.together(self.model, objectives, carries, batches, self.seed)
        return {names[0]: first(self.model, carries[names[0]], batches[names[0]], self.seed)}

    def _loss_only(self, state: dict):
        metrics = self._loss(optim.split(self.groups, state["trained"]), state)[1][2]
        return {**metrics, "gradient_norm": metrics["loss"]}, state["metrics"]

    def _pure_step(self, state: dict, update: bool):
        trained = optim.split(self.groups, state["trained"])
        (_, aux), gradients = backend.value_and_grad(self._loss, trained, state)
        gradients = optim.join(self.groups, gradients)
        carries, consumed, metrics, others, seed = aux
        queues = {
            name: queue.advance(state["queues"][name], consumed[i]) for i, name in enumerate(self.streams)
        }
        state = {**state, "carries": carries, "queues": queues, "others": others, "seed": seed}
        if state["gradients"]:
            state["gradients"] = [a + g for a, g in zip(state["gradients"], gradients, strict=True)]
        if update:
            state, norm = self._update(state, gradients)
            metrics["gradient_norm"] = _total_and_weight(norm)
        state["metrics"] = {
            key: total + metrics[key] if key in metrics else total for key, total in state["metrics"].items()
        }
        return state, consumed

    def _update(self, state: dict, gradients: list):
        if state["gradients"]:
            gradients = [g / self.config.accumulate for g in state["gradients"]]
            state["gradients"] = [ops.zeros_like(g) for g in gradients]
        gradients, norm = optim.clip(gradients, self.config.clip_norm)
        state["trained"], state["slots"] = optim.apply(
            self.groups, state["trained"], gradients, state["slots"]
        )
        if state["ema"]:
            decay = self.config.ema_decay or 0.0
            state["ema"] = [
                decay * e + (1.0 - decay) * ops.cast(v, e.dtype)
                for e, v in zip(state["ema"], state["trained"], strict=True)
            ]
        return state, norm


def _current(scope, variable):
    value = scope.get_current_value(variable)
    return variable.value if value is None else value


def _groups(streams: Mapping[str, Stream]) -> list[list[str]]:
    """Names of streams whose objectives say the same non-empty `group`, in order; all others stand alone."""
    groups: dict = {}
    for name, stream in streams.items():
        group = getattr(stream.objective, "group", "")
        groups.setdefault(group or (name,), []).append(name)
    return list(groups.values())


def _total_and_weight(value):
    """A metric is a scalar, counted once per step, or a pair (total, weight), averaged by weight."""
    total, weight = value if isinstance(value, tuple) else (value, 1.0)
    return ops.stack([ops.cast(total, "float32"), ops.cast(weight, "float32")])
