"""LoRA: low-rank adapters beside the kernels of chosen parts; nothing else trains.

The adapters are Keras's own (`Dense.enable_lora`): kernel + alpha / rank * A B, with A He-uniform and B zero,
so that the function starts unchanged. Source: LoRA, arXiv:2106.09685, section 4.1.
"""

import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saccade.errors import SaccadeError
from saccade.files import atomic_directory, load_tensors, save_tensors
from saccade.train.optim import local_path

WEIGHTS, CONFIG = "adapters.safetensors", "adapters.json"


class Lora(BaseModel):
    """An adapter's `rank`, and its `alpha`: alpha / rank multiplies A B; None = rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(8, ge=1)
    alpha: float | None = Field(None, gt=0)


def add(model, parts: dict[str, Lora], train: tuple[str, ...] = ()) -> None:
    """Give an adapter to every Dense layer of the parts, and freeze every other variable of the model.

    Args:
        parts: regular expression -> Lora. It picks the Dense layers whose kernel's path it matches from the
            start, as the `parts` of a TrainConfig do.
        train: expressions of variables that go on training as they are.
    Raises: SaccadeError: an expression matches nothing, two of `parts` match one layer, a rank is not below
        the kernel's sides, or the model has adapters already.
    """
    if adapted(model):
        raise SaccadeError("the model has adapters already; make a plain model of it with lora.merged first")
    chosen = [(layer, pattern) for layer in _dense(model) for pattern in _matching(model, layer, parts)]
    for pattern in parts:
        if pattern not in {p for _, p in chosen}:
            kernels = ", ".join(sorted({_path(model, layer).split("/")[0] for layer in _dense(model)}))
            raise SaccadeError(f"lora {pattern!r} matches no Dense kernel; those are in {kernels}")
    kept = []
    for pattern in train:
        found = [v for v in model.trainable_variables if re.match(pattern, local_path(v, model))]
        if not found:
            known = sorted({local_path(v, model).split("/")[0] for v in model.trainable_variables})
            raise SaccadeError(
                f"train {pattern!r} matches nothing that trains; that is in {', '.join(known)}"
            )
        kept += found
    for layer, pattern in chosen:
        rank = parts[pattern].rank
        if rank >= min(layer.kernel.shape):
            raise SaccadeError(
                f"lora {pattern!r}: rank {rank} is not below the sides of {_path(model, layer)}, "
                f"{tuple(layer.kernel.shape)}; lower it"
            )
    for variable in model.variables:
        variable.trainable = False
    for variable in kept:
        variable.trainable = True
    for layer, pattern in chosen:
        layer.enable_lora(parts[pattern].rank, lora_alpha=parts[pattern].alpha)


def adapted(model) -> list[keras.layers.Dense]:
    """The layers that have an adapter."""
    return [layer for layer in _dense(model) if layer.lora_enabled]


def merged(model, dtype: str | None = None):
    """A plain model of the same function: each adapter is added to its kernel, in float32.

    Args: dtype: the new model's policy; None = that of `model`.
    """
    tensors = _tensors(model)
    for layer in adapted(model):
        path = _path(model, layer)
        a, b = (tensors.pop(f"{path.removesuffix('kernel')}lora_kernel_{side}") for side in "ab")
        tensors[path] = tensors[path] + np.float32(layer.lora_alpha / layer.lora_rank) * (a @ b)
    dtype = dtype or model.dtype_policy.name
    plain = type(model).with_weights(model.config, tensors, dtype, "the adapted model")
    plain.tasks = model.tasks
    return plain


def save(model, folder: str | Path) -> None:
    """Write the adapters alone: adapters.safetensors, and adapters.json with their ranks."""
    layers = {_path(model, layer): layer for layer in adapted(model)}
    if not layers:
        raise SaccadeError("the model has no adapters to save; give it some with lora.add")
    ranks = {
        path: {"rank": layer.lora_rank, "alpha": float(layer.lora_alpha)} for path, layer in layers.items()
    }
    tensors = {name: tensor for name, tensor in _tensors(model).items() if _is_adapter(name)}
    with atomic_directory(Path(folder)) as partial:
        digest = save_tensors(partial / WEIGHTS, tensors, {"format": "saccade"})
        record = {"lora": ranks, "weights_sha256": digest}
        (partial / CONFIG).write_text(json.dumps(record, indent=1) + "\n")


def load(model, folder: str | Path) -> None:
    """Give a plain model the adapters that `save` wrote, and freeze all else.

    Raises: SaccadeError: unreadable or altered files, or adapters of another architecture.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / CONFIG).read_text())
        ranks: dict[str, Any] = {path: Lora(**ranks) for path, ranks in record["lora"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise SaccadeError(f"{folder / CONFIG} is not of saved adapters: {error}; save them again") from error
    tensors = load_tensors(folder / WEIGHTS, record.get("weights_sha256"))
    add(model, {f"{re.escape(path)}$": value for path, value in ranks.items()})
    named = {name: v for name, v in model.named_variables().items() if _is_adapter(name)}
    wanted = {name: tuple(v.shape) for name, v in named.items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != found:
        first = next(name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name))
        raise SaccadeError(
            f"{folder / WEIGHTS} has {first} as {found.get(first)}, the model wants {wanted.get(first)}; "
            "use the adapters of this architecture"
        )
    for name, variable in named.items():
        variable.assign(tensors[name])


def _tensors(model) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(keras.ops.convert_to_numpy(v.value)) for name, v in model.named_variables().items()
    }


def _dense(model) -> list:
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dense)]


def _path(model, layer) -> str:
    """The path of a layer's kernel without the model's name."""
    return f"{layer.path}/kernel".removeprefix(f"{model.name}/")


def _is_adapter(name: str) -> bool:
    return name.rsplit("/", 1)[-1].startswith("lora_kernel_")


def _matching(model, layer, parts: dict[str, Lora]) -> list[str]:
    path = _path(model, layer)
    found = [pattern for pattern in parts if re.match(pattern, path)]
    if len(found) > 1:
        raise SaccadeError(f"lora {found[0]!r} and {found[1]!r} both match {path}; narrow one of them")
    return found
