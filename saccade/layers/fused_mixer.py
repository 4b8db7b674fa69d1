"""The sequence mixer of TRM as one GPU kernel. JAX with Pallas (Triton) only.

norm(z + down(silu(gate z) * up z)) along the sequence reads a (S, columns) slab of the state once and writes
it once; what it makes on the way, six times as large, stays on the chip.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

COLUMNS = 64  # of the state in one slab
INNER = 64  # inner units computed at once


def mix(z, gate_up, down, gated_norm: bool, epsilon: float = 1e-5):
    """rms(z + SwiGLU(z)), both along the first axis.

    Args:
        z: (S, B, D), B * D a multiple of 64.  gate_up: (S, 2F).  down: (F, S), F a multiple of 64.
        gated_norm: see SwiGLU.
    Returns: shape and dtype of z. The backward pass computes the inner units again, without the kernel.
    """
    return _mix(z, gate_up.astype(z.dtype), down.astype(z.dtype), gated_norm, epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _mix(z, gate_up, down, gated_norm, epsilon):
    return _launch(z, gate_up, down, gated_norm, epsilon)


def _forward(z, gate_up, down, gated_norm, epsilon):
    return _launch(z, gate_up, down, gated_norm, epsilon), (z, gate_up, down)


def _backward(gated_norm, epsilon, kept, given):
    return jax.vjp(lambda *arguments: plain(*arguments, gated_norm, epsilon), *kept)[1](given)


_mix.defvjp(_forward, _backward)


def plain(z, gate_up, down, gated_norm, epsilon):
    """The same, in ordinary operations."""
    from saccade.layers.blocks import product_scale, silu_product
    from saccade.layers.normalization import rms

    inner = jnp.tensordot(gate_up, z, ((0,), (0,)))
    mixed = jnp.tensordot(down, silu_product(inner, 0), ((0,), (0,)))
    if gated_norm:
        mixed = (mixed.astype(jnp.float32) * product_scale(inner, 0)).astype(z.dtype)
    return rms(z + mixed, epsilon, 0)


def _launch(z, gate_up, down, gated_norm, epsilon):
    length, batch, dim = z.shape
    inner, columns = down.shape[0], batch * dim
    if inner % INNER or columns % COLUMNS:
        raise ValueError(
            f"inner width {inner} and batch x dim {columns} must be multiples of {INNER} and {COLUMNS}"
        )
    tall = pl.next_power_of_2(length)
    gate_up = jnp.pad(gate_up.T, ((0, 0), (0, tall - length)))
    down = jnp.pad(down.T, ((0, tall - length), (0, 0)))
    run = pl.pallas_call(
        functools.partial(
            _kernel, length=length, tall=tall, inner=inner, gated_norm=gated_norm, epsilon=epsilon
        ),
        grid=(columns // COLUMNS,),
        out_shape=jax.ShapeDtypeStruct((length, columns), z.dtype),
        interpret=jax.default_backend() == "cpu",
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=2),
        name="sequence_mixer",
    )
    return run(z.reshape(length, columns), gate_up, down).reshape(z.shape)


def _kernel(z_ref, gate_up_ref, down_ref, out_ref, *, length, tall, inner, gated_norm, epsilon):
    here = (pl.ds(0, tall), pl.ds(pl.program_id(0) * COLUMNS, COLUMNS))
    inside = jax.lax.broadcasted_iota(jnp.int32, (tall, COLUMNS), 0) < length
    z = triton.load(z_ref.at[here], mask=inside, other=0.0)

    def body(i, state):
        total, squares = state
        start = i * INNER
        gate = jnp.dot(gate_up_ref[pl.ds(start, INNER), :], z, preferred_element_type=jnp.float32)
        up = jnp.dot(gate_up_ref[pl.ds(inner + start, INNER), :], z, preferred_element_type=jnp.float32)
        product = gate * up
        hidden = (product * jax.nn.sigmoid(gate)).astype(z.dtype)
        total += jnp.dot(down_ref[:, pl.ds(start, INNER)], hidden, preferred_element_type=jnp.float32)
        return total, squares + jnp.sum(product * product, axis=0)

    empty = jnp.zeros((tall, COLUMNS), jnp.float32), jnp.zeros((COLUMNS,), jnp.float32)
    mixed, squares = jax.lax.fori_loop(0, inner // INNER, body, empty)
    if gated_norm:
        mixed = mixed * jax.lax.rsqrt(squares / inner + epsilon)[None]
    summed = (z + mixed.astype(z.dtype)).astype(jnp.float32)
    found = summed * jax.lax.rsqrt(jnp.sum(summed * summed, axis=0) / length + epsilon)[None]
    triton.store(out_ref.at[here], found.astype(z.dtype), mask=inside)
