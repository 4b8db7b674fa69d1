"""Fine-tune a trained VLM-HRM on one's own examples: `fine_tune("vlm_hrm_scenes", "statement", data)`."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.data.batching import Collate
from saccade.data.processor import Processor
from saccade.data.readers.rows import Row
from saccade.data.scenes.scene import Example
from saccade.data.text import lexicon_of
from saccade.errors import SaccadeError
from saccade.evaluation.answers import measure_answers
from saccade.evaluation.batches import Item, Run
from saccade.models.adapt import adapt
from saccade.pipeline import Pipeline, find_model
from saccade.train.config import Part, TrainConfig
from saccade.train.labels import Perceive
from saccade.train.objectives import Answer, Ground, Recursive
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

TASKS = ("vqa", "statement", "match", "ground")
PARTS = ("vision", "projection", "text", "fusion", "core")
# The heads each task reads; those of others would only decay, so they are frozen.
_HEADS = ("vqa", "statement", "match", "ground", "write", "retrieve", "objects", "referents")
TRAIN = TrainConfig(
    steps=1000,
    optimizer="muon",
    learning_rate=5e-4,
    warmup_steps=50,
    min_ratio=0.02,
    weight_decay=0.05,
    ema_decay=0.99,
    log_every=50,
    save_every=500,
)
# What a run that does not fit its device gives up, in this order of cost: see docs/fine_tune.md.
MEMORY: dict[str, dict[str, Any]] = {
    "fast": {"remat": False, "accumulate": 1, "precision": "mixed_bfloat16"},
    "small": {"remat": True, "accumulate": 1, "precision": "mixed_bfloat16"},
    "smallest": {"remat": True, "accumulate": 4, "precision": "mixed_bfloat16"},
    "float32": {"remat": False, "accumulate": 1, "precision": "float32"},
}


def fine_tune(
    model: str | Path,
    task: str,
    data: Sequence[Example | Row],
    out: str | Path | None = None,
    *,
    validation: Sequence[Example | Row] = (),
    freeze: Iterable[str] = (),
    words: Iterable[str] = (),
    image_size: tuple[int, int] | None = None,
    text_length: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    smoothing: float = 0.0,
    memory: str = "fast",
    train: TrainConfig = TRAIN,
    **changes,
) -> Pipeline:
    """Train on from a model that is saved, by the one Trainer. It prints first what trains and what is
    frozen.

    Args:
        model: a bundled name or a directory; its files stay as they are.
        task: one of TASKS.
        data: examples with image, text and answer (ground: box), or rows of `open_rows`. Random access; where
            they know their scene, perception is trained as well.
        out: a folder for log.jsonl, checkpoints (from which the same call goes on), and out/model.
        validation: measured every `train.eval_every` steps and at the end: `eval/accuracy` in the log.
        freeze: of PARTS, those that keep their weights. Heads of other tasks always do.
        words: that become one token each, and are let through by the lexicon; see `Tokenizer.extended`.
        image_size: (height, width) of the canvas, multiples of the patch; None = one of the model's own.
        text_length: T; None = the model's limit.
        batch_size: rows of an update. With memory="smallest" they pass in four parts.
        workers: processes that read `data`; smoothing: of the labels; not for `ground`.
        memory: of MEMORY.  train: all else; its `accumulate` and `parts` are added to.
        changes: fields of the model's configuration, such as halt_max_steps=4 or shared=False.
    Returns: a pipeline of the tuned model (its moving averages, where kept). It lists this task alone: the
        others were not trained on, so nobody knows what is left of them.
    Raises: SaccadeError: an unknown name, no data, an example that does not fit, a batch not divisible.
    """
    freeze, words = _names(freeze), _names(words)
    _check(model, task, data, freeze, memory, batch_size)
    settings = MEMORY[memory]
    folder = find_model(model)
    old = Processor.load(folder)
    processor = _extended(old, words, image_size)
    tuned = adapt(
        folder,
        old.tokenizer,
        processor.tokenizer,
        settings["precision"],
        image_size=image_size,
        **{**changes, "remat": settings["remat"]},
    )
    cell_px = tuned.config.vision.patch_size * tuned.config.shuffle
    if any(side % cell_px for side in image_size or ()):
        raise SaccadeError(f"image_size is {image_size}: both sides must be multiples of {cell_px} pixels")
    source = _Examples(data, task)
    canvas = image_size or _canvas(processor, source)
    known = bool(tuned.config.attributes) and source[0].scene is not None
    source = _Examples(data, task, known)
    length = text_length or processor.config.max_length
    cells = cell_px if known else None
    collate = Collate(processor, task, text_length=length, image_size=canvas, cell_px=cells)
    learnt = Ground() if task == "ground" else Answer(task, smoothing)
    objective = Recursive(learnt, (Perceive(),) if known else ())
    parts = settings["accumulate"]
    stream = Stream(source, collate, objective, batch_size // parts, workers=workers)
    used = {task, "objects"} if known else {task}
    config = train.model_copy(
        update={
            "accumulate": train.accumulate * parts,
            "parts": {**train.parts, **_frozen(freeze, used, tuned)},
            "eval_every": train.eval_every or (train.steps if validation else None),
        }
    )
    tuned.tasks = (task,)
    pipeline = Pipeline(tuned, processor)
    trainer = Trainer(
        tuned,
        {task: stream},
        config,
        out,
        on_save=_export(pipeline, Path(out), config) if out is not None else None,
        evaluate=_evaluation(pipeline, task, validation) if len(validation) else None,
    )
    trainer.fit()
    if config.ema_decay is not None:
        trainer.use_ema()
    return pipeline


@dataclass(frozen=True)
class _Examples:
    """Data of either kind, as examples. known: each must know its scene."""

    data: Sequence[Example | Row]
    task: str
    known: bool = False

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Example:
        example = as_example(self.data[index], self.task)
        if self.known and example.scene is None:
            raise SaccadeError(
                f"example {index} has no scene, the first has one: give all of them one, or none"
            )
        return example


def as_example(item: Example | Row, task: str) -> Example:
    """A row of a data set as an example of a task; an Example as it is."""
    if isinstance(item, Example):
        return item
    if task == "ground" and len(item.boxes) != 1:
        raise SaccadeError(f"{item.where}: task ground needs one box, this row has {len(item.boxes)}")
    if task != "ground" and not item.answers:
        raise SaccadeError(f"{item.where}: the row has no answer to learn; use a split that has them")
    answer = "" if task == "ground" else item.answers[0]
    box = item.boxes[0] if task == "ground" else None
    return Example(task, item.image, item.scene, item.text, answer, box=box, kind=item.kind)


def _check(model, task: str, data, freeze: tuple[str, ...], memory: str, batch_size: int) -> None:
    if not isinstance(model, (str, Path)):
        kind = type(model).__name__
        raise SaccadeError(f"model is a {kind}: give a bundled name or a directory, as `save` makes one")
    for what, value, valid in (("task", task, TASKS), ("memory", memory, tuple(MEMORY))):
        if value not in valid:
            raise SaccadeError(f"unknown {what} {value!r}: use one of {', '.join(valid)}")
    unknown = set(freeze) - set(PARTS)
    if unknown:
        raise SaccadeError(f"freeze: unknown part {sorted(unknown)[0]!r}; use of {', '.join(PARTS)}")
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise SaccadeError(
            f"data is a {type(data).__name__}: give examples with random access, such as a list"
        )
    if not len(data):
        raise SaccadeError("there are no examples to train on: data is empty")
    parts = MEMORY[memory]["accumulate"]
    if batch_size < 1 or batch_size % parts:
        raise SaccadeError(f"batch_size is {batch_size}; memory {memory!r} needs a multiple of {parts}")


def _names(given: Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _extended(old: Processor, words: tuple[str, ...], image_size) -> Processor:
    """The processor with further words, on one canvas if that is given."""
    record = old.config.to_json()
    if old.config.lexicon:
        record["lexicon"] = tuple(sorted({*old.config.lexicon, *lexicon_of(words)}))
    if image_size is not None:
        record["image_sizes"] = (tuple(image_size),)
    return Processor(old.tokenizer.extended(words), type(old.config)(**record))


def _canvas(processor: Processor, source: _Examples) -> tuple[int, int]:
    """The canvas of the first picture: a stream has one."""
    canvas, _ = processor.place(source[0].image)
    return canvas.shape[0], canvas.shape[1]


def _frozen(freeze: Iterable[str], used: set[str], model) -> dict[str, Part]:
    """Expressions for the parts and heads that keep their weights; each matches something."""
    names = {name.split("/")[0] for name in model.named_variables()}
    heads = [head for head in _HEADS if head not in used and head in names]
    if "text" in freeze:
        freeze = {*freeze, *(name for name in names if re.fullmatch(r"text_block_\d+", name))}
    return {f"{re.escape(name)}/": Part(freeze=True) for name in sorted({*freeze, *heads})}


def _export(pipeline: Pipeline, out: Path, config: TrainConfig) -> Callable[[Trainer], None]:
    def save(trainer: Trainer) -> None:
        if config.ema_decay is not None:
            trainer.use_ema()
        pipeline.save(out / "model")

    return save


def _evaluation(pipeline: Pipeline, task: str, validation) -> Callable[[Any], dict[str, float]]:
    examples = _Examples(validation, task)

    def measure(model) -> dict[str, float]:
        items = [Item(str(i), examples[i]) for i in range(len(examples))]
        run = Run(pipeline, task, items, len(examples), 250, model.config.halt_threshold)
        scores = measure_answers(run)
        return {name: scores[name] for name in ("accuracy", "mean_steps", "accuracy_all_steps")}

    return measure
