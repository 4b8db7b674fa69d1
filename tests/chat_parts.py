"""A small tokenizer and directories of nanoVLM in both ages of the published format."""

import functools
import json
from pathlib import Path

import nano
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from saccade.data.chat import CHATML, ChatTokenizer

TEXTS = ("What is this?", "Question: how many cubes are red? Answer: three cubes", "user assistant system")
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TILES = {
    "image_token": "<|image|>",
    "global_image_token": "<|global_image|>",
    **{f"r{r}c{c}": f"<row_{r}_col_{c}>" for r in range(1, 9) for c in range(1, 9)},
}


@functools.cache
def tokenizer_json() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXTS * 4, trainer)
    return bpe.to_str()


def tokenizer(eos: str = "<|im_end|>") -> ChatTokenizer:
    return ChatTokenizer(Tokenizer.from_str(tokenizer_json()), eos)


def words() -> int:
    return tokenizer().vocab_size


def write_tokenizer(folder: Path, eos: str | None = "<|im_end|>") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    if eos is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    return folder


def write_model(folder: Path, extra: dict | None, with_tokenizer: bool = True, **changes) -> Path:
    """The golden checkpoint with a table for the small tokenizer and its extra tokens (None: v0.1)."""
    rows = words() + len(extra or ())
    tensors = nano.part(nano.golden(), "tensor")
    table = np.random.default_rng(8).normal(size=(rows, tensors["decoder.head.weight"].shape[1]))
    tensors["decoder.head.weight"] = table.astype(np.float32)
    spoken: dict = {"lm_vocab_size": rows, "lm_tokenizer": "somebody/words", "lm_max_length": 79}
    if extra is None:
        spoken["lm_eos_token_id"] = 0
    else:
        spoken |= {"lm_chat_template": CHATML, "vlm_extra_tokens": extra, "mp_image_token_length": 4}
        spoken |= {"lm_max_length": 400}
        if "global_image_token" in extra:
            spoken |= {"max_img_size": 64, "resize_to_max_side_len": True}
    nano.write(folder, tensors=tensors, **(spoken | changes))
    if with_tokenizer:
        write_tokenizer(folder, None if extra is None else "<|im_end|>")
    return folder
