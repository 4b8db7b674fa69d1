"""What the tests of kernels share."""

import contextlib
import warnings
from functools import partial

import jax
import pytest
from jax.experimental import pallas as pl

from saccade import kernels


def with_gradient(function):
    """(gradient by the result, arguments) -> the result and the gradients by the arguments."""

    def both(given, *args):
        result, back = jax.vjp(function, *args)
        return result, *back(given)

    return both


@contextlib.contextmanager
def fitting():
    """As within `allowed`, where nothing need be used in the end; gives the names of what is."""
    token = kernels._used.set(set())
    try:
        yield kernels._used.get()
    finally:
        kernels._used.reset(token)


@contextlib.contextmanager
def interpreted():
    """A CPU does what a GPU would with a Triton kernel."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl, "pallas_call", partial(pl.pallas_call, interpret=True))
        yield
    jax.clear_caches()  # what was traced so must not be met again


@contextlib.contextmanager
def for_hopper():
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
