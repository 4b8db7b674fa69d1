"""SwiGLU whose gate never goes to memory: products for Hopper GPUs with silu(gate) * up as their last stage.

Shapes: x (M, D), kernel (D, 2 F), gate first and up after, down (F, D); all bfloat16, sums in float32.
"""

from functools import partial

import jax

from saccade.kernels.branch_end import normed, normed_gradients, normed_keep
from saccade.kernels.common import launch, multiprocessors, sigmoid, silu_gradients
from saccade.kernels.tiles import CLUSTER, GROUPS, PIECE, WIDTH, gradients, pairs_of_tiles


@jax.custom_vjp
def swiglu(x, kernel, down):
    """(silu(x gate) * (x up)) down, gate and up the halves of kernel.

    Args: x: (M, D).  kernel: (D, 2 F).  down: (F, D).
    Returns: (M, D).
    """
    return _gated(x, kernel, keep=False)[0] @ down


def _swiglu_keep(x, kernel, down):
    hidden, pairs = _gated(x, kernel, keep=True)
    return hidden @ down, (x, kernel, down, hidden, pairs)


def _swiglu_gradient(kept, given):
    x, kernel, down, hidden, pairs = kept
    by_pairs = gradients(given, down, pairs, _by_gate_and_up)
    return by_pairs @ kernel.T, x.T @ by_pairs, hidden.T @ given


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def swiglu_norm(x, kernel, down, rest, plus, epsilon: float, copies: int) -> tuple:
    """rms(rest + swiglu(x)) + plus, as often as it is read; see `swiglu` and `product_norm`."""
    (hidden,) = _gated(x, kernel, keep=False)
    return (normed(hidden, down, rest, plus, epsilon)[0],) * copies


def _swiglu_norm_keep(x, kernel, down, rest, plus, epsilon, copies):
    hidden, pairs = _gated(x, kernel, keep=True)
    y, of_norm = normed_keep(hidden, down, rest, plus, epsilon)
    return (y,) * copies, ((x, kernel, down, hidden, pairs), of_norm)


def _swiglu_norm_gradient(epsilon, copies, kept, given):
    of_net, of_norm = kept
    by_sum, by_plus = normed_gradients(of_norm, given)
    return *_swiglu_gradient(of_net, by_sum), by_sum, by_plus


swiglu_norm.defvjp(_swiglu_norm_keep, _swiglu_norm_gradient)


def _by_gate_and_up(gate, up, by_hidden):
    return silu_gradients(gate, up, by_hidden)[:2]


swiglu.defvjp(_swiglu_keep, _swiglu_gradient)


@partial(jax.jit, static_argnames="keep")
def _gated(x, kernel, keep: bool) -> tuple:
    """hidden (M, F), and with `keep` gate and up, (M, 2 F)."""
    rows, inner = x.shape[0], kernel.shape[1] // 2
    out_type = [jax.ShapeDtypeStruct((rows, inner), x.dtype)]
    if keep:
        out_type.append(jax.ShapeDtypeStruct((rows, 2 * inner), x.dtype))

    def body(x_ref, kernel_ref, *outs):
        def finish(gate_sum, up_sum, leave, row, column):
            gates, ups = gate_sum[...], up_sum[...]
            for start in range(0, WIDTH, PIECE):
                gate, up = gates[:, start : start + PIECE], ups[:, start : start + PIECE]
                leave(gate * sigmoid(gate) * up, outs[0], row, column + start)
                if keep:
                    leave(gate, outs[1], row, column + start)
                    leave(up, outs[1], row, inner + column + start)

        pairs_of_tiles(x_ref, kernel_ref, WIDTH, inner, finish)

    return launch("swiglu", body, tuple(out_type), GROUPS + 1, multiprocessors(), cluster=CLUSTER)(x, kernel)
