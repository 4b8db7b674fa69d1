"""BLIP-2 on the scene world: a Q-Former learns to look, then a language model reads what it saw.

    saccade train recipes/blip2_scenes.py --out runs/blip2_one
    saccade train recipes/blip2_scenes.py stage=two init=runs/blip2_one/model --out runs/blip2
    saccade train recipes/blip2_scenes.py --smoke

The vision tower is that of the bundled VLM-HRM and stays as it is. `stage`:

    one       the Q-Former contrasts, matches and writes descriptions of everything in a picture (StageOne)
    two       questions and descriptions: the Q-Former, the projection and the small decoder learn together
              (default of `frozen`: there is no decoder of this size that has read scene texts)
    language  the decoder alone learns these texts without their pictures; a stage two from it with
              frozen=true is the published one

Writes out/model (the moving average of the weights) at every checkpoint. As it goes it finds held-out
descriptions among 64 (`eval/rank_1`, stage one) or answers held-out questions (`eval/qa`, stage two).
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from saccade import backend
from saccade.data.interleaved import Collate, InterleavedConfig, InterleavedProcessor, Pairs
from saccade.data.scenes.chunks import SceneChunks
from saccade.few_shot import FewShot
from saccade.models.blip2 import BLIP2, preset
from saccade.train.blip2 import StageOne
from saccade.train.config import Part, TrainConfig
from saccade.train.next_token import NextToken
from saccade.train.scene_chunks import (
    LANGUAGE_OVER_TOWER,
    OverTower,
    continued,
    scene_tokenizer,
    tower_of,
    with_parts,
)
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


class Config(OverTower):
    """Everything that can be overridden; see OverTower for the rest.

    Args:
        frozen: stage two leaves the decoder as it is.
        batch: rows a step, in stage two with a question.  text_length: of the descriptions of stage one.
    """

    stage: Literal["one", "two", "language"] = "one"
    frozen: bool = False
    preset: str = "blip2_scenes"
    text_length: int = 80
    batch: int = Field(256, ge=1)
    train: TrainConfig = LANGUAGE_OVER_TOWER


SMOKE = {
    "precision": "float32",
    "batch": 3,
    "describe_batch": 2,
    "held_out": 4,
    "workers": 0,
    "train.steps": 2,
    "train.log_every": 1,
    "train.save_every": 2,
    "train.eval_every": 2,
}


def make_few_shot(config: Config) -> FewShot:
    """The model of `init`, or a fresh one over the tower."""
    if config.init:
        return continued(config, BLIP2)
    vision, seen = tower_of(config.tower)
    chosen = preset(config.preset, vision=vision)
    processor = InterleavedProcessor(
        scene_tokenizer(config.rows("vqa"), config.vocab_size),
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


def rank_1(model: BLIP2, pairs: Pairs, texts: SceneChunks, number: int, among: int = 64) -> float:
    """Share of images that find their own text among so many."""

    def similarity(batch):
        vectors = model.text_vectors(batch["tokens"], batch["padding_mask"])
        return model.similarity(model.image_vectors(model.see(batch["images"])), vectors)

    compiled, hits = backend.compiled(similarity, model), 0
    among = min(among, number)
    for start in range(0, number - among + 1, among):
        found = np.asarray(compiled(pairs([texts[i] for i in range(start, start + among)])))
        hits += int((found.argmax(1) == np.arange(among)).sum())
    return hits / (number // among * among)


def make_streams(config: Config, processor: InterleavedProcessor) -> dict[str, Stream]:
    if config.stage == "one":
        pairs = Pairs(processor, config.text_length)
        return {"pairs": stream(config.rows("retrieve"), pairs, StageOne(), config.batch, config.workers)}
    blind, share = config.stage == "language", -(-config.workers // 2)
    asking = config.one_image(processor, config.question_length + processor.config.image_tokens)
    collate = Collate(asking, blind)
    streams = {"qa": stream(config.rows("vqa"), collate, NextToken(), config.batch, share)}
    if config.describe_batch:
        rows, collate = config.rows("retrieve"), Collate(processor, blind)
        streams["describe"] = stream(rows, collate, NextToken(), config.describe_batch, share)
    return streams


def stream(rows, collate, objective, batch: int, workers: int) -> Stream:
    return Stream(rows, collate, objective, batch, workers=workers, shuffle=False)


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    few_shot = make_few_shot(config)
    # Stage two moves the Q-Former away from what stage one's heads read.
    few_shot.model.tasks = ("retrieve", "match") if config.stage == "one" else ("chat",)
    streams = make_streams(config, few_shot.processor)

    def evaluate(model) -> dict[str, float]:
        if config.stage == "one":
            pairs = Pairs(few_shot.processor, config.text_length)
            return {"rank_1": rank_1(model, pairs, config.rows("retrieve", "val"), config.held_out)}
        return {"qa": few_shot.accuracy(config.rows("vqa", "val"), config.held_out)}

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            if config.train.ema_decay is not None:
                trainer.use_ema()
            few_shot.save(out_dir / "model")

    frozen = (*FROZEN[config.stage], *(["language"] if config.frozen and config.stage == "two" else []))
    settings = with_parts(config.train, {name: Part(freeze=True) for name in frozen}, config.seed)
    asking = None if config.stage == "language" else evaluate
    return Trainer(few_shot.model, streams, settings, out_dir, on_save=export, evaluate=asking)
