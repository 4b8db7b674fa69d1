"""The norms of residual blocks, in one pass each way.

`normalized`, before a branch, hands x through beside its norm, so that the gradient's kernel adds what the
residual says of x, which would otherwise be a pass of its own. A row lies in registers whole: its mean and
root are found there again, and nothing but x is kept.

`post_norm`, after a branch, is of the sum, and keeps its result and each row's root. Written in Pallas for
Triton.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from saccade.kernels.common import multiprocessors

NUMBERS = 4096  # of x that a block has at once: as many rows, widened to a power of two
WARPS = 4
NUMBERS_BACK = 2048  # the same for the gradient, which needs more registers
WARPS_BACK = 4
BLOCKS = 4  # of the gradient, for each multiprocessor, whose registers hold them all at once


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalized(x, scale, shift, epsilon: float):
    """(norm(x) scale + shift, x), in float32, rounded once.

    Args: x: (rows, D).  scale: float32 (D,).  shift: float32 (D,), the norm is LayerNorm; None: RMSNorm.
        epsilon: added to the variance or the mean square, above 0.
    Returns: two of shape and dtype of x.
    Source: LayerNorm, arXiv:1607.06450; RMSNorm, arXiv:1910.07467.
    """
    y, *_ = _normed(x, None, scale, shift, epsilon)
    return y, x


def _normalized_keep(x, scale, shift, epsilon):
    # A product adds the branch to what is handed through, in place: x, which is kept, would be copied for it.
    y, _, again = _normed(x, None, scale, shift, epsilon, again=True)
    return (y, again), (x, scale, shift)


def _normalized_gradient(epsilon, kept, given):
    x, scale, shift = kept
    by_x, sums = _gradients(x, scale, *given, shift is not None, epsilon)
    by_scale, *by_shift = jnp.sum(sums, axis=0)
    return by_x, by_scale, by_shift[0] if by_shift else None


normalized.defvjp(_normalized_keep, _normalized_gradient)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def post_norm(x, branch, epsilon: float, copies: int) -> tuple:
    """rms(x + branch), in float32, rounded once; as often as it is read, so that the gradient's kernel adds
    what each reader says of it.

    Args: x, branch: (rows, D).  epsilon: added to the mean square.
    Returns: `copies` of shape and dtype of x.
    Source: RMSNorm without gain, arXiv:1910.07467; its gradient, see `saccade.layers.normalization.rms`.
    """
    y, *_ = _normed(x, branch, None, None, epsilon)
    return (y,) * copies


def _post_norm_keep(x, branch, epsilon, copies):
    y, root, _ = _normed(x, branch, None, None, epsilon, keep_root=True)
    return (y,) * copies, (y, root)


def _post_norm_gradient(epsilon, copies, kept, given):
    by_sum = by_normed_sum(*kept, given)
    return by_sum, by_sum


post_norm.defvjp(_post_norm_keep, _post_norm_gradient)


@partial(jax.jit, static_argnames=("epsilon", "keep_root", "again"))
def _normed(x, branch, scale, shift, epsilon: float, keep_root: bool = False, again: bool = False) -> tuple:
    """The norm of x + branch; each row's root, float32 (rows, 1); and x. The latter two are None unless asked
    for; branch, scale and shift may be None."""
    tile = _tile(x.shape[1], NUMBERS)
    like, roots = jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct((len(x), 1), jnp.float32)

    def norm(x_ref, branch_ref, scale_ref, shift_ref, y_ref, roots_ref, again_ref):
        place, real = _place(pl.program_id(0), tile, x.shape)
        total = _load(x_ref, place, real)
        if again:
            triton.store(again_ref.at[place], total.astype(x.dtype), mask=real)
        if branch_ref is not None:
            total = total + _load(branch_ref, place, real)
        y, root = _unit(total, real, x.shape[1], shift_ref is not None, epsilon)
        if scale_ref is not None:
            y = y * _row(scale_ref, tile, x.shape[1])
        if shift_ref is not None:
            y = y + _row(shift_ref, tile, x.shape[1])
        triton.store(y_ref.at[place], y.astype(x.dtype), mask=real)
        if keep_root:
            place, real = _place(pl.program_id(0), (tile[0], 1), roots.shape)
            triton.store(roots_ref.at[place], root, mask=real)

    given, results = (x, branch, scale, shift), (like, roots if keep_root else None, like if again else None)
    return _launch(norm, pl.cdiv(len(x), tile[0]), WARPS, tile, given, results)


@partial(jax.jit, static_argnames=("centred", "epsilon"))
def _gradients(x, scale, by_y, by_rest, centred: bool, epsilon: float) -> list:
    """By x, given those by its norm and by what was handed through; by scale and, if centred, by shift, as
    sums of what each block has seen, float32 (blocks, 1 or 2, D)."""
    rows, columns = x.shape
    tile = _tile(columns, NUMBERS_BACK)
    tiles = pl.cdiv(rows, tile[0])
    blocks = min(BLOCKS * multiprocessors(), tiles)

    def norm_gradient(x_ref, scale_ref, by_y_ref, by_rest_ref, by_x_ref, sums_ref):
        own, scale = pl.program_id(0), _row(scale_ref, tile, columns)

        def add(i, sums):
            place, real = _place(own + i * blocks, tile, x.shape)
            # All at the start, so that memory is waited for once.
            wide, given, rest = (_load(ref, place, real) for ref in (x_ref, by_y_ref, by_rest_ref))
            unit, root = _unit(wide, real, columns, centred, epsilon)
            by_unit = given * scale
            by_x = _orthogonal(by_unit, unit, columns)
            if centred:
                by_x = by_x - _total(by_unit) / columns
            by_x = (rest + root * by_x).astype(by_x_ref.dtype)
            triton.store(by_x_ref.at[place], by_x, mask=real)
            parts = (given * unit, given) if centred else (given * unit,)
            return [s + jnp.sum(part, axis=0) for s, part in zip(sums, parts, strict=True)]

        nothing = [jnp.zeros(tile[1], jnp.float32) for _ in range(sums.shape[1])]
        # The last turn may find no rows left: all of it is masked.
        real = lax.broadcasted_iota(jnp.int32, (1, tile[1]), 1) < columns
        for i, part in enumerate(lax.fori_loop(0, pl.cdiv(tiles, blocks), add, nothing)):
            triton.store(sums_ref.at[own, pl.ds(i, 1), pl.ds(0, tile[1])], part[None], mask=real)

    sums = jax.ShapeDtypeStruct((blocks, 2 if centred else 1, columns), jnp.float32)
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype), sums]
    return _launch(norm_gradient, blocks, WARPS_BACK, tile, (x, scale, by_y, by_rest), results)


@jax.jit
def by_normed_sum(y, roots, given: tuple):
    """The gradient by what y is the norm of, given those by each copy of y; roots as the norm kept them."""
    tile = _tile(y.shape[1], NUMBERS_BACK)

    def post_norm_gradient(y_ref, root_ref, given_refs, by_sum_ref):
        place, real = _place(pl.program_id(0), tile, y.shape)
        unit, *parts = (_load(ref, place, real) for ref in (y_ref, *given_refs))
        root = _load(root_ref, *_place(pl.program_id(0), (tile[0], 1), roots.shape))
        by_sum = root * _orthogonal(sum(parts), unit, y.shape[1])
        triton.store(by_sum_ref.at[place], by_sum.astype(y.dtype), mask=real)

    like = jax.ShapeDtypeStruct(y.shape, y.dtype)
    blocks = pl.cdiv(len(y), tile[0])
    return _launch(post_norm_gradient, blocks, WARPS_BACK, tile, (y, roots, given), like)


def _launch(body, blocks: int, warps: int, tile: tuple[int, int], given, results):
    """The results of a kernel, called as its body is; trees, of which None is not there."""
    specs = partial(jax.tree.map, partial(_filled, tile=tile))
    return pl.pallas_call(
        body,
        out_shape=results,
        grid=(blocks,),
        in_specs=specs(given),
        out_specs=specs(results),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=2),
        name=body.__name__,
    )(*given)


def _tile(columns: int, numbers: int) -> tuple[int, int]:
    """Rows and columns of a tile, powers of two, as Triton has its tiles."""
    width = pl.next_power_of_2(columns)
    return max(1, numbers // width), width


def _filled(array, tile: tuple[int, int]):
    """All of an array as one block, as wide as a tile: what is not there is masked."""
    return pl.BlockSpec((*array.shape[:-1], tile[1]), lambda *_: (0,) * len(array.shape))


def _place(index, tile: tuple[int, int], shape: tuple[int, int]) -> tuple:
    """Where a tile lies, and which of it exists."""
    start = index * tile[0]
    row = start + lax.broadcasted_iota(jnp.int32, tile, 0)
    column = lax.broadcasted_iota(jnp.int32, tile, 1)
    return (pl.ds(start, tile[0]), pl.ds(0, tile[1])), (row < shape[0]) & (column < shape[1])


def _unit(x, real, columns: int, centred: bool, epsilon: float) -> tuple:
    """x at mean square 1, zeros where it does not exist, and what it was multiplied by, (rows, 1)."""
    if centred:
        x = jnp.where(real, x - _total(x) / columns, 0.0)
    root = lax.rsqrt(_total(x * x) / columns + epsilon)
    return x * root, root


def _orthogonal(given, unit, columns: int):
    """Rows of `given` less their part along those of `unit`, whose mean square is 1."""
    return given - unit * (_total(given * unit) / columns)


def _total(x):
    return jnp.sum(x, axis=1, keepdims=True)


def _load(ref, place, real):
    """float32; zeros where there is nothing."""
    return triton.load(ref.at[place], mask=real, other=0.0).astype(jnp.float32)


def _row(ref, tile: tuple[int, int], columns: int):
    """float32 (1, width) of (D,)."""
    mask = lax.iota(jnp.int32, tile[1]) < columns
    return triton.load(ref.at[pl.ds(0, tile[1])], mask=mask, other=0.0)[None]
