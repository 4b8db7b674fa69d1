"""Imports point one way, data/ knows no Keras, and `import saccade` is instant."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "saccade"
HEAVY = ("keras", "jax", "torch", "tensorflow")

# A module may import from its own row and from rows above it.
ROWS = (
    ("errors", "files", "progress"),
    ("data", "metrics", "config", "draw"),
    ("backend", "kernels", "model", "layers", "losses"),
    ("fusion", "recursion"),
    ("decoding",),
    ("generate",),
    ("models", "heads", "hub"),
    (
        *"train reason solve puzzles evaluation features pipeline chat clip few_shot captioning".split(),
        *"search export fine_tuning".split(),
    ),
    ("analysis", "serve", "cli", "recipes"),
)
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            found.add(node.module)
            if node.module == "saccade":
                found |= {f"saccade.{alias.name}" for alias in node.names}
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = part_of(path)
    if own == "__init__":
        assert not {name.split(".")[0] for name in imported(path)} & {*HEAVY, "numpy", "saccade"}
        return
    assert own in ROW_OF, f"give saccade/{own} a row in {Path(__file__).name}"
    for name in imported(path):
        if name.startswith("saccade."):
            other = name.split(".")[1]
            assert ROW_OF.get(other, -1) <= ROW_OF[own], f"{own} must not import {other}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if part_of(p) in ("data", "draw", "files", "errors")], ids=str
)
def test_data_names_no_framework(path):
    assert not {name.split(".")[0] for name in imported(path)} & set(HEAVY)


def in_a_new_process(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_data_loads_no_framework():
    modules = [
        ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in FILES if part_of(p) == "data"
    ]
    code = f"import sys, {', '.join(m.removesuffix('.__init__') for m in modules)}\n"
    assert in_a_new_process(code + f"print(*[m for m in {HEAVY} if m in sys.modules])").split() == []


def test_import_is_instant_and_picks_jax():
    code = (
        "import os, sys, time\n"
        "os.environ.pop('KERAS_BACKEND', None)\n"
        "start = time.perf_counter()\n"
        "import saccade\n"
        "print(time.perf_counter() - start, os.environ['KERAS_BACKEND'])\n"
        f"assert not [m for m in {HEAVY} if m in sys.modules]\n"
    )
    runs = [in_a_new_process(code).split() for _ in range(3)]
    assert {backend for _, backend in runs} == {"jax"}
    assert min(float(seconds) for seconds, _ in runs) < 0.3


def test_a_chosen_backend_is_kept():
    code = (
        "import os; os.environ['KERAS_BACKEND'] = 'torch'; import saccade; print(os.environ['KERAS_BACKEND'])"
    )
    assert in_a_new_process(code).strip() == "torch"


def test_the_command_line_starts_without_frameworks():
    modules = (*HEAVY, "numpy", "PIL", "tokenizers")
    code = f"import sys, saccade.cli\nprint(*[m for m in {modules} if m in sys.modules])"
    assert in_a_new_process(code).split() == []
