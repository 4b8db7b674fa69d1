"""Several task heads as one model: a batch, a text and an answer for each task."""

from dataclasses import dataclass

import keras

from saccade import losses
from saccade.errors import SaccadeError
from saccade.heads.create import create_vlm_head
from saccade.heads.task import VLMTaskConfig
from saccade.model import Model

_SHARED = ("vision_features", "vision_mask")


@dataclass(frozen=True)
class MultiTaskConfig:
    """The heads, and how much the loss of each counts.

    Args:
        heads: name of a task -> its VLMTaskConfig.
        weights: name -> number, 1 where left out; or "uncertainty": log variances learned with the heads.
    Raises: SaccadeError: no head; a weight of no task or below 0; another way to weigh; a name that cannot
        name a layer.
    """

    heads: dict[str, VLMTaskConfig]
    weights: dict[str, float] | str

    def __post_init__(self):
        if not self.heads:
            raise SaccadeError("a multi-task head has no task; give at least one VLMTaskConfig")
        for name in self.heads:
            if not name.isidentifier() or name in _SHARED:
                raise SaccadeError(f"{name!r} cannot name a task; give a word such as 'vqa'")
        if isinstance(self.weights, str):
            if self.weights != "uncertainty":
                raise SaccadeError(
                    f"no weights {self.weights!r}; give 'uncertainty' or a number for each task"
                )
            return
        for name, weight in self.weights.items():
            if name not in self.heads or weight < 0:
                names = ", ".join(self.heads)
                raise SaccadeError(f"weight {weight} of {name!r}; weigh {names} by numbers of at least 0")

    @classmethod
    def from_json(cls, record: dict) -> "MultiTaskConfig":
        heads = {name: VLMTaskConfig.from_json(head) for name, head in record["heads"].items()}
        return cls(heads, record["weights"])


@keras.saving.register_keras_serializable(package="saccade")
class MultiTaskHead(Model):
    """`heads[name]`: the single heads. `weigh({name: loss})`: a layer of saccade.losses.multitask.

    The heads share features, no weights. A task that the batch lacks is not computed.

    Call: batch: dict of a task's name -> the batch of its head, with its own text and labels; what stands
        beside the tasks, `vision_features` and `vision_mask`, is for every task that has no features itself.
    Returns: dict of a task's name -> outputs of its head.
    Raises: SaccadeError: no such task, or none; a task's batch does not fit its head (names the task).
    """

    Config = MultiTaskConfig

    def __init__(self, config: MultiTaskConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.build()

    def build(self, input_shape=None):
        # Made here, in the scope of this model: each head's variables are then named after its task.
        policy, c = self.dtype_policy, self.config
        self.heads = {name: create_vlm_head(head, dtype=policy, name=name) for name, head in c.heads.items()}
        if c.weights == "uncertainty":
            self.weigh = losses.UncertaintyWeights(tuple(c.heads), name="weigh")
        else:
            given = {name: c.weights.get(name, 1.0) for name in c.heads}
            self.weigh = losses.FixedWeights(given, name="weigh")
        self.built = True

    def __call__(self, batch, *args, **kwargs):
        batches = self.batches(batch)
        for name, own in batches.items():
            try:
                self.heads[name].check(own)
            except SaccadeError as error:
                raise SaccadeError(f"task {name}: {error}") from error
        return super().__call__(batches, *args, **kwargs)

    def batches(self, batch: dict) -> dict[str, dict]:
        """The batch of each task that is there, with the shared features in it."""
        shared = {name: batch[name] for name in _SHARED if name in batch}
        tasks = {name: own for name, own in batch.items() if name not in _SHARED}
        unknown = sorted(tasks.keys() - self.heads.keys())
        if unknown or not tasks:
            found = f"no task {unknown[0]!r}" if unknown else "the batch has no task"
            raise SaccadeError(f"{found}; the heads are {', '.join(self.heads)}")
        return {name: own if _SHARED[0] in own else {**shared, **own} for name, own in tasks.items()}

    def call(self, batch):
        return {name: self.heads[name](own) for name, own in batch.items()}

    def decode(self, outputs: dict, **options: dict) -> dict:
        """The answers of each task. Args: options: task -> keyword arguments of its head's `decode`."""
        return {name: self.heads[name].decode(own, **options.get(name, {})) for name, own in outputs.items()}


def create_multi_task_vlm_head(
    configs: dict[str, VLMTaskConfig] | list[VLMTaskConfig],
    weights: dict[str, float] | str | None = None,
    **kwargs,
) -> MultiTaskHead:
    """Several heads as one model, built, with random weights.

    Args:
        configs: name -> VLMTaskConfig; of a list each is named after its task.
        weights: see MultiTaskConfig; None = all 1.  kwargs: `dtype`, `name`.
    Raises: SaccadeError: a list with a task twice; see MultiTaskConfig.
    """
    if not isinstance(configs, dict):
        names = [config.task.value for config in configs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SaccadeError(f"task {twice[0]} is there twice; give a dict with a name for each")
        configs = dict(zip(names, configs, strict=True))
    return MultiTaskHead(MultiTaskConfig(dict(configs), {} if weights is None else weights), **kwargs)
