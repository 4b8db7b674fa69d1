"""The last product of a branch, its residual and their norm in one kernel for Hopper GPUs.

The two blocks of a cluster lie side by side and have all columns of TILE rows between them. They tell each
other the sums of squares of their rows, so that what the norm is of is never written.

Shapes: left (M, F), right (F, D), x and plus (M, D), D = 2 COLUMNS; all bfloat16, sums in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade.kernels.common import ROWS, launch, multiprocessors
from saccade.kernels.norms import by_normed_sum
from saccade.kernels.tiles import (
    DEPTH,
    GROUPS,
    PIECE,
    TILE,
    Factor,
    Held,
    own_rows,
    rows_of,
    stage_at,
    stream,
    stream_memory,
)

COLUMNS = 256  # of a block: what a group's sums have registers for
STAGES = 3  # of its stream, as many as shared memory holds
CLUSTER = 2  # blocks that have a row between them
PIECES = [slice(start, start + PIECE) for start in range(0, COLUMNS, PIECE)]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def product_norm(left, right, x, plus, epsilon: float, copies: int) -> tuple:
    """rms(x + left right) + plus, rounded once; as often as it is read, so that the gradient's kernel adds
    what each reader says of it.

    Args: left: (M, F).  right: (F, D).  x: (M, D).  plus: (M, D), or None.  epsilon: added to the mean
        square.
    Returns: `copies` of shape and dtype of x.
    Source: RMSNorm without gain, arXiv:1910.07467.
    """
    return (normed(left, right, x, plus, epsilon)[0],) * copies


def _product_norm_keep(left, right, x, plus, epsilon, copies):
    y, of_norm = normed_keep(left, right, x, plus, epsilon)
    return (y,) * copies, (left, right, of_norm)


def _product_norm_gradient(epsilon, copies, kept, given):
    left, right, of_norm = kept
    by_sum, by_plus = normed_gradients(of_norm, given)
    return by_sum @ right.T, left.T @ by_sum, by_sum, by_plus


product_norm.defvjp(_product_norm_keep, _product_norm_gradient)


def normed_keep(left, right, x, plus, epsilon: float) -> tuple:
    """What `normed` gives, and what `normed_gradients` needs."""
    y, roots = normed(left, right, x, None, epsilon, keep=True)
    return y if plus is None else y + plus, (y, roots, None if plus is None else ())


def normed_gradients(kept: tuple, given: tuple) -> tuple:
    """By x + left right, and by plus (None where there was none), given those by each copy of the result."""
    y, roots, added = kept
    return by_normed_sum(y, roots, given), None if added is None else sum(given[1:], given[0])


@partial(jax.jit, static_argnames=("epsilon", "keep"))
def normed(left, right, x, plus, epsilon: float, keep: bool = False) -> tuple:
    """rms(x + left right) + plus, and with `keep` the root of each row, float32 (M, 1), else None."""
    rows, columns = x.shape
    steps = left.shape[1] // DEPTH

    def body(left_ref, right_ref, x_ref, *refs):
        *plus_ref, y_ref, roots_ref = refs if keep else (*refs, None)

        def columns_of(_, along, i):
            return right_ref.at[stage_at(i), pl.ds(along * COLUMNS, COLUMNS)]

        factors = [rows_of(left_ref, shared=True), Factor((DEPTH, COLUMNS), columns_of)]

        @partial(
            pl.run_scoped,
            memory=stream_memory(factors, STAGES, steps),
            held=Held.memory(1, COLUMNS, x.dtype),
            sums=[plgpu.SMEM((ROWS,), jnp.float32)] * GROUPS,
            roots=plgpu.SMEM((GROUPS, ROWS), jnp.float32),
            told=plgpu.ClusterBarrier(collective_axes=("cluster",), num_barriers=GROUPS),
            collective_axes="group",
        )
        def _(memory, held, sums, roots, told):
            group = lax.axis_index("group")

            def place(row, along, group):
                return pl.ds(row + group * ROWS, ROWS), pl.ds(along * COLUMNS, COLUMNS)

            def bring(row, along):
                held.bring(x_ref, lambda group: [place(row, along, group)])

            def tile(row, along, products):
                @partial(pl.run_scoped, total=plgpu.ACC((ROWS, COLUMNS), jnp.float32))
                def _(total):
                    def multiply(left_part, right_part):
                        plgpu.wgmma(total, own_rows(left_part), right_part)

                    products(multiply, held.tell_left)
                    product, mine = total[...], held.arrived().at[0]
                    parts = [product[:, piece] + mine[:, piece].astype(jnp.float32) for piece in PIECES]
                    tell(sums, sum(jnp.sum(part * part, axis=1) for part in parts), told)
                    for ref in plus_ref:  # over x, which all of the group have read
                        here = held.came.at[group]
                        plgpu.copy_gmem_to_smem(ref.at[place(row, along, group)], mine, here)
                    root = lax.rsqrt(of_both(sums, told) / columns + epsilon)
                    wide = lax.broadcast_in_dim(root, (ROWS, PIECE), (0,))
                    if plus_ref:
                        plgpu.barrier_wait(held.came.at[group])
                    for piece, part in zip(PIECES, parts, strict=True):
                        y = part * wide
                        if plus_ref:
                            y = y + mine[:, piece].astype(jnp.float32)
                        mine[:, piece] = y.astype(x.dtype)
                    if roots_ref is not None:
                        roots[group] = root
                    plgpu.commit_smem()
                    plgpu.copy_smem_to_gmem(mine, y_ref.at[place(row, along, group)])
                    if roots_ref is not None:

                        @pl.when(along == 0)
                        def _():
                            own = pl.ds(row + group * ROWS, ROWS)
                            plgpu.copy_smem_to_gmem(roots.at[group], roots_ref.at[own])

            def after():
                """Leave a block only when the other has read its last sums."""
                plgpu.barrier_arrive(told.at[group])
                plgpu.barrier_wait(told.at[group])

            tiles = pl.cdiv(rows, TILE), 1
            stream(factors, memory, tiles, steps, tile, bring, side_by_side=True, after=after)

        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    out_type = [jax.ShapeDtypeStruct(x.shape, x.dtype)]
    if keep:
        out_type.append(jax.ShapeDtypeStruct((rows,), jnp.float32))
    kernel = launch("product_norm", body, tuple(out_type), GROUPS + 1, multiprocessors(), cluster=CLUSTER)
    y, *kept = kernel(left, right, x, *(() if plus is None else (plus,)))
    return y, kept[0][:, None] if keep else None


def tell(sums: list, own, told) -> None:
    """Write a group's sums of rows where the same group of the other block finds them."""
    for group, ref in enumerate(sums):

        @pl.when(lax.axis_index("group") == group)
        def _(ref=ref):
            ref[...] = own

    plgpu.commit_smem()
    plgpu.barrier_arrive(told.at[lax.axis_index("group")])


def of_both(sums: list, told):
    """A group's sums of rows and those of the same group of the other block, which has told them.

    Nobody writes again what another has yet to read: the next tile has more stages than shared memory, and
    those beyond come when all groups of both blocks have begun it.
    """
    group, other = lax.axis_index("group"), 1 - lax.axis_index("cluster")
    plgpu.barrier_wait(told.at[group])

    def total(ref):
        # Of two numbers, so the order does not matter: both blocks find the same bits.
        return ref[...] + plgpu.cluster_ref(ref, {"cluster": other})[...]

    first, second = sums
    return lax.cond(group == 0, lambda: total(first), lambda: total(second))
