"""Chunked losses equal the plain ones, gradients included, and their memory grows linearly."""

import keras
import numpy as np
import pytest
from keras import ops
from reference import to_numpy

from saccade import backend, losses

B, C, E = 7, 11, 5
ATOL = 2e-5


def vectors(rows=B, columns=C, seed=0):
    rng = np.random.default_rng(seed)
    images, texts = (rng.normal(size=(n, E)).astype(np.float32) for n in (rows, columns))
    return [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts)]


def plain_info_nce(images, texts, scale, bias):
    return losses.info_nce(scale * ops.matmul(images, ops.transpose(texts)))


def plain_siglip(images, texts, scale, bias):
    return losses.siglip_loss(scale * ops.matmul(images, ops.transpose(texts)), bias)


PAIRS = {
    "info_nce": (plain_info_nce, lambda i, t, s, b, c: losses.chunked_info_nce(i, t, s, c)),
    "siglip": (plain_siglip, losses.chunked_siglip_loss),
}


def value_and_gradients(function, values, weights):
    def total(values):
        rows = function(*values)
        return ops.sum(rows * ops.convert_to_tensor(weights)), rows

    values = [ops.convert_to_tensor(v, "float32") for v in values]
    (_, rows), gradients = backend.value_and_grad(total, values)
    return to_numpy(rows), [to_numpy(g) for g in gradients]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("columns", "chunk"), [(C, 4), (C, 1), (C, 11), (C, 64), (B, 3)])
def test_it_is_the_plain_loss(name, columns, chunk):
    plain, chunked = PAIRS[name]
    values = [*vectors(columns=columns), 9.0, -2.5]
    weights = np.linspace(-1, 2, B).astype(np.float32)  # a gradient of its own for each row
    rows, gradients = value_and_gradients(plain, values, weights)
    found, pulled = value_and_gradients(lambda *v: chunked(*v, chunk), values, weights)
    np.testing.assert_allclose(found, rows, rtol=1e-5, atol=ATOL)
    for ours, theirs in zip(pulled, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=ATOL)
    assert np.abs(gradients[0]).max() > 0.1
    assert np.abs(gradients[2]) > 1e-3


@pytest.mark.parametrize("name", PAIRS)
def test_large_logits_stay_finite(name):
    values = [*vectors(), 100.0, 0.0]
    rows, gradients = value_and_gradients(lambda *v: PAIRS[name][1](*v, 4), values, np.ones(B, np.float32))
    assert np.isfinite(rows).all()
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_the_hardest_are_those_of_the_whole_matrix(chunk):
    images, texts = vectors()
    texts[9] = texts[2]
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4], np.int32)
    cosine = images @ texts.T
    for alike, given in ((None, None), (groups[:B, None] == groups, ops.convert_to_tensor(groups))):
        expected, _ = losses.hard_negatives(cosine, alike)
        index, found = losses.hardest(images, texts, chunk, given)
        np.testing.assert_array_equal(to_numpy(index), to_numpy(expected))
        assert to_numpy(found).all()
    nobody = ops.zeros((C,), "int32")
    assert not to_numpy(losses.hardest(images, texts, chunk, nobody)[1]).any()
    assert to_numpy(losses.hardest(images[:1], texts[:1], chunk)[1]).tolist() == [False]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA says what it needs")
@pytest.mark.parametrize("name", PAIRS)
def test_memory_grows_linearly(name):
    import jax

    def bytes_of(function, rows):
        def total(images, texts):
            return ops.mean(function(images, texts, 10.0, 0.0))

        shape = jax.ShapeDtypeStruct((rows, 64), np.float32)
        step = jax.jit(jax.grad(total, argnums=(0, 1)))
        return backend.program(step, shape, shape).temporary_bytes

    plain, chunked = PAIRS[name]
    small, large = (bytes_of(lambda *v: chunked(*v, 256), rows) for rows in (1024, 4096))
    assert large < 5 * small
    assert bytes_of(plain, 4096) > 4 * large
