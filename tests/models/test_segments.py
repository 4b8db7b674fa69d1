"""Sequences packed in one row: what each is alone, and blind to the others. Oracle: transformers, golden."""

import chat_parts
import nano
import numpy as np
import pytest
import talk_files
from keras import ops
from reference import log_softmax, to_numpy

from saccade import backend
from saccade.data.chat_processor import IGNORED, ChatConfig, ChatProcessor
from saccade.data.conversations import Conversation, Packer, Tally
from saccade.hub.nano_vlm import read_model
from saccade.layers.attention import segment_mask
from saccade.models.llama import positions_of
from saccade.train.next_token import NextToken

ATOL = 2e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return read_model(nano.write(tmp_path_factory.mktemp("golden") / "m"))


@pytest.fixture(scope="module")
def forward(model):
    return backend.compiled(model, model)


@pytest.fixture(scope="module")
def rows():
    return nano.part(nano.golden(), "batch")


def test_the_mask_and_the_positions():
    segments = np.array([[1, 1, 2, 2, 2, 0, 0]], np.int32)
    mask = segment_mask(segments)
    expected = np.zeros((7, 7), bool)
    for t in range(7):
        for s in range(t + 1):
            expected[t, s] = segments[0, t] == segments[0, s] != 0
    np.testing.assert_array_equal(to_numpy(mask)[0], expected)
    np.testing.assert_array_equal(to_numpy(positions_of(mask)), [[0, 1, 0, 1, 2, 0, 0]])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_packed_logits_equal_transformers_on_each_alone(forward, rows, order):
    batch, spans = nano.packed(rows, order)
    logits = to_numpy(forward(batch))[0]
    expected = nano.part(nano.golden(), "output")["logits"]
    for row, span in spans.items():
        np.testing.assert_allclose(logits[span], expected[row][rows["padding_mask"][row]], atol=ATOL, rtol=0)


def test_packed_sequences_do_not_see_each_other(forward, rows):
    batch, spans = nano.packed(rows)
    before = to_numpy(forward(batch))[0]
    for row, span in spans.items():
        changed = {**batch, "tokens": batch["tokens"].copy()}
        words = ~batch["image_mask"][0]
        words[: span.start] = words[span.stop :] = False
        changed["tokens"][0, words] = (changed["tokens"][0, words] + 7) % 53
        if row == 0:
            changed["images"] = batch["images"].copy()
            changed["images"][0] = 1 - changed["images"][0]
        after = to_numpy(forward(changed))[0]
        for other, theirs in spans.items():
            if other != row:
                np.testing.assert_array_equal(before[theirs], after[theirs])
        assert np.abs(before[span] - after[span]).max() > 1e-2


def test_positions_restart(model, rows):
    """Attention sees distances only, so the logits do not tell: the turned keys do."""
    batch, spans = nano.packed(rows)
    language = model.language
    keys = backend.compiled(lambda x, s: language._read(x, s)[1][0][0], language)
    x = language.embed(batch["tokens"])
    together = to_numpy(keys(x, batch["segments"]))[0]
    for span in spans.values():
        single = to_numpy(keys(x[:, span], batch["segments"][:, span]))[0]
        np.testing.assert_allclose(together[span], single, atol=1e-6)


def test_without_segments_they_would(forward, rows):
    """The test above can fail."""
    batch, spans = nano.packed(rows)
    open_mask = {**batch, "segments": np.minimum(batch["segments"], 1)}
    before = to_numpy(forward(open_mask))[0]
    changed = {**open_mask, "tokens": batch["tokens"].copy()}
    changed["tokens"][0, 0] = (changed["tokens"][0, 0] + 7) % 53
    assert np.abs(before - to_numpy(forward(changed))[0])[spans[2]].max() > 1e-4


def test_a_padding_mask_is_one_segment(model, rows):
    language = model.language
    x = language.embed(rows["tokens"])
    keep = rows["padding_mask"]
    run = backend.compiled(lambda x, m, s: (language(x, m), language(x, None, s)), language)
    masked, segmented = run(x, keep, 3 * keep.astype(np.int32))
    np.testing.assert_allclose(to_numpy(masked)[keep], to_numpy(segmented)[keep], atol=1e-6)


def test_rows_without_a_place_for_images(forward):
    batch = {
        "images": np.zeros((2, 0, 16, 16, 3), np.uint8),
        "tokens": np.array([[3, 4, 5, 6], [3, 9, 0, 0]], np.int32),
        "image_mask": np.zeros((2, 4), bool),
        "segments": np.array([[1, 1, 2, 2], [1, 1, 0, 0]], np.int32),
    }
    logits = to_numpy(forward(batch))
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[0, 0], logits[1, 0], atol=ATOL)


TALKS = [
    ([0], ["What is this?", "three cubes"]),
    ([], ["red?", "yes", "how many?", "three"]),
    ([1, 2], ["What?", "a red cube"]),
    ([3], ["are these cubes red?", "y"]),
]


@pytest.fixture(scope="module")
def talks():
    return [
        Conversation(
            tuple(talk_files.pixels(i) for i in images),
            tuple({"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)),
        )
        for images, texts in TALKS
    ]


def test_packed_loss_equals_unpacked_loss(talks, tmp_path):
    """From pictures and texts on: packed, a conversation a row, and each alone."""
    model = read_model(chat_parts.write_model(tmp_path / "m", chat_parts.TILES))
    config = ChatConfig(
        image_size=16,
        image_tokens=4,
        max_length=400,
        extra_tokens=tuple(chat_parts.TILES.items()),
        max_side=16,
    )
    processor = ChatProcessor(chat_parts.tokenizer(), config)
    tally = Tally()
    batches = {
        "packed": tally.take(Packer(processor, 2, 4, 128, tiles=4)(talks)),
        "padded": tally.take(Packer(processor, 4, 4, 128, tiles=2, pack=False)(talks)),
        "alone": processor([t.images for t in talks], [t.messages for t in talks], train=True),
    }
    assert tally.causes.total() == 0
    assert batches["packed"]["segments"].max(1).min() >= 1
    found, means = {}, {}
    objective = NextToken(chunk=16)
    for name, batch in batches.items():
        run = backend.compiled(lambda b: (model(b), objective(model, {}, b, None)[0]), model)
        logits, loss = run(batch)
        places = batch["targets"] != IGNORED
        log_p = log_softmax(to_numpy(logits)[places].astype(np.float64))
        targets = batch["targets"][places]
        found[name] = sorted(zip(targets.tolist(), -log_p[np.arange(len(targets)), targets], strict=True))
        means[name] = float(loss)
        assert means[name] == pytest.approx(np.mean([value for _, value in found[name]]), abs=1e-5)
    for name in ("packed", "padded"):
        assert [t for t, _ in found[name]] == [t for t, _ in found["alone"]]
        np.testing.assert_allclose(
            [v for _, v in found[name]], [v for _, v in found["alone"]], atol=ATOL, rtol=0
        )
        assert means[name] == pytest.approx(means["alone"], abs=1e-5)
    assert len(found["alone"]) == 19


def test_gradients_do_not_cross(model, rows):
    import jax

    batch, spans = nano.packed(rows)
    language = model.language

    def loss(x):
        hidden = language(x, None, batch["segments"])
        return ops.sum(ops.square(hidden[:, spans[1]]))

    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(*batch["tokens"].shape, 24)), "float32")
    gradient = np.abs(to_numpy(jax.jit(jax.grad(loss))(x)))[0].max(-1)
    assert (gradient[spans[1]] > 0).all()
    assert not gradient[spans[0]].any()
    assert not gradient[spans[2]].any()
