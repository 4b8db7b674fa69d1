"""Flamingo on the scene world: questions about pictures, and made-up names learned from demonstrations.

    saccade train recipes/flamingo_scenes.py --out runs/flamingo
    saccade train recipes/flamingo_scenes.py --smoke

The vision tower is that of the bundled VLM-HRM and stays as it is. `stage`:

    joint     resampler, gated blocks and the small decoder learn together (default: there is no decoder of
              this size that has read scene texts)
    language  the decoder alone learns the same texts without their pictures; then
    vision    with init=out/model of that run, resampler and gated blocks learn, the decoder frozen as in
              Flamingo

Three streams: questions, descriptions of everything in a picture, episodes of made-up names. Writes out/model
(the moving average of the weights) at every checkpoint. As it goes it answers held-out questions (`eval/qa`)
and names held-out pairs of things after 0, 2, 4 and 8 demonstrations (`eval/shots_0`, ...); who has seen no
more than which two names there are is right half the time.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from saccade import backend
from saccade.data.interleaved import Collate, InterleavedConfig, InterleavedProcessor
from saccade.data.scenes.chunks import Episodes
from saccade.few_shot import FewShot
from saccade.models.flamingo import Flamingo, preset
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

FROZEN = Part(freeze=True)
GATES = {r"cross_\d+/\w+_gate": Part(learning_rate_scale=5.0)}  # two numbers a block, all that holds it shut
STAGES = {
    "joint": {"vision": FROZEN, **GATES},
    "language": dict.fromkeys(("vision", "resampler", "cross_.*"), FROZEN),
    "vision": {"vision": FROZEN, "language": FROZEN, **GATES},
}


class Config(OverTower):
    """Everything that can be overridden; see OverTower for the rest.

    Args:
        qa_batch, episode_batch: rows a step.
        shots: demonstrations of a training episode; each is asked too, so that fewer are learned as well.
        eval_shots: of those asked.
    """

    stage: Literal["joint", "language", "vision"] = "joint"
    preset: str = "flamingo_scenes"
    qa_batch: int = Field(192, ge=1)
    episode_batch: int = Field(64, ge=1)
    shots: int = Field(8, ge=0)
    eval_shots: tuple[int, ...] = (0, 2, 4, 8)
    train: TrainConfig = LANGUAGE_OVER_TOWER


SMOKE = {
    "precision": "float32",
    "qa_batch": 2,
    "describe_batch": 2,
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


def make_few_shot(config: Config) -> FewShot:
    """The model of `init`, or a fresh one over the tower."""
    if config.init:
        return continued(config, Flamingo)
    vision, seen = tower_of(config.tower)
    processor = InterleavedProcessor(
        scene_tokenizer(config.rows("vqa"), config.vocab_size),
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
    blind = config.stage == "language"
    share = -(-config.workers // 3)

    def stream(rows, processor, batch):
        collate = Collate(processor, blind)
        return Stream(rows, collate, NextToken(), batch, workers=share, shuffle=False)

    asking, telling = (config.one_image(processor, n) for n in (config.question_length, config.max_length))
    # A demonstration has six tokens: <image>, three words, the name, <|endofchunk|>.
    showing = replace(processor, config=replace(processor.config, max_length=6 * (config.shots + 1) + 1))
    streams = {
        "qa": stream(config.rows("vqa"), asking, config.qa_batch),
        "episodes": stream(Episodes(config.shots, seed=config.seed), showing, config.episode_batch),
    }
    if config.describe_batch:
        streams["describe"] = stream(config.rows("retrieve"), telling, config.describe_batch)

    def evaluate(model) -> dict[str, float]:
        episodes = {f"shots_{n}": Episodes(n, "val", config.seed) for n in config.eval_shots}
        asked = {**episodes, "qa": config.rows("vqa", "val")}
        return {name: few_shot.accuracy(rows, config.held_out) for name, rows in asked.items()}

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            if config.train.ema_decay is not None:
                trainer.use_ema()
            few_shot.save(out_dir / "model")

    settings = with_parts(config.train, STAGES[config.stage], config.seed)
    asked = None if blind else evaluate
    return Trainer(few_shot.model, streams, settings, out_dir, on_save=export, evaluate=asked)
