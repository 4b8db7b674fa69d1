"""Kernels for Hopper GPUs (H100, H200): SwiGLU and the mixer of mlp_t in fewer passes over memory.

Within `allowed`, layers ask `swiglu_fits` and `mixer_fits` and call `swiglu` and `mixed` where the answer is
yes: bfloat16, JAX, one GPU, shapes that fill its tiles. Everywhere else they compute the same by plain
operations. Written in Pallas, whose part for Hopper changes between versions of JAX: others than VERSIONS get
plain operations, and are told (docs/decisions/0017).
"""

import contextlib
import contextvars
import functools
import logging
import math
from collections.abc import Generator

from keras import ops

from saccade import backend

VERSIONS = ((0, 10), (0, 11))  # of JAX, first and last that the kernels were tried with
FEWEST = 2**23  # of rows times inner channels: below, the GPU's tiles are too few for its multiprocessors
_allowed = contextvars.ContextVar("kernels_allowed", default=False)


@contextlib.contextmanager
def allowed(yes: bool = True) -> Generator[None]:
    """What is traced within may use the kernels, or with `yes=False` may not."""
    token = _allowed.set(yes)
    try:
        yield
    finally:
        _allowed.reset(token)


@functools.cache
def _device_fits() -> bool:
    if backend.compute_capability() != (9, 0):
        return False
    import jax

    if len(jax.devices()) > 1:  # a kernel is not divided among them
        return False
    if VERSIONS[0] <= jax.__version_info__[:2] <= VERSIONS[1]:
        return True
    tried = " to ".join(".".join(map(str, version)) for version in VERSIONS)
    logging.getLogger("saccade").warning(
        "JAX %s: kernels for this GPU were tried with %s; plain operations are slower", jax.__version__, tried
    )
    return False


def _fits(x) -> bool:
    return _allowed.get() and x.dtype == "bfloat16" and None not in x.shape and _device_fits()


def swiglu_fits(x, inner: int) -> bool:
    """Whether `swiglu` takes x (..., D) and a net of `inner` channels."""
    if not _fits(x):
        return False
    rows = math.prod(x.shape[:-1])
    return rows % 256 == 0 and x.shape[-1] % 64 == 0 and inner % 128 == 0 and rows * inner >= FEWEST


def swiglu(x, kernel, down):
    """(silu(x gate) * (x up)) down, gate and up the halves of kernel.

    Args: x: bfloat16 (..., D), see `swiglu_fits`.  kernel: (D, 2 F).  down: (F, D).
    Returns: bfloat16 (..., D).
    Source: GLU Variants Improve Transformer, equation 6, arXiv:2002.05202.
    """
    from saccade.kernels import gated

    rows = ops.reshape(x, (-1, x.shape[-1]))
    result = gated.swiglu(rows, ops.cast(kernel, x.dtype), ops.cast(down, x.dtype))
    return ops.reshape(result, (*x.shape[:-1], down.shape[-1]))


def mixer_fits(x, inner: int) -> bool:
    """Whether `mixed` takes x (S, ..., D) and a net of `inner` channels along S."""
    if not _fits(x):
        return False
    seq, columns = x.shape[0], math.prod(x.shape[1:])
    # Both kernels stay in a multiprocessor's shared memory, 227 KiB, beside four tiles of x.
    return (
        seq % 8 == 0
        and seq <= 96
        and inner in (64, 128, 192, 256)
        and columns % 128 == 0
        and (columns * inner >= FEWEST)
    )


def mixed(x, kernel, down, epsilon: float):
    """rms(x + SwiGLU(x)), both along the first axis.

    Args: x: bfloat16 (S, ..., D), see `mixer_fits`.  kernel: (S, 2 F), gate and up.  down: (F, S).
        epsilon: of the norm.
    Returns: bfloat16, shape of x.
    """
    from saccade.kernels import sequence

    columns = ops.reshape(x, (x.shape[0], -1))
    mixed = sequence.mixed(columns, ops.cast(kernel, x.dtype), ops.cast(down, x.dtype), epsilon)
    return ops.reshape(mixed, x.shape)
