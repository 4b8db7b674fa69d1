"""How much memory a run will hold, known before its first step.

What lasts is counted from the state. What the step needs while it runs (activations, gradients, buffers of
kernels) is asked of the compiler, which has laid it out already: no model of the architecture, and exact.
"""

from dataclasses import dataclass

import keras
from rich.table import Table

from saccade.errors import SaccadeError
from saccade.train.engine import Engine
from saccade.train.queue import RING_BATCHES
from saccade.train.stream import READ_AHEAD


@dataclass(frozen=True)
class Prediction:
    """Bytes by what they are for."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def table(self) -> Table:
        """A line for each part that takes any."""
        table = Table(title="Memory")
        for column in ("what", "MiB"):
            table.add_column(column, justify="left" if column == "what" else "right")
        for what, size in self.parts.items():
            if size:
                table.add_row(what, f"{size / 2**20:,.1f}")
        table.caption = f"predicted peak {self.total / 2**20:,.0f} MiB"
        return table


def predict(engine: Engine, state: dict) -> Prediction | None:
    """What a run of `engine` will hold at most; None on torch, whose allocator tells nothing beforehand.

    Args: state: as the first step takes it.
    """
    temporary = engine.program(state).temporary_bytes
    if temporary is None:
        return None
    batches = sum(
        (READ_AHEAD + 1) * size_of(queue["data"]) // RING_BATCHES for queue in state["queues"].values()
    )
    return Prediction(
        {
            "parameters": size_of([state["trained"], state["others"]]),
            "parameters as given": size_of([v.value for v in engine.model.variables]),
            "optimiser": size_of(state["slots"]),
            "moving averages": size_of(state["ema"]),
            "summed gradients": size_of(state["gradients"]),
            "carries and metrics": size_of([state["carries"], state["metrics"], state["seed"]]),
            "examples in the queues": size_of(state["queues"]),
            "examples read ahead": batches,
            "activations and gradients": temporary,
        }
    )


def check(prediction: Prediction, limit: int | None) -> None:
    """Raise SaccadeError if what the device gives is less than what the run needs; None = unknown."""
    if limit is not None and prediction.total > limit:
        raise SaccadeError(
            f"the run needs {prediction.total / 2**30:.1f} GiB, {_largest(prediction)}, but the device gives "
            f"{limit / 2**30:.1f} GiB; lower the batch size (accumulate more), or set remat"
        )


def size_of(tree) -> int:
    """Bytes of all tensors of a tree."""
    return sum(int(tensor.nbytes) for tensor in keras.tree.flatten(tree))


def _largest(prediction: Prediction) -> str:
    what = max(prediction.parts, key=lambda name: prediction.parts[name])
    return f"{prediction.parts[what] / 2**30:.1f} GiB of them for {what}"
