"""Any encoder becomes a head's batch: shapes, order of patches, masks, rows alone and together, stored."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import ops

from saccade import backend
from saccade.data.image import letterbox
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.text import BOS, Tokenizer
from saccade.errors import SaccadeError
from saccade.features import Features, FeatureSet, from_arrays, from_keras, from_saccade
from saccade.heads.create import create_vlm_head
from saccade.heads.task import VLMTaskConfig
from saccade.models.vit import ViTConfig
from saccade.models.vlm_hrm import VLMHRM, VLMHRMConfig, for_task
from saccade.pipeline import Pipeline

RNG = np.random.default_rng(0)
IMAGES = [
    RNG.integers(0, 256, size=shape).astype(np.uint8) for shape in ((20, 44, 3), (16, 24, 3), (50, 9, 3))
]
TEXTS = ["red", "the red ball is left of the red cube and the red cube", "the cube"]


@pytest.fixture(scope="module")
def pipeline():
    config = ProcessorConfig(
        image_sizes=((16, 24), (24, 16)), answers=("no", "yes"), max_length=24, length_multiple=4
    )
    words = Tokenizer.train(TEXTS * 3, 280)
    tower = ViTConfig(dim=10, depth=1, num_heads=2, mlp_dim=14, patch_size=4, image_size=(16, 24), stem=(8,))
    model = VLMHRM(
        VLMHRMConfig(
            vocab_size=words.vocab_size, num_answers=2, vision=tower, dim=24, depth=1, num_heads=3,
            mlp_dim=40,
            halt_max_steps=2, max_length=24, shuffle=2, fusion_tokens=5, decoder_depth=1, embedding_dim=18,
        )
    )  # fmt: skip
    return Pipeline(model, Processor(words, config))


def test_saccade_gives_what_the_reasoner_reads(pipeline):
    features = from_saccade(pipeline)
    assert features.dims == {"vision_dim": 24, "text_dim": 24, "grid": (2, 3)}
    batch = features(IMAGES, TEXTS)
    assert batch["vision_features"].shape == (3, 6, 24)
    assert batch["text_features"].shape[:2] == batch["text_mask"].shape
    assert batch["text_features"].dtype == batch["vision_features"].dtype == np.float32
    processor, model = pipeline.processor, pipeline.model
    canvas = processor.place(IMAGES[1], (16, 24))[0]
    wanted = ops.convert_to_numpy(model.encode_images(canvas[None]))
    np.testing.assert_allclose(batch["vision_features"][1:2], wanted, atol=1e-5)
    tokens, mask = processor.pad([processor.encode(TEXTS[1])])
    wanted = ops.convert_to_numpy(model.encode_text(tokens, mask))
    kept = batch["text_mask"][1]
    np.testing.assert_allclose(batch["text_features"][1, kept], wanted[0, mask[0]], atol=1e-5)


def reasoned(model, batch, steps):
    """Vision and text tokens of one row's memory after some steps, with nothing around the model."""
    x, mask = model.encode(batch)
    carry, layout = model.initial_carry(x), model.layout(batch)
    for _ in range(steps):
        carry, outputs = model.step(carry, x, mask, layout, threshold=np.inf)
    memory = ops.convert_to_numpy(outputs["memory"])
    return memory[0, layout.vision], memory[0, layout.text]


@pytest.mark.parametrize(("steps", "asked"), [(1, "vqa"), (3, "ground")])
def test_steps_of_reasoning(pipeline, steps, asked):
    features = from_saccade(pipeline, steps=steps, asked=asked, text_length=24)
    assert features.dims == from_saccade(pipeline).dims
    found = features(IMAGES, TEXTS)
    other = from_saccade(pipeline, steps=steps, asked="caption", text_length=24)(IMAGES, TEXTS)
    assert np.abs(other["vision_features"] - found["vision_features"]).max() > 1e-3
    processor = pipeline.processor
    for i, (image, text) in enumerate(zip(IMAGES, TEXTS, strict=True)):
        tokens, mask = processor.pad([processor.encode(text)], 24)
        images = processor.place(image, (16, 24))[0][None]
        batch = for_task({"images": images, "tokens": tokens, "padding_mask": mask}, asked)
        vision, words = reasoned(pipeline.model, batch, steps)
        np.testing.assert_allclose(found["vision_features"][i], vision, atol=1e-5)
        np.testing.assert_allclose(found["text_features"][i, mask[0]], words[mask[0]], atol=1e-5)
        np.testing.assert_array_equal(found["text_mask"][i], mask[0])


def test_a_patch_knows_the_text_only_after_reasoning(pipeline):
    texts = [[text] * 2 for text in TEXTS[:2]]
    images = IMAGES[:2]
    for steps in (0, 2):
        features = from_saccade(pipeline, steps=steps)
        one, other = (features(images, text)["vision_features"] for text in texts)
        assert (np.abs(one - other).max() > 1e-4) == (steps > 0)


def test_an_encoder_that_reasons_lends_neither_side(pipeline):
    reasons, plain = from_saccade(pipeline, steps=1), from_saccade(pipeline)
    for one, other in ((reasons, plain), (plain, reasons)):
        with pytest.raises(SaccadeError, match="use one with steps=0"):
            one.with_text(other)
    for wrong in ({"steps": -1}, {"steps": 1, "asked": "vqua"}):
        with pytest.raises(SaccadeError, match="at least 0 steps for one of vqa"):
            from_saccade(pipeline, **wrong)


@dataclass(frozen=True)
class Said:
    """A row of a dialogue, or of a picture without a text."""

    image: np.ndarray
    text: str = ""
    turns: tuple = ()
    context: str = ""


def test_dialogues(pipeline):
    """All that was said is the text, <bos> first; rounds beyond max_turns are left out."""
    turns = (("red cube", "left"), ("the ball", "red"))
    rows = [
        Said(IMAGES[0], "the cube", turns, context="and"),
        Said(IMAGES[1], "red", (), context=""),
    ]
    features = from_saccade(pipeline, max_turns=2)
    stored = features.encode_all(rows, batch_size=2, progress=False).arrays
    processor = pipeline.processor
    line = [processor.tokenizer.encode(t) for t in ("and", "the ball", "red", "the cube")]
    length = 1 + sum(map(len, line))
    mask = np.arange(stored["text_mask"].shape[1]) < length
    np.testing.assert_array_equal(stored["text_mask"][0], mask)
    turn = [0] * (1 + len(line[0])) + [1] * (len(line[1]) + len(line[2])) + [0] * len(line[3])
    np.testing.assert_array_equal(stored["turns"][0, :length], turn)
    tokens, padding = processor.pad([[BOS, *(t for part in line for t in part)]])
    wanted = ops.convert_to_numpy(pipeline.model.encode_text(tokens, padding))
    np.testing.assert_allclose(stored["text_features"][0, :length], wanted[0, :length], atol=1e-5)
    assert stored["text_mask"][1].sum() == 1 + len(processor.tokenizer.encode("red"))
    assert stored["roles"].dtype == np.int32
    assert not stored["roles"][1, ~stored["text_mask"][1]].any()
    plain = from_saccade(pipeline, max_turns=2)(IMAGES[:1], ["red"])
    assert {"turns", "roles"} <= plain.keys()
    assert plain["text_mask"].sum() == 2


def test_labels_sides_and_workers(pipeline, tmp_path):
    rows = [Said(IMAGES[i % 3], "" if i == 4 else TEXTS[i % 3]) for i in range(5)]
    features = from_saccade(pipeline, steps=1)
    whole = features.encode_all(rows, batch_size=2, labels=numbered, progress=False)
    assert whole.arrays["number"].tolist() == [0, 10, 2, 12, 4]  # 10 is a label's count within its batch
    assert whole.arrays["text_mask"].sum(1)[4] == 1  # <bos> alone
    shared = features.encode_all(rows, batch_size=2, labels=numbered, workers=2, progress=False)
    seen = features.encode_all(
        rows, batch_size=2, sides=("vision",), out=tmp_path / "seen.npz", labels=numbered, progress=False
    )
    assert seen.arrays.keys() == {"vision_features", "number"}
    for found in (shared, seen, FeatureSet.load(tmp_path / "seen.npz")):
        assert found.placements == whole.placements
        assert len(found.placements) == 5
        for name, value in found.arrays.items():
            np.testing.assert_array_equal(value, whole.arrays[name], err_msg=name)
    with pytest.raises(SaccadeError, match="the text is empty"):
        features([IMAGES[0]], [""])


def numbered(rows, start):
    return {"number": np.arange(start, start + len(rows)) + 9 * np.arange(len(rows))}


def test_a_longer_batch_later(pipeline):
    """What is stored grows with the longest text; earlier rows end in padding."""
    features = from_saccade(pipeline)
    pairs = [(IMAGES[0], "red"), (IMAGES[1], "the cube"), (IMAGES[2], TEXTS[1])]
    stored = features.encode_all(pairs, batch_size=1, progress=False).arrays
    assert stored["text_features"].shape[:2] == stored["text_mask"].shape
    assert stored["text_mask"].sum(1)[2] > stored["text_mask"].sum(1)[0]
    for i, (image, text) in enumerate(pairs):
        alone = features([image], [text])
        kept = alone["text_mask"][0]
        np.testing.assert_array_equal(stored["text_mask"][i, : len(kept)], kept)
        assert not stored["text_mask"][i, len(kept) :].any()
        assert not stored["text_features"][i, len(kept) :].any()
        np.testing.assert_allclose(
            stored["text_features"][i, : len(kept)], alone["text_features"][0], atol=1e-5
        )


def test_another_canvas_has_another_grid(pipeline):
    features = from_saccade(pipeline, image_size=(24, 16))
    assert features.grid == (3, 2)
    with pytest.raises(SaccadeError, match=r"image_size is \(8, 8\); this model has"):
        from_saccade(pipeline, image_size=(8, 8))


@pytest.mark.parametrize("task", ["vqa", "grounding", "matching"])
def test_every_head_in_three_lines(pipeline, task):
    features = from_saccade(pipeline)
    needs = {"vqa": {"num_answers": 2}, "matching": {"embedding_dim": 8}, "grounding": {}}[task]
    head = create_vlm_head(VLMTaskConfig(task, **features.dims, **needs, dim=16, num_heads=2))
    outputs = head(features(IMAGES, TEXTS))
    assert all(np.isfinite(ops.convert_to_numpy(value)).all() for value in outputs.values())


def test_stored_features_are_those_of_single_rows(pipeline, tmp_path):
    features = from_saccade(pipeline)
    pairs = list(zip(IMAGES, TEXTS, strict=True))
    stored = features.encode_all(pairs, batch_size=2, out=tmp_path / "new" / "all.npz", progress=False)
    assert len(stored) == 3
    assert stored.dims == features.dims
    for index, (image, text) in enumerate(pairs):
        alone = features([image], [text])
        kept = alone["text_mask"][0]
        np.testing.assert_allclose(stored[[index]]["vision_features"], alone["vision_features"], atol=1e-5)
        assert stored.arrays["text_mask"][index].sum() == kept.sum()
        both = stored.arrays["text_features"][index, : len(kept)][kept], alone["text_features"][0, kept]
        np.testing.assert_allclose(*both, atol=1e-5)
        assert stored.placements[index] == pipeline.processor.place(image, (16, 24))[1]
    again = FeatureSet.load(tmp_path / "new" / "all.npz")
    assert (again.grid, again.placements) == (stored.grid, stored.placements)
    assert again.arrays.keys() == stored.arrays.keys()
    assert all((again.arrays[name] == stored.arrays[name]).all() for name in again.arrays)
    half = features.encode_all(pairs, batch_size=3, dtype="float16", progress=False)
    assert half.arrays["vision_features"].dtype == np.float16
    assert half.arrays["text_mask"].dtype == bool


def test_one_program_a_bucket(pipeline, monkeypatch):
    calls = []
    real = backend.compiled

    def counted(function, model):
        def traced(*args):
            calls.append(tuple(args[0].shape))
            return function(*args)

        return real(traced, model)

    monkeypatch.setattr(backend, "compiled", counted)
    features = from_saccade(pipeline)
    pairs = [(IMAGES[i % 3], TEXTS[0]) for i in range(7)]
    features.encode_all(pairs, batch_size=2, progress=False)
    if backend.name() == "jax":
        assert sorted(calls) == [(2, 4), (2, 16, 24, 3)]  # traced once each: tokens, pictures


class Position(keras.layers.Layer):
    """(B, H, W, 3) -> (B, H/4, W/4, 2): the place of each cell, row first."""

    def call(self, x):
        rows, columns = x.shape[1] // 4, x.shape[2] // 4
        row = ops.broadcast_to(ops.reshape(ops.arange(rows), (1, rows, 1)), (1, rows, columns))
        column = ops.broadcast_to(ops.reshape(ops.arange(columns), (1, 1, columns)), (1, rows, columns))
        places = ops.cast(ops.stack([row, column], axis=-1), x.dtype)
        return ops.broadcast_to(places, (ops.shape(x)[0], rows, columns, 2)) + 0 * ops.mean(x)


def image_model(*layers, size=(8, 12)):
    inputs = keras.Input((*size, 3))
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def test_spatial_features_are_flattened_row_by_row():
    features = from_keras(image_model(Position())).with_text(Features(None, None))
    assert (features.vision.dim, features.grid) == (2, (2, 3))
    found = ops.convert_to_numpy(features.vision.encode(features.vision.prepare(IMAGES)))
    assert found.shape == (3, 6, 2)
    assert found[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def tokenize(texts):
    tokens = np.zeros((len(texts), 6), np.int32)
    for row, text in enumerate(texts):
        ids = [len(word) for word in text.split()][:6]
        tokens[row, : len(ids)] = ids
    return tokens, tokens > 0


def test_a_pair_of_keras_models():
    pooled = image_model(keras.layers.Conv2D(5, 4, 4), keras.layers.GlobalAveragePooling2D())
    words = keras.Sequential([keras.Input((6,), dtype="int32"), keras.layers.Embedding(20, 7)])
    features = from_keras(pooled, words, tokenize)
    assert features.dims == {"vision_dim": 5, "text_dim": 7}
    batch = features(IMAGES, TEXTS)
    assert {name: array.shape for name, array in batch.items()} == {
        "vision_features": (3, 5), "text_features": (3, 6, 7), "text_mask": (3, 6),
    }  # fmt: skip
    pixels = np.stack([letterbox(image, (8, 12))[0] for image in IMAGES]).astype(np.float32)
    np.testing.assert_allclose(batch["vision_features"], ops.convert_to_numpy(pooled(pixels)), rtol=1e-4)
    halved = from_keras(pooled, words, tokenize, prepare=lambda x: x / 2)(IMAGES, TEXTS)
    np.testing.assert_allclose(halved["vision_features"], ops.convert_to_numpy(pooled(pixels / 2)), rtol=1e-4)
    head = create_vlm_head(VLMTaskConfig("vqa", **features.dims, num_answers=4, dim=16, num_heads=2))
    assert head(batch)["answer_logits"].shape == (3, 4)


def test_lengths_that_differ_need_a_mask():
    words = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(20, 7)])

    def short(texts):
        length = max(len(text.split()) for text in texts)
        return tokenize(texts)[0][:, : min(length, 6)], None

    features = from_keras(image_model(keras.layers.Conv2D(5, 4, 4)), words, short)
    with pytest.raises(SaccadeError, match="texts are of 1 and of 6 tokens without a mask"):
        features.encode_all(list(zip(IMAGES, TEXTS, strict=True))[:2], batch_size=1, progress=False)


class Tensor:
    """What matters of torch: bfloat16 has no NumPy form, and gradients must be let go first."""

    def __init__(self, array, wide=False, free=False):
        self.array, self.wide, self.free = array, wide, free

    def detach(self):
        return Tensor(self.array, self.wide, True)

    def cpu(self):
        return self

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def float(self):
        return Tensor(self.array, True, self.free)

    def numpy(self):
        assert self.free
        assert self.wide or not self.is_floating_point(), "bfloat16"
        return self.array


def test_arrays_of_other_programs():
    import ml_dtypes

    vision = RNG.normal(size=(2, 6, 5)).astype(np.float32)
    text = RNG.normal(size=(2, 4, 7)).astype(np.float32)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    features = from_arrays(Tensor(vision), Tensor(text), text_mask=Tensor(mask), grid=(2, 3))
    assert features.dims == {"vision_dim": 5, "text_dim": 7, "grid": (2, 3)}
    assert (features.arrays["vision_features"] == vision).all()
    assert features.arrays["text_mask"].tolist() == mask.astype(bool).tolist()
    narrow = from_arrays(vision=vision.astype(ml_dtypes.bfloat16))
    assert narrow.arrays["vision_features"].dtype == np.float32
    square = from_arrays(np.arange(24).reshape(1, 2, 3, 4))
    assert square.grid == (2, 3)
    assert square.arrays["vision_features"][0, 4].tolist() == [16, 17, 18, 19]
    assert features[1:]["text_mask"].shape == (1, 4)


def test_torch_tensors_of_bfloat16():
    torch = pytest.importorskip("torch")
    values = torch.randn(2, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    features = from_arrays(values, text=torch.randn(2, 5), vision_mask=torch.ones(2, 3, dtype=torch.int64))
    assert (features.arrays["vision_features"] == values.detach().float().numpy()).all()
    assert features.arrays["vision_mask"].all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "there are no features"),
        ({"vision": np.ones(3)}, r"vision is \(3,\)"),
        ({"vision": np.ones((2, 3)), "text": np.ones((3, 3))}, "different numbers of rows"),
        ({"vision": np.full((1, 2), np.nan)}, "no finite numbers"),
        ({"text": np.ones((2, 3, 4)), "text_mask": np.ones((2, 4))}, r"text_mask is \(2, 4\)"),
        ({"text": np.ones((2, 3, 4)), "text_mask": np.full((2, 3), 0.5)}, "beside 0 and 1"),
        ({"text": np.ones((2, 3)), "vision_mask": np.ones((2, 3))}, "without features of vision"),
        ({"vision": np.ones((2, 5, 4)), "grid": (2, 2)}, "a grid of 2 x 2 has 4"),
        ({"vision": np.array([["a"]])}, "give an array of numbers"),
    ],
)
def test_arrays_that_do_not_fit(given, message):
    with pytest.raises(SaccadeError, match=message):
        from_arrays(**given)


def test_refusals(pipeline, tmp_path):
    features = from_saccade(pipeline)
    with pytest.raises(SaccadeError, match="3 images and 2 texts"):
        features(IMAGES, TEXTS[:2])
    with pytest.raises(SaccadeError, match="no text side"):
        from_keras(image_model(keras.layers.Conv2D(5, 4, 4)))(IMAGES, TEXTS)
    with pytest.raises(SaccadeError, match="0 rows in batches of 64"):
        features.encode_all([], progress=False)
    with pytest.raises(SaccadeError, match="does not end in"):
        features.encode_all([(IMAGES[0], "red")], out=tmp_path / "a.txt")
    with pytest.raises(SaccadeError, match="go together"):
        from_keras(image_model(keras.layers.Conv2D(5, 4, 4)), tokenize=tokenize)
    with pytest.raises(SaccadeError, match="give image_size"):
        from_keras(image_model(keras.layers.Conv2D(5, 4, 4), size=(None, None)))
    with pytest.raises(SaccadeError, match="is no VLM-HRM"):
        from_saccade(object())
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(SaccadeError, match="cannot be read"):
        FeatureSet.load(tmp_path / "torn.npz")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(SaccadeError, match="not features"):
        FeatureSet.load(tmp_path / "other.npz")
