"""The norm's kernel: which shapes it takes, that JAX lowers it, its values on a CPU that interprets it and on
a GPU, and that layers hand it what it takes."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras import ops
from kernel_parts import fitting, for_hopper, with_gradient
from kernel_parts import interpreted as by_a_cpu

from saccade import kernels
from saccade.kernels import norms
from saccade.layers.blocks import CausalBlock, EncoderBlock, again
from saccade.layers.normalization import RMSNorm, normalized

EPSILON = 1e-3  # large enough to be noticed
SHAPES = [  # rows that fill tiles or do not, of several blocks or one; widths that are a power of two or not
    (48, 576),
    (64, 768),
    (45, 768),
    (3, 576),
    (11, 1024),
    (22, 8),
    (5, 2048),
]


def plain(x, scale, shift):
    """What the layers compute, x handed through."""
    rms = shift is None
    norm = RMSNorm(x.shape[-1], EPSILON) if rms else keras.layers.LayerNormalization(epsilon=EPSILON)
    norm.build(x.shape)
    return norm.stateless_call([scale] if rms else [scale, shift], [], x)[0], x


def kernel(x, scale, shift):
    return norms.normalized(x, scale, shift, EPSILON)


def drawn(shape: tuple[int, int], centred: bool, dtype: str) -> tuple:
    """The gradients given, and x, whose rows have different means and sizes, scale and shift."""
    rng = np.random.default_rng(0)
    by_y, by_x, x = rng.normal(size=(3, *shape))
    x = x * rng.uniform(0.1, 3, size=(shape[0], 1)) + rng.normal(size=(shape[0], 1))
    scale, shift = (jnp.asarray(rng.normal(size=shape[1]), "float32") for _ in range(2))
    by_y, by_x, x = (jnp.asarray(part, dtype) for part in (by_y, by_x, x))
    return (by_y, by_x), x, scale, shift if centred else None


def check_values(shape, centred: bool, dtype: str, limit: float) -> None:
    args = drawn(shape, centred, dtype)
    found = jax.jit(with_gradient(kernel))(*args)
    exact = jax.jit(with_gradient(plain))(*jax.tree.map(lambda t: t.astype("float32"), args))
    (y, same), by_x = found[:2]
    assert y.dtype == by_x.dtype == dtype
    assert jnp.array_equal(same, args[1])
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        off = jnp.linalg.norm(one.astype("float32") - other) / jnp.linalg.norm(other)
        assert off < limit


@pytest.fixture
def interpreted(monkeypatch):
    """A CPU does what a GPU of two multiprocessors would."""
    monkeypatch.setattr(norms, "multiprocessors", lambda: 2)
    monkeypatch.setattr(norms, "BLOCKS", 2)
    with by_a_cpu():
        yield


@pytest.mark.parametrize("centred", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_interpreted(interpreted, shape, centred):
    check_values(shape, centred, "float32", 1e-6)


@pytest.mark.parametrize("centred", [True, False], ids=["layer", "rms"])
def test_bfloat16_interpreted(interpreted, centred):
    check_values((45, 768), centred, "bfloat16", 3e-3)


def test_one_row_at_once_interpreted(interpreted, monkeypatch):
    """However its constants are set."""
    for name in ("NUMBERS", "NUMBERS_BACK", "BLOCKS"):
        monkeypatch.setattr(norms, name, 1)
    check_values((7, 576), True, "float32", 1e-6)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize(
    ("shape", "centred"), [((12544, 768), True), ((8192, 576), False), ((8191, 2048), True)]
)
def test_values_and_gradients_are_float32s(shape, centred):
    check_values(shape, centred, "bfloat16", 3e-3)


@pytest.mark.parametrize(("shape", "centred"), [((12544, 768), True), ((8192, 576), False)])
def test_this_jax_lowers_it_for_the_gpu(monkeypatch, shape, centred):
    monkeypatch.setattr(norms, "multiprocessors", lambda: 132)
    with for_hopper():
        lowered = jax.jit(with_gradient(kernel)).trace(*drawn(shape, centred, "bfloat16"))
        text = lowered.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 2


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((64, 196, 768), True),
        ((64, 128, 576), True),
        ((8191, 2048), True),
        ((4096, 256), True),
        ((4095, 256), False),
        ((4096, 248), False),
        ((8, 128, 576), False),  # few rows
        ((64, 128, 4096), False),  # wider than a tile
        ((64, 128, 64), False),
        ((64, 128, 580), False),  # rows begin anywhere
        ((768,), False),
    ],
)
def test_which_fit(shape, fits):
    x = jax.ShapeDtypeStruct(shape, "bfloat16")
    with fitting():
        assert kernels.norm_fits(x) is fits
        assert not kernels.norm_fits(jax.ShapeDtypeStruct(shape, "float32"))
    assert not kernels.norm_fits(x)  # nobody allowed it


def blocks():
    """Pre-norm blocks of each kind, and one whose activations are computed again."""
    encoder, llama = EncoderBlock(64, 2, 96), CausalBlock(64, 2, 1, 96)
    opt = CausalBlock(64, 2, 2, 96, None, activation="relu")
    return {
        "encoder": (encoder, encoder),
        "again": (encoder, lambda x: again(encoder)(x)),
        "llama": (llama, lambda x: llama(x)[0]),
        "opt": (opt, lambda x: opt(x)[0]),
    }


def value_and_gradients(block, call, x, given):
    """What a call returns and the gradients by x and by what the block learns."""

    def function(weights, x):
        with keras.StatelessScope(list(zip(block.trainable_variables, weights, strict=True))):
            return call(x)

    result, back = jax.vjp(function, [v.value for v in block.trainable_variables], x)
    return result, back(given)


@pytest.mark.parametrize("name", ["encoder", "again", "llama", "opt"])
def test_blocks_hand_it_what_it_takes(interpreted, monkeypatch, name):
    """In float32, which it takes only here: the rounding of bfloat16 would hide a difference."""
    block, call = blocks()[name]
    block.build()
    rng = np.random.default_rng(1)
    for variable in block.variables:  # biases are zeros at the start
        variable.assign(rng.normal(scale=0.2, size=variable.shape))
    x, given = (jnp.asarray(rng.normal(size=(3, 7, 64)), "float32") for _ in range(2))
    expected = value_and_gradients(block, call, x, given)
    monkeypatch.setattr(kernels, "norm_fits", lambda x: kernels._used.get() is not None)
    with fitting() as used:
        found = value_and_gradients(block, call, x, given)
        assert used == {"norm"}
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_mixed_precision(interpreted, monkeypatch):
    """The gain stays float32 within a block's autocast, x is bfloat16, gradients by gains are float32."""
    block = CausalBlock(64, 2, 1, 96, dtype="mixed_bfloat16")
    block.build()
    block.attention_norm.scale.assign(np.full(64, 1.001))  # which bfloat16 rounds to 1
    seen = []
    call = kernels.normalized
    monkeypatch.setattr(kernels, "normalized", lambda *args: seen.append(args) or call(*args))
    monkeypatch.setattr(kernels, "norm_fits", lambda x: x.dtype == "bfloat16")
    x = jnp.ones((3, 7, 64), "bfloat16")
    with fitting():
        result, (by_weights, _) = value_and_gradients(block, lambda x: block(x)[0], x, x)
    assert result.dtype == "bfloat16"
    assert {part.dtype for part in by_weights} == {np.dtype("float32")}
    assert float(ops.convert_to_tensor(seen[0][1])[0]) == np.float32(1.001)


def test_norms_that_do_not_ask(monkeypatch):
    """Without a gain or a bias, along other axes, of other dtypes, of other kinds."""
    monkeypatch.setattr(kernels, "norm_fits", lambda x: True)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 7, 64)), "float32")
    with fitting() as used:
        for norm in (
            keras.layers.LayerNormalization(scale=False),
            keras.layers.LayerNormalization(center=False),
            keras.layers.LayerNormalization(axis=1),
            keras.layers.LayerNormalization(axis=(1, 2)),
            keras.layers.UnitNormalization(),
            RMSNorm(64, dtype="mixed_bfloat16"),
        ):
            norm.build(x.shape)
            normed, same = normalized(norm, x)
            assert same is x
            assert jnp.array_equal(normed, norm(x))
        assert not used
