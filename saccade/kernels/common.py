"""What the kernels share: memory layouts, the launch, products, and the gate as the GPU computes it fast."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

ROWS = 64  # of a product, for each group of warps: what the tensor unit takes at once
LOWEST = (
    -1e30
)  # a score or logit that may not be: exp of it is 0, and of its difference to another such no NaN
COPYING, COMPUTING = 40, 232  # registers of a thread: of a group that copies, of two that compute beside it


def bank_tiles(columns: int) -> tuple:
    """Transforms of shared memory, (.., columns) in bfloat16, that copies and products read in one go."""
    swizzle = plgpu.find_swizzle(columns * 16)
    return plgpu.TilingTransform((8, swizzle // 2)), plgpu.SwizzleTransform(swizzle)


def multiprocessors() -> int:
    """Of the GPU that the program is for."""
    return jax.devices()[0].core_count


def launch(name: str, body, out_type, groups: int, blocks: int, scratch=(), cluster: int = 1):
    """The kernel of `body`: `blocks` blocks of `groups` warpgroups; axes: `grid`, `cluster`, `group`."""
    body.__name__ = name  # what profiles call it
    return plgpu.kernel(
        body,
        out_type=out_type,
        scratch_types=scratch,
        grid=(blocks // cluster,),
        grid_names=("grid",),
        cluster=(cluster,),
        cluster_names=("cluster",),
        num_threads=groups,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup, approx_math=True
        ),
    )


def products(*several: list) -> list:
    """For each list of pairs, the sum of left @ right, float32; all start before the first is waited for."""

    def multiply(*totals):
        for total, pairs in zip(totals, several, strict=True):
            for left, right in pairs:
                plgpu.wgmma(total, left, right)
        return [total[...] for total in totals]

    shapes = [(pairs[0][0].shape[0], pairs[0][1].shape[1]) for pairs in several]
    return pl.run_scoped(multiply, *(plgpu.ACC(shape, jnp.float32) for shape in shapes))


def sigmoid(x):
    """By the hyperbolic tangent, which the GPU has as one instruction, exact to some 2e-4."""
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)


def silu_gradients(gate, up, given):
    """Gradients of silu(gate) * up by gate and up, given that by the product; and the product itself."""
    share = sigmoid(gate)
    half = gate * share
    return given * up * (share + half * (1 - share)), given * half, half * up
