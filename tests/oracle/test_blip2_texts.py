"""A directory that transformers wrote, BLIP-2 and its processor, asked through saccade.load."""

import numpy as np
import pytest
from PIL import Image
from random_weights import randomize

import saccade
from saccade.data.interleaved import few_shot

Q, SIDE = 5, 12
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of transformers
]
TEXTS = ["Question: what is this? Answer:", "two  Dogs", "a photo of", ""]
PICTURES = [
    np.random.default_rng(i).integers(256, size=(9 + 7 * i, 31, 3)).astype(np.uint8) for i in range(4)
]


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def words(transformers, bert: bool):
    """OPT's kind of tokenizer, byte-level with </s> in front, or BERT's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    if bert:
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz?:", "dog"]
        names += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
        vocabulary = {name: i for i, name in enumerate(names)}
        made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        named = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("cls", "sep", "pad", "unk", "mask")}
    else:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        names = ["<s>", "<pad>", "</s>", *letters, "is", "th", "Ġth"]
        vocabulary = {name: i for i, name in enumerate(names)}
        made = Tokenizer(models.BPE(vocabulary, [("i", "s"), ("t", "h"), ("Ġ", "th")]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        front = [("</s>", vocabulary["</s>"])]
        made.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=front)
        named = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **named)


def saved(transformers, kind: str, folder):
    """(their model, their processor) of a directory that they wrote, every parameter random."""
    from test_blip2 import OPT, QFORMER, VISION

    retrieval = kind == "Blip2ForImageTextRetrieval"
    tokenizer = words(transformers, retrieval)
    images = transformers.BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = transformers.Blip2Processor(images, tokenizer, num_query_tokens=Q)
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, "use_qformer_text_input": retrieval, "vocab_size": len(tokenizer)},
        text_config={
            **OPT,
            "vocab_size": len(tokenizer) + 3,
            "max_position_embeddings": 80,
            "bos_token_id": 2,
            "eos_token_id": 7,
            "pad_token_id": 1,
        },
        num_query_tokens=Q,
        image_text_hidden_size=12,
        image_token_index=None if retrieval else tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = getattr(transformers, kind)(config).eval()
    randomize(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def test_replies_are_theirs(transformers, tmp_path):
    theirs, processor = saved(transformers, "Blip2ForConditionalGeneration", tmp_path / "g")
    ours = saccade.load(tmp_path / "g")
    assert ours.processor.end_id == 7
    prompts = [few_shot((), picture, text) for picture, text in zip(PICTURES, TEXTS, strict=True)]
    batch = ours.processor(prompts)
    for i, (picture, text) in enumerate(zip(PICTURES, TEXTS, strict=True)):
        given = processor(Image.fromarray(picture), text, return_tensors="pt")
        read = batch["tokens"][i][batch["padding_mask"][i] & ~batch["image_mask"][i]]
        np.testing.assert_array_equal(read, given["input_ids"][0].numpy()[Q:])
        pixels = (batch["images"][i, 0] / 255 - np.array(processor.image_processor.image_mean)) / np.array(
            processor.image_processor.image_std
        )
        np.testing.assert_allclose(pixels, given["pixel_values"][0].permute(1, 2, 0).numpy(), atol=1e-5)
        written = theirs.generate(**given, max_new_tokens=6, do_sample=False)[0].numpy()
        written = written[len(given["input_ids"][0]) :] if len(written) > 6 else written
        said = ours.ask(picture, text, max_new_tokens=6)
        assert said.text == ours.processor.decode(written.tolist())
    together = ours.reply(prompts, max_new_tokens=6)
    alone = [ours.reply([prompt], max_new_tokens=6)[0].text for prompt in prompts]
    assert [reply.text for reply in together] == alone
    assert len(set(alone)) > 1
    ours.save(tmp_path / "again")
    again = saccade.load(tmp_path / "again")
    assert again.ask(PICTURES[0], TEXTS[0]).text == ours.ask(PICTURES[0], TEXTS[0]).text


def test_matches_are_theirs(transformers, tmp_path):
    import torch

    theirs, processor = saved(transformers, "Blip2ForImageTextRetrieval", tmp_path / "r")
    ours = saccade.load(tmp_path / "r")
    texts = ["a dog", "Two dogs?", "cat", "dog dog"]
    ranked = ours.retrieve(PICTURES, texts)
    for i, (picture, text) in enumerate(zip(PICTURES, texts, strict=True)):
        given = processor.image_processor(Image.fromarray(picture), return_tensors="pt")
        given = {**given, **processor.tokenizer(text, return_tensors="pt")}
        given.pop("token_type_ids", None)
        with torch.no_grad():
            itm = theirs(**given, use_image_text_matching_head=True).logits_per_image
            itc = theirs(**given, use_image_text_matching_head=False).logits_per_image
        found = ours.match(picture, text)
        assert found.probability == pytest.approx(float(itm.softmax(-1)[0, 1]), abs=2e-5)
        assert found.similarity == pytest.approx(float(itc[0, 0]), abs=2e-5)
        assert ranked.similarity[i, i] == pytest.approx(found.similarity, abs=2e-5)
