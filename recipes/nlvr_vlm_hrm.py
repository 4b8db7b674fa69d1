"""VLM-HRM on NLVR: human sentences, true or false of pictures of three boxes; from the bundled scene model.

    saccade train recipes/nlvr_vlm_hrm.py data=PATH/nlvr train.time_limit_s=480 --out runs/nlvr
    saccade train recipes/nlvr_vlm_hrm.py --smoke
    saccade evaluate runs/nlvr/model --data nlvr --folder PATH/nlvr --task statement --orders 6

`data` holds train_scenes.jsonl.gz; the development split is never read here. Called again with the same
--out, it goes on where time ended. Every `train.eval_every` steps the moving averages judge sentences that
are held out of the training file: `eval/accuracy` and `eval/consistency` in log.jsonl. Writes out/model at
every checkpoint.
What each setting is for, and the ablations: docs/nlvr.md.
"""

from dataclasses import replace
from pathlib import Path

import keras
from pydantic import BaseModel, ConfigDict

from saccade import backend
from saccade.data.batching import ATTRIBUTES, Collate
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import ANSWERS
from saccade.data.scenes.panels import PanelStatements, panel_lexicon
from saccade.data.scenes.referents import CHANNELS
from saccade.data.scenes.sentences import Sentences, frequent_words
from saccade.data.text import Tokenizer, lexicon_of
from saccade.errors import SaccadeError
from saccade.evaluation.answers import measure_answers
from saccade.evaluation.batches import Item, Run
from saccade.models.adapt import adapt
from saccade.models.vlm_hrm import PRESETS, VLMHRM, preset
from saccade.pipeline import BUNDLED, Pipeline, find_model
from saccade.train.config import Part, Precision, StreamConfig, TrainConfig
from saccade.train.labels import Perceive, Refer
from saccade.train.objectives import Answer, Recursive
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer


class Config(BaseModel):
    """Everything that can be overridden."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str | None = None  # folder of train_scenes.jsonl.gz, for the stream "human"
    init: str | None = str(BUNDLED / "vlm_hrm_scenes")  # None = a fresh model of `preset`
    preset: str = "vlm_hrm_small"
    model: dict = {"rotary_grid": None, "decoder_depth": 0}  # fields of VLMHRMConfig; nothing is written
    precision: Precision = "mixed_bfloat16"
    seed: int = 1
    # Patches of 17 picture pixels: 0.2 % of the objects share theirs with another; on (64, 256) 5 % do.
    canvas: tuple[int, int] = (96, 384)
    text_length: int = 48
    towers: float | None = 0.6  # share of human sentences about towers
    symmetries: bool = True
    rewording: float = 0.1
    smoothing: float = 0.05  # of the labels of human sentences
    exploration: float = 0.1
    hops_per_step: int | None = 1  # of `Refer`
    workers: bool = True  # False: draw examples in threads of this process
    validation: int = 8  # pictures of each held-out sentence
    tasks: dict[str, StreamConfig] = {
        "human": StreamConfig(batch=320, weight=1.0, workers=5),
        "panels": StreamConfig(batch=160, weight=0.5, workers=7),
    }
    train: TrainConfig = TrainConfig(
        steps=9_000,  # some ten minutes of one H100
        optimizer="muon",
        learning_rate=1.5e-3,
        warmup_steps=200,
        min_ratio=0.02,
        weight_decay=0.05,
        clip_norm=1.0,
        ema_decay=0.998,
        # Heads that no stream reads would only decay.
        parts={f"{name}/": Part(freeze=True) for name in ("vqa", "match", "ground", "retrieve")},
        log_every=100,
        save_every=1_000,
        eval_every=1_000,
    )


SMOKE = {
    "init": None,
    "preset": "vlm_hrm_nano",
    "precision": "float32",
    "workers": False,
    "tasks": {"panels": {"batch": 4}},
    "train.steps": 3,
    "train.log_every": 1,
    "train.save_every": 3,
    "train.eval_every": 3,
    "train.warmup_steps": 1,
}
FRESH_VOCABULARY = 741


def make_processor(config: Config, sentences: Sentences | None) -> tuple[Processor, Processor]:
    """(the one that the start was trained with, the same with the words of the training sentences)."""
    if config.init:
        old = Processor.load(find_model(config.init))
    else:
        tokenizer = Tokenizer.train([" ".join(panel_lexicon())] * 50, FRESH_VOCABULARY)
        old = Processor(tokenizer, ProcessorConfig(answers=ANSWERS, lexicon=panel_lexicon()))
    human = sentences.texts if sentences else []
    words = [*panel_lexicon(), *frequent_words(human)]
    settings = ProcessorConfig(
        **{
            **old.config.to_json(),
            "image_sizes": (config.canvas,),
            "lexicon": tuple(sorted({*old.config.lexicon, *panel_lexicon(), *lexicon_of(human)})),
        }
    )
    return old, Processor(old.tokenizer.extended(words), settings)


def make_model(config: Config, old: Processor, new: Processor) -> VLMHRM:
    if config.init:
        return adapt(
            find_model(config.init),
            old.tokenizer,
            new.tokenizer,
            config.precision,
            image_size=config.canvas,
            **config.model,
        )
    backend.seed_everything(config.seed)
    architecture = preset(
        config.preset,
        vision=replace(PRESETS[config.preset].vision, image_size=config.canvas),
        vocab_size=new.tokenizer.vocab_size,
        num_answers=len(new.config.answers),
        attributes=tuple(len(values) for values in ATTRIBUTES.values()),
        referents=CHANNELS,
        max_length=new.config.max_length,
        **config.model,
    )
    return VLMHRM(architecture, dtype=keras.DTypePolicy(config.precision))


def make_stream(
    name: str, task: StreamConfig, config: Config, processor: Processor, model: VLMHRM, human
) -> Stream:
    """ "human": sentences of the training file. "panels": statements like them, with programs, so that the
    objects they mean are known."""
    source = human if name == "human" else PanelStatements(config.seed)
    cell_px = model.config.vision.patch_size * model.config.shuffle
    collate = Collate(
        processor, "statement", text_length=config.text_length, image_size=config.canvas, cell_px=cell_px
    )
    answer = Answer("statement", config.smoothing if name == "human" else 0.0)
    also = (Perceive(),) if name == "human" else (Perceive(), Refer(hops_per_step=config.hops_per_step))
    objective = Recursive(answer, also, config.exploration, group="all")
    workers = task.workers if config.workers else 0
    return Stream(source, collate, objective, task.batch, task.weight, workers, shuffle=False)


def make_evaluate(config: Config, processor: Processor):
    """Scores on sentences that are held out of the training file, by the rules of `saccade evaluate`."""
    if config.data is None:
        return None
    examples = Sentences(config.data, "held_out").fixed(config.validation)
    items = [Item(f"{i}", example, sentence) for i, (sentence, example) in enumerate(examples)]
    pipelines: dict = {}  # one, so that nothing compiles twice

    def evaluate(model) -> dict[str, float]:
        pipeline = pipelines.setdefault("", Pipeline(model, processor))
        run = Run(pipeline, "statement", items, len(items), 240, model.config.halt_threshold)
        scores = measure_answers(run)
        wanted = ("accuracy", "consistency", "mean_steps", "accuracy_all_steps")
        return {name: scores[name] for name in wanted}

    return evaluate


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    human = None
    if "human" in config.tasks:
        if config.data is None:
            raise SaccadeError("the stream human needs data=FOLDER, the folder of train_scenes.jsonl.gz")
        human = Sentences(
            config.data,
            seed=config.seed,
            towers=config.towers,
            symmetries=config.symmetries,
            rewording=config.rewording,
        )
    old, processor = make_processor(config, human)
    model = make_model(config, old, processor)
    streams = {
        name: make_stream(name, task, config, processor, model, human) for name, task in config.tasks.items()
    }
    model.tasks = ("statement",)

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            trainer.use_ema()
            Pipeline(trainer.model, processor).save(out_dir / "model", dtype="bfloat16")

    evaluate = make_evaluate(config, processor)
    return Trainer(model, streams, config.train, out_dir, on_save=export, evaluate=evaluate)
