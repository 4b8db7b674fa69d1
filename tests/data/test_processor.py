"""What reaches the model: padding, masks, the shift of targets, boxes, and every refusal."""

import pickle

import numpy as np
import pytest

from saccade.data.batching import TASKS, Collate, prompt
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import TASKS as SCENE_TASKS
from saccade.data.scenes import Source, lexicon
from saccade.data.scenes.scene import Example, Scene
from saccade.data.text import BOS, EOS, PAD
from saccade.errors import SaccadeError, SaccadeWarning

SCENE = Scene((), 36, 36, "plain")


def picture(height=36, width=36, value=50) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def example(task, **fields) -> Example:
    fields = {"image": picture(), "text": "the ball is yellow.", "depth": 3} | fields
    return Example(task=task, scene=SCENE, **fields)


def test_an_inference_batch(processor):
    batch = processor([picture(value=51), picture(72, 72, 255)], ["The ball", "what color is the cylinder?"])
    assert set(batch) == {"images", "tokens", "padding_mask"}
    assert batch["images"].shape == (2, 36, 36, 3)
    assert batch["images"].dtype == np.float32
    assert batch["images"][0].max() == np.float32(0.2)
    assert batch["images"][1].max() == 1
    assert batch["tokens"].dtype == np.int32
    assert batch["padding_mask"].dtype == bool
    assert batch["tokens"].shape[1] % 8 == 0
    assert (batch["tokens"][:, 0] == BOS).all()
    np.testing.assert_array_equal(batch["tokens"] != PAD, batch["padding_mask"])
    count = batch["padding_mask"][0].sum()
    assert processor.tokenizer.decode(batch["tokens"][0, :count]) == "the ball"


def test_without_text_the_row_is_a_start_token(processor):
    batch = processor([picture()])
    assert batch["tokens"].tolist() == [[BOS] + [PAD] * 7]
    assert batch["padding_mask"].sum() == 1


def test_a_text_alone_and_in_a_batch_has_the_same_tokens(processor):
    alone = processor([picture()], ["the ball"])
    both = processor([picture()] * 2, ["the ball", "how many red cubes are left of the ball?"])
    length = alone["tokens"].shape[1]
    assert both["tokens"].shape[1] > length
    np.testing.assert_array_equal(both["tokens"][0, :length], alone["tokens"][0])
    assert not both["padding_mask"][0, length:].any()


@pytest.mark.parametrize(
    ("task", "style"), [*[(task, "world") for task in SCENE_TASKS], ("statement", "nlvr")]
)
def test_every_text_of_the_scenes_is_in_their_lexicon(tokenizer, task, style):
    own = Processor(tokenizer, ProcessorConfig(lexicon=lexicon()))
    source = Source(task, style=style)
    texts = set()
    for i in range(300):
        made = source[i]
        texts |= {made.text, made.target, *(phrase for phrase, _ in made.regions)} - {""}
    assert len(texts) > 150
    assert {own.check(text) for text in texts} == texts


def test_hyphenated_words_of_a_lexicon_are_known_and_others_are_not(tokenizer):
    own = Processor(tokenizer, ProcessorConfig(lexicon=("the", "ball", "mid-sized")))
    assert own.check("the Mid-sized ball") == "the Mid-sized ball"
    with pytest.raises(SaccadeError, match="'size': did you mean sized"):
        own.check("mid-size ball")  # one word of three: too many to be a slip
    with pytest.warns(SaccadeWarning, match="'size' is read as 'sized'"):
        assert own.check("the mid-size ball") == "the mid-sized ball"


def test_the_longest_text_and_one_more(processor):
    assert len(processor.encode("q" * 23)) == 24
    with pytest.raises(SaccadeError, match=r"25 tokens, the limit is 24"):
        processor.encode("q" * 24)


def test_a_batch_of_two_canvases_is_refused(processor):
    with pytest.raises(SaccadeError, match=r"\(20, 80\), \(36, 36\).*split"):
        processor([picture(), picture(20, 80)], ["the ball", "the ball"])


def test_counts_must_agree(processor):
    with pytest.raises(SaccadeError, match="2 images and 1 texts"):
        processor([picture(), picture()], ["the ball"])


def test_unknown_words_are_refused(processor):
    with pytest.raises(SaccadeError, match=r"'bell'.*ball"):
        processor([picture()], ["the bell"])


def test_answers(processor):
    assert [processor.decode_answer(processor.encode_answer(a)) for a in ("no", "red")] == ["no", "red"]
    with pytest.raises(SaccadeError, match="'blue' is not among the 4"):
        processor.encode_answer("blue")
    for index in (-1, 4):
        with pytest.raises(SaccadeError, match=rf"index {index} is outside 0\.\.3"):
            processor.decode_answer(index)


def test_save_and_load(processor, tmp_path):
    processor.save(tmp_path)
    again = Processor.load(tmp_path)
    assert again.config == processor.config
    assert again.encode("the ball") == processor.encode("the ball")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"answers": []}', None])
def test_a_broken_file_is_refused(processor, tmp_path, content):
    processor.save(tmp_path)
    path = tmp_path / "processor.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(SaccadeError, match=r"processor") as caught:
        Processor.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_config_that_cannot_work_is_refused():
    with pytest.raises(SaccadeError, match="max_length 20"):
        ProcessorConfig(max_length=20, length_multiple=16)
    with pytest.raises(SaccadeError, match="image_sizes"):
        ProcessorConfig(image_sizes=())
    with pytest.raises(SaccadeError, match="twice"):
        ProcessorConfig(answers=("a", "a"))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_the_common_arrays_and_pickles(processor, task):
    answer = {"vqa": "red", "rationale": "red"}.get(task, "true")
    one = example(task, answer=answer, target="the ball", box=(0.1, 0.2, 0.3, 0.4), other_text="the ball")
    collate = pickle.loads(pickle.dumps(Collate(processor, task, text_length=19)))
    batch = collate([one] * 4)
    rows = 4
    assert batch["images"].shape == (rows, 36, 36, 3)
    assert batch["images"].dtype == np.uint8
    assert batch["tokens"].shape == batch["padding_mask"].shape == (rows, 19)
    assert batch["depth"].tolist() == [3] * rows
    expected = {
        "vqa": {"answer"},
        "statement": {"answer"},
        "match": {"answer", "other_tokens", "other_padding_mask"},
        "caption": {"decoder_tokens", "targets", "loss_mask"},
        "rationale": {"decoder_tokens", "targets", "loss_mask", "answer"},
        "ground": {"boxes"},
    }
    assert set(batch) - {"images", "tokens", "padding_mask", "depth"} == expected[task]
    assert {batch[name].dtype.name for name in batch} <= {"uint8", "int32", "bool", "float32"}


def test_labels(processor):
    batch = Collate(processor, "vqa")([example("vqa", answer=a) for a in ("3", "no")])
    assert batch["answer"].tolist() == [2, 0]
    batch = Collate(processor, "statement")([example("statement", answer=a) for a in ("true", "false")])
    assert batch["answer"].tolist() == [1, 0]
    with pytest.raises(SaccadeError, match="'yes' is not an answer to a statement"):
        Collate(processor, "match")([example("match", answer="yes")])


def test_targets_are_shifted_by_one(processor):
    batch = Collate(processor, "caption", target_length=13)([example("caption", text="", target="the ball")])
    ids = processor.tokenizer.encode("the ball")
    count = len(ids)
    assert batch["tokens"].tolist() == [[BOS] + [PAD] * 7]
    assert batch["decoder_tokens"][0].tolist() == [BOS, *ids] + [PAD] * (12 - count)
    assert batch["targets"][0].tolist() == [*ids, EOS] + [PAD] * (12 - count)
    assert batch["loss_mask"][0].tolist() == [True] * (count + 1) + [False] * (12 - count)
    np.testing.assert_array_equal(batch["decoder_tokens"][0, 1 : count + 1], batch["targets"][0, :count])


def test_a_target_that_just_fits_and_one_longer(processor):
    collate = Collate(processor, "caption", target_length=11)
    batch = collate([example("caption", text="", target="q" * 10)])
    assert batch["targets"][0, -1] == EOS
    assert batch["loss_mask"].all()
    with pytest.raises(SaccadeError, match=r"12 tokens with <eos>, target_length is 11"):
        collate([example("caption", text="", target="q" * 11)])


def test_target_length_comes_from_the_processor(processor):
    batch = Collate(processor, "rationale")([example("rationale", answer="red", target="the ball")])
    assert batch["targets"].shape == (1, 21)


def test_a_text_longer_than_the_batch_is_refused(processor):
    with pytest.raises(SaccadeError, match=r"tokens, the limit is 5"):
        Collate(processor, "vqa", text_length=5)([example("vqa", answer="red", text="q" * 9)])


def test_boxes_follow_the_image_onto_the_canvas(processor):
    wide = example("ground", image=picture(18, 36), box=(0.25, 0.0, 0.75, 1.0))
    batch = Collate(processor, "ground", image_size=(36, 36))([wide])
    np.testing.assert_allclose(batch["boxes"], [[0.25, 0.25, 0.75, 0.75]])
    assert batch["boxes"].dtype == np.float32
    with pytest.raises(SaccadeError, match="has no box"):
        Collate(processor, "ground")([example("ground")])


def test_the_description_of_the_opposite_truth_stands_beside_a_match(processor):
    pairs = [("red cubes", "true", "blue cones"), ("green", "false", "the ball is large")]
    examples = [example("match", text=one, answer=answer, other_text=two) for one, answer, two in pairs]
    batch = Collate(processor, "match", text_length=13)(examples)
    assert batch["answer"].tolist() == [1, 0]
    decode = processor.tokenizer.decode
    for prefix, texts in (("", [one for one, _, _ in pairs]), ("other_", [two for _, _, two in pairs])):
        tokens, mask = batch[f"{prefix}tokens"], batch[f"{prefix}padding_mask"]
        assert tokens.shape == mask.shape == (2, 13)
        assert [decode(row) for row in tokens] == texts
        np.testing.assert_array_equal(tokens != PAD, mask)
        assert (tokens[:, 0] == BOS).all()
    too_long = example("match", text="red", answer="true", other_text="q" * 9)
    with pytest.raises(SaccadeError, match=r"tokens, the limit is 5"):
        Collate(processor, "match", text_length=5)([too_long])


def test_dialogue_turns_come_first(processor):
    one = example("vqa", text="what color is it?", turns=(("how many?", "3"), ("a ball?", "yes")))
    assert prompt(one) == "how many? 3 a ball? yes what color is it?"


def test_an_unknown_task_is_refused(processor):
    with pytest.raises(SaccadeError, match=r"'vqaa' is not a task.*vqa"):
        Collate(processor, "vqaa")
