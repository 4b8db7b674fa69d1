"""What a published BLIP-2 is told: prompts, texts to compare, and directories that are refused."""

import json

import numpy as np
import pytest
import reference
from blip2_dirs import CONFIGS, GENERATION, RETRIEVAL, tensors_of, write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import saccade
from saccade.data.interleaved import Chunk, few_shot
from saccade.errors import SaccadeError
from saccade.models.blip2 import BLIP2

PICTURE = np.random.default_rng(0).integers(256, size=(9, 14, 3)).astype(np.uint8)


def words(folder, names):
    bpe = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens([name for name in names if len(name) > 1])
    (folder / "tokenizer.json").write_text(bpe.to_str())
    return folder


def published(folder, kind="generation", **further):
    """A directory in transformers' format whose vocabulary is the letters a to z and special tokens."""
    record = {"generation": GENERATION, "retrieval": RETRIEVAL}[kind]
    record = {**record, "text_config": {**record["text_config"], "eos_token_id": 4}, **further}
    write(folder, record, tensors_of(reference.randomize(BLIP2(CONFIGS[kind]))))
    specials = ["<pad>", "</s>"] if kind == "generation" else ["[PAD]", "[CLS]", "[SEP]"]
    return words(folder, [*specials, *"abcdefghijklmnopqrstuvwxyz"])


def test_a_prompt_is_the_image_then_the_start_then_the_text(tmp_path):
    few = saccade.load(published(tmp_path))
    batch = few.processor([few_shot((), PICTURE, "ab"), few_shot((), PICTURE, "</s>c")])
    assert batch["images"].shape == (2, 1, 8, 8, 3)
    assert batch["tokens"].shape == (2, 16)
    for row, text in enumerate(([1, 2, 3], [1, 4])):  # a special token typed is left out
        start = 16 - len(text)
        assert batch["tokens"][row, start:].tolist() == text
        assert batch["image_mask"][row].nonzero()[0].tolist() == list(range(start - 5, start))
        assert batch["padding_mask"][row].nonzero()[0].tolist() == list(range(start - 5, 16))
    assert few.processor.end_id == 4
    assert few.processor.decode([2, 3, 4, 5]) == "ab"
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [6]}))
    assert saccade.load(tmp_path).processor.end_id == 6


def test_texts_are_compared_between_their_ends(tmp_path):
    few = saccade.load(published(tmp_path, "retrieval"))
    batch = few.processor.pairs([PICTURE, PICTURE], ["ab", "abcd"], 16)
    assert batch["tokens"][:, :6].tolist() == [[1, 3, 4, 2, 0, 0], [1, 3, 4, 5, 6, 2]]
    assert batch["padding_mask"].sum(1).tolist() == [4, 6]
    found = few.match(PICTURE, "ab")
    assert 0 < found.probability < 1
    with pytest.raises(SaccadeError, match="a text has 22 tokens, the limit is 16; shorten it"):
        few.match(PICTURE, "a" * 20)
    with pytest.raises(SaccadeError, match="not learned 'chat', only retrieve, match"):
        few.ask(PICTURE, "ab")


def test_it_is_saved_as_ours(tmp_path):
    few = saccade.load(published(tmp_path / "a"))
    few.save(tmp_path / "b")
    again = saccade.load(tmp_path / "b")
    assert again.processor.config == few.processor.config
    prompt = [few_shot((), PICTURE, "ab")]
    assert again.reply(prompt, max_new_tokens=3) == few.reply(prompt, max_new_tokens=3)


def test_what_is_refused(tmp_path):
    few = saccade.load(published(tmp_path))
    shot = Chunk("a", PICTURE, "b")
    for prompt in (few_shot([shot], PICTURE, "a"), [Chunk("a", closed=False)]):
        with pytest.raises(SaccadeError, match="reads one image and the text after it"):
            few.reply([prompt])
    with pytest.raises(SaccadeError, match="there are no prompts"):
        few.reply([])
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    assert saccade.load(tmp_path).model.config.vision.pixel_std == (0.25,) * 3
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_center_crop": True}))
    with pytest.raises(SaccadeError, match="do_center_crop is True"):
        saccade.load(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    words(tmp_path, ["<pad>", *"abc"])
    with pytest.raises(SaccadeError, match="no token '</s>'"):
        saccade.load(tmp_path)
    words(tmp_path, ["<pad>", "</s>", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    with pytest.raises(SaccadeError, match="the tokenizer has 54 tokens, the model 53"):
        saccade.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(SaccadeError, match="is not a tokenizer"):
        saccade.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(SaccadeError, match=r"has no tokenizer\.json; put the one"):
        saccade.load(tmp_path)
