"""Flamingo on the scene world: questions about pictures, and made-up names learned from demonstrations.

    saccade train recipes/flamingo_scenes.py --out runs/flamingo
    saccade train recipes/flamingo_scenes.py --smoke

The vision tower is that of the bundled VLM-HRM and stays as it is. `stage`:

    joint     resampler, gated blocks and the small decoder learn together (default: there is no decoder of
              this size that has read scene texts)
    language  the decoder alone learns the same texts without their pictures; then
    vision    with init=out/model of that run, resampler and gated blocks learn, the decoder frozen as in
              Flamingo

Writes out/model at every checkpoint. As it goes it answers held-out questions (`qa`) and names held-out pairs
of things after 0, 2, 4 and 8 demonstrations (`shots_0`, ...).
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from saccade import backend
from saccade.data.interleaved import Collate, InterleavedConfig, InterleavedProcessor
from saccade.data.scenes import Source
from saccade.data.scenes.chunks import Episodes, SceneChunks
from saccade.few_shot import FewShot
from saccade.models.flamingo import Flamingo, preset
from saccade.pipeline import BUNDLED
from saccade.train.config import Part, TrainConfig
from saccade.train.next_token import NextToken
from saccade.train.scene_chunks import scene_tokenizer, tower_of
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

STAGES = {
    "joint": {"vision": Part(freeze=True)},
    "language": {name: Part(freeze=True) for name in ("vision", "resampler", "cross_.*")},
    "vision": {name: Part(freeze=True) for name in ("vision", "language")},
}


class Config(BaseModel):
    """Everything that can be overridden.

    Args:
        init: a directory that this recipe wrote, to go on from.
        tower: a VLM-HRM directory whose vision tower is taken.
        qa_batch, episode_batch: rows a step.  max_hops: of the questions.
        shots: demonstrations of a training episode; each is asked too, so that fewer are learned as well.
        eval_shots: of those asked.
        held_out: questions and episodes asked at each evaluation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["joint", "language", "vision"] = "joint"
    preset: str = "flamingo_scenes"
    init: str | None = None
    tower: str = str(BUNDLED / "vlm_hrm_scenes")
    precision: str = "mixed_bfloat16"
    vocab_size: int = 1024
    max_length: int = 80
    qa_batch: int = 256
    episode_batch: int = 48
    max_hops: int = 1
    shots: int = 8
    eval_shots: tuple[int, ...] = (0, 2, 4, 8)
    held_out: int = 512
    workers: int = 8
    seed: int = 1
    train: TrainConfig = TrainConfig(
        steps=10_000,
        learning_rate=1e-3,
        warmup_steps=200,
        weight_decay=0.05,
        log_every=200,
        save_every=5_000,
        eval_every=2_500,
    )


SMOKE = {
    "precision": "float32",
    "qa_batch": 2,
    "episode_batch": 2,
    "shots": 2,
    "eval_shots": [0, 2],
    "held_out": 2,
    "workers": 0,
    "train.steps": 2,
    "train.log_every": 1,
    "train.save_every": 2,
    "train.eval_every": 2,
}


def questions(config: Config, split: str) -> SceneChunks:
    return SceneChunks(Source("vqa", split=split, seed=config.seed, max_depth=config.max_hops))


def make_few_shot(config: Config) -> FewShot:
    """The model of `init`, or a fresh one over the tower."""
    if config.init:
        return FewShot.load(config.init, config.precision)
    vision, seen = tower_of(config.tower)
    processor = InterleavedProcessor(
        scene_tokenizer(questions(config, "train"), config.vocab_size),
        InterleavedConfig(
            vision.image_size, config.max_length, max_images=max(config.shots, *config.eval_shots) + 1
        ),
    )
    chosen = preset(config.preset, vision=vision)
    chosen = replace(chosen, language=replace(chosen.language, vocab_size=processor.vocab_size))
    backend.seed_everything(config.seed)
    fresh = ("resampler/", "language/", "cross_")
    return FewShot(Flamingo.with_weights(chosen, seen, config.precision, config.tower, fresh), processor)


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    few_shot = make_few_shot(config)
    processor = few_shot.processor
    one_image = replace(processor, config=replace(processor.config, max_images=1))
    blind = config.stage == "language"
    share = max(1, config.workers // 2) if config.workers else 0

    def stream(rows, processor, batch):
        return Stream(rows, Collate(processor, blind), NextToken(), batch, workers=share, shuffle=False)

    streams = {
        "qa": stream(questions(config, "train"), one_image, config.qa_batch),
        "episodes": stream(Episodes(config.shots, seed=config.seed), processor, config.episode_batch),
    }

    def evaluate(model) -> dict[str, float]:
        episodes = {f"shots_{n}": Episodes(n, "val", config.seed) for n in config.eval_shots}
        asked = {**episodes, "qa": questions(config, "val")}
        return {name: few_shot.accuracy(rows, config.held_out) for name, rows in asked.items()}

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            few_shot.save(out_dir / "model")

    parts = {**STAGES[config.stage], **config.train.parts}
    settings = config.train.model_copy(update={"parts": parts, "seed": config.seed})
    asking = None if blind else evaluate
    return Trainer(few_shot.model, streams, settings, out_dir, on_save=export, evaluate=asking)
