"""Each kind of attention against NumPy loops written from its paper; sizes are pairwise distinct."""

import logging

import numpy as np
import pytest
import reference
from keras import ops
from reference import dense, part, softmax, to_numpy, turned, weights

from saccade.layers import attention
from saccade.layers.attention import Attention, causal_mask
from saccade.layers.attention_kinds import ATTENTION_KINDS, make_attention
from saccade.layers.rotary import rotary_table

B, T, M, D, C, HEADS = 2, 7, 9, 24, 10, 3
WIDTH = D // HEADS
LONG = 29  # with window 3 and two globals: ten blocks, the last one short
THETA = 50.0
OPTIONS = {
    "multi_head": {},
    "grouped": {},
    "differential": {"layer_index": 2},
    "local_sparse": {"window": 3, "num_global": 2},
    "linear": {},
}


def built(kind, memory_dim=None, **options):
    layer = make_attention(kind, D, HEADS, **{**OPTIONS[kind], **options})
    layer.build(memory_dim=memory_dim)
    return reference.randomize(layer, seed=3)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attend(logits, keep):
    """Softmax over the kept keys; nothing kept, nothing read."""
    row = np.zeros(len(logits))
    if keep.any():
        row[keep] = softmax(logits[keep])
    return row


def softmax_map(queries, keys, keep):
    rows = zip(queries @ keys.T / np.sqrt(queries.shape[-1]), keep, strict=True)
    return np.stack([attend(*row) for row in rows])


def multi_head(w, queries, keys, values, keep):
    scores = softmax_map(queries, keys, keep)
    return scores @ values, scores


def differential(w, queries, keys, values, keep):
    """Equations 1 to 3 of arXiv:2410.05258; layer_index 2 is l = 3."""
    initial = 0.8 - 0.6 * np.exp(-0.3 * (3 - 1))
    q1, k1, q2, k2 = w["lambdas"]
    factor = np.exp(q1 @ k1) - np.exp(q2 @ k2) + initial
    half = WIDTH // 2
    first = softmax_map(queries[:, :half], keys[:, :half], keep)
    second = softmax_map(queries[:, half:], keys[:, half:], keep)
    scores = first - factor * second
    return (1 - initial) * reference.rms(scores @ values) * w["head_norm/scale"], scores


def local_sparse(w, queries, keys, values, keep):
    """Sliding window and global attention, sections 3.1 of arXiv:2004.05150: window 3, two globals."""
    query, key = np.indices(keep.shape)
    pattern = (abs(query - key) <= 3) | (query < 2) | (key < 2)
    return multi_head(w, queries, keys, values, keep & pattern)


def linear(w, queries, keys, values, keep):
    """Equation 4 of arXiv:2006.16236 with the feature map of equation 7."""
    queries, keys = (np.where(x > 0, x + 1, np.exp(x)) for x in (queries, keys))
    scores = np.zeros(keep.shape)
    for t in range(len(queries)):
        similar = keys @ queries[t] * keep[t]
        if similar.sum() > 0:
            scores[t] = similar / similar.sum()
    return scores @ values, scores


HEAD = {
    "multi_head": multi_head,
    "grouped": multi_head,
    "differential": differential,
    "local_sparse": local_sparse,
    "linear": linear,
}


def expected(kind, layer, x, memory=None, mask=None):
    """Head by head and row by row: (result, scores)."""
    w = weights(layer)
    memory = x if memory is None else memory
    queries, both = dense(part(w, "query"), x), dense(part(w, "key_value"), memory)
    groups = both.shape[-1] // 2 // WIDTH
    keep = np.broadcast_to(True if mask is None else mask, (len(x), x.shape[1], memory.shape[1]))
    rows = []
    for b in range(len(x)):
        for a in range(HEADS):
            own, g = slice(a * WIDTH, (a + 1) * WIDTH), a * groups // HEADS
            keys = both[b, :, g * WIDTH : (g + 1) * WIDTH]
            values = both[b, :, (groups + g) * WIDTH : (groups + g + 1) * WIDTH]
            rows.append(HEAD[kind](w, queries[b, :, own], keys, values, keep[b]))
    mixed = np.stack([row[0] for row in rows]).reshape(len(x), HEADS, x.shape[1], WIDTH)
    mixed = mixed.transpose(0, 2, 1, 3).reshape(len(x), x.shape[1], D)
    scores = np.stack([row[1] for row in rows]).reshape(len(x), HEADS, *keep.shape[1:])
    return dense(part(w, "output"), mixed), scores


def masks(length, keys, seed=1):
    """None, padding keys, and a mask for every query, each with a row that may attend nothing."""
    rng = np.random.default_rng(seed)
    padding, full = rng.random((B, 1, keys)) < 0.6, rng.random((B, length, keys)) < 0.6
    padding[1], full[0, 4] = False, False
    return {"none": None, "padding": padding, "full": full}


def check(kind, layer, x, memory=None, mask=None, reference_mask=None, **call):
    result, scores = expected(kind, layer, x, memory, mask if reference_mask is None else reference_mask)
    ours = to_numpy(layer(x, memory, attention_mask=mask, **call))
    np.testing.assert_allclose(ours, result, atol=1e-5)
    ours, said = layer(x, memory, attention_mask=mask, return_scores=True, **call)
    np.testing.assert_allclose(to_numpy(ours), result, atol=1e-5)
    np.testing.assert_allclose(to_numpy(said), scores, atol=1e-5)
    assert said.dtype == np.float32


@pytest.mark.parametrize("kind", [k for k in ATTENTION_KINDS if k != "differential"])
def test_one_key_is_all_there_is_to_read(kind):
    layer, x = built(kind), normal(B, 1, D)
    result, scores = layer(x, return_scores=True, attention_mask=np.array([[[True]], [[False]]]))
    np.testing.assert_allclose(to_numpy(scores)[:, 0, 0, 0], [1, 0], atol=1e-6)
    assert not to_numpy(result)[1].any()


def test_the_five_kinds():
    assert ATTENTION_KINDS == ("multi_head", "grouped", "differential", "local_sparse", "linear")
    assert set(HEAD) == set(ATTENTION_KINDS)


@pytest.mark.parametrize("which", ["none", "padding", "full"])
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("length", [T, LONG])
def test_self_attention_equals_numpy(kind, which, length):
    check(kind, built(kind), normal(B, length, D), mask=masks(length, length)[which])


@pytest.mark.parametrize("which", ["none", "padding", "full"])
@pytest.mark.parametrize("kind", [k for k in ATTENTION_KINDS if k != "local_sparse"])
def test_cross_attention_equals_numpy(kind, which):
    layer = built(kind, C, use_bias=True)
    check(kind, layer, normal(B, T, D), normal(B, M, C, seed=2), masks(T, M)[which])


@pytest.mark.parametrize("which", ["none", "padding", "full"])
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_causal_attention_equals_numpy(kind, which, monkeypatch):
    monkeypatch.setattr("saccade.layers.attention_kinds.LinearAttention.chunk", 4)
    mask, earlier = masks(LONG, LONG)[which], np.tril(np.ones((LONG, LONG), bool))[None]
    both = earlier if mask is None else earlier & mask
    layer, x = built(kind), normal(B, LONG, D)
    check(kind, layer, x, mask=mask, reference_mask=both, causal=True)
    said = to_numpy(layer(x, attention_mask=causal_mask(LONG)))
    np.testing.assert_allclose(said, to_numpy(layer(x, causal=True)), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_heads_in_every_kind(groups):
    """As many heads as num_kv_heads says serve the others, in any kind."""
    for kind in ("differential", "local_sparse", "linear"):
        few = make_attention(kind, D, 2 * groups, num_kv_heads=groups, **OPTIONS[kind])
        many = make_attention(kind, D, 2 * groups, **OPTIONS[kind])
        few.build()
        many.build()
        reference.randomize(few)
        for own, other in zip(many.variables, few.variables, strict=True):
            value = to_numpy(other)
            if own.shape != other.shape:
                halves = np.split(value.reshape(D, 2, groups, -1), 2, axis=1)
                value = np.concatenate([np.repeat(h, 2, axis=2) for h in halves], 1).reshape(D, -1)
            own.assign(value)
        x = normal(B, LONG, D)
        np.testing.assert_allclose(to_numpy(few(x)), to_numpy(many(x)), atol=1e-5)


def test_a_differential_head_turns_each_half_by_its_position():
    layer, x = built("differential", rope_theta=THETA), normal(B, T, D)
    w, table = weights(layer), rotary_table(T, WIDTH // 2, THETA)
    _, scores = layer(x, return_scores=True)
    queries, keys = (dense(part(w, name), x)[..., :D] for name in ("query", "key_value"))
    halves = [[turned(h, table) for h in np.split(s[1, :, :WIDTH], 2, -1)] for s in (queries, keys)]
    first, second = (softmax_map(q, k, np.ones((T, T), bool)) for q, k in zip(*halves, strict=True))
    factor = (first - to_numpy(scores)[1, 0]) / second
    np.testing.assert_allclose(factor, factor.mean(), atol=1e-4)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_every_weight_and_the_input_get_a_gradient(kind):
    import jax

    layer, x = built(kind), normal(B, LONG, D)
    mask = masks(LONG, LONG)["padding"]
    values = [v.value for v in layer.trainable_variables]

    def loss(values, x):
        return ops.sum(ops.sin(layer.stateless_call(values, [], x, attention_mask=mask)[0]))

    by_weights, by_x = jax.grad(loss, argnums=(0, 1))(values, x)
    for gradient in (*by_weights, by_x):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_half_precision_keeps_scores_in_float32(kind):
    wide, half = built(kind), built(kind, dtype="mixed_bfloat16")
    x = normal(B, LONG, D)
    result, scores = half(ops.cast(x, "bfloat16"), return_scores=True)
    assert str(result.dtype).endswith("bfloat16")
    assert str(scores.dtype).endswith("float32")
    assert str(half(ops.cast(x, "bfloat16")).dtype).endswith("bfloat16")
    np.testing.assert_allclose(to_numpy(scores), to_numpy(wide(x, return_scores=True)[1]), atol=0.1)


def test_linear_attention_survives_very_negative_queries():
    layer, x = built("linear"), normal(B, T, D)
    for wide in (1e2, 1e4):
        assert np.isfinite(to_numpy(layer(wide * x))).all()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("sparse", {}, "no attention kind 'sparse'; choose one of multi_head, grouped, differential"),
        ("differential", {"dim": 15}, "a differential head is 5 wide; choose a multiple of 2"),
        ("differential", {"dim": 18, "rope_theta": 1e4}, "is 6 wide; choose a multiple of 4"),
        ("local_sparse", {"window": 0}, "window=0, num_global=0; choose at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        make_attention(kind, **{"dim": D, "num_heads": HEADS, **options})


def test_local_attention_to_another_length_is_refused():
    with pytest.raises(ValueError, match="local attention of 7 queries to 9 keys; give as many"):
        built("local_sparse")(normal(B, T, D), normal(B, M, D))


@pytest.fixture
def kernel(monkeypatch):
    """A device whose fused kernel refuses odd lengths, and the settings it was asked with."""
    asked, real = [], ops.dot_product_attention

    def device(queries, keys, values, flash_attention=None, **options):
        asked.append(flash_attention)
        if flash_attention and queries.shape[1] % 2:
            raise NotImplementedError(f"Unsupported sequence length Q {queries.shape[1]}.\nA second line.")
        return real(queries, keys, values, flash_attention=False, **options)

    monkeypatch.setattr(attention.ops, "dot_product_attention", device)
    monkeypatch.setattr(attention, "_refused", set())
    return asked


def flash_layer(flash):
    layer = Attention(D, HEADS, flash=flash)
    layer.build()
    return reference.randomize(layer)


def test_a_refused_length_falls_back_once_and_is_logged(kernel, caplog):
    layer = flash_layer(None)
    with caplog.at_level(logging.INFO, logger="saccade"):
        for length in (7, 7, 8, 9):
            x = normal(B, length, D)
            result = to_numpy(layer(x))
            np.testing.assert_allclose(
                result, reference.attention(weights(layer), x, None, None, HEADS)[0], atol=2e-5
            )
    assert kernel == [True, False, False, True, True, False]
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 2
    said = "no flash attention for queries (2, 7, 3, 8), keys (2, 7, 3, 8), float32: "
    said += "Unsupported sequence length Q 7."
    assert caplog.records[0].getMessage() == said


def test_flash_that_must_be_raises(kernel):
    layer = flash_layer(True)
    assert layer(normal(B, 8, D)).shape == (B, 8, D)
    with pytest.raises(
        RuntimeError, match=r"flash=True, but the device refuses .*length Q 7\.; flash=None uses"
    ):
        layer(normal(B, 7, D))
    assert kernel == [True, True]


def test_a_mask_or_no_flash_never_asks(kernel):
    mask = masks(T, T)["full"]
    flash_layer(None)(normal(B, 8, D), attention_mask=np.ones((1, 1, 8), bool))
    flash_layer(False)(normal(B, T, D), attention_mask=mask)
    flash_layer(False)(normal(B, T, D))
    assert kernel == [False] * 3


def test_this_device_falls_back_quietly(capfd):
    x = normal(B, T, D)
    np.testing.assert_array_equal(to_numpy(flash_layer(None)(x)), to_numpy(flash_layer(False)(x)))
    assert capfd.readouterr() == ("", "")
