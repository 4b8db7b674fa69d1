"""The attention kernel: which shapes it takes, its values on a CPU that interprets it and on a GPU, and that
layers hand it what it takes."""

from functools import partial

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from kernel_parts import fitting, for_hopper, interpreted_hopper, with_gradient

from saccade import kernels
from saccade.kernels import attention_gradient, self_attention
from saccade.kernels.head import Heads
from saccade.kernels.self_attention import attention
from saccade.layers.attention import Attention
from saccade.layers.attention_kinds import DifferentialAttention
from saccade.layers.blocks import CausalBlock, EncoderBlock, again
from saccade.layers.rotary import rotary_table

SHAPES = [  # nanoVLM's decoder, TRM's, nanoVLM's tower (196 tokens), odd ones
    (Heads(128, 9, 3, 64, True), True),
    (Heads(88, 4, 4, 64, False), True),
    (Heads(196, 2, 2, 64, False), False),
    (Heads(81, 2, 1, 32, True), True),
    (Heads(17, 4, 2, 64, True), False),
    (Heads(256, 2, 1, 32, True), True),
]


def plain(packed, table, heads: Heads):
    """The same by the equations, scores whole."""
    batch, length, _ = packed.shape
    cuts = np.cumsum([heads.queries, heads.shared]) * heads.width
    q, k, v = (t.reshape(batch, length, -1, heads.width) for t in jnp.split(packed, cuts, axis=-1))
    if table:
        cos, sin = (t[:, None] for t in table)

        def turned(x):
            a, b = jnp.split(x, 2, axis=-1)
            return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

        q, k = turned(q), turned(k)
    k, v = (jnp.repeat(t, heads.queries // heads.shared, axis=2) for t in (k, v))
    scores = jnp.einsum("btae,bmae->batm", q, k) / heads.width**0.5
    if heads.causal:
        scores = jnp.where(np.tri(length, dtype=bool), scores, -jnp.inf)
    return jnp.einsum("batm,bmae->btae", jax.nn.softmax(scores), v).reshape(batch, length, -1)


def drawn(heads: Heads, rotary: bool, batch: int) -> tuple:
    """The gradient given, packed rows, and a table."""
    rng = np.random.default_rng(0)
    packed = rng.normal(size=(batch, heads.length, (heads.queries + 2 * heads.shared) * heads.width))
    given = rng.normal(size=(batch, heads.length, heads.queries * heads.width))
    table = tuple(map(jnp.asarray, rotary_table(heads.length, heads.width))) if rotary else ()
    return jnp.asarray(given, "bfloat16"), jnp.asarray(packed, "bfloat16"), table


def check_values(heads: Heads, rotary: bool, batch: int, limit: float) -> None:
    *args, table = drawn(heads, rotary, batch)
    found, exact = (with_gradient(partial(f, table=table, heads=heads)) for f in (attention, plain))
    found = found(*args)
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(exact)(*(t.astype("float32") for t in args))
    for one, other in zip(found, exact, strict=True):
        off = jnp.linalg.norm(one.astype("float32") - other) / jnp.linalg.norm(other)
        assert off < limit


MORE = (Heads(160, 2, 1, 64, True), True), (Heads(17, 2, 1, 64, True), False)  # three tiles; too few heads


@pytest.mark.parametrize(("heads", "rotary"), [*SHAPES, *MORE])
def test_values_and_gradients_interpreted(monkeypatch, capfd, heads, rotary):
    monkeypatch.setattr(attention_gradient, "multiprocessors", lambda: 1)  # several heads after each other
    with interpreted_hopper(self_attention, attention_gradient):
        check_values(heads, rotary, 2, 5e-3)
    assert "RACE" not in capfd.readouterr().out


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "rotary"), SHAPES)
def test_values_and_gradients_are_float32s(heads, rotary):
    check_values(heads, rotary, 128, 5e-3)


@pytest.mark.skipif(jax.__version_info__ < kernels.VERSION, reason="JAX 0.10 joins no columns in Mosaic")
@pytest.mark.parametrize(("heads", "rotary"), SHAPES[:3])
def test_this_jax_lowers_it_for_the_gpu(monkeypatch, heads, rotary):
    monkeypatch.setattr(attention_gradient, "multiprocessors", lambda: 132)
    *args, table = drawn(heads, rotary, 2)
    run = jax.jit(with_gradient(partial(attention, table=table, heads=heads)))
    with for_hopper():
        text = run.trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 2


@pytest.mark.parametrize(
    ("shape", "heads", "fits"),
    [
        ((64, 128, 576), (3, 64), True),
        ((64, 196, 768), (12, 64), True),
        ((64, 256, 288), (3, 32), True),
        ((64, 16, 576), (3, 64), True),
        ((64, 15, 576), (3, 64), False),
        ((64, 257, 576), (3, 64), False),  # keys that fill no one tile
        ((64, 128, 720), (3, 80), False),  # no power of two
        ((40, 128, 576), (3, 64), False),  # fewer blocks than multiprocessors
        ((8192, 576), (3, 64), False),
    ],
)
def test_which_fit(shape, heads, fits):
    x = jax.ShapeDtypeStruct(shape, "bfloat16")
    with fitting():
        assert kernels.attention_fits(x, *heads) is fits
        assert not kernels.attention_fits(jax.ShapeDtypeStruct(shape, "float32"), *heads)
    assert not kernels.attention_fits(x, *heads)  # nobody allowed it


@pytest.mark.parametrize("heads", [heads for heads, _ in SHAPES])
@pytest.mark.parametrize("count", [1, 2])
def test_what_lies_over_a_heads_memory_is_its_own(heads, count):
    """The interpreter has no unions, so it sees no head of a block write over another's."""
    *seen, over = attention_gradient.over(count, heads.tiles * 64, heads.width).refs
    assert {ref.inner_aval.shape[0] for ref in (*seen, over)} == {count}
    # As long, so that each head's begins where what it lies over does.
    assert len({ref.inner_aval.size for ref in (*seen, over)}) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "rotary"), SHAPES)
def test_same_bits_every_time(heads, rotary):
    given, packed, table = drawn(heads, rotary, 64)
    run = jax.jit(with_gradient(partial(attention, table=table, heads=heads)))
    first = run(given, packed)
    for _ in range(20):
        for one, other in zip(run(given, packed), first, strict=True):
            assert jnp.array_equal(one, other)


def layers():
    """What attends itself: with biases, by turning, with shared keys and causally."""
    return {
        "encoder": EncoderBlock(64, 2, 96),
        "rotary": Attention(64, 2, rope_theta=1e4, flash=None),
        "causal": CausalBlock(128, 4, 2, 96),
    }


@pytest.fixture
def by_equations(monkeypatch):
    """In its place its equations, in float32, which it does not take: bfloat16 would hide a difference."""
    monkeypatch.setattr(self_attention, "attention", plain)
    monkeypatch.setattr(kernels, "_fits", lambda x: kernels._used.get() is not None)


@pytest.mark.parametrize("name", list(layers()))
def test_layers_hand_it_what_it_takes(by_equations, name):
    layer = layers()[name]
    layer.build()
    rng = np.random.default_rng(1)
    for variable in layer.variables:  # biases are zeros at the start
        variable.assign(rng.normal(scale=0.2, size=variable.shape))
    x = jnp.asarray(rng.normal(size=(64, 24, 128 if name == "causal" else 64)), "float32")
    expected = layer(x)
    with fitting() as used:
        found = layer(x)
        assert used == {"attention"}
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_adapters_and_remat_go_through_it(by_equations, monkeypatch):
    block = CausalBlock(128, 4, 2, 96)
    block.build()
    rng = np.random.default_rng(2)
    for dense in (block.attention.query, block.attention.key_value):
        dense.enable_lora(2, lora_alpha=3)
        dense.lora_kernel_b.assign(rng.normal(scale=0.1, size=dense.lora_kernel_b.shape))  # zeros at first
    x, given = (jnp.asarray(rng.normal(size=(64, 24, 128)), "float32") for _ in range(2))

    def gradients(call):
        def function(weights, x):
            with keras.StatelessScope(list(zip(block.trainable_variables, weights, strict=True))):
                return call(x)[0]

        return jax.vjp(function, [v.value for v in block.trainable_variables], x)[1](given)

    expected = gradients(block)
    monkeypatch.setattr(kernels, "norm_fits", lambda x: False)
    with fitting() as used:
        found = gradients(again(block))
        assert "attention" in used
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.linalg.norm(one - other) < 1e-5 * jnp.linalg.norm(other)


def test_layers_that_do_not_ask(monkeypatch):
    """Masks, scores, memories, other kinds of attention and unit queries have none."""
    monkeypatch.setattr(kernels, "_fits", lambda x: kernels._used.get() is not None)
    x = jnp.ones((64, 24, 64))
    with fitting() as used:
        attend = Attention(64, 2, flash=None)
        attend.build()
        attend(x, attention_mask=jnp.ones((64, 24, 24), bool))
        attend(x, return_scores=True)
        attend(x, x)
        attend(x, positions=jnp.zeros((64, 24), "int32"))
        block = CausalBlock(64, 2, 2, 96)
        block.build()
        _, memory = block(x, attention_mask=jnp.ones((64, 24, 24), bool))
        block(x, positions=jnp.zeros((64, 24), "int32"))
        cache = tuple(jnp.pad(part, ((0, 0), (0, 1), (0, 0), (0, 0))) for part in memory)
        block(x[:, :1], jnp.ones((64, 1, 25), bool), cache=cache, slot=jnp.asarray(24))
        for other in (
            Attention(64, 2, flash=None, qk_norm=True),
            Attention(64, 2, flash=False),
            DifferentialAttention(64, 2, flash=None),
        ):
            other.build()
            other(x)
        assert not used
