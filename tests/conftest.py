"""What every test shares. The environment is set first: Keras and JAX read it when they are imported."""

import gc
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
# Compiled programs are kept between runs and shared by the workers: most of a test's time is compilation.
_cache = Path(tempfile.gettempdir()) / f"saccade-tests-{os.getuid()}" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # for `-m gpu` set it to cuda
if not version("jax").startswith("0.10."):
    # The interpreter of GPU kernels, which 0.11 brought, waits in a thread for each group of warps: XLA must
    # have that many, or it waits for ever.
    os.environ.setdefault("NPROC", "16")

import pytest  # noqa: E402, the environment comes first

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real data: SACCADE_SHARED, or `shared` beside the repository."""
    folder = Path(os.environ.get("SACCADE_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared data: set SACCADE_SHARED")
    return folder


SENTENCES = (
    "how many red cubes are left of the small metal ball?",
    "there are 3 blue cones, and one green star is large.",
    "what color is the cylinder?",
    "the ball is yellow.",
)


@pytest.fixture(scope="session")
def tokenizer():
    from saccade.data.text import Tokenizer

    return Tokenizer.train(SENTENCES, vocab_size=300)


@pytest.fixture
def processor(tokenizer):
    from saccade.data.processor import Processor, ProcessorConfig
    from saccade.data.text import lexicon_of

    config = ProcessorConfig(
        image_sizes=((36, 36), (20, 80)),
        answers=("no", "yes", "3", "red"),
        max_length=24,
        length_multiple=8,
        target_length=21,
        lexicon=lexicon_of(SENTENCES),
    )
    return Processor(tokenizer, config)


@pytest.fixture(scope="module", autouse=True)
def _programs_are_dropped():
    """A compiled program holds several memory maps, a process may have 65,530: beyond them XLA crashes. The
    cache on disk gives back what another module needs again."""
    yield
    if "jax" in sys.modules:
        gc.collect()
        sys.modules["jax"].clear_caches()
