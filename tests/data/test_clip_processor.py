"""What CLIP's processor makes of images and texts, and what it refuses."""

import json
import pickle

import clip_parts
import numpy as np
import pytest
from PIL import Image

from saccade.data.blip2_processor import BLIP2Processor, BLIP2ProcessorConfig
from saccade.data.clip_processor import (
    CLIPProcessor,
    CLIPProcessorConfig,
    check_labels,
    fitted,
    published_config,
    published_pixels,
)
from saccade.data.pairs import CollatePairs
from saccade.data.scenes import Source
from saccade.errors import SaccadeError


def test_texts_are_lower_case_and_between_their_specials():
    made = clip_parts.processor()
    read = made.read(["A RED  cube", "a red cube"])
    assert read["tokens"].shape == read["padding_mask"].shape == (2, clip_parts.LENGTH)
    np.testing.assert_array_equal(read["tokens"][0], read["tokens"][1])
    row, mask = read["tokens"][0], read["padding_mask"][0]
    length = int(mask.sum())
    assert (row[0], row[length - 1]) == (0, 1)
    assert (row[length:] == 1).all()
    assert not mask[length:].any()
    assert made.tokenizer.decode(row[1 : length - 1]).strip() == "a red cube"
    assert clip_parts.processor(mask=False).read(["a"]).keys() == {"tokens"}


def test_siglips_texts_have_no_start_no_capitals_and_no_punctuation():
    made = clip_parts.processor(bos=None, canonical=True, mask=False)
    tokens = made.read(["A red, cube!", "a red cube"])["tokens"]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert tokens[0][0] != 0
    with pytest.raises(SaccadeError, match="the text is empty"):
        made.read(["?!"])


def test_special_tokens_cannot_be_typed():
    made = clip_parts.processor()
    typed, plain = made.encode("a <|endoftext|>cube"), made.encode("a cube")
    assert typed == plain


def test_long_texts():
    made = clip_parts.processor()
    long = "red cube " * 20
    with pytest.raises(SaccadeError, match=r"'red cube red.*has 42 tokens, the limit is 16; shorten it"):
        made.read([long])
    row = made.read([long], truncate=True)["tokens"][0]
    assert len(row) == 16
    assert (row[0], row[-1]) == (0, 1)
    assert (row[1:-1] > 1).all()
    fits = made.encode(long)[1:15]  # exactly full is not too long
    assert made.read([made.tokenizer.decode(fits)])["padding_mask"].all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "there are no texts"), ("a cube", "there are no texts"), ([""], "is empty"), ([3], "is a int")],
)
def test_texts_that_are_refused(texts, message):
    with pytest.raises(SaccadeError, match=message):
        clip_parts.processor().read(texts)


@pytest.mark.parametrize(("size", "box"), [((30, 60), (15, 0, 45, 30)), ((61, 20), (0, 20, 20, 40))])
def test_crop_takes_the_middle(size, box):
    image = clip_parts.picture(size=size)
    side = min(size)
    expected = image[box[1] : box[1] + side, box[0] : box[0] + side]
    np.testing.assert_array_equal(fitted(image, side, "crop"), expected)


def test_fits_differ_in_what_they_keep():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, :20] = 255  # the left third
    crop, stretch, box = (fitted(image, 20, fit) for fit in ("crop", "stretch", "letterbox"))
    assert {a.shape for a in (crop, stretch, box)} == {(20, 20, 3)}
    assert not crop.any()
    assert stretch[:, :5].mean() > 250
    assert stretch[:, 10:].mean() < 5
    assert (box[0] == 127).all()
    expected = Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(stretch, np.asarray(expected))


def test_images_that_are_refused(tmp_path):
    made = clip_parts.processor()
    with pytest.raises(SaccadeError, match="there are no images"):
        made.see([])
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(SaccadeError, match="is not a PNG, JPEG or WEBP image"):
        made.see([tmp_path / "x.png"])


def test_a_blip2_processor_is_saved_alike(tmp_path):
    made = BLIP2Processor(clip_parts.processor().tokenizer, BLIP2ProcessorConfig(16, 4, 1, 2, 0))
    made.save(tmp_path)
    again = BLIP2Processor.load(tmp_path)
    assert again.config == made.config
    picture = np.zeros((9, 9, 3), np.uint8)
    for ours, theirs in zip(
        *(p.pairs([picture], ["a cube"], 99).values() for p in (made, again)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    path = tmp_path / "blip2_processor.json"
    path.write_text(json.dumps({"image_size": 16}))
    with pytest.raises(SaccadeError, match=r"json is not of a BLIP2Processor; use the file saved"):
        BLIP2Processor.load(tmp_path)
    path.write_text("{")
    with pytest.raises(SaccadeError, match=r"cannot be read.*restore the file"):
        BLIP2Processor.load(tmp_path)


def test_saving_and_pickling(tmp_path):
    made = clip_parts.processor(fit="stretch")
    made.save(tmp_path)
    for again in (CLIPProcessor.load(tmp_path), pickle.loads(pickle.dumps(made))):
        assert again.config == made.config
        assert again.encode("a red cube") == made.encode("a red cube")
    record = json.loads((tmp_path / "processor.json").read_text())
    (tmp_path / "processor.json").write_text(json.dumps({**record, "answers": []}))
    with pytest.raises(SaccadeError, match="is not of a CLIPProcessor"):
        CLIPProcessor.load(tmp_path)
    with pytest.raises(SaccadeError, match="fit is 'zoom'; use one of crop, stretch, letterbox"):
        CLIPProcessorConfig(fit="zoom")
    with pytest.raises(SaccadeError, match="has no token '</s>'"):
        clip_parts.processor(eos="</s>")


def test_pairs_stand_beside_their_twins():
    source = Source("retrieve", seed=3, num_objects=(3, 3))
    examples = [source[i] for i in range(3)]
    made = clip_parts.processor(max_length=128)
    batch = CollatePairs(made)(examples)
    assert batch["images"].shape == (6, 20, 20, 3)
    for i, example in enumerate(examples):
        for row, one in ((2 * i, example), (2 * i + 1, example.pair)):
            np.testing.assert_array_equal(batch["images"][row], made.see([one.image])[0])
            np.testing.assert_array_equal(batch["tokens"][row], made.read([one.text])["tokens"][0])


@pytest.mark.parametrize(
    ("labels", "template", "message"),
    [
        ([], "{}", "there are no labels"),
        ("cat", "{}", "there are no labels"),
        (["cat", " cat "], "{}", "the label 'cat' is there twice"),
        (["cat", ""], "{}", "label 2 of 2 is empty"),
        (["cat", "dog"], "a photo", "has no single {}"),
        (["cat", "dog"], "{} and {}", "has no single {}"),
    ],
)
def test_labels_that_are_refused(labels, template, message):
    with pytest.raises(SaccadeError, match=message):
        check_labels(labels, template)


def test_what_a_published_directory_says(tmp_path):
    assert published_pixels(tmp_path) is None
    config = published_config(tmp_path, False, 224, 77)
    assert (config.bos, config.eos, config.pad, config.fit) == (
        "<|startoftext|>", "<|endoftext|>", "<|endoftext|>", "crop"
    )  # fmt: skip
    said = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "!"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    config = published_config(tmp_path, False, 224, 77)
    assert (config.bos, config.eos, config.pad, config.mask) == ("<s>", "</s>", "!", False)
    config = published_config(tmp_path, True, 224, 64)
    assert (config.bos, config.fit, config.canonical, config.max_length) == (None, "stretch", True, 64)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"resample": 2}, "resample is 2; this version does 3 only"),
        ({"size": {"shortest_edge": 256}}, "size is .*256"),
        ({"do_center_crop": False}, "do_center_crop is False"),
        ({"image_mean": [0.5, 0.5], "image_std": [1, 1, 1]}, "three numbers are meant"),
        ({"image_mean": [0.5] * 3, "image_std": [1, 0, 1]}, "of image_std positive ones"),
    ],
)
def test_image_processors_that_are_refused(tmp_path, record, message):
    for folder, name, said in (
        (tmp_path / "a", "preprocessor_config.json", record),
        (tmp_path / "b", "processor_config.json", {"image_processor": record}),
    ):
        folder.mkdir()
        (folder / name).write_text(json.dumps(said))
        read = published_pixels if "image_mean" in record else _published_config
        with pytest.raises(SaccadeError, match=message):
            read(folder)


def _published_config(folder):
    return published_config(folder, False, 224, 77)
