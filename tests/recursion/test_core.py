"""H/L cycles against NumPy, and which calls the gradient passes through."""

import gc
import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import reference
from reference import to_numpy, weights

from saccade.layers.blocks import CrossModalBlock
from saccade.recursion.core import BlockStack, RecursiveCore

B, N, T, F, D, HEADS, MLP_DIM = 2, 9, 7, 5, 24, 3, 40
VISION, TEXT = slice(1, 1 + N), slice(1 + N, 1 + N + T)
LAYOUT = SimpleNamespace(vision=VISION, text=TEXT)
S = 1 + N + T + F


def net(name, depth=2, remat=False):
    blocks = [CrossModalBlock(D, HEADS, MLP_DIM, name=f"block_{i}") for i in range(depth)]
    return BlockStack(blocks, remat=remat, name=name)


def core(shared, h_cycles, l_cycles, depth=2, remat=False):
    low, high = net("low", depth, remat), None if shared else net("high", depth, remat)
    built = RecursiveCore(low, high, h_cycles, l_cycles)
    built.build()
    return reference.randomize(built)


def states(seed=3):
    rng = np.random.default_rng(seed)
    z_h, z_l, x = (rng.normal(size=(B, S, D)).astype(np.float32) for _ in range(3))
    mask = np.ones((B, S), bool)
    mask[0, TEXT.stop - 2 : TEXT.stop] = False
    mask[1, TEXT] = False
    return z_h, z_l, x, mask


def numpy_step(built, z_h, z_l, x, mask):
    def f(name, z):
        for i in range(2):
            w = reference.part(weights(built), f"{name}/block_{i}")
            z = reference.cross_modal_block(w, z, mask, VISION, TEXT, HEADS)
        return z

    for _ in range(built.h_cycles):
        for _ in range(built.l_cycles):
            z_l = f("low", z_l + z_h + x)
        z_h = f("high" if built.high else "low", z_h + z_l)
    return z_h, z_l


@pytest.mark.parametrize(
    ("shared", "h_cycles", "l_cycles"), [(True, 1, 1), (True, 3, 2), (False, 2, 3)], ids=str
)
def test_cycles_equal_numpy(shared, h_cycles, l_cycles):
    built = core(shared, h_cycles, l_cycles)
    z_h, z_l, x, mask = states()
    for ours, theirs in zip(
        built(z_h, z_l, x, mask, layout=LAYOUT), numpy_step(built, z_h, z_l, x, mask), strict=True
    ):
        np.testing.assert_allclose(to_numpy(ours), theirs, atol=1e-4)


def test_shared_nets_are_one_net():
    assert len(core(False, 1, 1).variables) == 2 * len(core(True, 1, 1).variables)


def test_scores_are_those_of_the_last_block():
    built = core(False, 2, 1)
    z_h, z_l, x, mask = states()
    plain = built(z_h, z_l, x, mask, layout=LAYOUT)
    *told, scores = built(z_h, z_l, x, mask, layout=LAYOUT, return_scores=True)
    for a, b in zip(plain, told, strict=True):
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), atol=1e-5)
    assert scores.shape == (B, HEADS, S, S)
    readable = np.broadcast_to(mask[:, None, None], scores.shape)
    assert not to_numpy(scores)[~readable].any()
    np.testing.assert_allclose(to_numpy(scores).sum(-1), 1, atol=1e-5)


def loss_of(built, run):
    """jax function: trainable values -> scalar, for a way to run the cycles."""

    def loss(values):
        pairs = list(zip(built.trainable_variables, values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            z_h, z_l = run()
            return jnp.sum(jnp.sin(3.0 * z_h)) + jnp.sum(jnp.cos(2.0 * z_l))

    return loss


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()), rtol=1e-3)


@pytest.mark.parametrize("shared", [True, False])
def test_the_gradient_is_that_of_the_last_cycle(shared):
    built = core(shared, h_cycles=2, l_cycles=2, depth=1)
    z_h, z_l, x, mask = (jnp.asarray(t) for t in states())
    values = [v.value for v in built.trainable_variables]

    def by_hand():
        low, high = built.low, built.high or built.low
        h, l = z_h, z_l  # noqa: E741, the names of the paper
        for cycle in range(2):
            if cycle == 1:
                h, l = jax.lax.stop_gradient(h), jax.lax.stop_gradient(l)  # noqa: E741
            for _ in range(2):
                l = low(l + h + x, mask, layout=LAYOUT)  # noqa: E741
            h = high(h + l, mask, layout=LAYOUT)
        return h, l

    ours = jax.jit(jax.grad(loss_of(built, lambda: built(z_h, z_l, x, mask, layout=LAYOUT))))(values)
    theirs = jax.jit(jax.grad(loss_of(built, by_hand)))(values)
    assert max(float(jnp.abs(g).max()) for g in ours) > 0.1
    assert_close(ours, theirs)


def test_remat_changes_nothing():
    plain, remat = core(True, 1, 1, depth=1), core(True, 1, 1, depth=1, remat=True)
    z_h, z_l, x, mask = (jnp.asarray(t) for t in states())
    gradients = [
        jax.jit(jax.grad(loss_of(c, lambda c=c: c(z_h, z_l, x, mask, layout=LAYOUT))))(
            [v.value for v in c.trainable_variables]
        )
        for c in (plain, remat)
    ]
    assert_close(*gradients)


@pytest.mark.parametrize("cycles", [(0, 1), (1, 0)])
def test_no_cycles_are_refused(cycles):
    with pytest.raises(ValueError, match="must be at least 1"):
        RecursiveCore(net("low"), None, *cycles)


def test_a_traced_core_is_let_go():
    """jax.closure_convert, which the cycles without gradient might use, would keep it for good."""

    def traced():
        built = core(True, 2, 1)
        z_h, z_l, x, mask = states()
        jax.jit(lambda *args: built(*args, padding_mask=mask, layout=LAYOUT))(z_h, z_l, x)
        return weakref.ref(built)

    gone = traced()
    gc.collect()
    assert gone() is None


def test_cycles_without_gradient_keep_nothing_for_one():
    """Of two cycles the first is a constant: its loop returns the two states, and no residuals."""
    built = core(True, 2, 1)
    z_h, z_l, x, mask = states()

    def loss(values):
        with keras.StatelessScope(list(zip(built.trainable_variables, values, strict=True))):
            return built(z_h, z_l, x, padding_mask=mask, layout=LAYOUT)[0].sum()

    traced = jax.make_jaxpr(jax.grad(loss))([v.value for v in built.trainable_variables])
    loops = [e for e in traced.jaxpr.eqns if e.primitive.name in ("scan", "while")]
    assert [len(loop.outvars) for loop in loops] == [3]  # a count and two states
