"""BLIP2 against transformers, live: generation over OPT, ITM and ITC; every parameter random."""

import numpy as np
import pytest
from random_weights import randomize
from reference import to_numpy

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer
from saccade.hub.blip2 import MEAN, STD, read_model

B, S, T, Q, V, TEXT_V, IMAGE, SIDE = 3, 13, 7, 5, 53, 31, 52, 12
ATOL = 2e-5
VISION = {
    "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": SIDE, "patch_size": 4,
}  # fmt: skip
QFORMER = {
    "vocab_size": TEXT_V, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 16, "encoder_hidden_size": 20,
}  # fmt: skip
OPT = {
    "model_type": "opt", "vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 44,
    "num_attention_heads": 4, "max_position_embeddings": 40, "word_embed_proj_dim": 32,
}  # fmt: skip
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of transformers
]


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


def saved(kind: str, folder, image_token_index):
    """A random model of transformers, and its directory."""
    import transformers

    retrieval = kind == "Blip2ForImageTextRetrieval"
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, "use_qformer_text_input": retrieval},
        text_config=OPT,
        num_query_tokens=Q,
        image_text_hidden_size=12,
        image_token_index=image_token_index,
    )
    model = getattr(transformers, kind)(config).eval()
    randomize(model)
    model.save_pretrained(folder)
    return model


def images():
    return np.random.default_rng(1).random((B, SIDE, SIDE, 3)).astype(np.float32)


def pixels(torch):
    normalised = (images() - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(normalised).permute(0, 3, 1, 2).float()


@pytest.fixture(scope="module")
def generation(torch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip2") / "g"
    return saved("Blip2ForConditionalGeneration", folder, IMAGE), read_model(folder)


@pytest.fixture(scope="module")
def prompt():
    """Left-padded rows: Q places of the image, then words."""
    tokens = np.random.default_rng(2).integers(3, IMAGE, size=(B, S)).astype(np.int32)
    padding = np.array([0, 2, 5])
    for row, start in enumerate(padding):
        tokens[row, start : start + Q] = IMAGE
    padding_mask = np.arange(S) >= padding[:, None]
    tokens[~padding_mask] = 1
    image_mask = tokens == IMAGE
    return {"images": images(), "tokens": tokens, "padding_mask": padding_mask, "image_mask": image_mask}


def given(torch, prompt):
    return {
        "pixel_values": pixels(torch),
        "input_ids": torch.from_numpy(prompt["tokens"]).long(),
        "attention_mask": torch.from_numpy(prompt["padding_mask"]).long(),
    }


def test_logits_equal_transformers(torch, generation, prompt):
    theirs, ours = generation
    with torch.no_grad():
        expected = theirs(**given(torch, prompt)).logits.numpy()
    keep = prompt["padding_mask"]
    assert np.abs(expected[keep]).max() > 1
    found = to_numpy(backend.compiled(ours, ours)(prompt))
    np.testing.assert_allclose(found[keep], expected[keep], atol=ATOL, rtol=0)


@pytest.mark.parametrize("beams", [1, 3])
def test_writing_equals_transformers(torch, generation, prompt, beams):
    theirs, ours = generation
    settings = {
        "max_new_tokens": 6,
        "num_beams": beams,
        "do_sample": False,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    with torch.no_grad():
        expected = theirs.generate(**given(torch, prompt), **settings, min_new_tokens=None).numpy()
    settings = {"max_new_tokens": 6, "num_beams": beams, "eos_token_id": 2, "pad_token_id": 1}
    found, _ = Writer(ours).generate((prompt,), GenerationConfig(**settings))
    expected = expected[:, -min(expected.shape[1], 6) :] if expected.shape[1] <= 6 else expected[:, S:]
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)


def test_matching_and_contrast_equal_transformers(torch, tmp_path):
    theirs = saved("Blip2ForImageTextRetrieval", tmp_path / "r", None)
    ours = read_model(tmp_path / "r")
    rng = np.random.default_rng(3)
    tokens = rng.integers(1, TEXT_V, size=(B, T)).astype(np.int32)
    padding_mask = np.arange(T) < np.array([T, 4, 6])[:, None]
    texts = {
        "pixel_values": pixels(torch),
        "input_ids": torch.from_numpy(tokens).long(),
        "attention_mask": torch.from_numpy(padding_mask).long(),
    }
    with torch.no_grad():
        itm = theirs(**texts, use_image_text_matching_head=True).logits_per_image.numpy()
        itc = theirs(**texts, use_image_text_matching_head=False)
    vision = ours.see(images())
    np.testing.assert_allclose(to_numpy(ours.match(vision, tokens, padding_mask)), itm, atol=ATOL, rtol=0)
    seen, said = ours.image_vectors(vision), ours.text_vectors(tokens, padding_mask)
    np.testing.assert_allclose(to_numpy(seen), itc.image_embeds.numpy(), atol=ATOL, rtol=0)
    np.testing.assert_allclose(to_numpy(said), itc.text_embeds.numpy(), atol=ATOL, rtol=0)
    found = to_numpy(ours.similarity(seen, said))
    np.testing.assert_allclose(found, itc.logits_per_image.numpy(), atol=ATOL, rtol=0)
