"""VLM-HRM learns, within two minutes of two cores, to answer one-hop questions about attributes.

What it covers: "what color, shape, size or material is the ...", in all wordings, of scenes of 3 or 4 objects
on paper, 48 px: seeing, reading, finding the object that the words mean, saying its attribute. What it does
not cover: the other two thirds of the one-hop questions, which are counts, existence, comparisons with a
number and "is it ...?"; this model has not learned those by then (docs/log.md).
"""

from dataclasses import dataclass

import keras
import numpy as np
import pytest

from saccade import backend
from saccade.data.batching import ATTRIBUTES, Collate
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import ANSWERS, Source, lexicon
from saccade.data.scenes.kept import Kept
from saccade.data.scenes.referents import CHANNELS
from saccade.data.text import Tokenizer
from saccade.models.vit import ViTConfig
from saccade.models.vlm_hrm import VLMHRM, VLMHRMConfig
from saccade.reason import Reasoner
from saccade.train.config import Part, TrainConfig
from saccade.train.labels import Perceive, Refer, Tell
from saccade.train.objectives import Answer, Recursive
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

SIDE_PX, PATCH_PX, TOKENS = 48, 8, 20
SPARSE = 100  # a question about an attribute is one in three


@dataclass(frozen=True)
class AttributeQuestions:
    """One-hop questions of the scene world, of kind query_color, _shape, _size or _material."""

    split: str
    seed: int

    def __len__(self):
        return 2**20

    def __getitem__(self, index):
        source = Source(
            "vqa",
            split=self.split,
            seed=self.seed,
            max_depth=1,
            num_objects=(3, 4),
            size_px=(SIDE_PX, SIDE_PX),
            background="paper",
        )
        drawn = (source[SPARSE * index + i] for i in range(SPARSE))
        return next(example for example in drawn if example.kind.startswith("query_"))


def make_processor() -> Processor:
    config = ProcessorConfig(
        image_sizes=((SIDE_PX, SIDE_PX),), answers=ANSWERS, max_length=TOKENS, length_multiple=TOKENS
    )
    questions = [AttributeQuestions("train", 0)[i].text for i in range(100)]
    return Processor(Tokenizer.train(questions + [" ".join(lexicon())] * 50, 1024), config)


def make_model(processor: Processor) -> VLMHRM:
    tower = ViTConfig(
        dim=96,
        depth=0,
        patch_size=PATCH_PX,
        image_size=(SIDE_PX, SIDE_PX),
        stem=(24, 48, 96),
        centered=True,
    )
    config = VLMHRMConfig(
        vocab_size=processor.tokenizer.vocab_size,
        num_answers=len(ANSWERS),
        vision=tower,
        dim=64,
        depth=1,
        mlp_dim=128,
        cross=False,
        rotary=False,  # 36 tokens, no relation to read; turned, 850 steps end at 0.8 (docs/log.md)
        shared=False,
        l_cycles=2,
        halt_max_steps=1,
        text_depth=0,
        max_length=TOKENS,
        fusion_tokens=1,
        decoder_depth=1,
        embedding_dim=16,
        attributes=tuple(len(values) for values in ATTRIBUTES.values()),
        referents=CHANNELS,
    )
    return VLMHRM(config)


@pytest.mark.timeout(600)
def test_it_answers_one_hop_questions_about_attributes():
    backend.seed_everything(0)
    processor = make_processor()
    model = make_model(processor)
    collate = Collate(processor, "vqa", text_length=TOKENS, image_size=(SIDE_PX, SIDE_PX), cell_px=PATCH_PX)
    objective = Recursive(Answer("vqa"), (Perceive(), Refer(weight=2.0), Tell()))
    stream = Stream(Kept(AttributeQuestions("train", 0), 8000), collate, objective, batch_size=32)
    settings = TrainConfig(
        steps=1000,
        learning_rate=0.005,
        optimizer="muon",
        warmup_steps=30,
        log_every=100,
        parts={
            # Seeing bears, and needs, larger steps than reading and reasoning do.
            "(vision|projection|objects)/.*kernel": Part(learning_rate_scale=5),
            "(?!.*kernel)": Part(learning_rate_scale=0.6),
        },
    )
    result = Trainer(model, {"vqa": stream}, settings).fit()

    held_out = [AttributeQuestions("val", 1)[i] for i in range(400)]
    batch = collate(held_out)
    answers = np.argmax(Reasoner(model).run(batch, "vqa")["probabilities"], axis=-1)
    accuracy = np.mean(answers == batch["answer"])
    assert accuracy >= 0.9, f"{accuracy:.3f} of held-out questions; {result.history[-1]}"
    keras.backend.clear_session()
