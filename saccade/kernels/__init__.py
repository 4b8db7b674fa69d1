"""Kernels for Hopper GPUs (H100, H200): what training does most, in fewer passes over memory.

Within `allowed`, layers ask whether a kernel fits (`swiglu_fits`, `gelu_fits`, `attention_fits`, `norm_fits`,
`mixer_fits`) and call it where the answer is yes: bfloat16, and shapes that fill its tiles. Elsewhere they
compute the same by plain operations. Written in Pallas, which changes between versions of JAX
(docs/decisions/0017).
"""

import contextlib
import contextvars
import math
from collections.abc import Generator

from keras import ops

from saccade import backend
from saccade.errors import SaccadeError

VERSION = (0, 11)  # of JAX, with which the kernels were run
FEWEST = 2**23  # of rows times inner channels: below, the GPU's tiles are too few for its multiprocessors
LONGEST = 256  # tokens that attention takes, whose keys are one tile
# The names of the kernels used so far, where they are allowed.
_used: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("kernels_used", default=None)


@contextlib.contextmanager
def allowed() -> Generator[None]:
    """What is traced within uses the kernels where they fit.

    Raises: SaccadeError: they do not run here, or in the end none of them fitted.
    """
    _check_device()
    used: set[str] = set()
    token = _used.set(used)
    try:
        yield
    finally:
        _used.reset(token)
    if not used:
        raise SaccadeError(
            "kernels are asked for, but no layer takes one: they need mixed_bfloat16, some 4,096 rows (batch "
            "times tokens), and more each (docs/training.md#kernels); leave train.kernels out"
        )


def _check_device() -> None:
    if backend.compute_capability() != (9, 0):
        raise SaccadeError(
            f"kernels are for JAX on a Hopper GPU (H100, H200), this is {backend.name()} on "
            f"{backend.device_name()}; leave train.kernels out"
        )
    import jax

    if len(jax.devices()) > 1:
        raise SaccadeError(
            f"kernels run on one GPU, there are {len(jax.devices())}; set CUDA_VISIBLE_DEVICES to one of them"
        )
    if jax.__version_info__[:2] != VERSION:
        wanted = ".".join(map(str, VERSION))
        raise SaccadeError(
            f"kernels were run with JAX {wanted}, this is {jax.__version__}; install jax[cuda13]=={wanted}.* "
            "or leave train.kernels out"
        )


def _note(kernel: str) -> None:
    used = _used.get()
    if used is not None:
        used.add(kernel)


def _fits(x) -> bool:
    return _used.get() is not None and x.dtype == "bfloat16" and None not in x.shape


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

    _note("swiglu")
    result = gated.swiglu(_rows(x), ops.cast(kernel, x.dtype), ops.cast(down, x.dtype))
    return ops.reshape(result, (*x.shape[:-1], down.shape[-1]))


def gelu_fits(x, inner: int) -> bool:
    """Whether `gelu_net` takes x (..., D) and a net of `inner` channels."""
    return swiglu_fits(x, inner) and inner % 256 == 0


def gelu_net(x, up, bias, down):
    """gelu(x up + bias) down, GELU by its tanh form.

    Args: x: bfloat16 (..., D), see `gelu_fits`.  up: (D, F).  bias: (F,).  down: (F, D).
    Returns: bfloat16 (..., D).
    Source: Gaussian Error Linear Units, arXiv:1606.08415, section 2.
    """
    from saccade.kernels import gelu

    _note("gelu")
    result = gelu.net(_rows(x), ops.cast(up, x.dtype), ops.cast(bias, "float32"), ops.cast(down, x.dtype))
    return ops.reshape(result, (*x.shape[:-1], down.shape[-1]))


def attention_fits(x, num_kv_heads: int, width: int) -> bool:
    """Whether `attention` takes what is made of x (B, T, D): so many heads of keys, so wide."""
    if not _fits(x) or len(x.shape) != 3:
        return False
    batch, length, _ = x.shape
    # A block of the gradient has a head of keys: fewer leave multiprocessors without one.
    return 16 <= length <= LONGEST and width in (32, 64) and batch * num_kv_heads >= 128


def attention(packed, table, num_heads: int, num_kv_heads: int, causal: bool):
    """softmax(Q K^T / sqrt(E)) V per head, see `attention_fits`.

    Args: packed: bfloat16 (B, T, (A + 2 G) E), heads of queries, keys, values.  table: cosines and sines that
        queries and keys turn by, each float32 (T, E / 2); () = they do not.  causal: query t reads 0..t.
    Returns: bfloat16 (B, T, A E).
    """
    from saccade.kernels import self_attention
    from saccade.kernels.head import Heads

    _note("attention")
    width = packed.shape[-1] // (num_heads + 2 * num_kv_heads)
    heads = Heads(packed.shape[1], num_heads, num_kv_heads, width, causal)
    return self_attention.attention(packed, tuple(ops.convert_to_tensor(part) for part in table), heads)


def norm_fits(x) -> bool:
    """Whether `normalized` and `post_norm` take x (..., D)."""
    if not _fits(x):
        return False
    rows, columns = math.prod(x.shape[:-1]), x.shape[-1]
    return rows >= 4096 and columns % 8 == 0 and 256 <= columns <= 2048


def normalized(x, scale, shift, epsilon: float):
    """(norm(x) * scale + shift, x), of which a block's branch reads the one and its residual the other: the
    gradients by both become one in the same pass.

    Args: x: bfloat16 (..., D), see `norm_fits`.  scale: (D,).  shift: (D,), LayerNorm; None: RMSNorm.
        epsilon: of the norm.
    Returns: two of bfloat16 (..., D).
    """
    from saccade.kernels import norms

    _note("norm")
    scale, shift = (None if part is None else ops.cast(part, "float32") for part in (scale, shift))
    both = norms.normalized(_rows(x), scale, shift, epsilon)
    return tuple(ops.reshape(part, x.shape) for part in both)


def post_norm(x, branch, epsilon: float, copies: int) -> tuple:
    """rms(x + branch), once for each that reads it: the gradients by them become one in the same pass.

    Args: x, branch: bfloat16 (..., D), see `norm_fits`.  epsilon: of the norm.
    Returns: `copies` of bfloat16 (..., D).
    """
    from saccade.kernels import norms

    _note("norm")
    found = norms.post_norm(_rows(x), _rows(branch), epsilon, copies)
    return tuple(ops.reshape(part, x.shape) for part in found)


def product_norm_fits(x, inner: int) -> bool:
    """Whether `product_norm` takes x (..., D), and a product that sums over so many."""
    if not _fits(x):
        return False
    rows = math.prod(x.shape[:-1])
    fills = rows % 128 == 0 and x.shape[-1] == 512 and inner % 64 == 0
    return fills and inner >= 256 and rows * inner >= FEWEST


def product_norm(left, right, x, epsilon: float, copies: int, plus=None) -> tuple:
    """rms(x + left right) + plus, once for each that reads it, as `post_norm`.

    Args: left: bfloat16 (..., F).  right: (F, D).  x: bfloat16 (..., D), see `product_norm_fits`.
        epsilon: of the norm.  plus: shape of x; None = 0.
    Returns: `copies` of bfloat16 (..., D).
    """
    from saccade.kernels import branch_end

    _note("norm")
    args = _rows(left), ops.cast(right, x.dtype), _rows(x), plus if plus is None else _rows(plus)
    found = branch_end.product_norm(*args, epsilon, copies)
    return tuple(ops.reshape(part, x.shape) for part in found)


def swiglu_norm(x, kernel, down, rest, epsilon: float, copies: int, plus=None) -> tuple:
    """rms(rest + swiglu(x, kernel, down)) + plus, once for each that reads it; see `swiglu` and
    `product_norm`, whose shapes it wants both."""
    from saccade.kernels import gated

    _note("swiglu")
    args = _rows(x), *(ops.cast(part, x.dtype) for part in (kernel, down)), _rows(rest)
    found = gated.swiglu_norm(*args, plus if plus is None else _rows(plus), epsilon, copies)
    return tuple(ops.reshape(part, rest.shape) for part in found)


def next_token_fits(logits) -> bool:
    """Whether `next_token` takes logits (rows, V)."""
    return _fits(logits) and logits.shape[0] >= 512 and logits.shape[1] >= 4096


def next_token(logits, targets, weights) -> tuple:
    """Cross-entropy of each row, whether its target has the highest logit, and the gradient by logits.

    Args: logits: bfloat16 (rows, V), see `next_token_fits`.  targets: int32 (rows,), below V; negative: the
        row counts for nothing.  weights: float32 (rows,).
    Returns: weights * -log p[target], and 1 or 0, both float32 (rows,); the gradient by logits of the
        former's sum, bfloat16.
    """
    from saccade.kernels import logits as rows

    _note("logits")
    counts = ops.cast(targets >= 0, "float32")
    loss, right, slope = rows.cross_entropy(logits, ops.maximum(targets, 0), weights * counts)
    return loss, right * counts, slope


def _rows(x):
    return ops.reshape(x, (-1, x.shape[-1]))


def mixer_fits(x, inner: int) -> bool:
    """Whether `mixed` takes x (S, ..., D) and a net of `inner` channels along S."""
    if not _fits(x):
        return False
    columns = math.prod(x.shape[1:])
    # Both kernels stay in a multiprocessor's shared memory, 227 KiB, beside six tiles of 96 by 64.
    small = inner % 64 == 0 and inner <= 256
    return x.shape[0] in (88, 96) and small and columns % 128 == 0 and columns * inner >= FEWEST


def mixed(x, kernel, down, epsilon: float):
    """rms(x + SwiGLU(x)), both along the first axis.

    Args: x: bfloat16 (S, ..., D), see `mixer_fits`.  kernel: (S, 2 F), gate and up.  down: (F, S).
        epsilon: of the norm.
    Returns: bfloat16, shape of x.
    """
    from saccade.kernels import sequence

    _note("mixed")
    columns = ops.reshape(x, (x.shape[0], -1))
    mixed = sequence.mixed(columns, ops.cast(kernel, x.dtype), ops.cast(down, x.dtype), epsilon)
    return ops.reshape(mixed, x.shape)
