"""A small CLIP with a tokenizer and a processor, as the tests of pipelines and commands need them."""

from pathlib import Path

import clips
import numpy as np
import reference
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from saccade.data.chat import ChatTokenizer
from saccade.data.clip_processor import CLIPProcessor, CLIPProcessorConfig

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
SENTENCES = ["a photo of a red cube", "a blue ball", "there are 3 green cones left of the star"]
SIDE, LENGTH = 20, 16


def tokenizer() -> ChatTokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(SENTENCES * 9, trainer)
    return ChatTokenizer(bpe, EOS)


def processor(**changes) -> CLIPProcessor:
    settings = {"image_size": SIDE, "fit": "letterbox", "max_length": LENGTH, "mask": True, **changes}
    return CLIPProcessor(tokenizer(), CLIPProcessorConfig(**settings))


def config(sigmoid: bool = False):
    from saccade.models.clip import CLIPConfig, TextConfig
    from saccade.models.vit import ViTConfig

    vision = ViTConfig(24, 1, 3, 28, 5, (SIDE, SIDE))
    text = TextConfig(300, 20, 1, 2, 28, LENGTH, causal=False, pool="last")
    return CLIPConfig(vision, text, 18, logit_bias=sigmoid)


def pipeline(sigmoid: bool = False, **changes):
    from saccade.clip import CLIPPipeline
    from saccade.models.clip import CLIP

    model = reference.randomize(CLIP(config(sigmoid)), 3)
    return CLIPPipeline(model, processor(**changes))


def write_published(folder: Path, variant: str = "clip_quick", **changes) -> Path:
    """A directory of transformers with a tokenizer of its own; `changes` of its config.json."""
    words = tokenizer()
    tensors = dict(clips.part(variant, "tensor"))
    name = "text_model.embeddings.token_embedding.weight"
    rng = np.random.default_rng(0)
    tensors[name] = rng.normal(size=(words.vocab_size, tensors[name].shape[1])).astype(np.float32)
    settings = {"text_config__vocab_size": words.vocab_size, "text_config__eos_token_id": words.eos_id}
    clips.write(folder, variant, tensors, **{**settings, **changes})
    words.save(folder)
    return folder


def picture(seed: int = 0, size: tuple = (31, 44)) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(*size, 3)).astype(np.uint8)
