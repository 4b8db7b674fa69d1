"""What the tests of kernels share."""

import contextlib
import warnings
from functools import partial

import jax
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

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
def interpreted_hopper(*modules):
    """A CPU does what a Hopper GPU would with what these modules launch: copies, barriers and all."""
    if jax.__version_info__ < kernels.VERSION:
        pytest.skip(
            f"the interpreter of JAX {jax.__version__} does not know clusters; Python 3.12 gets a newer one"
        )
    wgmma, spare = plgpu.wgmma, []

    def with_spare(launch):
        def launch_with_spare(name, body, out_type, groups, blocks, scratch=(), cluster=1):
            def body_with_spare(*refs):
                first = len(refs) - len(scratch) - 1
                spare.append(refs[-1])
                body(*refs[:first], *map(_seen_twice, scratch, refs[first:-1]))
                spare.pop()

            own = [*map(_one_memory, scratch), plgpu.SMEM((groups, 64, 256), "bfloat16")]
            return launch(name, body_with_spare, out_type, groups, blocks, own, cluster)

        return launch_with_spare

    def from_memory(total, left, right):
        """The interpreter takes no factor from registers, which the GPU does."""
        if isinstance(left, jax.Array):
            held = spare[-1].at[lax.axis_index("group"), :, pl.ds(0, left.shape[1])]
            held[...] = left
            plgpu.commit_smem()
            left = held
        wgmma(total, left, right)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plgpu, "wgmma", from_memory)
        for module in modules:
            patch.setattr(module, "launch", with_spare(module.launch))
        with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=True)):
            yield


def _one_memory(scratch):
    """The interpreter knows no unions: of several views of one head's memory, the first; and what else lies
    over them apart."""
    if isinstance(scratch, list):
        return [_one_memory(part) for part in scratch]
    if not isinstance(scratch, plgpu.RefUnion):
        return scratch
    first, _, *over = scratch.refs
    return [first, *over] if over else first


def _seen_twice(scratch, ref):
    """What a kernel expects where `_one_memory` made one."""
    if isinstance(scratch, list):
        return [_seen_twice(*both) for both in zip(scratch, ref, strict=True)]
    if not isinstance(scratch, plgpu.RefUnion):
        return ref
    return (ref[0], ref[0], *ref[1:]) if len(scratch.refs) > 2 else (ref, ref)


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
