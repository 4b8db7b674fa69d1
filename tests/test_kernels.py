"""Kernels for Hopper GPUs: which shapes they take, that this JAX lowers them, and on such a GPU their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saccade import backend, kernels
from saccade.kernels import gated, sequence
from saccade.layers.blocks import SwiGLU

SWIGLU = (768, 64), (64, 2 * 128), (128, 64)
MIXED = (16, 512), (16, 2 * 64), (64, 16)


def drawn(seed: int, *shapes):
    rng = np.random.default_rng(seed)
    scales = [1.0, *(shape[0] ** -0.5 for shape in shapes[1:])]
    return [
        jnp.asarray(scale * rng.normal(size=shape), "bfloat16")
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def mixed(x, kernel, down):
    return sequence.mixed(x, kernel, down, 1e-5)


def with_gradient(function):
    def both(given, *args):
        result, back = jax.vjp(function, *args)
        return (result, *back(given))

    return both


@pytest.fixture
def hopper(monkeypatch):
    """As if the program were for an H100."""
    for module in (gated, sequence):
        monkeypatch.setattr(module, "multiprocessors", lambda: 132)
    monkeypatch.setattr(kernels, "_device_fits", lambda: True)


@pytest.mark.parametrize(("function", "shapes"), [(gated.swiglu, SWIGLU), (mixed, MIXED)])
def test_this_jax_lowers_them_for_the_gpu(hopper, function, shapes):
    args = drawn(0, shapes[0], *shapes)
    lowered = jax.jit(with_gradient(function)).trace(*args).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("custom_call @mosaic_gpu") == 2  # one forward, one back


@pytest.mark.parametrize(
    ("shape", "inner", "fits"),
    [
        ((64, 128, 576), 1536, True),
        ((8192, 512), 1536, True),
        ((8191, 512), 1536, False),  # rows that fill no tile
        ((8192, 500), 1536, False),
        ((8192, 512), 1500, False),
        ((256, 512), 1536, False),  # too few for the multiprocessors
        ((None, 512), 1536, False),
    ],
)
def test_which_swiglu_fits(hopper, shape, inner, fits):
    x = jax.ShapeDtypeStruct(shape, "bfloat16") if None not in shape else _Unknown()
    with kernels.allowed():
        assert kernels.swiglu_fits(x, inner) is fits
    assert not kernels.swiglu_fits(x, inner)  # nobody allowed it


class _Unknown:
    shape, dtype = (None, 512), "bfloat16"


@pytest.mark.parametrize(
    ("shape", "inner", "fits"),
    [
        ((88, 768, 512), 256, True),
        ((96, 768, 512), 256, True),
        ((81, 768, 512), 256, False),  # no multiple of 8
        ((104, 768, 512), 256, False),  # longer than a tile
        ((88, 768, 512), 512, False),  # its kernels do not fit beside the tiles
        ((88, 3, 500), 256, False),
    ],
)
def test_which_mixer_fits(hopper, shape, inner, fits):
    with kernels.allowed():
        assert kernels.mixer_fits(jax.ShapeDtypeStruct(shape, "bfloat16"), inner) is fits
        assert not kernels.mixer_fits(jax.ShapeDtypeStruct(shape, "float32"), inner)


def test_no_kernel_without_such_a_gpu():
    kernels._device_fits.cache_clear()
    with kernels.allowed():
        assert not kernels.swiglu_fits(jax.ShapeDtypeStruct((8192, 512), "bfloat16"), 1536)


def test_a_layer_calls_the_kernel_where_it_fits(hopper, monkeypatch):
    monkeypatch.setattr(kernels, "FEWEST", 0)
    layer = SwiGLU(64, 128, dtype="mixed_bfloat16")
    layer.build()

    def kernels_in(yes):
        with kernels.allowed(yes):
            lowered = (
                jax.jit(lambda x: layer(x))
                .trace(jnp.zeros((256, 64), "bfloat16"))
                .lower(lowering_platforms=("cuda",))
            )
        return lowered.as_text().count("custom_call @mosaic_gpu")

    assert (kernels_in(True), kernels_in(False)) == (1, 0)


def test_untried_jax_is_told_and_gets_plain_operations(monkeypatch, caplog):
    monkeypatch.setattr(backend, "compute_capability", lambda: (9, 0))
    monkeypatch.setattr(kernels, "VERSIONS", ((0, 1), (0, 2)))
    kernels._device_fits.cache_clear()
    try:
        assert not kernels._device_fits()
        assert f"JAX {jax.__version__}" in caplog.text
        assert "0.1 to 0.2" in caplog.text
    finally:
        kernels._device_fits.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("function", "plain", "shapes"),
    [
        (gated.swiglu, "swiglu", ((67_584, 512), (512, 3072), (1536, 512))),
        (gated.swiglu, "swiglu", ((8_192, 576), (576, 3072), (1536, 576))),
        (mixed, "mixed", ((88, 65_536), (88, 512), (256, 88))),
        (mixed, "mixed", ((96, 65_536), (96, 128), (64, 96))),
    ],
)
def test_values_and_gradients_are_float32s(function, plain, shapes):
    """Many tiles a multiprocessor: what one leaves in shared memory must not reach the next."""
    given, *args = drawn(3, shapes[0], *shapes)

    def reference(x, kernel, down):
        along = 1 if plain == "swiglu" else 0
        pairs = x @ kernel if along else kernel.T @ x
        gate, up = jnp.split(pairs, 2, axis=along)
        hidden = gate * jax.nn.sigmoid(gate) * up
        if along:
            return hidden @ down
        total = x + down.T @ hidden
        return total * jax.lax.rsqrt(jnp.mean(total**2, axis=0) + 1e-5)

    wide = [t.astype("float32") for t in (given, *args)]
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(with_gradient(reference))(*wide)
    for _ in range(3):  # a race would not be the same each time
        for found, wanted in zip(jax.jit(with_gradient(function))(given, *args), exact, strict=True):
            off = jnp.linalg.norm(found.astype("float32") - wanted) / jnp.linalg.norm(wanted)
            assert off < 6e-3
