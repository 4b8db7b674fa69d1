"""Cross-entropy of rows of logits and its gradient in one kernel.

A block has one row and reads it three times: for the highest, for the sum, and for the slope. So few rows are
under way at once that mostly the second and third time come from the GPU's cache. Written in Pallas for
Triton.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from saccade.kernels.common import LOWEST

COLUMNS = 4096  # of a row at once
WARPS = 16  # of a block: four fill a multiprocessor; 528 rows of 49,280 logits are as much as the cache has


@jax.jit
def cross_entropy(logits, targets, weights) -> tuple:
    """See `saccade.losses.tokens.next_token`.

    Args: logits: (rows, V).  targets: int32 (rows,), below V.  weights: float32 (rows,).
    Returns: weights * -log p[target] and whether the target has the highest logit, both float32 (rows,); and
        the gradient by logits of the former's sum, dtype of logits.
    """
    rows, columns = logits.shape
    parts = pl.cdiv(columns, COLUMNS)

    def cross_entropy(logits_ref, targets_ref, weights_ref, loss_ref, right_ref, slope_ref):
        row = pl.program_id(0)
        target, weight = (triton.load(ref.at[row]) for ref in (targets_ref, weights_ref))

        def place(i):
            column = i * COLUMNS + lax.iota(jnp.int32, COLUMNS)
            return column, (row, pl.ds(i * COLUMNS, COLUMNS)), column < columns

        def read(i):
            _, at, real = place(i)
            return triton.load(logits_ref.at[at], mask=real, other=LOWEST).astype(jnp.float32)

        def each(start, add):
            return lax.fori_loop(0, parts, lambda i, found: add(found, read(i)), jnp.full(COLUMNS, start))

        highest = jnp.max(each(LOWEST, jnp.maximum))
        total = highest + jnp.log(jnp.sum(each(0.0, lambda found, x: found + jnp.exp(x - highest))))
        picked = triton.load(logits_ref.at[row, target]).astype(jnp.float32)
        triton.store(loss_ref.at[row], weight * (total - picked))
        triton.store(right_ref.at[row], jnp.where(picked >= highest, 1.0, 0.0))

        @pl.loop(0, parts)
        def _(i):
            column, at, real = place(i)
            slope = jnp.exp(read(i) - total) - jnp.where(column == target, 1.0, 0.0)
            triton.store(slope_ref.at[at], (weight * slope).astype(logits.dtype), mask=real)

    row = jax.ShapeDtypeStruct((rows,), jnp.float32)
    matrix = pl.BlockSpec((rows, parts * COLUMNS), lambda _: (0, 0))
    vector = pl.BlockSpec((rows,), lambda _: (0,))
    return pl.pallas_call(
        cross_entropy,
        out_shape=(row, row, jax.ShapeDtypeStruct(logits.shape, logits.dtype)),
        grid=(rows,),
        in_specs=(matrix, vector, vector),
        out_specs=(vector, vector, matrix),
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=2),
        name="cross_entropy",
    )(logits, targets, weights)
