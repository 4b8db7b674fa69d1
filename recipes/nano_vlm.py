"""nanoVLM by its published recipes: from backbones, from a checkpoint, or from nothing.

    saccade train nano_vlm data='cauldron/*/*.parquet' vision=DIR language=DIR train.steps=30000
    saccade train nano_vlm data=talks.jsonl init=lusxvr/nanoVLM-222M 'lora={language: {rank: 16}}'
    saccade train nano_vlm data=scenes preset=nano_vlm_mini published=scratch
    saccade train nano_vlm --smoke

Writes out/model at every checkpoint (adapters merged, and alone in out/adapters). With data=scenes, held-out
questions of one hop and of two are answered greedily as it goes (`train.eval_every`); with `rationale` among
the tasks also asked to say how it knows, and what that ends with counts (`hops_2_explained`).
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import keras
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from saccade import backend, chat
from saccade.chat import ChatPipeline
from saccade.data.chat import CHATML, ChatTokenizer
from saccade.data.chat_processor import ChatConfig, ChatProcessor
from saccade.data.conversations import Conversations, Explained, RowFormat, SceneConversations
from saccade.data.scenes import Source, lexicon
from saccade.errors import SaccadeError
from saccade.evaluation.exact_match import exact_match
from saccade.evaluation.texts import conclusion
from saccade.hub.backbones import from_backbones
from saccade.hub.fetch import fetch
from saccade.model import read_config
from saccade.models.nano_vlm import NanoVLM, NanoVLMConfig, preset
from saccade.pipeline import find_model
from saccade.train import lora
from saccade.train.config import Part, Precision, TrainConfig
from saccade.train.conversations import conversation_stream
from saccade.train.lora import Lora
from saccade.train.next_token import Averaging, NextToken
from saccade.train.optim import local_path
from saccade.train.trainer import Trainer

SCENES = "scenes"
Task = Literal["vqa", "statement", "rationale", "caption", "retrieve"]
Limit = Literal["relevance_min", "image_correspondence_min", "visual_dependency_min", "formatting_min"]
WARMUP = 0.03  # of the steps
RATIONALE = 64  # tokens that any rationale of scenes fits, of however many hops (docs/language.md)
# Learning rates by part, of the two published recipes and for weights that all start at random.
RATES = {
    "v0.1": {"projection": 2e-3, "vision": 1e-4, "language": 1e-4},
    "later": {"projection": 5.12e-3, "vision": 5e-5, "language": 5e-5},
    "scratch": {"projection": 1e-3, "vision": 1e-3, "language": 1e-3},
}
# Tokens of a sequence; in v0.1 those of the text, later those of the images too.
LENGTHS = {"v0.1": 79, "later": 1024, "scratch": 79}


class Config(BaseModel):
    """Everything that can be overridden.

    Args:
        data: files, folders and globs of conversations (see saccade.data.conversations), or `scenes`.
        images: the folder that their image paths are relative to; None = each file's own.
        filters: of RowFormat, such as {relevance_min: 3}.
        published: which recipe: its rates and, for a new model, its prompt (v0.1's, or ChatML); `scratch` =
            rates and pixels for weights that all start at random.
        rates: by part, instead of the published ones; 0 freezes. train.learning_rate multiplies them all.
        init: a model to go on from, a directory or a name of the hub.
        vision, language: backbones to start from, likewise; both or none. Without, `preset` starts at random.
        tokenizer: of a preset that starts at random, likewise; scenes bring their own.
        image_size: pixels a side, for a new model; None = its own.  shuffle: of backbones.
        max_length: for a new model, instead of the published one.
        lora: part -> rank and alpha: nothing else trains, but what `lora_train` names.
        batch, pack, workers, max_bad: see conversation_stream.  averaging: of the loss, see NextToken.
        tasks: of scenes, see SceneConversations, by turns; more than questions teach to see: [vqa, vqa,
            rationale, retrieve].
        max_hops, num_objects, questions: of scenes; so many questions are asked for each number of hops.
        train: without warmup_steps, 3 % of the steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str | tuple[str, ...] = SCENES
    images: str | None = None
    filters: dict[Limit, float] = {}
    published: Literal["v0.1", "later", "scratch"] = "v0.1"
    rates: dict[str, NonNegativeFloat] = {}
    init: str | None = None
    vision: str | None = None
    language: str | None = None
    preset: str = "nano_vlm_222m"
    tokenizer: str | None = None
    image_size: PositiveInt | None = None
    shuffle: PositiveInt = 2
    max_length: PositiveInt | None = None
    precision: Precision = "mixed_bfloat16"
    remat: bool = False
    lora: dict[str, Lora] = {}
    lora_train: tuple[str, ...] = ()
    batch: PositiveInt = 64
    pack: bool = False
    workers: NonNegativeInt = 8
    max_bad: float = 0.01
    averaging: Averaging = "token"
    vocab_size: int = 1024  # of the scenes' tokenizer
    tasks: tuple[Task, ...] = Field(("vqa",), min_length=1)
    max_hops: int = 2
    num_objects: tuple[int, int] = (3, 8)
    questions: PositiveInt = 500
    seed: int = 1
    train: TrainConfig = TrainConfig(
        steps=20_000,
        learning_rate=1.0,
        betas=(0.9, 0.999),
        weight_decay=0.01,
        decay="all",
        eval_every=2_000,
        save_every=2_000,
    )


SMOKE = {
    "preset": "nano_vlm_mini",
    "precision": "float32",
    "image_size": 32,
    "batch": 2,
    "workers": 0,
    "questions": 2,
    "train.steps": 3,
    "train.log_every": 1,
    "train.save_every": 3,
    "train.eval_every": 3,
}


def scenes(config: Config, tasks: tuple[str, ...], split: str, hops: tuple[int, int]) -> SceneConversations:
    """Conversations of these tasks by turns, their questions of so many (least, most) hops."""
    shared = {"split": split, "min_depth": hops[0], "max_depth": hops[1], "num_objects": config.num_objects}
    return SceneConversations(*[Source(t, seed=config.seed + i, **shared) for i, t in enumerate(tasks)])


def scene_tokenizer(config: Config) -> ChatTokenizer:
    """Trained on the scene world's own questions, every word often enough to become one token."""
    rows = scenes(config, config.tasks, "train", (1, config.max_hops))
    talks = [[message["content"] for message in rows[i].messages] for i in range(300)]
    texts = [f"Question: {asked} Answer:{said}" for asked, said in talks]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, *[" ".join(lexicon())] * 50], trainer)
    return ChatTokenizer(bpe, "<|im_end|>")


def make_tokenizer(config: Config) -> ChatTokenizer:
    """Of a new model. Raises: SaccadeError: none is named, or its answers do not end as ChatML's do."""
    named = config.language or config.tokenizer
    if named:
        tokenizer = ChatTokenizer.load(_folder(named, weights=False))
    elif config.data == SCENES:
        tokenizer = scene_tokenizer(config)
    else:
        raise SaccadeError("a preset that starts at random needs a tokenizer; give tokenizer=DIR or a name")
    if config.published == "later" and tokenizer.eos != "<|im_end|>":
        raise SaccadeError(
            f"{tokenizer.name} ends answers with {tokenizer.eos}, ChatML with <|im_end|>; use the tokenizer "
            "of an instruct model"
        )
    return tokenizer


def make_pipeline(config: Config) -> ChatPipeline:
    """The model to train and its processor. Raises: SaccadeError: settings that exclude each other."""
    if (config.vision is None) != (config.language is None) or (config.init and config.vision):
        raise SaccadeError("give both vision and language, or init, or none of them to start at random")
    if config.tokenizer and (config.init or config.language):
        raise SaccadeError(
            f"tokenizer={config.tokenizer} is for a preset that starts at random; init and language bring "
            "their own, leave it out"
        )
    if config.init:
        return chat.read(find_model(config.init), config.precision)
    tokenizer = make_tokenizer(config)
    extra, template = (("image_token", "<|image|>"),), CHATML if config.published == "later" else ""
    if template:
        tokenizer.add(token for _, token in extra)
    if config.vision and config.language:
        model = _from_backbones(config, _folder(config.vision), _folder(config.language), tokenizer)
    else:
        model = _from_nothing(config, tokenizer)
    side = model.config.vision.image_size[0]
    processor = ChatConfig(
        image_size=side,
        image_tokens=model.config.image_tokens,
        max_length=config.max_length or LENGTHS[config.published],
        template=template,
        extra_tokens=extra if template else (),
        max_side=side,
    )
    return ChatPipeline(model, ChatProcessor(tokenizer, processor))


def _folder(name: str, weights: bool = True) -> Path:
    return Path(name) if Path(name).is_dir() else fetch(name, weights=weights)


def _from_backbones(config: Config, vision: Path, language: Path, tokenizer: ChatTokenizer) -> NanoVLM:
    rows = read_config(language)["vocab_size"]
    more = max(0, tokenizer.vocab_size - rows)
    return from_backbones(
        vision, language, config.shuffle, config.image_size, more, config.seed, config.precision
    )


def _from_nothing(config: Config, tokenizer: ChatTokenizer) -> NanoVLM:
    backend.seed_everything(config.seed)
    chosen: NanoVLMConfig = preset(config.preset)
    side = config.image_size or chosen.vision.image_size[0]
    vision = replace(chosen.vision, image_size=(side, side))
    if config.published == "scratch":
        # Pixels in [-1, 1] instead of the published [0, 1], from which a tower without weights learns late.
        vision = replace(vision, pixel_mean=0.5, pixel_std=0.5)
    chosen = replace(
        chosen,
        vision=vision,
        language=replace(chosen.language, vocab_size=tokenizer.vocab_size),
    )
    return NanoVLM(chosen, dtype=keras.DTypePolicy(config.precision))


def make_train_config(config: Config, model: NanoVLM) -> TrainConfig:
    """The settings of the Trainer: a Part for each rate whose part still trains; 0 freezes.

    A part that `train.parts` takes to pieces (`vision/patches`, `vision/(?!patches)`) has no rate of its own.
    """
    rates = {**RATES[config.published], **config.rates}
    rates = {name: rate for name, rate in rates.items() if not _in_pieces(name, config.train.parts)}
    trains = {local_path(v, model).split("/")[0] for v in model.trainable_variables}
    parts = {
        name: Part(freeze=True) if rate == 0 else Part(learning_rate_scale=rate)
        for name, rate in rates.items()
        if name in trains or name not in RATES["v0.1"]  # the Trainer says which parts there are
    }
    warmup = config.train.warmup_steps or round(WARMUP * config.train.steps)
    return config.train.model_copy(
        update={"parts": {**parts, **config.train.parts}, "warmup_steps": warmup, "seed": config.seed}
    )


def _in_pieces(name: str, parts: dict[str, Part]) -> bool:
    return any(pattern.startswith(f"{name}/") for pattern in parts)


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    pipeline = make_pipeline(config)
    model, processor = pipeline.model, pipeline.processor
    model.vision.remat = model.language.remat = config.remat
    if config.lora:
        lora.add(model, config.lora, config.lora_train)
    evaluate = None
    if config.data == SCENES:
        rows = scenes(config, config.tasks, "train", (1, config.max_hops))
        asked = {
            f"hops_{hops}": scenes(config, ("vqa",), "val", (hops, hops))
            for hops in range(1, config.max_hops + 1)
        }

        def evaluate(model) -> dict[str, float]:
            score = partial(exact_match, pipeline, number=config.questions)
            found = {name: score(rows) for name, rows in asked.items()}
            if "rationale" in config.tasks:
                score = partial(score, max_new_tokens=RATIONALE, read=conclusion)
                found |= {f"{name}_explained": score(Explained(rows)) for name, rows in asked.items()}
            return found
    else:
        single = {} if processor.config.template else {"max_turns": 1}
        row_format = RowFormat(**config.filters, **single)
        rows = Conversations.open(config.data, config.images, row_format)
    stream = conversation_stream(
        rows,
        processor,
        NextToken(averaging=config.averaging),
        config.batch,
        pack=config.pack,
        workers=config.workers,
        max_bad=config.max_bad,
    )

    def export(trainer: Trainer) -> None:
        if out_dir is None:
            return
        if config.train.ema_decay is not None:
            trainer.use_ema()
        plain = model
        if config.lora:
            lora.save(model, out_dir / "adapters")
            plain = lora.merged(model)
        ChatPipeline(plain, processor, pipeline.record).save(out_dir / "model")

    settings = make_train_config(config, model)
    return Trainer(model, {"chat": stream}, settings, out_dir, on_save=export, evaluate=evaluate)
