"""Every fusion strategy through the same checks, and against NumPy; sizes are pairwise distinct."""

import keras
import numpy as np
import pytest
import reference
from keras import ops
from reference import attention, dense, part, rms, sigmoid, softmax, swiglu, to_numpy, weights

from saccade.fusion.cross_attention import CrossModalAttention
from saccade.fusion.multimodal import STRATEGIES, MultiModalFusion

B, N, T, C, TEXT, D, HEADS, Q = 3, 9, 7, 10, 14, 24, 4, 5
QUERIES = ("q_former", "perceiver")
BOTH = ("concat", "attention", "cross_modal", "hierarchical")
LENGTH = dict.fromkeys(STRATEGIES, T) | dict.fromkeys(BOTH, N + T) | dict.fromkeys(QUERIES, Q)
TOKENWISE = [name for name in STRATEGIES if LENGTH[name] == T]
# Each strategy as it is and the other ways to build it.
VARIANTS = [
    *((name, {}) for name in STRATEGIES),
    *((name, {"read": "attend"}) for name in TOKENWISE),
    ("attention", {"depth": 2, "attention": "differential"}),
    ("attention", {"attention": "linear"}),
    ("cross_modal", {"attention": "linear"}),
    ("hierarchical", {"attention": "differential"}),
    ("q_former", {"attention": "grouped"}),
    ("perceiver", {"depth": 1, "attention": "linear"}),
]
every = pytest.mark.parametrize(("strategy", "options"), VARIANTS, ids=str)
each = pytest.mark.parametrize("strategy", STRATEGIES)


def built(strategy, vision_dim=C, text_dim=TEXT, **options):
    if strategy in QUERIES:
        options = {"num_queries": Q, **options}
    fusion = MultiModalFusion(strategy, D, vision_dim, text_dim, num_heads=HEADS, **options)
    fusion.build()
    return reference.randomize(fusion)


def inputs(rows=B, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(rows, *s)).astype(np.float32) for s in ((N, C), (T, TEXT)))


def masks():
    """Padding at the end, in the middle and none."""
    vision, text = np.ones((B, N), bool), np.ones((B, T), bool)
    vision[0, 4:], vision[1, 2] = False, False
    text[0, 5:], text[1, 0] = False, False
    return vision, text


def run(fusion, vision, text, vision_mask=None, text_mask=None):
    return tuple(map(to_numpy, fusion(vision, text, vision_mask=vision_mask, text_mask=text_mask)))


@each
def test_shapes_and_masks(strategy):
    fusion, (vision, text), given = built(strategy), inputs(), masks()
    fused, mask = run(fusion, vision, text, *given)
    assert fused.shape == (B, LENGTH[strategy], D)
    assert fused.dtype == np.float32
    assert mask.dtype == bool
    expected = {T: given[1], N + T: np.concatenate(given, 1), Q: np.ones((B, Q), bool)}[LENGTH[strategy]]
    np.testing.assert_array_equal(mask, expected)
    assert not fused[~mask].any()
    assert np.abs(fused[mask]).max(-1).min() > 0
    assert run(fusion, vision, text)[1].all()


@every
def test_what_stands_at_padded_places_does_not_matter(strategy, options):
    fusion, (vision, text), (vision_mask, text_mask) = built(strategy, **options), inputs(), masks()
    before = run(fusion, vision, text, vision_mask, text_mask)[0]
    vision[~vision_mask], text[~text_mask] = 1e3, np.nan
    np.testing.assert_array_equal(run(fusion, vision, text, vision_mask, text_mask)[0], before)


@every
def test_padding_changes_nothing(strategy, options):
    """The same inputs without their padding: the masks are obeyed, not only the values hidden."""
    fusion, (vision, text) = built(strategy, **options), inputs()
    short, _ = run(fusion, vision[:, :4], text[:, :5])
    vision_mask, text_mask = (np.broadcast_to(np.arange(s) < n, (B, s)) for s, n in ((N, 4), (T, 5)))
    fused, mask = run(fusion, vision, text, vision_mask, text_mask)
    np.testing.assert_allclose(fused[mask].reshape(short.shape), short, atol=1e-5)


@every
def test_without_any_image_or_text_all_is_finite(strategy, options):
    fusion, (vision, text) = built(strategy, **options), inputs()
    for keep_vision, keep_text in ((False, True), (True, False), (False, False)):
        fused, _ = run(fusion, vision, text, np.full((B, N), keep_vision), np.full((B, T), keep_text))
        assert np.isfinite(fused).all()


@each
def test_rows_are_independent(strategy):
    fusion, (vision, text), (vision_mask, text_mask) = built(strategy), inputs(), masks()
    fused, mask = run(fusion, vision, text, vision_mask, text_mask)
    order = np.array([2, 0, 1])
    turned = run(fusion, vision[order], text[order], vision_mask[order], text_mask[order])
    np.testing.assert_allclose(turned[0], fused[order], atol=1e-5)
    np.testing.assert_array_equal(turned[1], mask[order])
    assert np.abs(fused[0] - fused[2]).max() > 1e-2


@each
def test_a_vector_is_one_token(strategy):
    fusion, (vision, text) = built(strategy), inputs()
    fused, mask = run(fusion, vision[:, 0], text[:, 0])
    expected, _ = run(fusion, vision[:, :1], text[:, :1])
    np.testing.assert_array_equal(fused, expected)
    assert fused.shape[1] == mask.shape[1] == {T: 1, N + T: 2, Q: Q}[LENGTH[strategy]]
    mixed, _ = run(fusion, vision[:, 0], text)
    assert mixed.shape[1] == {T: T, N + T: 1 + T, Q: Q}[LENGTH[strategy]]


@every
def test_both_inputs_and_every_weight_get_a_gradient(strategy, options):
    import jax

    fusion, (vision, text), given = built(strategy, **options), inputs(), masks()
    values = [v.value for v in fusion.trainable_variables]

    def loss(values, vision, text):
        (fused, _), _ = fusion.stateless_call(values, [], vision, text, *given)
        return ops.sum(ops.sin(fused))

    by_weights, *by_inputs = jax.grad(loss, argnums=(0, 1, 2))(values, vision, text)
    for variable, gradient in zip(fusion.trainable_variables, by_weights, strict=True):
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path
    for gradient, mask in zip(by_inputs, given, strict=True):
        gradient = np.asarray(gradient)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient[mask]).max(-1).min() > 0
        assert not gradient[~mask].any()


@each
def test_half_precision(strategy):
    wide, half = built(strategy), built(strategy, dtype="mixed_bfloat16")
    fused, mask = half(*inputs(), vision_mask=masks()[0], text_mask=masks()[1])
    assert str(fused.dtype).endswith("bfloat16")
    assert str(mask.dtype).endswith("bool")
    assert {str(v.dtype) for v in half.variables} == {"float32"}
    expected = run(wide, *inputs(), *masks())[0]
    np.testing.assert_allclose(
        to_numpy(ops.cast(fused, "float32")), expected, atol=0.06 * np.abs(expected).max()
    )


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras reading its variables
@every
def test_a_model_with_it_is_saved_and_loaded(strategy, options, tmp_path):
    fusion = built(strategy, **options)
    shapes = {"vision": (None, C), "text": (None, TEXT)}
    vision, text = (keras.Input(shape, name=name) for name, shape in shapes.items())
    text_mask = keras.Input((None,), dtype="bool", name="text_mask")
    model = keras.Model([vision, text, text_mask], fusion(vision, text, text_mask=text_mask))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    given = (*inputs(), masks()[1])
    for ours, theirs in zip(model(given), again(given), strict=True):
        np.testing.assert_array_equal(to_numpy(theirs), to_numpy(ours))
    other = MultiModalFusion.from_config(fusion.get_config())
    other.build()
    model.save_weights(tmp_path / "m.weights.h5")
    reference.randomize(fusion, seed=1)
    model.load_weights(tmp_path / "m.weights.h5")
    assert [v.shape for v in other.variables] == [v.shape for v in fusion.variables]
    for ours, theirs in zip(model(given), again(given), strict=True):
        np.testing.assert_array_equal(to_numpy(theirs), to_numpy(ours))


def test_it_builds_itself_and_widths_are_dim_unless_said():
    fusion = MultiModalFusion("add", D)
    fused, _ = fusion(np.ones((B, N, D), np.float32), np.ones((B, T, D), np.float32))
    assert fused.shape == (B, T, D)


def pooled(w, v, keep):
    """AttentionPooling: head a weighs tokens for its share of the width."""
    result = np.zeros((len(v), D))
    for b in range(len(v)):
        scores = softmax(dense(w, v[b, keep[b]]), axis=0)
        for a, own in enumerate(np.split(np.arange(D), HEADS)):
            result[b, own] = scores[:, a] @ v[b, keep[b]][:, own]
    return result[:, None]


def one_by_one(strategy, w, c, t):
    """The papers' formulas; see the sources in MultiModalFusion."""
    if strategy == "add":
        return c + t
    if strategy == "multiply":
        return c * t
    if strategy == "gated":
        z = sigmoid(dense(part(w, "gate"), np.concatenate([c + 0 * t, t], -1)))
        return z * np.tanh(c) + (1 - z) * np.tanh(t)
    if strategy == "film":
        return (1 + dense(part(w, "scale"), c)) * t + dense(part(w, "shift"), c)
    u, v = dense(part(w, "from_vision"), c), dense(part(w, "from_text"), t)
    if strategy == "bilinear":
        return dense(part(w, "output"), np.tanh(u) * np.tanh(v))
    return sum(u[..., r * D : (r + 1) * D] * v[..., r * D : (r + 1) * D] for r in range(4))


@pytest.mark.parametrize("read", ["pool", "attend"])
@pytest.mark.parametrize("strategy", TOKENWISE)
def test_token_by_token_equals_numpy(strategy, read):
    fusion, (vision, text), (vision_mask, text_mask) = built(strategy, read=read), inputs(), masks()
    w = weights(fusion)
    v, t = dense(part(w, "vision_projection"), vision), dense(part(w, "text_projection"), text)
    w = part(w, "tokenwise")
    if read == "pool":
        c = pooled(part(w, "pool/score"), v, vision_mask)
    else:
        c = attention(part(w, "attend"), t, v, vision_mask[:, None], HEADS)[0]
    expected = one_by_one(strategy, w, c, t) * text_mask[..., None]
    np.testing.assert_allclose(run(fusion, vision, text, vision_mask, text_mask)[0], expected, atol=5e-5)


def read(w, x, memory, mask):
    normed, seen = rms(x) * w["norm/scale"], rms(memory) * w["memory_norm/scale"]
    return x + attention(part(w, "attention"), normed, seen, mask[:, None], HEADS)[0]


def met(w, v, t, vision_mask, text_mask):
    return read(part(w, "read_text"), v, t, text_mask), read(part(w, "read_vision"), t, v, vision_mask)


def means(x, mask, size):
    """Group by group, without the padding."""
    starts = range(0, x.shape[1], size)
    kept = np.stack([mask[:, s : s + size].any(1) for s in starts], 1)
    result = np.zeros((len(x), len(starts), D))
    for b in range(len(x)):
        for g, s in enumerate(starts):
            if kept[b, g]:
                result[b, g] = x[b, s : s + size][mask[b, s : s + size]].mean(0)
    return result, kept


def levels(w, v, t, vision_mask, text_mask):
    """Words, phrases, the whole, and their gates."""
    words = met(part(w, "words"), v, t, vision_mask, text_mask)
    masks, sizes = (vision_mask, text_mask), (4, 3)
    groups = [means(*one) for one in zip(words, masks, sizes, strict=True)]
    phrases = met(part(w, "phrases"), groups[0][0], groups[1][0], groups[0][1], groups[1][1])
    results = []
    for i, side in enumerate(("vision", "text")):
        x, other = words[i], 1 - i
        mean, _ = means(x, masks[i], x.shape[1])
        whole = read(part(w, f"whole_{side}"), mean, phrases[other], groups[other][1])
        spread = np.repeat(phrases[i], sizes[i], 1)[:, : x.shape[1]]
        three = [x, spread, whole + 0 * x]
        gates = dense(part(w, f"gates_{side}"), np.concatenate(three, -1))
        gates = softmax(np.stack(np.split(gates, 3, -1)), 0)
        results.append((gates * np.stack(three)).sum(0))
    return results


def sequence(strategy, w, v, t, vision_mask, text_mask):
    """The strategies that keep or make a sequence, at their default depth."""
    both, keep = np.concatenate([v, t], 1), np.concatenate([vision_mask, text_mask], 1)
    ones = np.ones((B, Q), bool)
    if strategy == "concat":
        return both * keep[..., None]
    if strategy == "attention":
        w = part(w, "two_way")
        seen = rms(v + attention(part(w, "read_text_0"), v, t, text_mask[:, None], HEADS)[0])
        said = rms(t + attention(part(w, "read_vision_0"), t, v, vision_mask[:, None], HEADS)[0])
        return np.concatenate([seen, said], 1) * keep[..., None]
    w = part(w, strategy)
    if strategy == "cross_modal":
        return np.concatenate(met(w, v, t, vision_mask, text_mask), 1) * keep[..., None]
    if strategy == "hierarchical":
        return np.concatenate(levels(w, v, t, vision_mask, text_mask), 1) * keep[..., None]
    q = np.broadcast_to(w["queries"], (B, Q, D))
    if strategy == "perceiver":
        keep = np.concatenate([keep, ones], 1)[:, None]
        for i in range(2):
            memory = np.concatenate([rms(both), rms(q)], 1)
            q = q + attention(part(w, f"read_{i}"), rms(q), memory, keep, HEADS)[0]
            q = q + swiglu(part(w, f"mlp_{i}"), rms(q))
        return rms(q)
    keep = np.concatenate([ones, text_mask], 1)[:, None]
    z = np.concatenate([q, t], 1)
    for i in range(2):
        z = rms(z + attention(part(w, f"self_attention_{i}"), z, None, keep, HEADS)[0])
        q = z[:, :Q]
        q = rms(q + attention(part(w, f"read_vision_{i}"), q, v, vision_mask[:, None], HEADS)[0])
        z = np.concatenate([q, z[:, Q:]], 1)
        z = rms(z + swiglu(part(w, f"mlp_{i}"), z))
    return z[:, :Q]


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in TOKENWISE])
def test_sequences_equal_numpy(strategy):
    fusion, (vision, text), given = built(strategy), inputs(), masks()
    w = weights(fusion)
    v, t = dense(part(w, "vision_projection"), vision), dense(part(w, "text_projection"), text)
    expected = sequence(strategy, w, v, t, *given)
    np.testing.assert_allclose(run(fusion, vision, text, *given)[0], expected, atol=5e-5)


def test_cross_modal_weights_on_request_and_a_row_without_text_stays():
    layer = CrossModalAttention(D, HEADS)
    layer.build()
    reference.randomize(layer)
    rng = np.random.default_rng(3)
    vision, text = (rng.normal(size=size).astype(np.float32) for size in ((B, N, D), (B, T, D)))
    vision_mask, text_mask = masks()
    text_mask[2] = False
    seen, said, of_text, of_vision = layer(vision, text, vision_mask, text_mask, return_scores=True)
    assert of_text.shape == (B, HEADS, N, T)
    assert of_vision.shape == (B, HEADS, T, N)
    np.testing.assert_allclose(to_numpy(of_text).sum(-1)[:2], 1, atol=1e-5)
    assert not to_numpy(of_text)[2].any()
    np.testing.assert_array_equal(to_numpy(seen)[2], vision[2])
    plain = layer(vision, text, vision_mask, text_mask)
    np.testing.assert_allclose(to_numpy(plain[1]), to_numpy(said), atol=1e-5)


@pytest.mark.parametrize("level", ["words", "phrases", "whole_vision", "whole_text"])
def test_every_level_of_the_hierarchy_counts(level):
    fusion, (vision, text), given = built("hierarchical"), inputs(), masks()
    before = run(fusion, vision, text, *given)[0]
    for variable in fusion.variables:
        if f"/{level}/" in variable.path:
            variable.assign(variable.value * 2)
    assert np.abs(run(fusion, vision, text, *given)[0] - before).max() > 1e-3


def test_rank_is_the_number_of_terms_or_the_width():
    tensor, bilinear = built("tensor", rank=2), built("bilinear", rank=6)
    assert weights(tensor)["tokenwise/from_text/kernel"].shape == (D, 2 * D)
    assert weights(bilinear)["tokenwise/output/kernel"].shape == (6, D)


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        ("sum", {}, "no fusion strategy 'sum'; choose one of concat, add, multiply"),
        ("concat", {"rank": 2}, "concat takes no rank; it takes no option"),
        ("gated", {"num_queries": 2, "depth": 1}, "gated takes no depth, num_queries; it takes read"),
        ("film", {"read": "mean"}, "no way to read 'mean'; choose pool or attend"),
        ("hierarchical", {"read": "pool"}, "hierarchical takes no read; it takes attention"),
        ("attention", {"attention": "local_sparse"}, "choose multi_head, grouped, differential or linear"),
        ("perceiver", {"attention": "sparse"}, "no attention kind 'sparse'"),
        ("q_former", {"num_heads": 7}, "num_heads=7 does not divide dim=24"),
    ],
)
def test_what_does_not_fit_is_refused(strategy, options, message):
    with pytest.raises(ValueError, match=message):
        MultiModalFusion(strategy, D, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision": np.ones((B, N, C - 1))}, r"vision is 9 wide, not 10; set vision_dim"),
        ({"text": np.ones((2, T, TEXT))}, "vision has 3 rows, text 2; pair them"),
        ({"text": np.ones((B, 0, TEXT))}, r"text is \(3, 0, 14\).*at least 1"),
        ({"vision": np.ones((1, B, N, C))}, r"vision is \(1, 3, 9, 10\); give \(rows, tokens, width\)"),
        ({"text_mask": np.ones((B, T - 1), bool)}, r"text_mask is \(3, 6\), text needs \(3, 7\); one value"),
        ({"vision_mask": np.ones((B, N, 1), bool)}, r"vision_mask is \(3, 9, 1\), vision needs \(3, 9\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named_in_one_line(change, message):
    vision, text = inputs()
    given = {"vision": vision, "text": text, **change}
    with pytest.raises(ValueError, match=message) as caught:
        built("gated")(**given)
    assert "\n" not in str(caught.value)
