"""Recipes: Python files that say what to train. Settings are validated; overrides are `key.sub=value`.

A recipe file defines

    class Config(BaseModel):                    # pydantic, frozen, a default for each field; may nest
        train: TrainConfig = TrainConfig(steps=20_000)
    SMOKE = {"train.steps": 20}                 # overrides that make it run in seconds
    def recipe(config, out_dir) -> Trainer:     # builds the real objects; out_dir may be None
"""

import difflib
import importlib.util
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from saccade.errors import SaccadeError
from saccade.files import write_text
from saccade.train.config import first_error

if TYPE_CHECKING:
    from saccade.train.trainer import Result

_PACKAGE = Path(__file__).parent.parent
# A wheel has them within the package, a checkout beside it, whatever folder the shell is in.
PACKAGED = _PACKAGE / "recipes" if (_PACKAGE / "recipes").is_dir() else _PACKAGE.parent / "recipes"
C = TypeVar("C", bound=BaseModel)


class _Yaml(yaml.SafeLoader):
    """YAML whose `3e-4` is a number; plain PyYAML reads a string."""


_Yaml.yaml_implicit_resolvers = dict(
    yaml.SafeLoader.yaml_implicit_resolvers
)  # before adding: shared with the parent
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _hint(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def apply_overrides(config: C, overrides: Iterable[str]) -> C:
    """A copy of a config with some values changed, validated as a whole.

    Args:
        config: a pydantic model. overrides: `key=value` or `key.sub=value`, the value in YAML.
    Raises: SaccadeError: no `=`; an unknown key (suggests one); a value of the wrong type or out of range.
    """
    values = config.model_dump()
    for text in overrides:
        key, equals, written = text.partition("=")
        if not equals or not key:
            raise SaccadeError(f"cannot read the override {text!r}; write key=value, such as train.steps=100")
        try:
            value = yaml.load(written, _Yaml)  # a SafeLoader
        except yaml.YAMLError as error:
            raise SaccadeError(
                f"cannot read the value of {key}: {written!r} is not YAML; quote it"
            ) from error
        _set(values, type(config), key, value)
    try:
        return type(config).model_validate(values)
    except ValidationError as error:
        raise SaccadeError(first_error(error)) from error


def _set(values: dict, kind: Any, key: str, value: Any) -> None:
    """Put a value at a dotted key. `kind` is the model class at this level, or None below a plain dict."""
    names = key.split(".")
    for depth, name in enumerate(names):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if name not in kind.model_fields:
                raise SaccadeError(
                    f"unknown key {'.'.join(names[: depth + 1])!r}; {_hint(name, kind.model_fields)}"
                )
            kind = kind.model_fields[name].annotation
        else:
            kind = None
        if depth == len(names) - 1:
            values[name] = value
            return
        if not isinstance(values.get(name), dict):
            if kind is not None:
                raise SaccadeError(
                    f"{'.'.join(names[: depth + 1])!r} is a single value; {key!r} does not exist"
                )
            values[name] = {}
        values = values[name]


def list_recipes() -> dict[str, Path]:
    """Name -> file of every recipe: those packaged, and over them those in ./recipes."""
    found: dict[str, Path] = {}
    for folder in (PACKAGED, Path("recipes")):
        found |= {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}
    return found


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe. Raises: SaccadeError: there is none of that name (suggests one)."""
    path = Path(name_or_path)
    if path.suffix == ".py":
        if not path.is_file():
            raise SaccadeError(f"the recipe file {path} does not exist; check the path")
        return path
    recipes = list_recipes()
    if str(name_or_path) not in recipes:
        hint = _hint(str(name_or_path), recipes) if recipes else "give the path of a .py file"
        raise SaccadeError(f"no recipe is called {str(name_or_path)!r}; {hint}")
    return recipes[str(name_or_path)]


def load_recipe(name_or_path: str | Path) -> ModuleType:
    """Run a recipe file and return it as a module with `Config`, `recipe` and `SMOKE`.

    Args:
        name_or_path: a path ending in .py, or a name: ./recipes/NAME.py first, then the packaged one.
    Raises: SaccadeError: not found, or something is missing in the file.
    """
    path = find_recipe(name_or_path)
    name = f"saccade_recipe_{re.sub(r'[^0-9a-zA-Z]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SaccadeError(f"{path} cannot be imported; check that it is a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic looks annotations up there
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise SaccadeError(f"{path}, line {error.lineno}: {error.msg}; correct the recipe") from error
    missing = [needed for needed in ("Config", "recipe", "SMOKE") if not hasattr(module, needed)]
    if missing:
        raise SaccadeError(
            f"{path} defines no {' and no '.join(missing)}; a recipe has Config, recipe and SMOKE"
        )
    return module


def make_config(module: ModuleType, overrides: Iterable[str] = (), smoke: bool = False) -> BaseModel:
    """The recipe's config: its defaults, then SMOKE if asked, then the overrides."""
    small = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in module.SMOKE.items()]
    return apply_overrides(module.Config(), [*(small if smoke else []), *overrides])


def run_recipe(
    name_or_path: str | Path,
    overrides: Iterable[str] = (),
    smoke: bool = False,
    out: str | Path | None = None,
) -> "Result":
    """Train a recipe and return what the run measured.

    Args:
        name_or_path: see `load_recipe`. overrides: see `apply_overrides`. smoke: apply SMOKE first.
        out: the output folder, which also gets config.json; default `runs/NAME`, for smoke runs a temporary
            one.
    Raises: SaccadeError: see `load_recipe`, `apply_overrides` and Trainer.
    """
    from saccade import backend

    module = load_recipe(name_or_path)
    config = make_config(module, overrides, smoke)
    backend.enable_compilation_cache()
    if out is None and smoke:
        with tempfile.TemporaryDirectory(prefix="saccade-smoke-") as folder:
            return _run(module, config, Path(folder))
    return _run(
        module, config, Path(out) if out is not None else Path("runs") / find_recipe(name_or_path).stem
    )


def _run(module: ModuleType, config: BaseModel, out_dir: Path) -> "Result":
    write_text(out_dir / "config.json", config.model_dump_json(indent=1) + "\n")
    return module.recipe(config, out_dir).fit()
