"""Interleaved prompts: what stands where, what counts, what is refused; episodes of the scene world."""

import pickle

import numpy as np
import pytest

from saccade.data.interleaved import (
    END_OF_CHUNK,
    IGNORED,
    IMAGE,
    Chunk,
    Collate,
    InterleavedConfig,
    InterleavedProcessor,
    Pairs,
    asked,
    few_shot,
    parse,
)
from saccade.data.scenes import Source
from saccade.data.scenes.chunks import HELD_OUT, PAIRS, WORDS, Episodes, SceneChunks
from saccade.data.text import BOS, EOS, PAD
from saccade.errors import SaccadeError

BLACK, WHITE = np.zeros((6, 6, 3), np.uint8), np.full((6, 6, 3), 255, np.uint8)


@pytest.fixture
def processor(tokenizer):
    return InterleavedProcessor(tokenizer, InterleavedConfig((8, 12), 48, 8, max_images=3))


def test_a_few_shot_prompt(processor):
    shots = [Chunk("the ball is", BLACK, "red"), Chunk("the ball is", WHITE, "yellow")]
    row = few_shot(shots, WHITE, "the ball is")
    ids, counts = processor.encode(row)
    said = processor.tokenizer.encode("the ball is")
    red, yellow = (processor.tokenizer.encode(f" {word}") for word in ("red", "yellow"))
    image, end = processor.image_id, processor.end_id
    assert ids == [BOS, image, *said, *red, end, image, *said, *yellow, end, image, *said]
    learned = [token for token, counted in zip(ids, counts, strict=True) if counted]
    assert learned == [*red, end, *yellow, end]
    assert few_shot((), WHITE, "the ball is") == row[2:]
    prompt, answer = asked((*shots, Chunk("the ball is", WHITE, "blue")))
    assert (len(prompt), prompt[-1].answer, prompt[-1].closed, answer) == (3, "", False, "blue")


def test_a_batch_to_write_from_is_padded_in_front(processor):
    rows = [few_shot([Chunk("a ball", BLACK, "red")], WHITE, "a ball"), [Chunk("a", WHITE, closed=False)]]
    batch = processor(rows)
    lengths = [len(processor.encode(row)[0]) for row in rows]
    assert batch.keys() == {"images", "tokens", "image_mask", "padding_mask"}
    assert batch["tokens"].shape[1] % 8 == 0
    assert batch["images"].shape == (2, 2, 8, 12, 3)
    assert batch["padding_mask"].sum(1).tolist() == lengths
    assert batch["padding_mask"][:, -1].all()
    assert (batch["tokens"][~batch["padding_mask"]] == PAD).all()
    assert batch["image_mask"].sum(1).tolist() == [2, 1]
    assert batch["images"][0, 0, 4, 6].tolist() == [0, 0, 0]
    assert batch["images"][1, 0, 4, 6].tolist() == [255] * 3
    assert (batch["images"][1, 1] == 127).all()  # no second image


def test_targets_are_the_tokens_after(processor):
    row = [Chunk("the ball is", BLACK, "red"), Chunk("a cone is", WHITE, "blue")]
    batch = Collate(processor)([row])
    assert batch.keys() == {"images", "tokens", "image_mask", "targets"}
    assert batch["tokens"].shape == (1, 48)
    assert batch["images"].shape[1] == 3  # shapes never change
    ids, counts = processor.encode(row)
    expected = np.full(48, IGNORED)
    for t in range(len(ids) - 1):
        if counts[t + 1]:
            expected[t] = ids[t + 1]
    np.testing.assert_array_equal(batch["targets"][0], expected)
    blind = Collate(processor, blind=True)([row])
    assert blind["images"].shape == (1, 0, 8, 12, 3)
    assert not blind["image_mask"].any()
    length = len(ids) - 2
    np.testing.assert_array_equal(blind["targets"][0, : length - 1], blind["tokens"][0, 1:length])


def test_an_image_may_take_several_places(tokenizer):
    processor = InterleavedProcessor(tokenizer, InterleavedConfig((8, 8), 40, image_tokens=5))
    batch = processor([[Chunk("a ball", BLACK, closed=False)]])
    assert batch["image_mask"].sum() == 5


def test_a_text_with_places(processor):
    text = f"look: {IMAGE}a ball, red{END_OF_CHUNK}{IMAGE}{IMAGE}a cone"
    chunks = parse(text, [BLACK, WHITE, BLACK])
    said = [(c.text, c.image is not None, c.closed) for c in chunks]
    assert said == [
        ("look: ", False, False),
        ("a ball, red", True, True),
        ("", True, False),
        ("a cone", True, False),
    ]
    assert chunks[2].image is WHITE
    ids, _ = processor.encode(chunks)
    assert ids.count(processor.image_id) == 3
    assert ids.count(processor.end_id) == 1


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        ("a ball", [], "the prompt has no image; write <image>"),
        ("a ball", [BLACK], "1 images but 0 <image> places"),
        (f"{IMAGE}a", [BLACK, WHITE], "2 images but 1 <image> places in the prompt; add a place or drop"),
        (f"{IMAGE}a{IMAGE}", [BLACK], "2 <image> places in the prompt but 1 images; give every place"),
    ],
)
def test_images_and_places_must_agree(text, images, message):
    with pytest.raises(SaccadeError, match=message):
        parse(text, images)


def test_rows_that_are_refused(processor):
    with pytest.raises(SaccadeError, match="no image; give one of its 1 chunks"):
        processor([[Chunk("a ball")]])
    with pytest.raises(SaccadeError, match="there are no prompts; give a list of at least one"):
        processor([])
    with pytest.raises(SaccadeError, match="a row has 4 images, at most 3"):
        processor([[Chunk("a", BLACK)] * 4])
    with pytest.raises(SaccadeError, match="tokens, at most 48; give fewer or shorter"):
        processor([[Chunk("a ball " * 40, BLACK)]])
    with pytest.raises(SaccadeError, match="tokens with <bos> and <eos>, the limit is 3"):
        Pairs(processor, 3)([[Chunk("", BLACK, "a red ball")]])


def test_what_was_written_ends_at_the_end_of_its_chunk(processor):
    ids = [*processor.tokenizer.encode(" red"), processor.end_id, *processor.tokenizer.encode(" blue")]
    assert processor.decode(ids) == "red"
    assert processor.decode([processor.image_id, *ids]) == "red"


def test_saved_and_loaded(processor, tmp_path):
    processor.save(tmp_path)
    again = InterleavedProcessor.load(tmp_path)
    assert again.config == processor.config
    row = [[Chunk("the ball is", BLACK, "red")]]
    for other in (again, pickle.loads(pickle.dumps(processor))):
        np.testing.assert_array_equal(other(row)["tokens"], processor(row)["tokens"])
    (tmp_path / "interleaved.json").write_text("{")
    with pytest.raises(SaccadeError, match=r"interleaved\.json cannot be read"):
        InterleavedProcessor.load(tmp_path)


def test_pairs(processor):
    batch = Pairs(processor, 20)([[Chunk("", BLACK, "the ball is red")], [Chunk("", WHITE, "a cone")]])
    for i, text in enumerate(("the ball is red", "a cone")):
        ids = [BOS, *processor.tokenizer.encode(text), EOS]
        assert batch["tokens"][i, : len(ids)].tolist() == ids
        assert batch["padding_mask"][i].sum() == len(ids)
    assert batch["images"].shape == (2, 8, 12, 3)


def test_episodes_can_be_told_from_their_demonstrations_only():
    source, answers, later = Episodes(4, seed=3), [], []
    for i in range(60):
        *shots, last = source[i]
        names = [shot.answer for shot in shots]
        assert names[0] != names[1]  # both names are shown
        assert {*names[2:], last.answer} <= set(names[:2])
        later.append([name == names[0] for name in (*names[2:], last.answer)])
        assert {c.text for c in (*shots, last)} == {"this is a"}
        answers.append(last.answer)
    # Nothing but the pictures says which of the two comes: neither its place nor what came before.
    assert (np.abs(np.mean(later, axis=0) - 0.5) < 0.2).all()
    assert (np.abs(np.corrcoef(np.array(later).T) - np.eye(3)) < 0.35).all()
    assert len(set(answers)) > 6
    assert set(answers) <= set(WORDS)
    again = Episodes(4, seed=3)[7]
    for ours, theirs in zip(source[7], again, strict=True):
        assert ours.answer == theirs.answer
        np.testing.assert_array_equal(ours.image, theirs.image)
    assert len(Episodes(0)[0]) == 1


def test_held_out_pairs_are_never_trained():
    """The split is of pairs of values; which of them an episode drew is seen from its generator."""
    trained = [pair for pair in PAIRS if pair not in HELD_OUT]
    assert len(PAIRS) == 28 + 10
    assert 4 <= len(HELD_OUT) < len(trained)
    assert {pair[0] for pair in HELD_OUT} == {"color", "shape"}
    with pytest.raises(SaccadeError, match="unknown split 'test': use one of train, val"):
        Episodes(4, "test")
    with pytest.raises(SaccadeError, match="shots is -1"):
        Episodes(-1)
    with pytest.raises(IndexError):
        Episodes()[-1]


def test_scene_chunks():
    (chunk,) = SceneChunks(Source("vqa", seed=1))[4]
    example = Source("vqa", seed=1)[4]
    assert (chunk.text, chunk.answer) == (example.text, example.answer)
    (all_of_it,) = SceneChunks(Source("retrieve", seed=1), "text")[4]
    assert all_of_it.text == ""  # nothing is asked
    assert all_of_it.answer == Source("retrieve", seed=1)[4].text
    (caption,) = SceneChunks(Source("caption", seed=1), "target")[4]
    assert caption.answer == Source("caption", seed=1)[4].target
