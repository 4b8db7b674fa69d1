"""CLIP and SigLIP equal transformers' models and processors, live."""

import clip_reference as theirs
import clips
import numpy as np
import pytest
from PIL import Image
from reference import to_numpy

import saccade
from saccade.hub import clip as hub
from saccade.models.clip import OPENAI_MEAN, OPENAI_STD

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
ATOL = 2e-5
SIDE = theirs.SIDE
TEXTS = ["a photo of a Cat", "Red  cube,\tleft\nof", "don't zzz 42 é!", "cat"]


@pytest.fixture(scope="module", params=theirs.VARIANTS)
def variant(request):
    pytest.importorskip("torch")
    return request.param


@pytest.fixture(scope="module")
def folder(variant, tmp_path_factory):
    """A directory that transformers wrote, model and processor."""
    folder = tmp_path_factory.mktemp("theirs") / variant
    theirs.model(variant).save_pretrained(folder)
    return folder


def test_the_golden_file_is_what_transformers_says_now(variant):
    made, rows = theirs.model(variant), clips.part(variant, "batch")
    for name, value in theirs.outputs(variant, made, rows).items():
        np.testing.assert_allclose(value, clips.part(variant, "output")[name], atol=1e-6, err_msg=name)
    state = {name: tensor.numpy() for name, tensor in made.state_dict().items()}
    for name, tensor in clips.part(variant, "tensor").items():
        np.testing.assert_array_equal(state[name], tensor, err_msg=name)


def test_a_directory_that_transformers_wrote(variant, folder):
    import torch

    ours, made = hub.read_model(folder), theirs.model(variant)
    rng = np.random.default_rng(9)
    for _ in range(3):
        rows = theirs.batch(variant)
        rows["images"] = rng.random(rows["images"].shape).astype(np.float32)
        rows["tokens"] = rng.integers(0, theirs.V, rows["tokens"].shape).astype(np.int32)  # no end, too
        expected = theirs.outputs(variant, made, rows)
        for name, value in ours(rows).items():
            np.testing.assert_allclose(to_numpy(value), expected[name], atol=ATOL, rtol=0, err_msg=name)
    scale = float(made.logit_scale.detach().exp())
    assert float(ours.scale()) == pytest.approx(scale, rel=1e-6)
    with torch.no_grad():  # published SigLIPs have scales above 100
        made.logit_scale.fill_(np.log(117.3))
    ours.logit_scale.assign(np.log(117.3))
    rows = theirs.batch(variant)
    logits = theirs.outputs(variant, made, rows)["logits"]
    ceiling = 1 if variant == "siglip" else 100 / 117.3
    np.testing.assert_allclose(to_numpy(ours(rows)["logits"]), logits * ceiling, atol=1e-4)


@pytest.fixture(scope="module")
def tokenizer():
    """CLIP's own kind of tokenizer, with a few merges."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>"), ("o", "f</w>")]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    specials = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate([*words, *specials])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)


@pytest.fixture(scope="module", params=[True, False], ids=["processor_config", "preprocessor_config"])
def clip(request, tokenizer, tmp_path_factory):
    """(our pipeline, their processor) of one directory that transformers wrote."""
    import transformers

    folder = tmp_path_factory.mktemp("clip")
    side = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    images = transformers.CLIPImageProcessorPil(**side)
    processor = transformers.CLIPProcessor(images, tokenizer)
    config = theirs.model("clip_gelu").config
    config.text_config.vocab_size = len(tokenizer)
    config.text_config.eos_token_id = tokenizer.eos_token_id
    transformers.CLIPModel(config).save_pretrained(folder)
    if request.param:
        processor.save_pretrained(folder)
    else:
        tokenizer.save_pretrained(folder)
        images.save_pretrained(folder)
    return saccade.load(folder), processor


def test_texts_become_the_same_tokens(clip):
    ours, processor = clip
    limit = ours.processor.config.max_length
    long = " ".join(["cat red"] * 20)
    said = processor(text=[*TEXTS, long], padding="max_length", max_length=limit, truncation=True)
    read = ours.processor.read([*TEXTS, long], truncate=True)
    assert read.keys() == {"tokens"}
    np.testing.assert_array_equal(read["tokens"], said["input_ids"])


@pytest.mark.parametrize("size", [(20, 20), (33, 47), (90, 41), (20, 64), (25, 20), (7, 9)])
def test_images_become_the_same_pixels(clip, size):
    ours, processor = clip
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(*size, 3)).astype(np.uint8))
    expected = processor(images=image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    seen = ours.processor.see([image])[0].astype(np.float32) / 255
    np.testing.assert_allclose((seen - np.array(OPENAI_MEAN)) / np.array(OPENAI_STD), expected, atol=1e-5)


def test_a_classification_is_theirs(clip, tmp_path):
    import torch
    import transformers

    ours, processor = clip
    image = Image.fromarray(np.random.default_rng(1).integers(256, size=(31, 44, 3)).astype(np.uint8))
    labels = ["cat", "a red dog", "of"]
    ours.model.save(tmp_path / "m")
    hub.write(tmp_path, ours.model)
    model = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    inputs = processor(text=[f"a {x}" for x in labels], images=image, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.softmax(-1)[0].numpy()
    found = {label.text: label.probability for label in ours.classify([image], labels, "a {}")[0].labels}
    np.testing.assert_allclose([found[label] for label in labels], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(20, 20), (33, 47), (7, 90)])
def test_siglips_pixels(size):
    transformers = pytest.importorskip("transformers")
    from saccade.data.clip_processor import fitted

    pixels = np.random.default_rng(0).integers(256, size=(*size, 3)).astype(np.uint8)
    images = transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    expected = images(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    seen = fitted(pixels, SIDE, "stretch").astype(np.float32) / 255
    np.testing.assert_allclose((seen - 0.5) / 0.5, expected, atol=1e-5)
