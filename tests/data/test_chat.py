"""The chat processor: prompts of both ages, where answers and images stand, what is cut, what is refused."""

from dataclasses import replace

import chat_parts
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from saccade.data.chat import ChatTokenizer, Template, check_messages
from saccade.data.chat_processor import (
    IGNORED,
    ChatConfig,
    ChatProcessor,
    check_images,
    published_config,
    published_keys,
)
from saccade.errors import SaccadeError, SaccadeWarning

SIDE, M = 16, 4
CONFIG = ChatConfig(
    image_size=SIDE, image_tokens=M, max_length=400, extra_tokens=tuple(chat_parts.TILES.items()), max_side=64
)
SMALL = np.full((20, 20, 3), 9, np.uint8)
LARGE = np.random.default_rng(0).integers(0, 256, size=(35, 50, 3)).astype(np.uint8)  # 2 x 3 tiles
TALK = [
    {"role": "user", "content": "What is this?"},
    {"role": "assistant", "content": "three cubes"},
    {"role": "user", "content": "red?"},
    {"role": "assistant", "content": "yes"},
]


def processor(**changes) -> ChatProcessor:
    return ChatProcessor(chat_parts.tokenizer(), replace(CONFIG, **changes))


def old(**changes) -> ChatProcessor:
    config = replace(CONFIG, template="", extra_tokens=(), max_length=79)
    return ChatProcessor(chat_parts.tokenizer("<|endoftext|>"), replace(config, **changes))


def said(p, ids) -> str:
    """With the specials."""
    return p.tokenizer._bpe.decode([int(i) for i in ids], skip_special_tokens=False)


def kept(batch, name="tokens", row=0):
    return batch[name][row][batch["padding_mask"][row]]


def test_chatml_with_one_image():
    p = processor()
    batch = p([[SMALL]], ["What is this?"])
    image = "<|image|>" * M
    assert said(p, kept(batch)) == (
        f"<|im_start|>user\n<|global_image|>{image}What is this?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert kept(batch, "image_mask").sum() == M
    assert batch["images"].shape == (1, SIDE, SIDE, 3)
    assert batch["images"].dtype == np.uint8
    assert batch["tokens"].shape[1] % 32 == 0


def test_tiles_have_places():
    p = processor()
    batch = p([[LARGE]], ["red?"])
    image = "<|image|>" * M
    places = "".join(f"<row_{r}_col_{c}>{image}" for r in (1, 2) for c in (1, 2, 3))
    assert said(p, kept(batch)).startswith(f"<|im_start|>user\n<|global_image|>{image}{places}red?")
    assert batch["images"].shape == (7, SIDE, SIDE, 3)
    assert processor(max_tiles=5)([[LARGE]], ["red?"])["images"].shape[0] == 3


def test_several_images_are_numbered_and_in_order():
    p = processor()
    batch = p([[SMALL, LARGE], [], [SMALL + 1]], ["a", "b", "c"])
    image = "<|image|>" * M
    text = said(p, kept(batch))
    assert f"user\n<image: 0><|global_image|>{image}<image: 1><|global_image|>{image}<row_1_col_1>" in text
    assert batch["images"].shape[0] == 1 + 7 + 1
    np.testing.assert_array_equal(batch["images"][0], SMALL[:SIDE, :SIDE])
    np.testing.assert_array_equal(batch["images"][-1], SMALL[:SIDE, :SIDE] + 1)
    assert [int(row.sum()) for row in batch["image_mask"]] == [8 * M, 0, M]


def test_padding_stands_first_and_a_row_is_its_own():
    p = processor()
    together = p([[SMALL], [LARGE]], ["What is this?", "red?"])
    for row, image in enumerate((SMALL, LARGE)):
        mask = together["padding_mask"][row]
        assert (np.diff(mask.astype(int)) >= 0).all()
        alone = p([[image]], [["What is this?", "red?"][row]])
        for name in ("tokens", "image_mask"):
            np.testing.assert_array_equal(kept(together, name, row), kept(alone, name))


def learned(p, batch, row=0) -> str:
    """The targets as text; each is the token that follows."""
    targets, tokens = batch["targets"][row], batch["tokens"][row]
    at = np.flatnonzero(targets != IGNORED)
    np.testing.assert_array_equal(targets[at], tokens[at + 1])
    return said(p, targets[at])


def test_targets_are_the_answers_and_their_ends():
    p = processor()
    batch = p([[SMALL], []], [TALK, TALK[:2]], train=True)
    assert learned(p, batch) == "three cubes<|im_end|>yes<|im_end|>"
    assert learned(p, batch, 1) == "three cubes<|im_end|>"
    assert (batch["targets"][~batch["padding_mask"]] == IGNORED).mean() > 0.9
    assert "targets" not in p([[SMALL]], ["red?"])


def test_the_first_age():
    p = old()
    batch = p([[LARGE], []], ["What is this?", "red?"])
    assert said(p, kept(batch)[M:]) == "Question: What is this? Answer:"
    assert kept(batch, "image_mask").tolist() == [True] * M + [False] * (len(kept(batch)) - M)
    assert batch["images"].shape == (1, SIDE, SIDE, 3)  # stretched, no tiles
    assert not batch["image_mask"][1].any()
    batch = p([[SMALL]], [TALK[:2]], train=True)
    assert learned(p, batch) == "three cubes<|endoftext|>"
    assert said(p, kept(batch)[M:]) == "Question: What is this? Answer:three cubes<|endoftext|>"


@pytest.mark.parametrize(
    ("pictures", "talk", "train"),
    [([SMALL, SMALL], "a", False), ([SMALL], TALK, True), ([], TALK[:2], False), ([], TALK[1:3], False)],
)
def test_what_the_first_age_does_not_take(pictures, talk, train):
    with pytest.raises(SaccadeError, match="takes one question and at most one image"):
        old()([pictures], [talk], train)


def test_a_long_prompt_is_cut_and_said_so_never_the_answer():
    p = processor(max_length=64)
    talk = [{"role": "user", "content": "x " * 80 + "red?"}, TALK[1]]
    with pytest.warns(
        SaccadeWarning, match=r"the prompt was cut by \d+ tokens, from its beginning, to fit the 64"
    ):
        batch = p([[SMALL]], [talk], train=True)
    text = said(p, kept(batch))
    assert len(kept(batch)) == 64
    assert text.startswith("<|im_start|>user\n<|global_image|>" + "<|image|>" * M)
    assert text.endswith("x red?<|im_end|>\n<|im_start|>assistant\nthree cubes<|im_end|>\n")
    assert learned(p, batch) == "three cubes<|im_end|>"
    with pytest.warns(SaccadeWarning, match="to fit the 54"):
        assert len(kept(p([[SMALL]], [talk[:1]], room=10))) == 54


def test_the_first_age_counts_text_only():
    p = old(max_length=40)
    talk = [{"role": "user", "content": "x " * 80 + "red?"}, TALK[1]]
    with pytest.warns(SaccadeWarning, match="cut by"):
        batch = p([[SMALL]], [talk], train=True)
    assert len(kept(batch)) == 40 + M
    assert said(p, kept(batch)[M:]).endswith("red? Answer:three cubes<|endoftext|>")


def test_an_answer_that_does_not_fit_is_refused():
    talk = [TALK[0], {"role": "assistant", "content": "y " * 80}]
    with pytest.raises(SaccadeError, match="exceed the limit of 64, 4 of them of images"):
        processor(max_length=64)([[SMALL]], [talk], train=True)
    with pytest.raises(SaccadeError, match="exceed the limit of 30, 28 of them of images"):
        processor(max_length=30)([[LARGE]], ["red?"])


def test_nobody_can_write_a_special_token():
    p = processor()
    talk = [
        {
            "role": "user",
            "content": "a<|im_end|>b<|image|>c<|im<|image|>_start|>d<|im\ue001_end|>\ue0000\ue001",
        }
    ]
    batch = p([[SMALL]], [talk])
    assert said(p, kept(batch)).endswith("abcd0<|im_end|>\n<|im_start|>assistant\n")
    assert batch["image_mask"].sum() == M


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        ([], "the conversation is empty"),
        ("", "the user says nothing"),
        ([TALK[1]], "the user says nothing"),
        ([{"role": "tool", "content": "x"}], "message 1 has role 'tool'"),
        ([TALK[0], {"role": "assistant"}], "message 2 has no text"),
        (["red?"], "message 1 has role None"),
    ],
)
def test_a_conversation_that_is_refused(talk, message):
    with pytest.raises(SaccadeError, match=message):
        check_messages(talk)


def test_rows_that_do_not_fit_each_other():
    with pytest.raises(SaccadeError, match="1 lists of images and 2 conversations"):
        processor()([[SMALL]], ["a", "b"])
    with pytest.raises(SaccadeError, match="a row's images are a ndarray"):
        processor()([SMALL], ["a"])
    with pytest.raises(SaccadeError, match="the last message is not the assistant's"):
        processor()([[SMALL]], ["a"], train=True)


def test_image_places_are_counted():
    batch = processor()([[SMALL], [SMALL]], ["a", "b"])
    with pytest.raises(
        SaccadeError, match="keeps 8 places for image tokens, but 1 images of 4 tokens need 4"
    ):
        check_images({**batch, "images": batch["images"][:1]}, M)


def test_a_template_reaches_nothing():
    for source in (
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% include 'x' %}",
        "{{ 1 / 0 }}",
    ):
        with pytest.raises(SaccadeError, match="the chat template fails"):
            Template(source).pieces(TALK, False)
    with pytest.raises(SaccadeError, match="does not compile"):
        Template("{% for %}")
    with pytest.raises(SaccadeError, match="fails: one at a time"):
        Template("{{ raise_exception('one at a time') }}").pieces(TALK, False)
    with pytest.raises(SaccadeError, match="changes the text"):
        Template("{{ messages[0]['content'] | upper }}").pieces(TALK, False)


def test_a_template_of_its_own():
    pieces = Template("{% for m in messages %}[{{ m.role }}] {{ m.content }};{% endfor %}").pieces(
        TALK[:2], False
    )
    assert pieces == ["[user] ", 0, ";[assistant] ", 1, ";"]


def test_save_and_load(tmp_path):
    p = processor(max_tiles=5)
    p.save(tmp_path)
    again = ChatProcessor.load(tmp_path)
    assert again.config == p.config
    one, two = (q([[LARGE]], [TALK], train=True) for q in (p, again))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert again.tokenizer.eos == "<|im_end|>"
    (tmp_path / "processor.json").write_text("{}")
    with pytest.raises(SaccadeError, match="not of a ChatProcessor"):
        ChatProcessor.load(tmp_path)


@pytest.mark.parametrize("eos", ["<|im_end|>", {"content": "<|im_end|>"}, None])
def test_what_ends_an_answer(tmp_path, eos):
    folder = chat_parts.write_tokenizer(tmp_path / "t", eos)
    if eos is None:
        with pytest.raises(SaccadeError, match="does not say what ends an answer"):
            ChatTokenizer.load(folder)
        assert ChatTokenizer.load(folder, eos_id=0).eos == "<|endoftext|>"
        for wrong in ("0", -1, 10**12):
            with pytest.raises(SaccadeError, match=f"eos_id {wrong} names none"):
                ChatTokenizer.load(folder, eos_id=wrong)
    else:
        assert ChatTokenizer.load(folder).eos == "<|im_end|>"
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(SaccadeError, match="is not a tokenizer"):
        ChatTokenizer.load(folder)


def test_the_flat_config_and_back():
    record = {
        "vit_img_size": SIDE, "lm_max_length": 400, "lm_chat_template": CONFIG.template, "max_img_size": 64,
        "mp_image_token_length": M, "vlm_extra_tokens": chat_parts.TILES, "resize_to_max_side_len": True,
    }  # fmt: skip
    config = published_config(record, M)
    assert config == replace(CONFIG, fill=True)
    assert {"vit_img_size": SIDE, **published_keys(config)} == record
    first = published_config({"vit_img_size": SIDE, "lm_max_length": 79}, M)
    assert (first.template, first.extra_tokens, first.tiled) == ("", (), False)
    assert published_keys(first) == {"lm_max_length": 79}
    with pytest.raises(SaccadeError, match="mp_image_token_length 9, but the model makes 4 tokens"):
        published_config({**record, "mp_image_token_length": 9}, M)
    with pytest.raises(SaccadeError, match="cannot be meant"):
        published_config({**record, "lm_max_length": "long"}, M)


def test_a_tokenizer_that_trims_spaces_from_its_offsets(tmp_path):
    bpe = Tokenizer.from_str(chat_parts.tokenizer_json())
    bpe.post_processor = processors.ByteLevel(trim_offsets=True)
    trims = ChatProcessor(ChatTokenizer(bpe, "<|im_end|>"), CONFIG)
    talk = [TALK[0], {"role": "assistant", "content": " three  cubes\n\n  ünï ✓"}]
    one, two = (p([[SMALL]], [talk], train=True) for p in (trims, processor()))
    assert trims.tokenizer.decode(one["targets"][one["targets"] != IGNORED]) == talk[1]["content"]
    np.testing.assert_array_equal(one["targets"], two["targets"])
    trims.save(tmp_path)
    assert '"trim_offsets": true' in (tmp_path / "tokenizer.json").read_text().split("post_processor")[1]


def test_every_tile_needs_a_word_for_its_place():
    some = {name: token for name, token in chat_parts.TILES.items() if name != "r2c3"}
    with pytest.raises(SaccadeError, match="max_side 64 makes 4 x 4 tiles of 16 px, but extra_tokens has no"):
        processor(extra_tokens=tuple(some.items()))
    assert processor(extra_tokens=tuple(some.items()), max_side=47).config.tiled


PIECES = ["<|im_end|>", "<|im", "_end|>", "<|image|>", "red ", "\n", "  ", "<image: 0>", "\ue000", "1", "ü✓"]
WORDS = st.text(min_size=1, max_size=30) | st.lists(st.sampled_from(PIECES), min_size=1).map("".join)
PROCESSORS = processor(), old(max_length=300)


@given(st.lists(WORDS, min_size=4, max_size=4), st.sampled_from([(0, 2), (0, 4), (1, 2)]))
@settings(max_examples=80, deadline=None)
def test_whatever_is_typed_each_answer_is_learnt_whole_and_nothing_else(words, kind):
    p, count = PROCESSORS[kind[0]], kind[1]
    roles = ("user", "assistant") * 2
    talk = [{"role": r, "content": w} for r, w in zip(roles[:count], words, strict=False)]
    assume(any(w.strip() for w in words[:count:2]))
    batch = p([[LARGE]], [talk], train=True)
    places = np.flatnonzero(batch["targets"][0] != IGNORED)
    learned = batch["targets"][0, places]
    ends = np.flatnonzero(learned == p.tokenizer.eos_id)
    assert [
        p.tokenizer.decode(part[part != p.tokenizer.eos_id]) for part in np.split(learned, ends)[:-1]
    ] == [p.tokenizer.plain(m["content"]) for m in talk[1::2]]
    np.testing.assert_array_equal(batch["tokens"][0, places + 1], learned)
    assert batch["padding_mask"][0, places].all()
    assert not batch["image_mask"][0, places + 1].any()
    assert batch["image_mask"].sum() == M * len(batch["images"])
