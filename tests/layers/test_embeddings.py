"""Patches, tokens and pooling against NumPy."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import reference
from keras import ops
from reference import to_numpy, weights

from saccade.layers import embeddings
from saccade.layers.embeddings import PatchConvolution, PatchEmbedding, TokenEmbedding, lookup
from saccade.layers.pooling import AttentionPooling

B, D, PATCH, GRID = 2, 24, 4, (3, 5)
H, W = GRID[0] * PATCH, GRID[1] * PATCH


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def built(layer):
    layer.build()
    return reference.randomize(layer)


def test_patches_are_row_major(rng):
    patches, images = built(PatchEmbedding(D, PATCH, GRID)), rng.random((B, H, W, 3)).astype(np.float32)
    w = weights(patches)
    kernel, bias = w["projection/kernel"], w["projection/bias"]
    result = to_numpy(patches(images))
    assert result.shape == (B, GRID[0] * GRID[1], D)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            square = images[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH].astype(
                np.float64
            )
            expected = np.einsum("bijc,ijcd->bd", square, kernel) + bias + w["positions"][row, column]
            np.testing.assert_allclose(result[:, row * GRID[1] + column], expected, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("side", "channels"), [(PATCH, 3), (2, 5), (1, 7)])
def test_a_patch_convolution_is_a_convolution(rng, side, channels, use_bias):
    """Values, gradients and variables."""
    ours = PatchConvolution(D, side, use_bias=use_bias, name="projection")
    plain = keras.layers.Conv2D(D, side, strides=side, use_bias=use_bias, name="projection")
    for layer in (ours, plain):
        layer.build((None, None, None, channels))
        reference.randomize(layer)
    paths, others = ([(v.path, v.shape) for v in layer.variables] for layer in (ours, plain))
    assert paths == others
    images, upstream = normal(rng, B, H, W, channels), normal(rng, B, H // side, W // side, D)
    results = []
    for layer in (ours, plain):
        values = [v.value for v in layer.variables]
        y, backward = jax.vjp(lambda v, x, layer=layer: layer.stateless_call(v, [], x)[0], values, images)
        by_values, by_images = backward(upstream)
        results.append([y, *by_values, by_images])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)


def test_a_patch_convolution_computes_in_bfloat16(rng):
    layer = PatchConvolution(D, PATCH, dtype="mixed_bfloat16")
    layer.build((None, None, None, 3))
    reference.randomize(layer)
    images = normal(rng, B, H, W, 3)
    found = layer(images)
    assert found.dtype == "bfloat16"
    exact = ops.conv(images, layer.kernel.value, strides=PATCH) + layer.bias.value
    np.testing.assert_allclose(np.asarray(found, np.float32), exact, atol=0.05)


def test_stem(rng):
    patches = built(PatchEmbedding(D, PATCH, GRID, stem=(6, 10)))
    images = rng.random((B, H, W, 3)).astype(np.float32)
    w = weights(patches)
    x = images.astype(np.float64)
    for i in range(2):
        x = reference.convolution(reference.part(w, f"stem_{i}"), x, 2)
        x = reference.gelu_tanh(reference.layer_norm(reference.part(w, f"stem_norm_{i}"), x))
    x = x @ w["projection/kernel"][0, 0] + w["projection/bias"] + w["positions"]
    np.testing.assert_allclose(to_numpy(patches(images)), x.reshape(B, -1, D), atol=5e-5)


@pytest.mark.parametrize(("centered", "before", "after"), [(False, 0, 7), (True, 4, 3)])
def test_what_a_patch_of_a_stem_sees(centered, before, after):
    """Of a row of pixels: its own 8, and so many before and after them."""
    patches = built(PatchEmbedding(D, 8, (1, 3), stem=(4, 4, 4), centered=centered))

    def middle(images):
        return ops.sum(patches(images)[0, 1] * ops.arange(D))

    gradient = jax.grad(middle)(jnp.asarray(np.random.default_rng(0).random((1, 8, 24, 3)), jnp.float32))
    seen = np.flatnonzero(np.abs(gradient[0]).sum((0, 2)))
    assert (seen[0], seen[-1]) == (8 - before, 15 + after)


def test_positions_are_interpolated_for_another_grid(rng):
    patches = built(PatchEmbedding(D, PATCH, GRID))
    patches.projection.kernel.assign(np.zeros(patches.projection.kernel.shape))
    patches.projection.bias.assign(np.zeros(D))
    table = weights(patches)["positions"]
    other = to_numpy(patches(np.zeros((1, 2 * H, 2 * W, 3), np.float32))).reshape(6, 10, D)
    # Bilinear at twice the size, half-pixel centres: inside, 3/4 of the near and 1/4 of the far neighbour.
    np.testing.assert_allclose(other[0, 0], table[0, 0], atol=1e-5)
    rows = 0.75 * table[0] + 0.25 * table[1]
    np.testing.assert_allclose(other[1, 1], 0.75 * rows[0] + 0.25 * rows[1], atol=1e-5)
    np.testing.assert_allclose(other[1, 4], 0.75 * rows[2] + 0.25 * rows[1], atol=1e-5)
    # A transposed grid must not read the table in the wrong order.
    tall = to_numpy(patches(np.zeros((1, W, H, 3), np.float32))).reshape(5, 3, D)
    np.testing.assert_allclose(tall[0, 0], table[0, 0], rtol=0.5, atol=0.5)
    np.testing.assert_allclose(tall[2, 1], table[1, 2], atol=1e-5)  # the centre stays the centre


@pytest.mark.parametrize("size", [(H + 1, W), (H, W + 2)])
def test_an_image_that_the_patch_does_not_divide_is_refused(size):
    patches = built(PatchEmbedding(D, PATCH, GRID))
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} px is not a multiple of patch_size=4"):
        patches(np.zeros((1, *size, 3), np.float32))


def test_a_stem_that_outgrows_the_patch_is_refused():
    with pytest.raises(ValueError, match="shrinks by 8, which does not divide patch_size=4; shorten"):
        PatchEmbedding(D, PATCH, GRID, stem=(4, 4, 4))


VOCABULARY, LONGEST, T = 13, 11, 7


def embedding():
    return built(TokenEmbedding(VOCABULARY, D, LONGEST))


def test_tokens_and_positions(rng):
    layer = embedding()
    tokens, w = rng.integers(VOCABULARY, size=(B, T)), weights(layer)
    result = to_numpy(layer(tokens))
    np.testing.assert_allclose(result, D**0.5 * (w["table"][tokens] + w["positions"][:T]), atol=1e-5)
    later = to_numpy(layer(tokens, start=ops.convert_to_tensor(3)))
    expected = D**0.5 * (w["table"][tokens] + w["positions"][3 : 3 + T])
    np.testing.assert_allclose(later, expected, atol=1e-5)


def test_unembedding_is_the_table_transposed(rng):
    layer, hidden = embedding(), normal(rng, B, T, D)
    logits = layer.unembed(hidden)
    np.testing.assert_allclose(to_numpy(logits), hidden @ weights(layer)["table"].T, atol=1e-5)
    assert str(logits.dtype).endswith("float32")


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="12 tokens exceed max_length=11"):
        embedding()(np.zeros((1, LONGEST + 1), np.int32))


def lookup_gradient(read, table, indices, upstream):
    """(value, gradient of the table), compiled, indices not known beforehand."""

    def run(table, indices, upstream):
        value, backward = jax.vjp(lambda table: read(table, indices), table)
        return value, backward(upstream)[0]

    return jax.jit(run)(table, indices, upstream)


@pytest.mark.parametrize("shape", [(5,), (B, T), (B, 3, T)])
@pytest.mark.parametrize("largest", [4096, VOCABULARY - 1])
def test_lookup_has_the_gradient_of_a_gather(rng, monkeypatch, shape, largest):
    monkeypatch.setattr(embeddings, "LOOKUP_BY_PRODUCT", largest)  # by product, and by gather
    indices = rng.integers(VOCABULARY - 1, size=shape)  # rows that occur again, and one that never does
    indices.flat[:2] = 0
    table, upstream = normal(rng, VOCABULARY, D), normal(rng, *shape, D)
    value, gradient = lookup_gradient(lookup, table, indices, upstream)
    expected, wanted = lookup_gradient(lambda t, i: ops.take(t, i, axis=0), table, indices, upstream)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(gradient, wanted, atol=1e-5)
    assert not np.asarray(gradient)[-1].any()


def test_the_gradient_of_a_lookup_is_summed_in_bfloat16_no_worse_than_a_gathers(rng):
    indices = np.zeros((40, T), np.int32)  # padding: one row, again and again
    table = jnp.asarray(normal(rng, VOCABULARY, D), "bfloat16")
    upstream = jnp.asarray(1 + normal(rng, 40, T, D) / 8, "bfloat16")
    _, gradient = lookup_gradient(lookup, table, indices, upstream)
    assert gradient.dtype == table.dtype
    exact = np.asarray(upstream, np.float64).sum((0, 1))
    np.testing.assert_allclose(np.asarray(gradient[0], np.float64), exact, rtol=2**-8)


def test_a_large_table_is_looked_up_narrow_and_learns_in_float32(rng, monkeypatch):
    monkeypatch.setattr(embeddings, "LOOKUP_BY_PRODUCT", 0)
    indices = np.zeros((600,), np.int32)
    table, upstream = normal(rng, VOCABULARY, D), jnp.ones((600, D), "bfloat16") / 3

    def narrow(table, indices):
        return lookup(table, indices, "bfloat16")

    value, gradient = lookup_gradient(narrow, table, indices, upstream)
    assert (value.dtype, gradient.dtype) == ("bfloat16", "float32")
    # Summed in bfloat16 it would stand still at 256 / 3.
    np.testing.assert_allclose(gradient[0], float(upstream[0, 0]) * 600, rtol=1e-5)


N, HEADS = 9, 3


@pytest.mark.parametrize("masked", [False, True])
def test_attention_pooling(rng, masked):
    pool, x = built(AttentionPooling(D, HEADS)), normal(rng, B, N, D)
    mask = rng.random((B, N)) < 0.6 if masked else None
    keep = np.ones((B, N), bool) if mask is None else mask
    w, width = weights(pool), D // HEADS
    expected = np.zeros((B, D))
    for b in range(B):
        logits = reference.dense(reference.part(w, "score"), x[b, keep[b]])
        for a in range(HEADS):
            own = slice(a * width, (a + 1) * width)
            expected[b, own] = reference.softmax(logits[:, a]) @ x[b, keep[b], own]
    np.testing.assert_allclose(to_numpy(pool(x, mask)), expected, atol=1e-5)


def test_pooling_nothing_gives_zeros(rng):
    pool = built(AttentionPooling(D, HEADS))
    assert not to_numpy(pool(normal(rng, B, N, D), np.zeros((B, N), bool))).any()


def test_pooling_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_heads=5 does not divide dim=24"):
        AttentionPooling(D, 5)
