"""The only base class: a Keras model made from one frozen dataclass, saved as safetensors + JSON."""

import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from saccade import backend
from saccade.errors import SaccadeError
from saccade.files import atomic_directory, load_tensors, save_tensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class Model(keras.Model):
    """Subclasses set `Config` (a frozen dataclass with `from_json`) and build everything in `build`.

    `model.save(directory)` writes config.json + model.safetensors; `Model.load(directory)` reads them.
    `model.save("x.keras")` is Keras's own format, for interchange.
    """

    Config: Any
    tasks: tuple = ()  # what these weights have learned; a class lists what it has heads for

    def __init__(self, config, **kwargs):
        kwargs.setdefault("name", type(self).__name__.lower())
        super().__init__(**kwargs)
        self.config = config

    def get_config(self) -> dict:
        return {**super().get_config(), "config": asdict(self.config)}

    @classmethod
    def from_config(cls, config: dict, custom_objects=None):
        return cls(**{**config, "config": cls.Config.from_json(config["config"])})

    def named_variables(self) -> dict:
        """Every variable under its path without the model's own name; paths are unique."""
        named = {variable.path.split("/", 1)[1]: variable for variable in self.variables}
        if len(named) != len(self.variables):
            raise ValueError(f"{type(self).__name__} has two variables of one path; name its layers")
        return named

    def save(self, path, dtype: str | None = None, **kwargs):
        """Write a directory, or Keras's file where the name ends in .keras. `dtype` narrows the weights."""
        if str(path).endswith(".keras"):
            super().save(path, **kwargs)
            return
        with atomic_directory(Path(path)) as folder:
            self.write(folder, dtype)

    def write(self, folder: Path, dtype: str | None = None) -> None:
        """Write config.json and model.safetensors into an existing folder."""
        tensors = {
            name: np.asarray(keras.ops.convert_to_numpy(v.value))
            for name, v in self.named_variables().items()
        }
        if dtype is not None:
            import ml_dtypes  # ships with jax: gives NumPy its bfloat16

            narrow = np.dtype(getattr(ml_dtypes, dtype, dtype))
            tensors = {k: t.astype(narrow) if t.dtype == np.float32 else t for k, t in tensors.items()}
        digest = save_tensors(folder / WEIGHTS, tensors, {"format": "saccade"})
        record = {
            "model": type(self).__name__,
            "tasks": list(self.tasks),
            "config": asdict(self.config),
            "weights_sha256": digest,
        }
        (folder / CONFIG).write_text(json.dumps(record, indent=1) + "\n")

    @classmethod
    def load(cls, folder, dtype: str = "float32", **changes):
        """Read a directory that `save` wrote; hashes, names and shapes are checked.

        Args: changes: fields of its configuration to replace, such as cycles or thresholds; the weights must
            still fit.
        Raises: SaccadeError: unreadable, altered, or of another configuration.
        """
        folder = Path(folder)
        record = read_config(folder)
        if record.get("model") != cls.__name__:
            raise SaccadeError(f"{folder / CONFIG} describes a {record.get('model')!r}, not a {cls.__name__}")
        unknown = set(record.get("tasks", [None])) - set(cls.tasks)
        if unknown:
            raise SaccadeError(f"{folder / CONFIG} names tasks {unknown}, {cls.__name__} has {cls.tasks}")
        try:
            config = replace(cls.Config.from_json(record["config"]), **changes)
        except (TypeError, KeyError, ValueError) as error:
            raise SaccadeError(f"{folder / CONFIG} is no {cls.__name__} configuration: {error}") from error
        tensors = load_tensors(folder / WEIGHTS, record.get("weights_sha256"))
        model = cls.with_weights(config, tensors, dtype, str(folder))
        model.tasks = tuple(record["tasks"])
        return model

    @classmethod
    def shapes(cls, config) -> dict:
        """The shape of each variable that a model of this configuration has; it is never given values."""
        with keras.StatelessScope(initialize_variables=False):
            named = cls(config).named_variables()
        shapes = {name: tuple(variable.shape) for name, variable in named.items()}
        for variable in named.values():
            # Keras gives forgotten variables their values when the next scope closes: make them nothing.
            variable._initializer = lambda shape, dtype=None: backend.to_device(np.zeros((), dtype))
        return shapes

    @classmethod
    def count_parameters(cls, config) -> int:
        """Parameters of a model of this configuration."""
        return sum(math.prod(shape) for shape in cls.shapes(config).values())

    @classmethod
    def with_weights(cls, config, tensors: dict, dtype: str, source: str, fresh: tuple = ()):
        """A model with these weights; `source` names them in errors.

        Args: fresh: prefixes of variables that may be missing from `tensors`; they start at random.
        """
        # Variables made inside a StatelessScope get their first value when it closes: from the file here,
        # which spares drawing (and compiling) random weights that would be overwritten at once.
        with keras.StatelessScope():
            model = cls(config, dtype=dtype)
            named = {
                name: variable
                for name, variable in model.named_variables().items()
                if name in tensors or not name.startswith(fresh)
            }
            _audit(named, tensors, source)
            for name, variable in named.items():
                variable._initializer = _constant(tensors[name])
        return model


def _constant(value):
    # On the device already: Keras would have JAX compile one conversion for each shape.
    return lambda shape, dtype=None: backend.to_device(np.asarray(value).astype(dtype))


def _audit(named: dict, tensors: dict, source: str) -> None:
    missing, unused = sorted(named.keys() - tensors.keys()), sorted(tensors.keys() - named.keys())
    if missing or unused:
        raise SaccadeError(
            f"the weights of {source} are of another configuration: {len(missing)} missing "
            f"(first: {missing[:1]}), {len(unused)} unused (first: {unused[:1]}); "
            "use the config.json they were saved with"
        )
    for name, variable in named.items():
        if tuple(variable.shape) != tuple(tensors[name].shape):
            raise SaccadeError(
                f"the weights of {source} are of another configuration: {name} is "
                f"{tuple(tensors[name].shape)}, the model wants {tuple(variable.shape)}"
            )


def choose(presets: dict, name: str, changes: dict):
    """The configuration of that name, with fields replaced. Raises: SaccadeError: no such name or field."""
    if name not in presets:
        raise SaccadeError(f"no preset is called {name!r}; use one of {', '.join(presets)}")
    known = [field.name for field in fields(presets[name])]
    unknown = sorted(changes.keys() - set(known))
    if unknown:
        raise SaccadeError(f"preset {name} has no field {unknown[0]!r}; its fields are {', '.join(known)}")
    return replace(presets[name], **changes)


def read_config(folder: Path) -> dict:
    """The parsed config.json of a model directory. Raises: SaccadeError naming what is wrong."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise SaccadeError(
            f"{folder} is not a model directory: it has no {CONFIG}; give one that `save` wrote"
        )
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise SaccadeError(
            f"{path} is not readable JSON ({error}); download or save the model again"
        ) from error
    if not isinstance(record, dict):
        raise SaccadeError(f"{path} holds no JSON object; download or save the model again")
    return record
