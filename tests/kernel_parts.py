"""What the tests of kernels share."""

import contextlib
import warnings

import jax

from saccade import kernels


@contextlib.contextmanager
def fitting():
    """As within `allowed`, where nothing need be used in the end; gives the names of what is."""
    token = kernels._used.set(set())
    yield kernels._used.get()
    kernels._used.reset(token)


@contextlib.contextmanager
def hopper():
    """A program is for an H100: JAX 0.11 asks which GPU Triton is to be lowered for."""
    if jax.__version_info__ < (0, 11):
        yield
        return
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    with (
        jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)),
        # Pallas for Triton is to go, in a version of JAX that the kernels then refuse (decision 0017).
        warnings.catch_warnings(action="ignore", category=DeprecationWarning),
    ):
        yield
