"""What a model's outputs must look like, and what must not change them."""

import forward
import numpy as np
import pytest
import tiny
from reference import to_numpy

ATOL = 2e-5


def same(a, b, atol=ATOL, rows=slice(None)):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key][rows], b[key][rows], atol=atol, rtol=1e-4, err_msg=key)


def test_shapes_and_dtypes(model, config):
    result = forward.run(model, tiny.batch())
    cells = (tiny.H // 8) * (tiny.W // 8)  # patches of 4 px, shuffled by 2
    shapes = {
        "answer": (tiny.ANSWERS,),
        "statement": (2,),
        "match": (2,),
        "q_halt": (),
        "boxes": (cells, 4),
        "score_logits": (cells,),
        "written": (tiny.L, tiny.VOCABULARY),
        "image_vector": (config.embedding_dim,),
        "text_vector": (config.embedding_dim,),
    }
    assert {key: value.shape for key, value in result.items()} == {
        key: (tiny.B, *shape) for key, shape in shapes.items()
    }
    assert {str(value.dtype) for value in result.values()} == {"float32"}
    for value in result.values():
        assert np.isfinite(value).all()


def test_outputs_depend_on_image_text_and_task(model):
    batch, other = tiny.batch(seed=0), tiny.batch(seed=9)
    first = forward.run(model, batch)
    for changed in ("images", "tokens"):
        second = forward.run(model, {**batch, changed: other[changed]})
        for key in ("answer", "boxes", "written", "q_halt"):
            assert np.abs(first[key] - second[key]).max() > 1e-4, (changed, key)
    assert np.abs(first["answer"] - forward.run(model, batch, "ground")["answer"]).max() > 1e-4


def test_encoding_twice_gives_the_same(model):
    batch = tiny.batch()
    first, second = forward.run(model, batch), forward.run(model, batch)
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


def test_a_row_is_answered_alone_as_in_a_batch(model):
    batch = tiny.batch()
    together = forward.run(model, batch)
    for row in range(2):
        alone = forward.run(model, {key: value[row : row + 1] for key, value in batch.items()})
        same(alone, {key: value[row : row + 1] for key, value in together.items()})


def test_other_rows_do_not_matter(model):
    batch, other = tiny.batch(seed=0), tiny.batch(seed=9)
    mixed = {key: np.concatenate([batch[key][:2], other[key][2:]]) for key in batch}
    same(forward.run(model, batch), forward.run(model, mixed), atol=1e-6, rows=slice(0, 2))


def test_padding_does_not_matter(model, config):
    batch = tiny.batch()
    before = forward.run(model, batch)
    padding = ~batch["padding_mask"]
    assert padding.any()
    other = {**batch, "tokens": np.where(padding, 17, batch["tokens"])}
    same(before, forward.run(model, other), atol=1e-6)
    extra = config.max_length - tiny.T
    longer = {
        **batch,
        "tokens": np.pad(batch["tokens"], ((0, 0), (0, extra)), constant_values=23),
        "padding_mask": np.pad(batch["padding_mask"], ((0, 0), (0, extra))),
    }
    same(before, forward.run(model, longer))


def test_rows_without_text_are_finite(model):
    batch = tiny.batch()
    batch["padding_mask"] = np.zeros_like(batch["padding_mask"])
    result = forward.run(model, batch, "caption")
    for key, value in result.items():
        assert np.isfinite(value).all(), key
    # No text at all: whatever the tokens say, nothing changes.
    batch["tokens"] = batch["tokens"][:, ::-1].copy()
    same(result, forward.run(model, batch, "caption"), atol=1e-6)


@pytest.mark.parametrize("size", [(24, 16), (32, 8)])
def test_other_sizes_of_images(model, size):
    batch = tiny.batch(size=size)
    result = forward.run(model, batch)
    for value in result.values():
        assert np.isfinite(value).all()
    layout = model.layout(batch)
    assert layout.grid == (size[0] // 8, size[1] // 8)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((18, 24), "18 x 24 px is not a multiple of patch_size=4"),
        ((12, 24), "pixel shuffle by 2 does not divide the patch grid 3 x 6"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(model, size, message):
    with pytest.raises(ValueError, match=message):
        model.encode_images(np.zeros((1, *size, 3), np.float32))


def test_bytes_are_images_too(model):
    pixels = np.random.default_rng(0).integers(256, size=(tiny.B, tiny.H, tiny.W, 3)).astype(np.uint8)
    as_bytes = to_numpy(model.encode_images(pixels))
    as_floats = to_numpy(model.encode_images(pixels.astype(np.float32) / 255))
    np.testing.assert_allclose(as_bytes, as_floats, atol=1e-5)


def test_mixed_bfloat16(config):
    """On the mean of three random models: of one alone, a whole head may be off by a like amount."""
    errors, limits = {}, {}
    for seed in range(3):
        full, half = (tiny.vlm_hrm(dtype, seed, config) for dtype in ("float32", "mixed_bfloat16"))
        assert {v.dtype for v in half.variables} == {"float32"}
        a, b = forward.run(full, tiny.batch()), forward.run(half, tiny.batch())
        for key in a:
            assert b[key].dtype == np.float32
            assert np.abs(a[key] - b[key]).max() > 0, key  # it did compute in bfloat16
            errors.setdefault(key, []).append(np.abs(a[key] - b[key]).mean())
            limits.setdefault(key, []).append(0.1 * (np.std(a[key]) + 1e-3) + 0.01)
    for key in errors:
        assert np.mean(errors[key]) < np.mean(limits[key]), key


def test_a_changed_future_token_leaves_earlier_logits_alone(model):
    batch = tiny.batch()
    before = forward.run(model, batch)["written"]
    for position in range(1, tiny.L):
        changed = batch["decoder_tokens"].copy()
        changed[:, position] = (changed[:, position] + 5) % tiny.VOCABULARY
        after = forward.run(model, {**batch, "decoder_tokens": changed})["written"]
        np.testing.assert_allclose(after[:, :position], before[:, :position], atol=1e-6)
        assert np.abs(after[:, position] - before[:, position]).max() > 1e-3
