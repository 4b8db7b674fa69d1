"""A net with GELU in two products for Hopper GPUs, the first of which ends with its bias and GELU, and whose
gradient's product with `down` ends with GELU's.

Shapes: x (M, D), up (D, F), bias float32 (F,), down (F, D); all else bfloat16, sums in float32.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import launch, multiprocessors
from saccade.kernels.tiles import CLUSTER, GROUPS, PIECE, WIDTH, gradients, pairs_of_tiles

SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715


@jax.custom_vjp
def net(x, up, bias, down):
    """gelu(x up + bias) down, GELU by its tanh form.

    Returns: (M, D).
    Source: Gaussian Error Linear Units, arXiv:1606.08415, section 2.
    """
    return _raised(x, up, bias, keep=False)[0] @ down


def _net_keep(x, up, bias, down):
    hidden, before = _raised(x, up, bias, keep=True)
    return hidden @ down, (x, up, down, hidden, before)


def _net_gradient(kept, given):
    x, up, down, hidden, before = kept
    by_before = gradients(given, down, before, _by_before)
    by_bias = jnp.sum(by_before, axis=0, dtype=jnp.float32)
    return by_before @ up.T, x.T @ by_before, by_bias, hidden.T @ given


def _bent(before):
    return jnp.tanh(SLOPE * (before + CUBIC * before**3))


def _by_before(before, by_hidden):
    bent = _bent(before)
    slope = SLOPE * (1 + 3 * CUBIC * before**2)
    return (by_hidden * 0.5 * (1 + bent + before * (1 - bent**2) * slope),)


net.defvjp(_net_keep, _net_gradient)


@partial(jax.jit, static_argnames="keep")
def _raised(x, up, bias, keep: bool) -> tuple:
    """hidden (M, F), and with `keep` what GELU got, (M, F)."""
    out_type = (jax.ShapeDtypeStruct((len(x), len(bias)), x.dtype),) * (1 + keep)

    def body(x_ref, up_ref, bias_ref, *refs):
        *outs, biases, arrived = refs
        group = lax.axis_index("group")

        def ahead(column):
            plgpu.copy_gmem_to_smem(
                bias_ref.at[pl.ds(column, 2 * WIDTH)], biases.at[group], arrived.at[group]
            )

        def finish(first, second, leave, row, column):
            plgpu.barrier_wait(arrived.at[group])
            for half, total in enumerate((first, second)):
                total = total[...]
                for start in range(0, WIDTH, PIECE):
                    at = half * WIDTH + start
                    own = biases[group, pl.ds(at, PIECE)]
                    before = total[:, start : start + PIECE]
                    before = before + lax.broadcast_in_dim(own, before.shape, (1,))
                    leave(0.5 * before * (1 + _bent(before)), outs[0], row, column + at)
                    if keep:
                        leave(before, outs[1], row, column + at)

        pairs_of_tiles(x_ref, up_ref, 2 * WIDTH, WIDTH, finish, ahead)

    scratch = [plgpu.SMEM((GROUPS, 2 * WIDTH), jnp.float32), plgpu.Barrier(num_barriers=GROUPS)]
    return launch("gelu", body, out_type, GROUPS + 1, multiprocessors(), scratch, CLUSTER)(x, up, bias)
