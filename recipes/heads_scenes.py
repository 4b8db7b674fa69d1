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
from pathlib import Path

import numpy as np
from keras import ops
from pydantic import BaseModel, ConfigDict

import saccade
from saccade import backend
from saccade.data.scenes import Source
from saccade.data.scenes.captions import caption_is_true
from saccade.data.scenes.scene import Example
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.generate import Writer
from saccade.heads.create import create_vlm_head
from saccade.heads.multitask import create_multi_task_vlm_head
from saccade.heads.task import TaskHead, VLMTaskConfig
from saccade.heads.writing import texts
from saccade.metrics.dense import Described, dense_caption_map
from saccade.metrics.dialogue import dialogue_scores
from saccade.metrics.region import pairwise_iou
from saccade.metrics.retrieval import rank_scores, true_ranks
from saccade.pipeline import Pipeline
from saccade.train.config import TrainConfig
from saccade.train.scene_heads import (
    CAPTION_LENGTH,
    MAX_TURNS,
    REGION_LENGTH,
    Chunks,
    Rows,
    answer_labels,
    box_labels,
    candidate_labels,
    caption_labels,
    dense_labels,
    described,
    draw,
    encode,
)
from saccade.train.stream import Stream
from saccade.train.tasks import HeadLoss
from saccade.train.trainer import Trainer

CHUNK = 250  # examples that are scored at once


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
    precision: str = "mixed_bfloat16"
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
    """How a task's head is made, fed and scored.

    source: task of `saccade.data.scenes.Source`.  text: whether the head reads one.
    asked: as which task the frozen model is told to reason.
    reasoning, fusion_depth: unless the config says.  options: of the head, from (config, pipeline).
    labels: of Chunks.
    score: (head, pipeline, examples, features) -> scores; features as the head reads them.
    """

    source: str
    options: Callable[[Config, Pipeline], dict]
    labels: Callable[..., dict] | None
    score: Callable[[TaskHead, Pipeline, list[Example], dict], dict[str, float]]
    asked: str = "vqa"
    reasoning: int = 0
    fusion_depth: int = 0
    text: bool = True


def _writing(pipeline: Pipeline, length: int) -> dict:
    return {"vocab_size": pipeline.processor.tokenizer.vocab_size, "max_length": length}


def _grid(config: Config, pipeline: Pipeline) -> dict:
    height, width = pipeline.model.config.vision.image_size
    cell = pipeline.model.config.vision.patch_size * pipeline.model.config.shuffle
    return {"grid": (height // cell, width // cell)}


# -- scores, of decoded answers


def _outputs(head, features: dict) -> list[dict]:
    """The head's outputs, chunk after chunk."""
    compiled = backend.compiled(head, head)
    return [
        {name: ops.convert_to_numpy(value) for name, value in compiled(chunk).items()}
        for chunk in _chunks(features)
    ]


def _chunks(features: dict):
    rows = len(next(iter(features.values())))
    for start in range(0, rows, CHUNK):
        yield {name: value[start : start + CHUNK] for name, value in features.items()}


def _score_vqa(head, pipeline, examples, features):
    answers = list(pipeline.processor.config.answers)
    said = [word for outputs in _outputs(head, features) for word in head.decode(outputs, answers)]
    return {"accuracy": float(np.mean([a == e.answer for a, e in zip(said, examples, strict=True)]))}


def _score_grounding(head, pipeline, examples, features):
    boxes = np.concatenate([head.decode(outputs)[0] for outputs in _outputs(head, features)])
    truth = box_labels(pipeline.processor, examples)["box"]
    overlap = np.array([pairwise_iou(b[None], t[None])[0, 0] for b, t in zip(boxes, truth, strict=True)])
    return {"accuracy": float((overlap >= 0.5).mean()), "mean_iou": float(overlap.mean())}


def _score_matching(head, pipeline, examples, features):
    parts = _outputs(head, features)
    images, words = (
        np.concatenate([part[name] for part in parts])[:1000]
        for name in ("image_embeddings", "text_embeddings")
    )
    ranks = [true_ranks(images @ words.T), true_ranks(words @ images.T)]
    return {"r@1": float(np.mean([rank_scores(r)["r@1"] for r in ranks])), "gallery": float(len(images))}


def _score_captioning(head, pipeline, examples, features):
    writer, said = Writer(head), []
    settings = GenerationConfig(max_new_tokens=head.max_new_tokens)
    for chunk in _chunks(features):
        tokens, _ = writer.generate(head.prompt(chunk), settings)
        said += texts(tokens, pipeline.processor.tokenizer)
    right = [caption_is_true(text, e.scene) for text, e in zip(said, examples, strict=True)]
    return {"all_true": float(np.mean(right)), "distinct": len(set(said)) / len(said)}


def _score_dense(head, pipeline, examples, features):
    found: list[Described] = []
    for outputs in _outputs(head, features):
        for regions in head.decode(outputs, threshold=0.05):
            boxes = np.array([r["box"] for r in regions]).reshape(-1, 4)
            captions = [pipeline.processor.tokenizer.decode(r["caption"]) for r in regions]
            found.append(Described(boxes, captions, np.array([r["score"] for r in regions])))
    result = dense_caption_map(found, [Described(*described(pipeline.processor, e)) for e in examples])
    return {"map": result["map"], "box_map": result["box_map"]}


def _score_dialogue(head, pipeline, examples, features):
    processor = pipeline.processor
    labels = candidate_labels(processor, examples, count=len(processor.config.answers))
    ranked = {**features, **{name: labels[name] for name in ("candidates",)}}
    scores = np.concatenate([outputs["candidate_scores"] for outputs in _outputs(head, ranked)])
    return dialogue_scores(scores, labels["answer_index"])


TASKS = {
    "vqa": SceneTask(
        "vqa",
        lambda config, p: {"num_answers": len(p.processor.config.answers)},
        answer_labels,
        _score_vqa,
        reasoning=4,
    ),
    "grounding": SceneTask(
        "ground",
        _grid,
        box_labels,
        _score_grounding,
        asked="ground",
        reasoning=4,
    ),
    "matching": SceneTask("retrieve", lambda config, p: {"embedding_dim": 128}, None, _score_matching),
    "captioning": SceneTask(
        "caption",
        lambda config, p: {
            **_writing(p, CAPTION_LENGTH),
            "decoder_depth": config.decoder_depth,
        },
        caption_labels,
        _score_captioning,
        asked="caption",
        reasoning=1,
        text=False,
    ),
    "dense_captioning": SceneTask(
        "caption",
        lambda config, p: {**_grid(config, p), **_writing(p, REGION_LENGTH)},
        dense_labels,
        _score_dense,
        text=False,
    ),
    "dialogue": SceneTask(
        "dialogue",
        lambda config, p: {**_writing(p, 4), "decoder_depth": 1, "max_turns": MAX_TURNS},
        candidate_labels,
        _score_dialogue,
        reasoning=4,
        fusion_depth=2,
    ),
}


# -- the run


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


@dataclass(frozen=True)
class Prepared:
    """A task's data: `train` to learn from; `examples` and `features` held out."""

    train: Rows
    examples: list[Example]
    features: dict[str, np.ndarray]


def prepare(config: Config, name: str, pipeline: Pipeline) -> Prepared:
    """Draw and encode the examples of a task, once for any number of heads."""
    task = TASKS[name]
    steps = task.reasoning if config.reasoning is None else config.reasoning

    def chunks(split: str, count: int, labels) -> Chunks:
        source = Source(task.source, split=split, seed=config.seed, max_depth=config.max_depth)
        return Chunks(source, count, pipeline.processor, labels)

    def features(chunks: Chunks, workers: int) -> dict[str, np.ndarray]:
        return encode(pipeline, chunks, task.asked, steps, task.text, workers)

    held = chunks("test", config.held_out, None)
    arrays = features(chunks("train", config.examples, task.labels), config.workers)
    # Twins come together: each the other's hardest negative.
    train = Rows(arrays, group=2 if task.source == "retrieve" else 1)
    shape = " x ".join(map(str, arrays["vision_features"].shape))
    print(f"{name}: {shape} features, {train.num_bytes / 1e9:.2f} GB with text and labels", flush=True)
    return Prepared(train, draw(held.source, 0, held.rows), features(held, 0))


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
    streams = {}
    for name, own in data.items():
        objective = HeadLoss(name if several else None)
        streams[name] = Stream(
            own.train, own.train, objective, config.batch, items=config.batch // own.train.group
        )

    def evaluate(model) -> dict[str, float]:
        scores = {}
        for name, own in data.items():
            head = model.heads[name] if several else model
            found = TASKS[name].score(head, pipeline, own.examples, own.features)
            scores |= {f"{name}/{key}": value for key, value in found.items()}
        return scores

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            trainer.use_ema()
            trainer.model.save(out_dir / "model")

    return Trainer(model, streams, config.train, out_dir, on_save=export, evaluate=evaluate)


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    unknown = [name for name in config.tasks if name not in TASKS]
    if unknown or not config.tasks:
        raise SaccadeError(f"tasks={list(config.tasks)}: choose some of {', '.join(TASKS)}")
    pipeline = saccade.load(config.encoder)
    data = {name: prepare(config, name, pipeline) for name in config.tasks}
    return make_trainer(config, pipeline, data, out_dir)
