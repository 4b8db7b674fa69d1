"""The kernels for Hopper GPUs against plain operations: `python benchmarks/kernels.py [--rows 768]`.

For each kernel, how far its result and its gradients are from float32's, beside how far plain bfloat16 is,
and the time of both, forward alone and with the gradient. Without such a GPU there is nothing to measure.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp

from saccade import backend
from saccade.layers.mlp import silu_product
from saccade.layers.normalization import rms, standardize
from saccade.layers.rotary import rotary_table, rotate

LENGTH, DIM = 88, 512
EPSILON = 1e-5


def plain_swiglu(x, kernel, down):
    """As SwiGLU computes it where no kernel is allowed."""
    pairs = (x @ kernel).reshape(len(x), 2, -1)
    return silu_product(pairs) @ down


def plain_mixed(x, kernel, down):
    """As ReasoningBlock does."""
    pairs = (kernel.T @ x).reshape(2, -1, x.shape[1])
    return rms(x + down.T @ silu_product(pairs, axis=0), EPSILON, axis=0)


def plain_gelu(x, up, bias, down):
    """As MLP does."""
    return jax.nn.gelu(x @ up + bias.astype(x.dtype)) @ down


def plain_norm(x, scale, shift=None):
    """As LayerNorm and RMSNorm do, and the residual."""
    if shift is None:
        return rms(x, EPSILON) * scale.astype(x.dtype), x
    wide = standardize(x.astype("float32"), EPSILON) * scale + shift
    return wide.astype(x.dtype), x


def plain_post_norm(x, branch):
    """As ReasoningBlock does."""
    return (rms(x + branch, EPSILON),) * 2


def plain_product_norm(left, right, x, plus):
    """As ReasoningBlock and what follows it do."""
    return (rms(x + left @ right, EPSILON) + plus,) * 2


def plain_attention(packed, table, heads):
    """As Attention does: cuDNN's where it is bfloat16."""
    edges = heads.queries * heads.width, (heads.queries + heads.shared) * heads.width
    parts = (t.reshape(*t.shape[:2], -1, heads.width) for t in jnp.split(packed, edges, axis=-1))
    queries, keys, values = parts
    if table:
        queries, keys = (rotate(t, *table) for t in (queries, keys))
    way = "cudnn" if packed.dtype == "bfloat16" else "xla"
    mixed = jax.nn.dot_product_attention(queries, keys, values, is_causal=heads.causal, implementation=way)
    return mixed.reshape(*packed.shape[:2], -1)


def drawn(seed: int, *shapes) -> list:
    """bfloat16; what is multiplied by a matrix keeps its size."""
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    scales = [1.0, *(shape[0] ** -0.5 for shape in shapes[1:])]
    return [
        (scale * jax.random.normal(key, shape)).astype("bfloat16")
        for key, shape, scale in zip(keys, shapes, scales, strict=True)
    ]


def with_gradient(function, given, *args):
    result, back = jax.vjp(function, *args)
    return result, *back(given)


def milliseconds(function, *args, times: int = 30) -> float:
    for _ in range(3):
        jax.block_until_ready(function(*args))
    begin = time.perf_counter()
    for _ in range(times):
        found = function(*args)
    jax.block_until_ready(found)
    return 1000 * (time.perf_counter() - begin) / times


def compare(name: str, kernel, plain, args: list) -> None:
    given = jax.tree.map(lambda t: drawn(9, t.shape)[0], jax.eval_shape(plain, *args))
    ways = {"kernel": kernel, "plain": plain}
    wide = jax.tree.map(lambda t: t.astype("float32"), (given, *args))
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(partial(with_gradient, plain))(*wide)
    for way, function in ways.items():
        found = jax.jit(partial(with_gradient, function))(given, *args)
        far = [
            float(jnp.linalg.norm(a.astype("float32") - b) / jnp.linalg.norm(b))
            for a, b in zip(*map(jax.tree.leaves, (found, exact)), strict=True)
        ]
        forward = milliseconds(jax.jit(function), *args)
        both = milliseconds(jax.jit(partial(with_gradient, function)), given, *args)
        print(
            f"{name:17} {way:7} forward {forward:6.3f} ms, with gradient {both:6.3f} ms; "
            f"off by {', '.join(f'{value:.1e}' for value in far)}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=768, help=f"of {LENGTH} tokens and {DIM} channels")
    options = parser.parse_args()
    if backend.compute_capability() != (9, 0):
        print(f"{backend.device_name()}: no Hopper GPU, nothing to measure")
        return
    from saccade.kernels import branch_end, gated, gelu, norms, self_attention, sequence
    from saccade.kernels.head import Heads

    print("off: results, gradients by what was given, against float32")
    compare(
        "swiglu",
        gated.swiglu,
        plain_swiglu,
        drawn(0, (LENGTH * options.rows, DIM), (DIM, 3 * DIM * 2), (3 * DIM, DIM)),
    )
    compare(
        "mixed",
        lambda *args: sequence.mixed(*args, EPSILON),
        plain_mixed,
        drawn(1, (LENGTH, options.rows * DIM), (LENGTH, 512), (256, LENGTH)),
    )
    # nanoVLM's, 64 rows of 128 tokens and of 196 patches, and those of TRM's attention.
    compare(
        "gelu",
        lambda x, up, bias, down: gelu.net(x, up, bias.astype("float32"), down),
        plain_gelu,
        drawn(2, (12_544, 768), (768, 3072), (3072,), (3072, 768)),
    )
    for shape, shift in (((12_544, 768), True), ((8_192, 576), False)):
        weights = [jnp.ones(shape[1]), jnp.zeros(shape[1])] if shift else [jnp.ones(shape[1]), None]
        compare(
            f"norm {shape[1]}",
            lambda x, scale, shift: norms.normalized(x, scale, shift, EPSILON),
            plain_norm,
            [*drawn(3, shape), *weights],
        )
    compare(
        "norm after 512",
        lambda x, branch: norms.post_norm(x, branch, EPSILON, 2),
        plain_post_norm,
        [drawn(seed, (LENGTH * options.rows, DIM))[0] for seed in (5, 6)],
    )
    rows = LENGTH * options.rows
    for inner in (DIM, 3 * DIM):
        compare(
            f"branch's end {inner}",
            lambda *args: branch_end.product_norm(*args, EPSILON, 2),
            plain_product_norm,
            drawn(7, (rows, inner), (inner, DIM)) + [drawn(seed, (rows, DIM))[0] for seed in (5, 6)],
        )
    for rows, heads in (
        (64, Heads(128, 9, 3, 64, True)),
        (64, Heads(196, 12, 12, 64, False)),
        (options.rows, Heads(LENGTH, 8, 8, 64, False)),
    ):
        table = () if heads.length == 196 else tuple(map(jnp.asarray, rotary_table(heads.length, 64)))
        channels = (heads.queries + 2 * heads.shared) * heads.width
        compare(
            f"attention {heads.length}",
            partial(self_attention.attention, table=table, heads=heads),
            partial(plain_attention, table=table, heads=heads),
            drawn(4, (rows, heads.length, channels)),
        )


if __name__ == "__main__":
    main()
