"""Feed-forward nets and blocks against NumPy."""

from types import SimpleNamespace

import numpy as np
import pytest
import reference
from reference import to_numpy, weights

from saccade.layers.attention import causal_mask
from saccade.layers.blocks import CrossModalBlock, DecoderBlock, EncoderBlock
from saccade.layers.mlp import MLP, SwiGLU
from saccade.layers.normalization import RMSNorm, rms
from saccade.layers.rotary import grid_table

B, T, N, D, HEADS, MLP_DIM = 2, 7, 9, 24, 3, 40
F = 5  # tokens after the text


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def built(layer):
    layer.build()
    return reference.randomize(layer)


def test_rms(rng):
    x = normal(rng, B, T, D) * 3
    np.testing.assert_allclose(to_numpy(rms(x)), reference.rms(x), atol=1e-5)
    np.testing.assert_allclose(to_numpy(rms(x, 0.5)), reference.rms(x, 0.5), atol=1e-5)
    assert not to_numpy(rms(np.zeros((B, D), np.float32))).any()


def test_rms_norm_has_a_gain(rng):
    norm, x = built(RMSNorm(D)), normal(rng, B, T, D)
    np.testing.assert_allclose(to_numpy(norm(x)), reference.rms_norm(weights(norm), x), atol=1e-5)


@pytest.mark.parametrize(("kind", "formula"), [(MLP, reference.mlp), (SwiGLU, reference.swiglu)])
def test_feed_forward(rng, kind, formula):
    net, x = built(kind(D, MLP_DIM)), normal(rng, B, T, D)
    np.testing.assert_allclose(to_numpy(net(x)), formula(weights(net), x), atol=2e-5)


def test_swiglu_has_no_biases():
    assert [v.path.split("/")[-1] for v in built(SwiGLU(D, MLP_DIM)).variables] == ["kernel", "kernel"]


@pytest.mark.parametrize("masked", [False, True])
def test_encoder_block(rng, masked):
    block, x = built(EncoderBlock(D, HEADS, MLP_DIM)), normal(rng, B, N, D)
    mask = rng.random((B, 1, N)) < 0.7 if masked else None
    expected = reference.encoder_block(weights(block), x, mask, HEADS)
    np.testing.assert_allclose(to_numpy(block(x, mask)), expected, atol=5e-5)


def test_decoder_block(rng):
    block = built(DecoderBlock(D, HEADS, MLP_DIM))
    x, memory = normal(rng, B, T, D), normal(rng, B, N, D)
    memory_mask = rng.random((B, 1, N)) < 0.7
    result = block(x, block.self_keys_values(x), block.cross_keys_values(memory), causal_mask(T), memory_mask)
    expected = reference.decoder_block(
        weights(block), x, memory, np.tril(np.ones((1, T, T), bool)), memory_mask, HEADS
    )
    np.testing.assert_allclose(to_numpy(result), expected, atol=5e-5)


VISION, TEXT = slice(1, 1 + N), slice(1 + N, 1 + N + T)
LAYOUT = SimpleNamespace(grid=(3, 3), vision=VISION, text=TEXT, grids=())


def sequence(rng):
    """z, mask of [task | vision | text | fusion]; the second row has no text at all."""
    z = normal(rng, B, 1 + N + T + F, D)
    mask = np.ones(z.shape[:2], bool)
    mask[0, TEXT.start + 4 : TEXT.stop] = False
    mask[1, TEXT] = False
    return z, mask


@pytest.mark.parametrize("cross", [True, False])
def test_cross_modal_block(rng, cross):
    block, (z, mask) = built(CrossModalBlock(D, HEADS, MLP_DIM, cross=cross)), sequence(rng)
    expected = reference.cross_modal_block(weights(block), z, mask, VISION, TEXT, HEADS, cross)
    result = to_numpy(block(z, mask, layout=LAYOUT))
    np.testing.assert_allclose(result, expected, atol=5e-5)
    np.testing.assert_allclose((result**2).mean(-1), 1, atol=1e-3)  # post-norm: unit scale


def test_vision_turns_by_its_places_and_nothing_else_turns(rng):
    block, (z, mask) = built(CrossModalBlock(D, HEADS, MLP_DIM, rotary=True)), sequence(rng)
    cos, sin = np.ones((z.shape[1], D // HEADS // 2)), np.zeros((z.shape[1], D // HEADS // 2))
    cos[VISION], sin[VISION] = grid_table(*LAYOUT.grid, D // HEADS)
    expected = reference.cross_modal_block(weights(block), z, mask, VISION, TEXT, HEADS, table=(cos, sin))
    result, scores = block(z, mask, layout=LAYOUT, return_scores=True)
    np.testing.assert_allclose(to_numpy(result), expected, atol=5e-5)
    np.testing.assert_allclose(to_numpy(block(z, mask, layout=LAYOUT)), expected, atol=5e-5)
    own = reference.part(weights(block), "self_attention")
    looked = reference.attention(own, z, None, mask[:, None], HEADS, qk_norm=True, table=(cos, sin))[1]
    np.testing.assert_allclose(to_numpy(scores), looked, atol=1e-5)
    plain = reference.cross_modal_block(weights(block), z, mask, VISION, TEXT, HEADS)
    assert np.abs(expected - plain).max() > 1e-2


def test_every_row_turns_by_the_grid_of_its_own_image(rng):
    block, (z, mask) = built(CrossModalBlock(D, HEADS, MLP_DIM, rotary=True)), sequence(rng)
    wide = SimpleNamespace(grid=(1, 9), vision=VISION, text=TEXT, grids=())
    mixed = SimpleNamespace(**{**vars(LAYOUT), "grids": ((1, (3, 3)), (len(z) - 1, (1, 9)))})
    result = to_numpy(block(z, mask, layout=mixed))
    square, others = (to_numpy(block(z, mask, layout=layout)) for layout in (LAYOUT, wide))
    np.testing.assert_allclose(result[0], square[0], atol=1e-5)
    np.testing.assert_allclose(result[1:], others[1:], atol=1e-5)
    assert np.abs(square[1:] - others[1:]).max() > 1e-2


def test_a_rotary_grid_stands_for_every_grid_of_as_many_tokens(rng):
    block, (z, mask) = built(CrossModalBlock(D, HEADS, MLP_DIM, rotary=True)), sequence(rng)
    folded = CrossModalBlock(D, HEADS, MLP_DIM, rotary=True, rotary_grid=(1, 9))
    folded.build()
    for mine, theirs in zip(folded.variables, block.variables, strict=True):
        mine.assign(theirs)
    wide = SimpleNamespace(grid=(1, 9), vision=VISION, text=TEXT, grids=())
    expected = to_numpy(block(z, mask, layout=wide))
    np.testing.assert_allclose(to_numpy(folded(z, mask, layout=LAYOUT)), expected, atol=1e-5)
    longer = SimpleNamespace(grid=(2, 5), vision=slice(1, 11), text=slice(11, TEXT.stop), grids=())
    own = to_numpy(block(z, mask, layout=longer))
    np.testing.assert_allclose(to_numpy(folded(z, mask, layout=longer)), own, atol=1e-5)


def test_cross_modal_block_where_the_text_is_last(rng):
    block, (z, mask) = built(CrossModalBlock(D, HEADS, MLP_DIM)), sequence(rng)
    z, mask = z[:, : TEXT.stop], mask[:, : TEXT.stop]
    expected = reference.cross_modal_block(weights(block), z, mask, VISION, TEXT, HEADS)
    np.testing.assert_allclose(to_numpy(block(z, mask, layout=LAYOUT)), expected, atol=5e-5)


def test_cross_modal_scores_are_those_of_the_self_attention(rng):
    block, (z, mask) = built(CrossModalBlock(D, HEADS, MLP_DIM)), sequence(rng)
    result, scores = block(z, mask, layout=LAYOUT, return_scores=True)
    own = reference.part(weights(block), "self_attention")
    expected = reference.attention(own, z, None, mask[:, None], HEADS, qk_norm=True)[1]
    np.testing.assert_allclose(to_numpy(scores), expected, atol=1e-5)
    np.testing.assert_allclose(to_numpy(result), to_numpy(block(z, mask, layout=LAYOUT)), atol=1e-5)


def test_vision_reads_text_and_text_reads_vision(rng):
    """Without self-attention, a change in the text reaches vision tokens and no others, and the other way."""
    block, (z, mask) = built(CrossModalBlock(D, HEADS, MLP_DIM)), sequence(rng)
    block.self_attention.output_projection.kernel.assign(np.zeros((D, D)))
    before = to_numpy(block(z, mask, layout=LAYOUT))
    for changed, reached in ((TEXT.start, VISION), (VISION.start, TEXT)):
        other = z.copy()
        other[0, changed] = -other[0, changed]
        moved = np.abs(to_numpy(block(other, mask, layout=LAYOUT)) - before).max(-1)[0] > 1e-4
        expected = np.zeros(len(moved), bool)
        expected[reached], expected[changed] = True, True
        np.testing.assert_array_equal(moved, expected)
