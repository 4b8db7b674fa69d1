"""The bundled model: a VLM-HRM on the scene world, every task at once, on one GPU.

    saccade train recipes/scenes_vlm_hrm.py --out runs/scenes
    saccade train recipes/scenes_vlm_hrm.py --smoke

Writes out/model (the moving average of the weights, in bfloat16) at every checkpoint.
"""

from dataclasses import replace
from pathlib import Path

import keras
from pydantic import BaseModel, ConfigDict

from saccade import backend
from saccade.data.batching import ATTRIBUTES, Collate
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import ANSWERS, Source, lexicon
from saccade.data.scenes.kept import Kept
from saccade.data.scenes.referents import CHANNELS
from saccade.data.text import Tokenizer
from saccade.models.vlm_hrm import PRESETS, VLMHRM, preset
from saccade.pipeline import Pipeline
from saccade.train.config import Precision, StreamConfig, TrainConfig
from saccade.train.labels import Contrast, Perceive, Refer, Tell
from saccade.train.objectives import Answer, AnswerAndExplain, Ground, Recursive, Write
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer


class Config(BaseModel):
    """Everything that can be overridden."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = "vlm_hrm_small"
    precision: Precision = "mixed_bfloat16"
    vocab_size: int = 1024
    text_length: int = 64  # of questions and descriptions; the language of scenes keeps to it
    target_length: int = 64  # of captions and rationales, likewise
    seed: int = 1
    init: str | None = None  # a model directory to start from
    square: tuple[int, int] = (128, 128)  # canvas of world scenes, (height, width)
    wide: tuple[int, int] = (64, 256)  # canvas of NLVR-style panels
    max_depth: int = 5  # of the programs drawn
    num_objects: tuple[int, int] = (3, 8)
    hops_per_step: int | None = 1  # of `Refer`
    exploration: float = (
        0.1  # of `Recursive`; more of it asks for fewer fresh examples and trains later steps
    )
    distinct: int | None = None  # so many examples a task, drawn once and kept: for a machine short of cores
    workers: bool = True  # False: draw examples in threads of this process
    tasks: dict[str, StreamConfig] = {
        # 27 processes keep one H100 busy (8,500 examples/s); on fewer cores they share, and the GPU waits.
        "vqa": StreamConfig(batch=320, weight=2.0, workers=8),
        "rationale": StreamConfig(batch=96, workers=3),
        "statement": StreamConfig(batch=160, weight=1.5, workers=4),
        "ground": StreamConfig(batch=128, workers=3),
        "caption": StreamConfig(batch=128, workers=3),
        "match": StreamConfig(batch=96, workers=4),
        "panels": StreamConfig(batch=64, weight=0.5, workers=2),
    }
    train: TrainConfig = TrainConfig(
        steps=14_000,
        optimizer="muon",
        learning_rate=2e-3,
        warmup_steps=300,
        min_ratio=0.02,
        weight_decay=0.05,
        clip_norm=1.0,
        ema_decay=0.999,
        log_every=200,
        save_every=2_000,
    )


SMOKE = {
    "preset": "vlm_hrm_nano",
    "precision": "float32",
    "workers": False,
    "tasks": {
        "rationale": {"batch": 4},
        "panels": {"batch": 4},
        "ground": {"batch": 4},
        "match": {"batch": 4},
    },
    "train.steps": 3,
    "train.log_every": 1,
    "train.save_every": 3,
    "train.warmup_steps": 1,
}


def make_processor(config: Config) -> Processor:
    """The tokenizer is trained on the scene world's own language."""
    texts = []
    for task in ("vqa", "statement", "ground", "caption", "rationale", "match"):
        source = Source(task, seed=config.seed)
        texts += [text for i in range(400) for text in (source[i].text, source[i].target)]
    panels = Source("statement", style="nlvr", seed=config.seed)
    # Every word often enough to become one token.
    texts += [panels[i].text for i in range(400)] + [" ".join(lexicon())] * 50
    processor = ProcessorConfig(
        image_sizes=(config.square, config.wide),
        answers=ANSWERS,
        max_length=config.text_length,
        target_length=config.target_length,
        lexicon=lexicon(),
    )
    return Processor(Tokenizer.train(texts, config.vocab_size), processor)


def make_model(config: Config, processor: Processor) -> VLMHRM:
    """A fresh model of the preset, or the one in `init` (weights only)."""
    if config.init:
        return VLMHRM.load(config.init, dtype=config.precision)
    backend.seed_everything(config.seed)
    vision = replace(PRESETS[config.preset].vision, image_size=config.square)
    architecture = preset(
        config.preset,
        vision=vision,
        vocab_size=processor.tokenizer.vocab_size,
        num_answers=len(processor.config.answers),
        attributes=tuple(len(values) for values in ATTRIBUTES.values()),
        referents=CHANNELS,
        max_length=processor.config.max_length,
    )
    return VLMHRM(architecture, dtype=keras.DTypePolicy(config.precision))


def make_objectives(config: Config) -> dict[str, Recursive]:
    """All reason in one pass: on canvases of equally many patches, in texts of one length."""
    perceive, refer = Perceive(), Refer(weight=2.0, hops_per_step=config.hops_per_step)
    followed = (perceive, refer, Tell())
    tasks = {
        "vqa": (Answer("vqa"), followed),
        "rationale": (AnswerAndExplain(), followed),
        "statement": (Answer("statement"), followed),
        "ground": (Ground(), followed),
        "caption": (Write(), (perceive,)),
        "match": (Answer("match"), (perceive, refer, Contrast())),
        "panels": (Answer("statement"), (perceive,)),
    }
    return {
        name: Recursive(task, also, config.exploration, group="all") for name, (task, also) in tasks.items()
    }


def make_stream(name: str, task: StreamConfig, config: Config, processor: Processor, model: VLMHRM) -> Stream:
    """The examples of one task; "panels" are statements about NLVR-style images, on the wide canvas."""
    kind = "statement" if name == "panels" else name
    style = "nlvr" if name == "panels" else "world"
    shape = config.wide if name == "panels" else config.square
    source = Source(
        kind, seed=config.seed, style=style, max_depth=config.max_depth, num_objects=config.num_objects
    )
    cell_px = model.config.vision.patch_size * model.config.shuffle
    collate = Collate(processor, kind, text_length=config.text_length, image_size=shape, cell_px=cell_px)
    if config.distinct:
        source = Kept(source, config.distinct)
    shuffle = config.distinct is not None
    workers = task.workers if config.workers else 0
    objective = make_objectives(config)[name]
    return Stream(source, collate, objective, task.batch, task.weight, workers, shuffle)


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    processor = Processor.load(config.init) if config.init else make_processor(config)
    model = make_model(config, processor)
    streams = {name: make_stream(name, task, config, processor, model) for name, task in config.tasks.items()}

    learned = {*streams, "retrieve"} if "match" in streams else {*streams}
    model.tasks = tuple(task for task in VLMHRM.tasks if task in learned)

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            trainer.use_ema()
            Pipeline(trainer.model, processor).save(out_dir / "model", dtype="bfloat16")

    return Trainer(model, streams, config.train, out_dir, on_save=export)
