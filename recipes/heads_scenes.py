"""Task heads on the scene world, on features of a frozen model: one head, or several as one.

    saccade train heads_scenes tasks=[grounding] --out runs/grounding
    saccade train heads_scenes tasks=[vqa,grounding,captioning] fusion=gated
    saccade train heads_scenes --smoke

Every example is encoded once, by `encoder` (a VLM-HRM), after as many steps of its reasoning as `reasoning`
says: for questions and phrases a few, for the rest none. Held-out examples of split test are scored by the
task's rule at the end: `eval/...` in log.jsonl. Writes out/model, the head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from saccade import backend
from saccade.data.processor import Processor
from saccade.data.scenes import Source
from saccade.errors import SaccadeError
from saccade.features import FeatureSet, from_saccade
from saccade.heads.create import create_vlm_head
from saccade.heads.multitask import create_multi_task_vlm_head
from saccade.heads.task import VLMTaskConfig
from saccade.models.vlm_hrm import VLMHRM
from saccade.pipeline import Pipeline, find_model
from saccade.train.config import Precision, TrainConfig
from saccade.train.scene_heads import (
    CAPTION_LENGTH,
    CHUNK,
    MAX_TURNS,
    REGION_LENGTH,
    Drawn,
    Prepared,
    all_candidates,
    answer_labels,
    box_labels,
    candidate_labels,
    caption_labels,
    dense_labels,
    held_out,
    score,
)
from saccade.train.tasks import HeadLoss
from saccade.train.trainer import Trainer


class Config(BaseModel):
    """Everything that can be overridden.

    Args:
        tasks: heads to train, names of TASKS below; several become one multi-task head.
        encoder: a model, a name or a directory.  reasoning: steps it takes, instead of each task's own.
        fusion, fusion_depth, dim, num_heads, decoder_depth: of the head, see VLMTaskConfig; fusion_depth None
            = each task's own.
        examples, held_out: of each task.  workers: processes that draw them.
        max_depth: of the questions and phrases.
        weights: of several tasks, see create_multi_task_vlm_head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[str, ...] = ("vqa",)
    encoder: str = "vlm_hrm_scenes"
    reasoning: int | None = None
    fusion: str = "attention"
    fusion_depth: int | None = None
    dim: int = 256
    num_heads: int = 8
    decoder_depth: int = 2
    examples: int = 20_000
    held_out: int = 2_000
    workers: int = 0
    max_depth: int = 5
    weights: dict[str, float] | str | None = None
    batch: int = 128
    precision: Precision = "mixed_bfloat16"
    seed: int = 1
    train: TrainConfig = TrainConfig(
        steps=3_000,
        learning_rate=1e-3,
        warmup_steps=100,
        min_ratio=0.0,
        weight_decay=0.01,
        ema_decay=0.99,
        log_every=200,
        save_every=3_000,
        eval_every=3_000,
    )


SMOKE = {
    "tasks": ["vqa", "dense_captioning"],
    "dim": 32,
    "examples": 24,
    "held_out": 8,
    "batch": 8,
    "precision": "float32",
    "train.steps": 3,
    "train.log_every": 1,
    "train.save_every": 3,
    "train.eval_every": 3,
    "train.warmup_steps": 1,
}


@dataclass(frozen=True)
class SceneTask:
    """How a task's head is made and fed.

    source: task of `saccade.data.scenes.Source`.  text: whether the head reads one.
    asked: as which task the frozen model is told to reason.
    reasoning, fusion_depth: unless the config says.  options: of the head, from (config, pipeline).
    labels: of saccade.train.scene_heads; None = the task needs none.
    """

    source: str
    options: Callable[[Config, Pipeline], dict]
    labels: Callable[..., dict] | None = None
    asked: str = "vqa"
    reasoning: int = 0
    fusion_depth: int = 0
    text: bool = True


def _writing(pipeline: Pipeline, length: int) -> dict:
    return {"vocab_size": pipeline.processor.tokenizer.vocab_size, "max_length": length}


def _grid(config: Config, pipeline: Pipeline) -> dict:
    return {"grid": from_saccade(pipeline).grid}


TASKS = {
    "vqa": SceneTask(
        "vqa",
        lambda config, p: {"num_answers": len(p.processor.config.answers)},
        answer_labels,
        reasoning=4,
    ),
    "grounding": SceneTask("ground", _grid, box_labels, asked="ground", reasoning=4),
    "matching": SceneTask("retrieve", lambda config, p: {"embedding_dim": 128}),
    "captioning": SceneTask(
        "caption",
        lambda config, p: {**_writing(p, CAPTION_LENGTH), "decoder_depth": config.decoder_depth},
        caption_labels,
        asked="caption",
        reasoning=1,
        text=False,
    ),
    "dense_captioning": SceneTask(
        "caption",
        lambda config, p: {**_grid(config, p), **_writing(p, REGION_LENGTH)},
        dense_labels,
        text=False,
    ),
    "dialogue": SceneTask(
        "dialogue",
        lambda config, p: {**_writing(p, 4), "decoder_depth": 1, "max_turns": MAX_TURNS},
        candidate_labels,
        reasoning=4,
        fusion_depth=2,
    ),
}


# -- the run


def load_encoder(config: Config) -> Pipeline:
    """The frozen model, computing as the heads do: reading 600,000 examples in float32 took most of a run."""
    folder = find_model(config.encoder)
    return Pipeline(VLMHRM.load(folder, dtype=config.precision), Processor.load(folder))


def head_config(config: Config, name: str, pipeline: Pipeline) -> VLMTaskConfig:
    task, dim = TASKS[name], pipeline.model.config.dim
    deep = task.fusion_depth if config.fusion_depth is None else config.fusion_depth
    return VLMTaskConfig(
        name,
        vision_dim=dim,
        text_dim=dim if task.text else None,
        dim=config.dim,
        num_heads=config.num_heads,
        fusion=config.fusion,
        fusion_depth=deep,
        **task.options(config, pipeline),
    )


def prepare(config: Config, name: str, pipeline: Pipeline) -> Prepared:
    """Draw and encode the examples of a task, once for any number of heads."""
    task, processor = TASKS[name], pipeline.processor
    encoder = from_saccade(
        pipeline,
        steps=task.reasoning if config.reasoning is None else config.reasoning,
        asked=task.asked,
        max_turns=MAX_TURNS if task.source == "dialogue" else None,
        text_length=processor.config.max_length,
    )
    sides = ("vision", "text") if task.text else ("vision",)

    def drawn(split: str, count: int) -> Drawn:
        return Drawn(Source(task.source, split=split, seed=config.seed, max_depth=config.max_depth), count)

    def encoded(examples: Drawn, labels, workers: int = 0) -> FeatureSet:
        labels = labels and partial(labels, processor)
        return encoder.encode_all(examples, CHUNK, "float16", sides=sides, labels=labels, workers=workers)

    train = encoded(drawn("train", config.examples), task.labels, config.workers)
    print(f"{name}: {len(train):,} examples, arrays of {train.num_bytes / 1e9:.2f} GB", flush=True)
    held = drawn("test", config.held_out)
    features = encoded(held, all_candidates if name == "dialogue" else None)
    rows = held_out(name, processor, held, features)
    # Twins come together: each the other's hardest negative.
    return Prepared(train, rows, features, group=2 if held.twins else 1)


def make_trainer(
    config: Config, pipeline: Pipeline, data: dict[str, Prepared], out_dir: Path | None = None
) -> Trainer:
    """One head, or a multi-task head, on prepared data; it is scored every `train.eval_every` steps."""
    backend.seed_everything(config.seed)
    heads = {name: head_config(config, name, pipeline) for name in config.tasks}
    several = len(heads) > 1
    if several:
        model = create_multi_task_vlm_head(heads, config.weights, dtype=config.precision)
    else:
        model = create_vlm_head(heads[config.tasks[0]], dtype=config.precision)
    streams = {
        name: own.stream(HeadLoss(name if several else None), config.batch) for name, own in data.items()
    }

    def evaluate(model) -> dict[str, float]:
        found = {}
        for name, own in data.items():
            head = model.heads[name] if several else model
            scores = score(head, pipeline.processor, own.features, own.rows)
            found |= {f"{name}/{key}": value for key, value in scores.items()}
        return found

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            trainer.use_ema()
            trainer.model.save(out_dir / "model")

    return Trainer(model, streams, config.train, out_dir, on_save=export, evaluate=evaluate)


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    unknown = [name for name in config.tasks if name not in TASKS]
    if unknown or not config.tasks or len(set(config.tasks)) < len(config.tasks):
        raise SaccadeError(f"tasks={list(config.tasks)}: choose some of {', '.join(TASKS)}, each once")
    for key in ("examples", "held_out", "batch"):
        if getattr(config, key) < 1:
            raise SaccadeError(f"{key}={getattr(config, key)}: give at least 1")
    pipeline = load_encoder(config)
    for name in config.tasks:  # now, not after minutes of encoding
        head_config(config, name, pipeline)
    data = {name: prepare(config, name, pipeline) for name in config.tasks}
    return make_trainer(config, pipeline, data, out_dir)
