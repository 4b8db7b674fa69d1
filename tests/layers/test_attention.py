"""Attention against NumPy, with sizes that are pairwise distinct."""

import numpy as np
import pytest
import reference
from keras import ops
from reference import to_numpy, weights

from saccade.layers.attention import Attention, causal_mask

B, T, M, D, HEADS = 2, 7, 9, 24, 3
C = 10  # width of the memory


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def layer(use_bias=False, memory_dim=None, qk_norm=False):
    attention = Attention(D, HEADS, use_bias=use_bias, qk_norm=qk_norm)
    attention.build(memory_dim=memory_dim)
    return reference.randomize(attention)


def mask_of(rng, kind):
    if kind == "full":
        return rng.random((B, T, M)) < 0.6
    if kind == "keys":
        return rng.random((B, 1, M)) < 0.6
    return None


@pytest.mark.parametrize(
    ("use_bias", "qk_norm"), [(False, False), (True, False), (False, True), (True, True)]
)
@pytest.mark.parametrize("kind", ["none", "full", "keys"])
def test_cross_attention_equals_numpy(rng, kind, use_bias, qk_norm):
    attention = layer(use_bias, C, qk_norm)
    x, memory, mask = normal(rng, B, T, D), normal(rng, B, M, C), mask_of(rng, kind)
    expected, scores = reference.attention(weights(attention), x, memory, mask, HEADS, qk_norm)
    result = attention(x, memory, attention_mask=mask)
    assert result.shape == (B, T, D)
    np.testing.assert_allclose(to_numpy(result), expected, atol=2e-5)
    slow, said = attention(x, memory, attention_mask=mask, return_scores=True)
    np.testing.assert_allclose(to_numpy(slow), expected, atol=2e-5)
    np.testing.assert_allclose(to_numpy(said), scores, atol=1e-5)
    assert said.dtype == np.float32


def test_self_attention_is_attention_to_itself(rng):
    attention, x = layer(), normal(rng, B, T, D)
    expected, _ = reference.attention(weights(attention), x, num_heads=HEADS)
    np.testing.assert_allclose(to_numpy(attention(x)), expected, atol=2e-5)
    np.testing.assert_array_equal(to_numpy(attention(x, x)), to_numpy(attention(x)))


def test_a_query_that_may_attend_nothing_reads_zeros(rng):
    attention, x, memory = layer(use_bias=True), normal(rng, B, T, D), normal(rng, B, M, D)
    mask = np.ones((B, T, M), bool)
    mask[1, 4] = False
    bias = to_numpy(attention.output_projection.bias)
    for result in (
        attention(x, memory, attention_mask=mask),
        attention(x, memory, attention_mask=mask, return_scores=True)[0],
    ):
        np.testing.assert_allclose(to_numpy(result)[1, 4], bias, atol=1e-6)
        assert np.abs(to_numpy(result)[1, 3] - bias).max() > 0.1
    scores = to_numpy(attention(x, memory, attention_mask=mask, return_scores=True)[1])
    assert not scores[1, :, 4].any()
    np.testing.assert_allclose(np.delete(scores, 4, axis=2).sum(-1), 1, atol=1e-5)


def test_masked_keys_do_not_matter(rng):
    attention, x, memory = layer(), normal(rng, B, T, D), normal(rng, B, M, D)
    mask = np.arange(M)[None, None] < 5
    other = memory.copy()
    other[:, 5:] = 1e3
    before, after = (to_numpy(attention(x, m, attention_mask=mask)) for m in (memory, other))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_projected_memory_is_the_memory(rng, qk_norm):
    attention, x, memory = layer(memory_dim=C, qk_norm=qk_norm), normal(rng, B, T, D), normal(rng, B, M, C)
    keys, values = attention.project_memory(memory)
    assert keys.shape == values.shape == (B, M, HEADS, D // HEADS)
    cached = attention(x, (keys, values))
    np.testing.assert_array_equal(to_numpy(cached), to_numpy(attention(x, memory)))


def test_normalized_logits_do_not_see_the_scale(rng):
    attention, x, memory = layer(qk_norm=True), normal(rng, B, T, D), normal(rng, B, M, D)
    keys, values = (to_numpy(half) for half in attention.project_memory(memory))
    np.testing.assert_allclose((keys**2).mean(-1), 1, atol=1e-3)
    louder, _ = attention.project_memory(50 * memory)
    expected = to_numpy(attention(x, (keys, values), return_scores=True)[1])
    result = to_numpy(attention(50 * x, (louder, values), return_scores=True)[1])
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_causal_mask():
    mask = to_numpy(causal_mask(T))
    assert mask.shape == (1, T, T)
    np.testing.assert_array_equal(mask[0], np.tril(np.ones((T, T), bool)))


def test_causal_attention_ignores_the_future(rng):
    attention, x = layer(), normal(rng, B, T, D)
    changed = x.copy()
    changed[:, 4:] += 1
    before, after = (to_numpy(attention(v, attention_mask=causal_mask(T))) for v in (x, changed))
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 0.1


def test_half_precision_keeps_scores_in_float32(rng):
    attention = Attention(D, HEADS, dtype="mixed_bfloat16")
    attention.build()
    result, scores = attention(ops.cast(normal(rng, B, T, D), "bfloat16"), return_scores=True)
    assert str(result.dtype).endswith("bfloat16")
    assert str(scores.dtype).endswith("float32")


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_heads=5 does not divide dim=24"):
        Attention(D, 5)
