"""NanoVLM against transformers' parts (golden), its cache, its padding and its presets."""

from dataclasses import replace

import jax
import keras
import nano
import numpy as np
import pytest
from keras import ops
from reference import to_numpy

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer
from saccade.hub.nano_vlm import read_model
from saccade.models.nano_vlm import PRESETS, NanoVLM, preset

ATOL, V = 2e-5, 53


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return read_model(nano.write(tmp_path_factory.mktemp("golden") / "m"))


@pytest.fixture(scope="module")
def batch():
    return nano.part(nano.golden(), "batch")


@pytest.fixture(scope="module")
def expected():
    return nano.part(nano.golden(), "output")


@pytest.fixture(scope="module")
def forward(model):
    return backend.compiled(model, model)


def close(ours, theirs, keep=...):
    np.testing.assert_allclose(to_numpy(ours)[keep], theirs[keep], atol=ATOL, rtol=0)


def test_the_parts_equal_transformers(model, batch, expected):
    close(model.vision(batch["images"]), expected["patches"])
    close(model.encode_images(batch["images"]), expected["soft"])


def test_logits_equal_transformers(forward, batch, expected):
    logits = forward(batch)
    assert str(logits.dtype) == "float32"
    assert np.abs(expected["logits"]).max() > 1
    close(logits, expected["logits"], batch["padding_mask"])


def test_greedy_writing_with_a_cache_equals_transformers_without(model, batch, expected):
    close(model.prefill(batch, 1)[0], expected["logits"][:, -1])
    count = expected["written"].shape[1]
    settings = GenerationConfig(max_new_tokens=count, eos_token_id=V)  # no end
    tokens, _ = Writer(model).generate((batch,), settings)
    np.testing.assert_array_equal(tokens, expected["written"])


def test_words_copied_from_the_prompt_change_nothing(model, batch, expected):
    count = expected["written"].shape[1]
    settings = GenerationConfig(max_new_tokens=count, eos_token_id=V, prompt_lookup_num_tokens=3)
    known = {"tokens": batch["tokens"], "padding_mask": batch["padding_mask"]}
    tokens, _ = Writer(model).generate((batch,), settings, **known)
    np.testing.assert_array_equal(tokens, expected["written"])


def test_a_cache_gives_what_reading_everything_gives(model, forward, batch):
    rng = np.random.default_rng(5)
    rows, length = batch["tokens"].shape
    more = rng.integers(0, V, size=(rows, 6)).astype(np.int32)
    whole = {
        "images": batch["images"],
        "tokens": np.concatenate([batch["tokens"], more], 1),
        "padding_mask": np.pad(batch["padding_mask"], ((0, 0), (0, 6)), constant_values=True),
        "image_mask": np.pad(batch["image_mask"], ((0, 0), (0, 6))),
    }
    logits = to_numpy(forward(whole))[:, length - 1 :]
    found, cache = model.prefill(batch, 9)  # more room than is used
    np.testing.assert_allclose(to_numpy(found), logits[:, 0], atol=ATOL)
    at = 0
    for count in (1, 3, 2):
        found, cache = model.step(more[:, at : at + count], cache)
        np.testing.assert_allclose(to_numpy(found), logits[:, at + 1 : at + 1 + count], atol=ATOL)
        at += count
    assert int(cache["position"]) == length + 6


def alone(batch, row):
    """A row without its padding, and its images."""
    keep = batch["padding_mask"][row]
    first = batch["image_mask"][:row].sum() // 4
    count = batch["image_mask"][row].sum() // 4
    own = {name: batch[name][row : row + 1, keep] for name in ("tokens", "padding_mask", "image_mask")}
    return {"images": batch["images"][first : first + count], **own}


@pytest.mark.parametrize("row", [0, 1, 2])  # with one image, two, none
def test_a_row_is_read_alone_as_in_a_batch(model, forward, batch, row):
    keep = batch["padding_mask"][row]
    together = to_numpy(forward(batch))[row, keep]
    single = alone(batch, row)
    np.testing.assert_allclose(to_numpy(forward(single))[0], together, atol=ATOL)
    a, long = model.prefill(batch, 3)
    b, short = model.prefill(single, 3)
    for i in range(3):
        np.testing.assert_allclose(to_numpy(a)[row], to_numpy(b)[0], atol=ATOL)
        word = np.array([[i + 7]], np.int32)
        a, long = (t if isinstance(t, dict) else t[:, 0] for t in model.step(np.repeat(word, 3, 0), long))
        b, short = (t if isinstance(t, dict) else t[:, 0] for t in model.step(word, short))


def test_padding_may_hold_anything_on_either_side(forward, batch, expected):
    padding = ~batch["padding_mask"]
    assert padding.any()
    other = {**batch, "tokens": np.where(padding, 11, batch["tokens"])}
    close(forward(other), expected["logits"], batch["padding_mask"])
    right = {**batch}
    for name in ("tokens", "padding_mask", "image_mask"):
        right[name] = np.stack([np.roll(r, -p.sum()) for r, p in zip(batch[name], padding, strict=True)])
    logits = to_numpy(forward(right))
    for row, count in enumerate((~padding).sum(1)):
        theirs = expected["logits"][row][batch["padding_mask"][row]]
        np.testing.assert_allclose(logits[row, :count], theirs, atol=ATOL)


def test_the_future_does_not_matter(forward, batch):
    changed = {**batch, "tokens": batch["tokens"].copy()}
    changed["tokens"][:, 11] = (changed["tokens"][:, 11] + 5) % V
    before, after = to_numpy(forward(batch)), to_numpy(forward(changed))
    np.testing.assert_array_equal(before[:, :11], after[:, :11])
    assert (np.abs(before[:, 11:] - after[:, 11:]).max((1, 2)) > 1e-3).all()


def test_each_image_reaches_its_own_row_only(forward, batch):
    for image, row in enumerate((0, 1, 1)):
        changed = {**batch, "images": batch["images"].copy()}
        changed["images"][image] = 1 - changed["images"][image]
        moved = np.abs(to_numpy(forward(batch)) - to_numpy(forward(changed)))
        moved = [moved[r, keep].max() for r, keep in enumerate(batch["padding_mask"])]
        assert moved[row] > 1e-3
        assert max(moved[:row] + moved[row + 1 :]) < 1e-6


def test_bytes_are_pixels(model, batch):
    pixels = np.random.default_rng(3).integers(0, 256, size=(2, 16, 16, 3)).astype(np.uint8)
    close(model.encode_images(pixels), to_numpy(model.encode_images(pixels.astype(np.float32) / 255)))


def test_bfloat16_stays_near(batch, expected, tmp_path):
    model = read_model(nano.write(tmp_path / "m"), dtype="mixed_bfloat16")
    logits = to_numpy(model(batch))
    assert logits.dtype == np.float32
    keep = batch["padding_mask"]
    scale = np.abs(expected["logits"][keep]).max()
    assert 0 < np.abs(logits - expected["logits"])[keep].max() < 0.1 * scale


def test_remat_changes_nothing(model, batch, forward):
    again = NanoVLM.with_weights(
        replace(model.config, remat=True),
        {n: to_numpy(v) for n, v in model.named_variables().items()},
        "float32",
        "memory",
    )
    np.testing.assert_allclose(
        to_numpy(backend.compiled(again, again)(batch)), to_numpy(forward(batch)), atol=1e-6
    )


def test_every_weight_gets_a_gradient(model, batch):
    variables = model.trainable_variables

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return ops.mean(ops.square(model(batch)))

    gradients = jax.jit(jax.grad(loss))([v.value for v in variables])
    for variable, gradient in zip(variables, gradients, strict=True):
        assert np.abs(gradient).max() > 0, variable.path


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras reading its variables
def test_keras_own_file(model, batch, forward, tmp_path):
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert type(again) is NanoVLM
    assert again.config == model.config
    np.testing.assert_array_equal(to_numpy(backend.compiled(again, again)(batch)), to_numpy(forward(batch)))


def test_counting_leaves_nothing_to_initialise():
    """Keras values variables of an abstract model when the next scope closes: here, with nothing."""
    drawn = []

    class Spy(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            drawn.append(shape)
            return ops.zeros(shape, dtype)

    class Counted(NanoVLM):
        def build(self, input_shape=None):
            super().build(input_shape)
            for variable in self.variables:
                variable._initializer = Spy()

    assert Counted.count_parameters(PRESETS["nano_vlm_mini"]) == PARAMETERS["nano_vlm_mini"]
    with keras.StatelessScope():
        pass
    assert drawn == []


PARAMETERS = {
    "nano_vlm_mini": 38_056_704,
    "nano_vlm_base": 76_709_888,
    # the published counts
    "nano_vlm_222m": 222_081_600,
    "nano_vlm_450m": 450_614_400,
    "nano_vlm_230m_8k": 228_063_936,
    "nano_vlm_460m_8k": 460_113_984,
}
IMAGE_TOKENS = {"nano_vlm_mini": 49, "nano_vlm_base": 49, "nano_vlm_222m": 49}  # the others 64


def test_presets():
    assert PARAMETERS.keys() == PRESETS.keys()
    for name, count in PARAMETERS.items():
        config = preset(name)
        assert NanoVLM.count_parameters(config) == count
        assert config.image_tokens == IMAGE_TOKENS.get(name, 64)
    assert preset("nano_vlm_mini", shuffle=7).image_tokens == 4


def test_a_preset_of_full_size_runs_in_the_abstract():
    config = PRESETS["nano_vlm_230m_8k"]
    with keras.StatelessScope(initialize_variables=False):
        model = NanoVLM(config)

    def run(values, batch):
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
            logits, cache = model.prefill(batch, 5)
            return model(batch), model.step(batch["tokens"][:, :1], cache)[0], logits

    values = [jax.ShapeDtypeStruct(tuple(v.shape), v.dtype) for v in model.variables]
    shapes = {"images": ((3, 512, 512, 3), np.uint8), "tokens": ((2, 700), np.int32)}
    shapes |= dict.fromkeys(("padding_mask", "image_mask"), ((2, 700), bool))
    logits, step, first = jax.eval_shape(
        run, values, {k: jax.ShapeDtypeStruct(*s) for k, s in shapes.items()}
    )
    assert logits.shape == (2, 700, 49218)
    assert first.shape == (2, 49218)
    assert step.shape == (2, 1, 49218)
