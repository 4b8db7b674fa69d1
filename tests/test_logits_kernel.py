"""The kernel of the next-token loss: which logits it takes, that JAX lowers it, its values on a CPU that
interprets it and on a GPU, and that the loss hands it what it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_parts import fitting, for_hopper, interpreted

from saccade import kernels
from saccade.kernels import logits
from saccade.losses.tokens import _next_token_block, next_token


def drawn(rows: int, columns: int, dtype: str = "bfloat16") -> tuple:
    """Logits, targets of which some do not count and some are the highest, and weights."""
    rng = np.random.default_rng(rows)
    x = rng.normal(scale=3, size=(rows, columns))
    targets = rng.integers(columns, size=rows)
    targets[::3] = x[::3].argmax(1)
    targets[1::5] = -1
    return (
        jnp.asarray(x, dtype),
        jnp.asarray(targets, "int32"),
        jnp.asarray(rng.uniform(0, 2, rows), "float32"),
    )


def check(args, limit: float) -> None:
    """By the kernel as by plain operations in float32."""
    x, targets, weights = args
    wanted, slope = _next_token_block(x.astype("float32"), targets, weights)
    loss, right, by_logits = kernels.next_token(*args)
    np.testing.assert_allclose([loss.sum(), right.sum()], wanted, rtol=1e-5)
    assert not loss[targets < 0].any()
    assert by_logits.dtype == x.dtype
    off = jnp.linalg.norm(by_logits.astype("float32") - slope) / jnp.linalg.norm(slope)
    assert off < limit


@pytest.mark.parametrize("columns", [4096, 5000, 8200])
def test_values_interpreted(columns):
    with interpreted():
        check(drawn(17, columns, "float32"), 1e-6)


def test_bfloat16_interpreted():
    with interpreted():
        check(drawn(17, 5000), 3e-3)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize("shape", [(2560, 49_280), (512, 5000)])
def test_values_are_float32s(shape):
    check(drawn(*shape), 3e-3)


def test_this_jax_lowers_it_for_the_gpu():
    with for_hopper():
        lowered = logits.cross_entropy.trace(*drawn(512, 49_280)).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("custom_call @__gpu$xla.gpu.triton") == 1


@pytest.mark.parametrize(
    ("shape", "dtype", "fits"),
    [
        ((2560, 49_280), "bfloat16", True),
        ((2560, 49_280), "float32", False),
        ((2560, 300), "bfloat16", False),  # short rows
        ((64, 49_280), "bfloat16", False),  # few
    ],
)
def test_which_fit(shape, dtype, fits):
    x = jax.ShapeDtypeStruct(shape, dtype)
    with fitting():
        assert kernels.next_token_fits(x) is fits
    assert not kernels.next_token_fits(x)  # nobody allowed it


def test_the_loss_hands_it_what_it_takes(monkeypatch):
    """In float32: sums, gradients and what counts are those of plain operations."""
    rng = np.random.default_rng(0)
    hidden, table = (jnp.asarray(rng.normal(size=(rows, 16)), "float32") for rows in (40, 300))
    _, targets, weights = drawn(40, 300)

    def found():
        return jax.value_and_grad(
            lambda hidden, table: next_token(hidden, table, targets, 16, weights)[0], argnums=(0, 1)
        )(hidden, table)

    expected = found()
    monkeypatch.setattr(kernels, "next_token_fits", lambda x: kernels._used.get() is not None)
    with interpreted(), fitting() as used:
        by_kernel = found()
        assert used == {"logits"}
    for one, other in zip(jax.tree.leaves(by_kernel), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
