"""Projection and fusion tokens against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from keras import ops
from reference import to_numpy, weights

from saccade.fusion.projection import Projection, splice
from saccade.fusion.resampler import FusionTokens
from saccade.layers.embeddings import pixel_shuffle

B, C, D, F, T, N, HEADS = 2, 5, 24, 4, 7, 9, 3


@pytest.mark.parametrize(("grid", "factor"), [((4, 6), 2), ((6, 3), 3), ((2, 5), 1)])
def test_pixel_shuffle_is_the_published_one(grid, factor):
    """(B, H/r, r, W/r, r, C) -> permute (0, 1, 3, 2, 4, 5) -> (B, HW/r^2, r^2 C), square by square."""
    rows, columns = grid
    x = np.random.default_rng(0).normal(size=(B, rows * columns, C)).astype(np.float32)
    result = to_numpy(pixel_shuffle(x, grid, factor))
    assert result.shape == (B, rows * columns // factor**2, factor**2 * C)
    picture = x.reshape(B, rows, columns, C)
    for i in range(rows // factor):
        for j in range(columns // factor):
            square = picture[:, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
            np.testing.assert_array_equal(result[:, i * (columns // factor) + j], square.reshape(B, -1))


def test_pixel_shuffle_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="pixel shuffle by 2 does not divide the patch grid 4 x 5"):
        pixel_shuffle(np.zeros((1, 20, C), np.float32), (4, 5), 2)


def test_projection():
    layer = Projection(C, D, shuffle=2)
    layer.build()
    reference.randomize(layer)
    x = np.random.default_rng(1).normal(size=(B, 24, C)).astype(np.float32)
    expected = to_numpy(pixel_shuffle(x, (4, 6), 2)) @ weights(layer)["linear/kernel"]
    np.testing.assert_allclose(to_numpy(layer(x, grid=(4, 6))), expected, atol=1e-5)


def gathered(x, soft, image_mask):
    """`splice` by a plain gather, whose gradient JAX makes."""
    groups = soft.shape[0] if soft.ndim == 4 else 1
    soft = soft.reshape(groups, -1, soft.shape[-1])
    which = jnp.maximum(jnp.cumsum(image_mask.reshape(groups, -1), axis=1) - 1, 0)
    rows = jnp.concatenate([jnp.take(own, index, axis=0) for own, index in zip(soft, which, strict=True)])
    return jnp.where(image_mask[..., None], rows.reshape(x.shape).astype(x.dtype), x)


# Places of three rows of nine tokens; soft tokens come in fours.
PLACES = {
    "rows differ": ((2, 3, 4, 5, 6, 7, 8), (), (0, 1, 3, 8, 5), 3),
    "fewer places than tokens": ((0, 1), (0,), (7, 8), 3),
    "more places than tokens": ((4, 5, 6, 7, 8), (0, 1, 2, 3, 7), (1, 3), 1),
    "none": ((), (), (), 1),
}


def spliced_case(case: str, each_row: bool, dtype):
    *places, images = PLACES[case]
    rng = np.random.default_rng(5)
    shape = (3, images, 4, D) if each_row else (images, 4, D)
    mask = np.zeros((3, 9), bool)
    for row, own in zip(mask, places, strict=True):
        row[list(own)] = True
    x, upstream = (jnp.asarray(rng.normal(size=(3, 9, D)), dtype) for _ in range(2))
    return x, jnp.asarray(rng.normal(size=shape), dtype), mask, upstream


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("each_row", [False, True])
@pytest.mark.parametrize("case", PLACES)
def test_splice_has_the_values_and_gradients_of_a_gather(case, each_row, dtype):
    x, soft, mask, upstream = spliced_case(case, each_row, dtype)

    def run(function, x, soft, mask, upstream):
        value, backward = jax.vjp(lambda x, soft: function(x, soft, mask), x, soft)
        return value, *backward(upstream)

    results = (jax.jit(run, static_argnums=0)(f, x, soft, mask, upstream) for f in (splice, gathered))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.astype("float32"), expected.astype("float32"))


def test_splice_reads_images_in_order():
    """Row by row by hand: values, and which token each place's gradient reaches."""
    mask = np.array([[False, True, True], [False, False, False], [True, False, True]])
    x, soft = np.zeros((3, 3, 1), np.float32), np.arange(1.0, 7.0, dtype=np.float32).reshape(3, 2, 1)
    value = np.asarray(splice(x, soft, mask))[..., 0]
    np.testing.assert_array_equal(value, [[0, 1, 2], [0, 0, 0], [3, 0, 4]])
    own = np.asarray(splice(x, soft.reshape(3, 1, 2, 1), mask))[..., 0]
    np.testing.assert_array_equal(own, [[0, 1, 2], [0, 0, 0], [5, 0, 6]])
    upstream = np.arange(10.0, 19.0, dtype=np.float32).reshape(3, 3, 1)
    by_soft = jax.grad(lambda soft: ops.sum(splice(x, soft, mask) * upstream))(soft)
    np.testing.assert_array_equal(by_soft[..., 0], [[11, 12], [16, 18], [0, 0]])


def test_the_gradient_of_splice_adds_nothing_up():
    """A scatter of vectors that adds is slow on a GPU."""
    x, soft, mask, upstream = spliced_case("rows differ", False, "float32")
    gradient = jax.grad(lambda soft: ops.sum(splice(x, soft, mask) * upstream))
    assert "scatter-add" not in str(jax.make_jaxpr(gradient)(soft))
    plain = jax.grad(lambda soft: ops.sum(gathered(x, soft, mask) * upstream))
    assert "scatter-add" in str(jax.make_jaxpr(plain)(soft))


def test_fusion_tokens_read_the_image_and_then_the_text():
    layer = FusionTokens(F, D, HEADS)
    layer.build()
    w = weights(reference.randomize(layer))
    rng = np.random.default_rng(2)
    vision, text = (rng.normal(size=(B, n, D)).astype(np.float32) for n in (N, T))
    mask = np.ones((B, T), bool)
    mask[0, 4:], mask[1] = False, False
    f = np.broadcast_to(w["tokens"], (B, F, D))
    f = reference.rms(f + reference.attention(reference.part(w, "read_vision"), f, vision, None, HEADS)[0])
    read = reference.attention(reference.part(w, "read_text"), f, text, mask[:, None], HEADS)[0]
    np.testing.assert_allclose(to_numpy(layer(vision, text, mask)), reference.rms(f + read), atol=5e-5)
    assert not read[1].any()  # a row without text reads nothing
