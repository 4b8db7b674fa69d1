"""SwiGLU along either axis, plain and with the gated norm; written-out gradients against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import trm_reference
from reference import to_numpy, weights

from saccade.layers.mlp import MLP, SwiGLU, product_scale, silu_product
from saccade.layers.normalization import rms, standardize

B, S, D, F = 3, 7, 10, 6


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("kind", ["swiglu", "gated_norm", "gelu"])
def test_nets_equal_numpy(kind, axis):
    width = D if axis == -1 else S
    net = (
        MLP(width, F, axis=axis)
        if kind == "gelu"
        else SwiGLU(width, F, gated_norm=kind == "gated_norm", axis=axis)
    )
    net.build()
    reference.randomize(net, seed=1)
    x = np.random.default_rng(0).normal(size=(S, B, D)).astype(np.float32)
    moved = x.astype(float) if axis == -1 else np.moveaxis(x.astype(float), 0, -1)
    expected = trm_reference.ffn(weights(net), moved, kind)
    expected = expected if axis == -1 else np.moveaxis(expected, -1, 0)
    np.testing.assert_allclose(to_numpy(net(x)), expected, atol=2e-5)


def plain_product(pairs, axis):
    gate, up = jnp.moveaxis(pairs, axis, 0)
    return gate * jax.nn.sigmoid(gate) * up


def plain_scale(pairs, axis):
    gate, up = jnp.moveaxis(pairs, axis, 0)
    return 1 / jnp.sqrt(jnp.mean((gate * up) ** 2, -1 if axis == -2 else 0, keepdims=True) + 1e-5)


def plain_rms(x, axis):
    return x / jnp.sqrt(jnp.mean(x * x, axis, keepdims=True) + 1e-5)


def plain_standardize(x, axis):
    return plain_rms(x - x.mean(axis, keepdims=True), axis)


FORMULAS = {
    "silu_product": (silu_product, plain_product),
    "product_scale": (product_scale, plain_scale),
    "rms": (lambda x, axis: rms(x, axis=axis), plain_rms),
    "standardize": (lambda x, axis: standardize(x, axis=axis), plain_standardize),
}


OF_PAIRS = ("silu_product", "product_scale")
AXES = [(name, axis) for name in FORMULAS for axis in ((-2, 1) if name in OF_PAIRS else (-1, 0, 1))]


@pytest.mark.parametrize(("name", "axis"), AXES)
def test_gradients_are_those_of_the_formula(name, axis):
    ours, plain = FORMULAS[name]
    shape = [4, 6, 8]
    if name in OF_PAIRS:
        shape[axis] = 2
    x = jax.random.normal(jax.random.key(0), shape)
    weight = jax.random.normal(jax.random.key(1), plain(x, axis).shape)
    a, b = (jax.value_and_grad(lambda x, f=f: (f(x, axis) * weight).sum())(x) for f in (ours, plain))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    np.testing.assert_allclose(a[1], b[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_keep_the_dtype(name):
    ours, _ = FORMULAS[name]
    axis = -2 if name in OF_PAIRS else -1
    x = jax.random.normal(jax.random.key(0), (4, 2, 6)).astype(jnp.bfloat16)
    gradient = jax.grad(lambda x: ours(x, axis).astype(jnp.float32).sum())(x)
    assert gradient.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_norm_of_zeros_is_finite():
    zeros = jnp.zeros((2, 4))
    assert (np.asarray(rms(zeros)) == 0).all()
    assert np.isfinite(np.asarray(jax.grad(lambda x: rms(x).sum())(zeros))).all()
