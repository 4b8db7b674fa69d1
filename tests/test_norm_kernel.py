"""The norms' kernels: which shapes they take, that JAX lowers them, their values on a CPU that interprets
them and on a GPU, and that layers hand them what they take."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras import ops
from kernel_parts import fitting, for_hopper, with_gradient
from kernel_parts import interpreted as by_a_cpu

from saccade import backend, kernels
from saccade.kernels import norms
from saccade.layers.blocks import CausalBlock, EncoderBlock, again
from saccade.layers.normalization import RMSNorm, normalized, rms
from saccade.layers.reasoning import ReasoningBlock

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
    gain_only = shift is None
    norm = RMSNorm(x.shape[-1], EPSILON) if gain_only else keras.layers.LayerNormalization(epsilon=EPSILON)
    norm.build(x.shape)
    return norm.stateless_call([scale] if gain_only else [scale, shift], [], x)[0], x


def kernel(x, scale, shift):
    return norms.normalized(x, scale, shift, EPSILON)


def plain_post(x, branch):
    total = x + branch
    return total * jax.lax.rsqrt(jnp.mean(total**2, axis=1, keepdims=True) + EPSILON)


def post(x, branch, copies: int = 2):
    return norms.post_norm(x, branch, EPSILON, copies)


def drawn(shape: tuple[int, int], centred: bool, dtype: str) -> tuple:
    """The gradients given, and x, whose rows have different means and sizes, scale and shift."""
    rng = np.random.default_rng(0)
    by_y, by_x, x = rng.normal(size=(3, *shape))
    x = x * rng.uniform(0.1, 3, size=(shape[0], 1)) + rng.normal(size=(shape[0], 1))
    scale, shift = (jnp.asarray(rng.normal(size=shape[1]), "float32") for _ in range(2))
    by_y, by_x, x = (jnp.asarray(part, dtype) for part in (by_y, by_x, x))
    return (by_y, by_x), x, scale, shift if centred else None


def drawn_with_branch(shape: tuple[int, int], dtype: str) -> tuple:
    """The gradients given, x and a branch."""
    given, x, *_ = drawn(shape, False, dtype)
    return given, x, jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


def check_values(shape, centred: bool, dtype: str, limit: float) -> None:
    given, *args = drawn(shape, centred, dtype)
    found = jax.jit(with_gradient(kernel))(given, *args)
    assert jnp.array_equal(found[0][1], args[0])
    check_near(found, plain, (given, *args), dtype, limit)


def check_post(shape, copies: int, dtype: str, limit: float) -> None:
    given, x, branch = drawn_with_branch(shape, dtype)
    given = given[:copies]
    found = jax.jit(with_gradient(lambda x, branch: post(x, branch, copies)))(given, x, branch)
    assert len(found[0]) == copies
    check_near(found, lambda *args: (plain_post(*args),) * copies, (given, x, branch), dtype, limit)


def check_near(found, exactly, args, dtype: str, limit: float) -> None:
    """What a kernel and its gradient gave is float32's."""
    exact = jax.jit(with_gradient(exactly))(*jax.tree.map(lambda t: t.astype("float32"), args))
    assert {found[0][0].dtype, found[1].dtype} == {np.dtype(dtype)}
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


layer_or_rms = pytest.mark.parametrize("centred", [True, False], ids=["layer", "rms"])
once_or_twice = pytest.mark.parametrize("copies", [1, 2])


@layer_or_rms
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_interpreted(interpreted, shape, centred):
    check_values(shape, centred, "float32", 1e-6)


@layer_or_rms
def test_bfloat16_interpreted(interpreted, centred):
    check_values((45, 768), centred, "bfloat16", 3e-3)


@once_or_twice
@pytest.mark.parametrize("shape", SHAPES)
def test_post_norm_interpreted(interpreted, shape, copies):
    check_post(shape, copies, "float32", 1e-6)


@once_or_twice
def test_post_norm_in_bfloat16_interpreted(interpreted, copies):
    check_post((45, 768), copies, "bfloat16", 4e-3)


def test_one_row_at_once_interpreted(interpreted, monkeypatch):
    """However its constants are set."""
    for name in ("NUMBERS", "NUMBERS_BACK", "BLOCKS"):
        monkeypatch.setattr(norms, name, 1)
    check_values((7, 576), True, "float32", 1e-6)
    check_post((7, 576), 2, "float32", 1e-6)


def test_what_is_kept_for_the_gradient(interpreted):
    """Of the norm before a branch x, of the norm after one the result and each row's root."""

    def kept(function, *args):
        return sorted(part.shape for part in jax.tree.leaves(jax.vjp(function, *args)[1]))

    _, x, scale, shift = drawn((45, 768), True, "bfloat16")
    assert kept(kernel, x, scale, shift) == [(45, 768), (768,), (768,)]
    _, x, branch = drawn_with_branch((45, 768), "bfloat16")
    assert kept(post, x, branch) == [(45, 1), (45, 768)]


def test_what_is_handed_through_may_be_written_over():
    """It is no copy of what is kept by reference: a product that adds to it in place needs none."""
    x, scale, shift = drawn((45, 768), True, "bfloat16")[1:]
    jaxpr = jax.make_jaxpr(lambda x: jax.vjp(lambda x: kernel(x, scale, shift), x)[0])(x).jaxpr
    assert jaxpr.outvars[1] is not jaxpr.invars[0]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize(
    ("shape", "centred"), [((12544, 768), True), ((8192, 576), False), ((8191, 2048), True)]
)
def test_values_and_gradients_are_float32s(shape, centred):
    check_values(shape, centred, "bfloat16", 3e-3)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@once_or_twice
@pytest.mark.parametrize("shape", [(67584, 512), (8191, 576), (8191, 2048)])
def test_post_norms_are_float32s(shape, copies):
    check_post(shape, copies, "bfloat16", 4e-3)


def lowered(function, *args) -> str:
    with for_hopper():
        return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def count_kernels(text: str) -> int:
    return text.count("custom_call @__gpu$xla.gpu.triton")


@pytest.mark.parametrize(("shape", "centred"), [((12544, 768), True), ((8192, 576), False)])
def test_this_jax_lowers_it_for_the_gpu(monkeypatch, shape, centred):
    monkeypatch.setattr(norms, "multiprocessors", lambda: 132)
    text = lowered(with_gradient(kernel), *drawn(shape, centred, "bfloat16"))
    assert count_kernels(text) == 2


def test_this_jax_lowers_post_norms_for_the_gpu():
    """Forward without a gradient, as TRM's first cycles are, forward with one, and back: the first writes no
    root."""

    def settle_then_learn(x, branch):
        x = backend.without_gradient(lambda x: post(x, branch, 1)[0], x)
        return post(x, branch)

    given, x, branch = drawn_with_branch((8192, 512), "bfloat16")
    text = lowered(with_gradient(settle_then_learn), given, x, branch)
    assert count_kernels(text) == 3
    calls = [line for line in text.splitlines() if count_kernels(line)]
    assert sum("8192x1xf32" in line.split("->")[-1] for line in calls) == 1


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
    """Pre-norm blocks of each kind, one whose activations are computed again, and TRM's, one of each way."""
    encoder, llama = EncoderBlock(64, 2, 96), CausalBlock(64, 2, 1, 96)
    opt = CausalBlock(64, 2, 2, 96, None, activation="relu")
    trm = ReasoningBlock(64, 96, num_heads=2)
    return {
        "encoder": (encoder, encoder),
        "again": (encoder, lambda x: again(encoder)(x)),
        "llama": (llama, lambda x: llama(x)[0]),
        "opt": (opt, lambda x: opt(x)[0]),
        "trm": (trm, lambda z: 0.01 * again(trm)(trm(z))),  # whose gradients are large
    }


def value_and_gradients(block, call, x, given):
    """What a call returns and the gradients by x and by what the block learns."""

    def function(weights, x):
        with keras.StatelessScope(list(zip(block.trainable_variables, weights, strict=True))):
            return call(x)

    weights = [v.value for v in block.trainable_variables]
    result, *gradients = jax.jit(with_gradient(function))(given, weights, x)
    return result, gradients


def perturbed(block):
    """A block, built, of random weights: biases are zeros at the start."""
    block.build()
    rng = np.random.default_rng(1)
    for variable in block.variables:
        variable.assign(rng.normal(scale=0.2, size=variable.shape))
    return block


def asked_for(monkeypatch) -> None:
    """In float32, which the kernels take only here: the rounding of bfloat16 would hide a difference."""
    monkeypatch.setattr(kernels, "norm_fits", lambda x: kernels._used.get() is not None)


@pytest.mark.parametrize("name", list(blocks()))
def test_blocks_hand_it_what_it_takes(interpreted, monkeypatch, name):
    block, call = blocks()[name]
    check_block(monkeypatch, perturbed(block), call)


def check_block(monkeypatch, block, call) -> None:
    """It gives what it gives without the kernels."""
    x, given = (jnp.asarray(part, "float32") for part in np.random.default_rng(2).normal(size=(2, 3, 7, 64)))
    expected = value_and_gradients(block, call, x, given)
    asked_for(monkeypatch)
    with fitting() as used:
        found = value_and_gradients(block, call, x, given)
        assert used == {"norm"}
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(
    ("mixer", "at_once", "copies"),
    # Read by the net and the residual, then once; along the sequence the mixer's own kernel takes the norm.
    [("attention", False, [2, 1]), ("mlp_t", False, [1]), ("mlp_t", True, [1])],
)
def test_how_often_a_state_is_read(interpreted, monkeypatch, mixer, at_once, copies):
    block = perturbed(ReasoningBlock(64, 96, mixer, num_heads=2, seq_len=3, seq_mlp_dim=16))
    mixed = block.mixer
    monkeypatch.setattr(kernels, "mixer_fits", lambda *_: at_once and kernels._used.get() is not None)
    monkeypatch.setattr(kernels, "mixed", lambda z, *_: rms(z + mixed(z), axis=0))
    seen = []
    call = kernels.post_norm
    monkeypatch.setattr(kernels, "post_norm", lambda *args: seen.append(args[3]) or call(*args))
    check_block(monkeypatch, block, block)
    assert seen == copies


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


@pytest.mark.parametrize("settings", [{"norm_position": "pre"}, {"norm_type": "layer"}])
@pytest.mark.parametrize("mixer", ["attention", "mlp_t"])
def test_reasoning_that_does_not_ask(monkeypatch, mixer, settings):
    block = ReasoningBlock(64, 96, mixer, num_heads=2, seq_len=3, seq_mlp_dim=16, **settings)
    block.build()
    asked_for(monkeypatch)
    with fitting() as used:
        block(jnp.ones((3, 7, 64)))
        assert not used
