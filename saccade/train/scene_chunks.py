"""What recipes over the bundled tower share: settings, the tower's weights, rows, their tokenizer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from keras import ops
from pydantic import BaseModel, ConfigDict, Field

from saccade.data.interleaved import InterleavedProcessor
from saccade.data.scenes import Source, lexicon
from saccade.data.scenes.chunks import TEXT, WORDS, SceneChunks
from saccade.data.text import Tokenizer
from saccade.errors import SaccadeError
from saccade.few_shot import FewShot
from saccade.models.vit import ViTConfig
from saccade.models.vlm_hrm import VLMHRM
from saccade.pipeline import BUNDLED, find_model
from saccade.train.config import Part, Precision, TrainConfig

FIELDS = {"vqa": "answer", "caption": "target", "retrieve": "text"}


class OverTower(BaseModel):
    """Settings of a language model over the vision tower of a VLM-HRM, which stays as it is.

    Args:
        init: a directory that this recipe wrote, to go on from.
        tower: a VLM-HRM directory whose vision tower is taken.
        max_length: tokens of a row at most, image places included.  question_length: of one with a question.
        max_hops: of the questions.
        describe_batch: rows a step that name all objects of a picture: every word is to be seen, where an
            answer of one word teaches little to look; 0 = none.
        held_out: rows that are asked at each evaluation, of each kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    init: str | None = None
    tower: str = str(BUNDLED / "vlm_hrm_scenes")
    precision: Precision = "mixed_bfloat16"
    vocab_size: int = 1024
    max_length: int = 96
    question_length: int = 32
    max_hops: int = 1
    describe_batch: int = Field(96, ge=0)
    held_out: int = Field(512, ge=1)
    workers: int = Field(8, ge=0)
    seed: int = 1

    def rows(self, task: str, split: str = "train") -> SceneChunks:
        """Pictures with questions (vqa), captions, or descriptions of everything (retrieve)."""
        source = Source(task, split=split, seed=self.seed, max_depth=self.max_hops)
        return SceneChunks(source, FIELDS[task])

    def one_image(self, processor: InterleavedProcessor, length: int) -> InterleavedProcessor:
        """The processor of rows with one picture and so many tokens."""
        return replace(processor, config=replace(processor.config, max_images=1, max_length=length))


# Muon, whose rate Adam shares where there is no matrix.
LANGUAGE_OVER_TOWER = TrainConfig(
    steps=6_000,
    optimizer="muon",
    learning_rate=3e-3,
    warmup_steps=200,
    min_ratio=0.02,
    weight_decay=0.05,
    ema_decay=0.998,
    log_every=100,
    save_every=2_000,
    eval_every=1_000,
    time_limit_s=500,
)


def with_parts(config: TrainConfig, parts: dict[str, Part], seed: int) -> TrainConfig:
    """The run's settings with the parts of its stage, those that it was given itself winning."""
    return config.model_copy(update={"parts": {**parts, **config.parts}, "seed": seed})


def tower_of(folder: str) -> tuple[ViTConfig, dict[str, np.ndarray]]:
    """The vision tower of a VLM-HRM, its name or directory: configuration, and the weights under vision/."""
    model = VLMHRM.load(find_model(folder))
    named = {name: v for name, v in model.named_variables().items() if name.startswith("vision/")}
    return model.config.vision, {name: np.asarray(ops.convert_to_numpy(v.value)) for name, v in named.items()}


def continued(config: OverTower, kind: type) -> FewShot:
    """The model of `init` to go on from. Raises: SaccadeError: of another kind, or not made by a recipe."""
    few_shot = FewShot.load(find_model(str(config.init)), config.precision)
    if type(few_shot.model) is not kind or not isinstance(few_shot.processor, InterleavedProcessor):
        raise SaccadeError(
            f"init {config.init} is a {type(few_shot.model).__name__} of another making; give the folder "
            f"model/ of a run of this recipe, which trains a {kind.__name__}"
        )
    return few_shot


def scene_tokenizer(rows: Sequence, vocab_size: int, number: int = 300) -> Tokenizer:
    """Trained on the first `number` rows of chunks and every word of the scene world, each one token."""
    texts = [f"{chunk.text} {chunk.answer}" for i in range(number) for chunk in rows[i]]
    return Tokenizer.train([*texts, *[" ".join((TEXT, *lexicon(), *WORDS))] * 50], vocab_size)
