"""A model started from another's weights: more words, another canvas, two nets."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tiny

from saccade.data.text import Tokenizer
from saccade.errors import SaccadeError
from saccade.models.adapt import adapt, extend_table

TEXTS = ["the blue circle is small", "there are two yellow squares"] * 20


@pytest.fixture(scope="module")
def old():
    return Tokenizer.train(TEXTS, vocab_size=290)


@pytest.fixture(scope="module")
def new(old):
    return old.extended(["closely", "tower", "circle"])


@pytest.fixture(scope="module")
def start(old, tmp_path_factory):
    model = tiny.fresh(config=replace(tiny.CONFIG, vocab_size=old.vocab_size), seed=3)
    folder = tmp_path_factory.mktemp("start") / "model"
    model.save(folder)
    return model, folder


def batch():
    return tiny.batch() | {"task": np.zeros(tiny.B, np.int32)}


def answers(model):
    return keras.ops.convert_to_numpy(model(batch())["answer_logits"])


def test_words_become_one_token_and_no_other_text_changes(old, new):
    for word in ("closely", " closely", "tower", " tower", "circle", " circle"):
        assert len(new.encode(word)) == 1, word
    assert len(old.encode(" closely")) > 1
    for text in {*TEXTS, "the tow is close", "Ünïcode & 123"} - {"the blue circle is small"}:
        assert new.encode(text) == old.encode(text) or "tow" in text or "close" in text
        assert new.decode(new.encode(text)) == text.lower()
    assert old.extended([]) is old
    assert new.extended(["closely"]).vocab_size == new.vocab_size
    restored = Tokenizer._from_json(new.to_json(), "restored")
    assert restored.encode("the closely tower") == new.encode("the closely tower")


def test_new_rows_are_the_mean_of_what_spelled_them(old, new):
    table = np.random.default_rng(0).normal(size=(old.vocab_size, 5)).astype(np.float32)
    grown = extend_table(table, old, new)
    assert grown.shape == (new.vocab_size, 5)
    np.testing.assert_array_equal(grown[: old.vocab_size], table)
    (row,) = new.encode(" closely")
    np.testing.assert_allclose(grown[row], table[old.encode(" closely")].mean(0), rtol=1e-6)


def test_nothing_changes_where_nothing_new_is_said(old, new, start):
    model, folder = start
    np.testing.assert_allclose(answers(adapt(folder, old, new)), answers(model), atol=1e-6)


def test_two_nets_begin_as_the_one(old, new, start):
    model, folder = start
    apart = adapt(folder, old, new, shared=False, halt_max_steps=3)
    assert not apart.config.shared
    assert apart.config.halt_max_steps == 3
    names = apart.named_variables()
    assert any(name.startswith("core/high/") for name in names)
    assert apart.tasks == model.tasks
    np.testing.assert_allclose(answers(apart), answers(model), atol=1e-6)


def test_another_canvas_gets_a_table_of_its_own(old, new, start):
    model, folder = start
    wide = adapt(folder, old, new, image_size=(8, 48))
    assert wide.config.vision.image_size == (8, 48)
    assert wide.named_variables()["vision/patches/positions"].shape[:2] == (2, 12)
    seen = {**batch(), "images": np.random.default_rng(1).random((tiny.B, 8, 48, 3)).astype(np.float32)}
    expected, found = (keras.ops.convert_to_numpy(m(seen)["answer_logits"]) for m in (model, wide))
    np.testing.assert_allclose(found, expected, atol=1e-5)  # interpolated once instead of at every call


def test_what_does_not_fit_is_refused(old, start):
    _, folder = start
    other = Tokenizer.train(["quite other words, and more of them"] * 9, vocab_size=300)
    with pytest.raises(SaccadeError, match="no extension"):
        adapt(folder, old, other)
    with pytest.raises(SaccadeError, match="its own tokenizer"):
        extend_table(np.zeros((7, 3)), old, old)
    with pytest.raises(SaccadeError, match="unknown field"):
        adapt(folder, old, old, halting=3)
    with pytest.raises(SaccadeError, match="another configuration"):
        adapt(folder, old, old, dim=48)


def test_the_writer_can_be_left_out_with_its_tasks(start, old):
    model, folder = start
    mute = adapt(folder, old, old, decoder_depth=0)
    assert set(model.heads) - set(mute.heads) == {"write"}
    assert not any(name.startswith("write/") for name in mute.named_variables())
    assert set(model.tasks) - set(mute.tasks) == {"caption", "rationale"}
    np.testing.assert_array_equal(answers(mute), answers(model))
