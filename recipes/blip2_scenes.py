"""BLIP-2 on the scene world: a Q-Former learns to look, then a language model reads what it saw.

    saccade train recipes/blip2_scenes.py --out runs/blip2_one
    saccade train recipes/blip2_scenes.py stage=two init=runs/blip2_one/model --out runs/blip2
    saccade train recipes/blip2_scenes.py --smoke

The vision tower is that of the bundled VLM-HRM and stays as it is. `stage`:

    one       the Q-Former contrasts, matches and writes captions (StageOne)
    two       questions: the Q-Former, the projection and the small decoder learn together (default of
              `frozen`: there is no decoder of this size that has read scene texts)
    language  the decoder alone learns the questions without their pictures; a stage two from it with
              frozen=true is the published one

Writes out/model at every checkpoint. As it goes it finds held-out captions among 64 (`rank_1`, stage one)
or answers held-out questions (`qa`, stage two).
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from saccade import backend
from saccade.data.interleaved import Collate, InterleavedConfig, InterleavedProcessor, Pairs
from saccade.data.scenes import Source
from saccade.data.scenes.chunks import SceneChunks
from saccade.few_shot import FewShot
from saccade.models.blip2 import BLIP2, preset
from saccade.pipeline import BUNDLED
from saccade.train.blip2 import StageOne
from saccade.train.config import Part, TrainConfig
from saccade.train.next_token import NextToken
from saccade.train.scene_chunks import scene_tokenizer, tower_of
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

# What a stage leaves as it is: the tower always, and what its losses do not reach.
HEADS = ("image_head", "text_head", "itm", "logit_scale")
TEXTS = ("qformer/embedding", r"qformer/block_\d+/text_mlp")
FROZEN = {
    "one": ("vision", "projection", "language"),
    "two": ("vision", *HEADS, *TEXTS),
    "language": ("vision", "qformer", "projection", *HEADS),
}


class Config(BaseModel):
    """Everything that can be overridden.

    Args:
        frozen: stage two leaves the decoder as it is.
        init: a directory that this recipe wrote, to go on from.
        tower: a VLM-HRM directory whose vision tower is taken.
        batch: rows a step.  max_hops: of the questions.  text_length: of captions.
        held_out: questions asked, or captions sought, at each evaluation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["one", "two", "language"] = "one"
    frozen: bool = False
    preset: str = "blip2_scenes"
    init: str | None = None
    tower: str = str(BUNDLED / "vlm_hrm_scenes")
    precision: str = "mixed_bfloat16"
    vocab_size: int = 1024
    max_length: int = 80
    text_length: int = 64
    batch: int = 256
    max_hops: int = 1
    held_out: int = 512
    workers: int = 8
    seed: int = 1
    train: TrainConfig = TrainConfig(
        steps=4_000,
        learning_rate=1e-3,
        warmup_steps=200,
        weight_decay=0.05,
        log_every=200,
        save_every=2_000,
        eval_every=1_000,
    )


SMOKE = {
    "precision": "float32",
    "batch": 3,
    "held_out": 4,
    "workers": 0,
    "train.steps": 2,
    "train.log_every": 1,
    "train.save_every": 2,
    "train.eval_every": 2,
}


def rows(config: Config, task: str, split: str) -> SceneChunks:
    source = Source(task, split=split, seed=config.seed, max_depth=config.max_hops)
    return SceneChunks(source, "target" if task == "caption" else "answer")


def make_few_shot(config: Config) -> FewShot:
    """The model of `init`, or a fresh one over the tower."""
    if config.init:
        return FewShot.load(config.init, config.precision)
    vision, seen = tower_of(config.tower)
    chosen = preset(config.preset, vision=vision)
    processor = InterleavedProcessor(
        scene_tokenizer(rows(config, "vqa", "train"), config.vocab_size),
        InterleavedConfig(
            vision.image_size, config.max_length, max_images=1, image_tokens=chosen.image_tokens
        ),
    )
    chosen = replace(
        chosen,
        language=replace(chosen.language, vocab_size=processor.vocab_size),
        qformer=replace(
            chosen.qformer, vocab_size=processor.tokenizer.vocab_size, max_length=config.text_length
        ),
    )
    backend.seed_everything(config.seed)
    fresh = ("qformer/", "language/", "projection/", *HEADS)
    return FewShot(BLIP2.with_weights(chosen, seen, config.precision, config.tower, fresh), processor)


def rank_1(model: BLIP2, pairs: Pairs, captions: SceneChunks, number: int, among: int = 64) -> float:
    """Share of images that find their own caption among so many."""

    def similarity(batch):
        texts = model.text_vectors(batch["tokens"], batch["padding_mask"])
        return model.similarity(model.image_vectors(model.see(batch["images"])), texts)

    compiled, hits = backend.compiled(similarity, model), 0
    among = min(among, number)
    for start in range(0, number - among + 1, among):
        found = np.asarray(compiled(pairs([captions[i] for i in range(start, start + among)])))
        hits += int((found.argmax(1) == np.arange(among)).sum())
    return hits / (number // among * among)


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    few_shot = make_few_shot(config)
    pairs = Pairs(few_shot.processor, config.text_length)
    if config.stage == "one":
        source, collate, objective = rows(config, "caption", "train"), pairs, StageOne()
    else:
        source, objective = rows(config, "vqa", "train"), NextToken()
        collate = Collate(few_shot.processor, blind=config.stage == "language")
    stream = Stream(source, collate, objective, config.batch, workers=config.workers, shuffle=False)

    def evaluate(model) -> dict[str, float]:
        if config.stage == "one":
            return {"rank_1": rank_1(model, pairs, rows(config, "caption", "val"), config.held_out)}
        return {"qa": few_shot.accuracy(rows(config, "vqa", "val"), config.held_out)}

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            few_shot.save(out_dir / "model")

    frozen = (*FROZEN[config.stage], *(["language"] if config.frozen and config.stage == "two" else []))
    parts = {**{name: Part(freeze=True) for name in frozen}, **config.train.parts}
    settings = config.train.model_copy(update={"parts": parts, "seed": config.seed})
    asking = None if config.stage == "language" else evaluate
    return Trainer(few_shot.model, {config.stage: stream}, settings, out_dir, on_save=export, evaluate=asking)
