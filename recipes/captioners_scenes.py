"""CNN + LSTM captioners on the scene world: Show and Tell, or Show, Attend and Tell.

    saccade train recipes/captioners_scenes.py --out runs/captioner
    saccade train recipes/captioners_scenes.py model=show_and_tell --out runs/show_and_tell
    saccade train recipes/captioners_scenes.py --smoke

`eval/caption_true`: captions of fresh scenes of the split `val` whose every fact holds, by beam search;
`eval/greedy_true`: by the likeliest words. Writes out/model (the moving average of the weights) at every
checkpoint; `saccade evaluate out/model --task caption --beams 3` measures it.
"""

from pathlib import Path
from typing import Literal

import keras
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from saccade import backend
from saccade.captioning import CaptionPipeline
from saccade.data.batching import ATTRIBUTES, Collate
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import Source, caption_is_true, lexicon
from saccade.data.scenes.kept import Kept
from saccade.data.text import Tokenizer
from saccade.models.captioners import KINDS, Captioner, preset
from saccade.train.captions import Describe
from saccade.train.config import Part, Precision, TrainConfig
from saccade.train.labels import Perceive
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer


class Config(BaseModel):
    """Everything that can be overridden.

    Args:
        model: show_and_tell or show_attend_tell.  architecture: fields of its preset to replace.
        perceive_weight: of naming what stands in each cell; 0 = captions alone.
        point_weight, attend_weight: see Describe; ignored by show_and_tell, which does not look again.
        distinct: so many examples, drawn once and kept; None = always fresh ones.
        eval_rows: scenes of the split val to caption at every evaluation, with so many `beams`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["show_and_tell", "show_attend_tell"] = "show_attend_tell"
    architecture: dict = {}
    precision: Precision = "mixed_bfloat16"
    vocab_size: int = 1024
    canvas: tuple[int, int] = (128, 128)
    target_length: int = 48
    num_objects: tuple[int, int] = (3, 8)
    batch: int = Field(256, ge=1)
    workers: int = Field(14, ge=0)
    distinct: int | None = Field(None, ge=1)
    perceive_weight: float = 1.0
    point_weight: float = 0.5
    attend_weight: float = 0.0
    eval_rows: int = Field(512, ge=1)
    beams: int = Field(3, ge=2)
    seed: int = 1
    train: TrainConfig = TrainConfig(
        steps=12_000,
        optimizer="muon",
        learning_rate=1e-2,
        warmup_steps=200,
        min_ratio=0.02,
        weight_decay=0.01,
        # What is no kernel, and the layers that say words: Adam, whose rate is far below Muon's.
        parts={
            r"(?!.*kernel)": Part(learning_rate_scale=0.2),
            r".*output/kernel": Part(optimizer="adamw", learning_rate_scale=0.2),
        },
        clip_norm=1.0,
        ema_decay=0.999,
        log_every=100,
        save_every=1_000,
        eval_every=1_000,
        time_limit_s=500,
    )


SMOKE = {
    "precision": "float32",
    "architecture": {"dim": 32, "word_dim": 16, "vision_dim": 32, "depth": 1, "stem": [8, 8, 16, 16]},
    "workers": 0,
    "batch": 4,
    "eval_rows": 4,
    "train.steps": 3,
    "train.log_every": 1,
    "train.save_every": 3,
    "train.eval_every": 3,
    "train.warmup_steps": 1,
}


def make_processor(config: Config) -> Processor:
    """The tokenizer is trained on the scene world's own captions."""
    source = Source("caption", seed=config.seed)
    texts = [source[i].target for i in range(800)] + [" ".join(lexicon())] * 50
    settings = ProcessorConfig(
        image_sizes=(config.canvas,), target_length=config.target_length, lexicon=lexicon()
    )
    return Processor(Tokenizer.train(texts, config.vocab_size), settings)


def make_model(config: Config, processor: Processor) -> Captioner:
    backend.seed_everything(config.seed)
    architecture = preset(
        f"{config.model}_scenes",
        vocab_size=processor.tokenizer.vocab_size,
        image_size=config.canvas,
        max_length=config.target_length,
        attributes=tuple(len(values) for values in ATTRIBUTES.values()) if config.perceive_weight else (),
        **{key: tuple(v) if isinstance(v, list) else v for key, v in config.architecture.items()},
    )
    return KINDS[config.model](architecture, dtype=keras.DTypePolicy(config.precision))


def make_stream(config: Config, processor: Processor, model: Captioner) -> Stream:
    looks = config.model == "show_attend_tell"
    objective = Describe(
        (Perceive(config.perceive_weight),) if config.perceive_weight else (),
        config.point_weight * looks,
        config.attend_weight * looks,
    )
    source = Source("caption", seed=config.seed, num_objects=config.num_objects)
    if config.distinct:
        source = Kept(source, config.distinct)
    cell_px = config.canvas[0] // model.layout.grid[0]
    collate = Collate(processor, "caption", image_size=config.canvas, cell_px=cell_px)
    shuffle = config.distinct is not None
    return Stream(source, collate, objective, config.batch, workers=config.workers, shuffle=shuffle)


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    processor = make_processor(config)
    model = make_model(config, processor)
    pipeline = CaptionPipeline(model, processor)
    held_out = Source("caption", split="val", seed=config.seed, num_objects=config.num_objects)
    collate = Collate(processor, "caption", image_size=config.canvas)
    drawn: list = []

    def written(beams: int) -> tuple[float, list[str]]:
        """The share of captions that are true; the captions."""
        tokens = pipeline.write(collate(drawn), num_beams=beams)["tokens"]
        texts = [processor.tokenizer.decode(row.tolist()) for row in tokens]
        true = [caption_is_true(text, example.scene) for text, example in zip(texts, drawn, strict=True)]
        return float(np.mean(true)), texts

    def evaluate(_) -> dict[str, float]:
        if not drawn:
            drawn.extend(held_out[i] for i in range(config.eval_rows))
        true, texts = written(config.beams)
        return {"caption_true": true, "greedy_true": written(1)[0], "distinct": len(set(texts)) / len(texts)}

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            if config.train.ema_decay:
                trainer.use_ema()
            pipeline.save(out_dir / "model")

    streams = {"caption": make_stream(config, processor, model)}
    return Trainer(model, streams, config.train, out_dir, on_save=export, evaluate=evaluate)
