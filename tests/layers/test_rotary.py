"""RoPE and grouped heads in the one Attention, against NumPy."""

import numpy as np
import pytest
import reference
import trm_reference
from reference import to_numpy, weights

from saccade.layers.attention import Attention
from saccade.layers.rotary import grid_table, rotary_at, rotary_table, rotate

B, T, D, HEADS = 2, 5, 24, 6
THETA = 50.0  # small: every pair turns visibly


def built(**options) -> Attention:
    layer = Attention(D, HEADS, rope_theta=THETA, **options)
    layer.build()
    return reference.randomize(layer, seed=4)


def inputs(rows=B, length=T, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, length, D)).astype(np.float32)


def test_each_pair_turns_by_its_angle():
    x = np.random.default_rng(0).normal(size=(1, T, 1, 8)).astype(np.float32)
    ours = to_numpy(rotate(x, *rotary_table(T, 8, THETA)))
    np.testing.assert_allclose(
        ours[0, :, 0], trm_reference.rotated(x[0, :, 0].astype(float), THETA), atol=1e-5
    )


def test_position_zero_and_lengths_are_kept():
    x = np.random.default_rng(0).normal(size=(1, T, 3, 8)).astype(np.float32)
    turned = to_numpy(rotate(x, *rotary_table(T, 8, THETA)))
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)


def test_positions_of_each_row():
    x = np.random.default_rng(0).normal(size=(2, 3, 1, 8)).astype(np.float32)
    positions = np.array([[0, 1, 2], [7, 3, 11]], np.int32)
    ours = to_numpy(rotate(x, *rotary_at(positions, 8, THETA)))
    longer = np.zeros((12, 8))
    for row in range(2):
        for t in range(3):
            longer[:] = 0
            longer[positions[row, t]] = x[row, t, 0]
            expected = trm_reference.rotated(longer, THETA)[positions[row, t]]
            np.testing.assert_allclose(ours[row, t, 0], expected, atol=1e-5)


def test_rotation_is_done_in_float32():
    import ml_dtypes

    x = np.random.default_rng(0).normal(size=(1, 200, 1, 8)).astype(ml_dtypes.bfloat16)
    ours = to_numpy(rotate(x, *rotary_table(200, 8, 1e4)))
    assert ours.dtype == ml_dtypes.bfloat16
    wide = to_numpy(rotate(x.astype(np.float32), *rotary_table(200, 8, 1e4)))
    np.testing.assert_allclose(ours.astype(np.float32), wide, atol=0.02)


def test_self_attention_equals_numpy():
    layer, x = built(), inputs()
    expected = trm_reference.attention(weights(layer), x.astype(float), HEADS, THETA)
    np.testing.assert_allclose(to_numpy(layer(x)), expected, atol=1e-4)
    result, scores = layer(x, return_scores=True)
    np.testing.assert_allclose(to_numpy(result), expected, atol=1e-4)
    assert scores.shape == (B, HEADS, T, T)


def test_only_distances_matter():
    layer, x = built(), inputs()
    near = to_numpy(layer(x, positions=np.arange(T, dtype=np.int32)))
    np.testing.assert_allclose(near, to_numpy(layer(x)), atol=1e-5)
    far = to_numpy(layer(x, positions=np.arange(T, dtype=np.int32) + 37))
    np.testing.assert_allclose(far, near, atol=1e-4)
    spread = to_numpy(layer(x, positions=2 * np.arange(T, dtype=np.int32)))
    assert np.abs(spread - near).max() > 1e-3


def test_cached_keys_at_their_positions():
    """One query at a time, keys kept from before, rows at different positions: as in decoding."""
    layer, x = built(num_kv_heads=2), inputs()
    start = np.array([[3], [0]], np.int32)
    positions = np.arange(T, dtype=np.int32) + start
    mask = np.tril(np.ones((T, T), bool))[None]
    whole = to_numpy(layer(x, attention_mask=mask, positions=positions))
    memory = layer.project_memory(x, positions)
    for t in range(T):
        one = layer(x[:, t : t + 1], memory, mask[:, t : t + 1], positions=positions[:, t : t + 1])
        np.testing.assert_allclose(to_numpy(one)[:, 0], whole[:, t], atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_grouped_heads_are_repeated_heads(groups):
    layer, x = built(num_kv_heads=groups), inputs()
    w = weights(layer)
    width, share = D // HEADS, HEADS // groups
    assert w["key_value/kernel"].shape == (D, 2 * groups * width)
    keys, values = np.split(w["key_value/kernel"], 2, axis=1)
    repeated = [np.repeat(k.reshape(D, groups, width), share, 1).reshape(D, D) for k in (keys, values)]
    w["key_value/kernel"] = np.concatenate(repeated, 1)
    expected = trm_reference.attention(w, x.astype(float), HEADS, THETA)
    np.testing.assert_allclose(to_numpy(layer(x)), expected, atol=1e-4)
    np.testing.assert_allclose(to_numpy(layer(x, return_scores=True)[0]), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kv_heads": 4}, "num_kv_heads=4 does not divide num_heads=6"),
        ({"dim": 30, "rope_theta": 1e4}, "a head is 5 wide"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Attention(**{"dim": D, "num_heads": HEADS, **options})


def test_a_grid_turns_half_of_the_pairs_by_row_and_half_by_column():
    rows, columns, width, periods = 3, 4, 16, (2.0, 16.0)
    cos, sin = grid_table(rows, columns, width, periods)
    assert cos.shape == sin.shape == (rows * columns, width // 2)
    for place in range(rows * columns):
        for pair in range(width // 2):
            period = 2.0 * 8.0 ** ((pair % 4) / 3)  # 2, 4, 8, 16 cells a turn
            cell = place // columns if pair < 4 else place % columns
            assert cos[place, pair] == pytest.approx(np.cos(2 * np.pi * cell / period), abs=1e-5)
            assert sin[place, pair] == pytest.approx(np.sin(2 * np.pi * cell / period), abs=1e-5)


def test_on_a_grid_a_score_sees_how_far_apart_two_cells_are_and_nothing_else():
    rng, rows, columns, width = np.random.default_rng(0), 4, 5, 8
    query, key = rng.normal(size=(2, width)).astype(np.float32)
    table = grid_table(rows, columns, width)
    turned = [
        to_numpy(rotate(np.broadcast_to(v, (1, rows * columns, 1, width)), *table))[0, :, 0]
        for v in (query, key)
    ]
    scores = (turned[0] @ turned[1].T).reshape(rows, columns, rows, columns)
    np.testing.assert_allclose(scores[:-1, :-1, :-1, :-1], scores[1:, 1:, 1:, 1:], atol=1e-4)
    assert abs(scores[1, 1, 1, 2] - scores[1, 1, 1, 0]) > 1e-2  # right of it is not left of it
    assert abs(scores[1, 1, 2, 1] - scores[1, 1, 0, 1]) > 1e-2
    assert abs(scores[1, 1, 1, 2] - scores[1, 1, 2, 1]) > 1e-2


def test_a_table_turns_queries_and_keys():
    layer, x = Attention(D, D // 8, initializer="glorot_uniform"), inputs(length=6)
    layer.build()
    reference.randomize(layer, seed=4)
    cos, sin = grid_table(2, 3, 8)
    ours = to_numpy(layer(x, positions=(cos, sin)))
    assert np.abs(ours - to_numpy(layer(x))).max() > 1e-3
    expected = reference.attention(weights(layer), x, None, None, D // 8, table=(cos, sin))[0]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_grid_needs_pairs_for_both_axes():
    with pytest.raises(ValueError, match="a head is 6 wide; choose a multiple of 4"):
        grid_table(2, 2, 6)
