"""A CLIP on the scene world: pictures and their descriptions, every picture beside its minimal-edit twin.

    saccade train recipes/clip_scenes.py --out runs/clip_scenes
    saccade train recipes/clip_scenes.py sigmoid=true --out runs/siglip_scenes
    saccade train recipes/clip_scenes.py tower=null --out runs/clip_from_nothing
    saccade train recipes/clip_scenes.py --smoke

The image tower starts as that of the bundled VLM-HRM, which tells objects apart already, and learns on at a
lower rate; `tower=null` takes the preset's own, at random.

Every `train.eval_every` steps `eval/r@1` among `gallery` held-out pictures in pairs of twins goes into the
log, and `eval/labels`: how often a short label ("a red ball") beats that of the twin. Writes out/model (the
moving average of the weights, in bfloat16) at every checkpoint; `saccade evaluate out/model --task retrieve`
measures it and `saccade classify` uses it.
"""

from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import keras
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from saccade import backend
from saccade.clip import CLIPPipeline, read
from saccade.data.chat import ChatTokenizer
from saccade.data.clip_processor import CLIPProcessor, CLIPProcessorConfig
from saccade.data.pairs import CollatePairs
from saccade.data.scenes import Source, lexicon
from saccade.data.scenes.kept import Kept
from saccade.data.scenes.labels import Labelled
from saccade.evaluation import evaluate as measure
from saccade.models.clip import CLIP, preset
from saccade.pipeline import BUNDLED, find_model
from saccade.train.config import Part, Precision, TrainConfig
from saccade.train.contrastive import Contrastive
from saccade.train.scene_chunks import tower_of
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


class Config(BaseModel):
    """Everything that can be overridden.

    Args:
        tower: a VLM-HRM directory whose vision tower the image tower starts as; None = the preset's own.
        tower_rate: times the learning rate, for such a tower.
        init: a CLIP's name or directory to go on from, tokenizer and all, instead of a fresh one.
        sigmoid: SigLIP's loss and bias instead of InfoNCE.
        pairs: of twins in a batch; a batch has twice as many rows.
        labels: share of pairs whose texts name one object; the mined term would take such a label for wrong
            of every other picture that it fits, so keep hard_weight 0 with them.
        hard_weight, chunk: see Contrastive.
        distinct: so many pairs, drawn once and kept; None = always new ones.
        workers: processes that draw.  gallery: pictures among which eval/r@1 is measured, twins included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = "clip_scenes"
    tower: str | None = str(BUNDLED / "vlm_hrm_scenes")
    tower_rate: float = 0.3
    init: str | None = None
    precision: Precision = "mixed_bfloat16"
    sigmoid: bool = False
    vocab_size: int = 1024
    num_objects: tuple[int, int] = (3, 8)
    pairs: int = Field(256, ge=1)
    labels: float = Field(0.25, ge=0, le=1)
    hard_weight: float = Field(0.0, ge=0)
    chunk: int | None = Field(None, ge=1)
    distinct: int | None = Field(None, ge=1)
    workers: int = Field(14, ge=0)
    gallery: int = Field(1000, ge=4, multiple_of=2)
    seed: int = 1
    train: TrainConfig = TrainConfig(
        steps=4_000,
        optimizer="muon",
        learning_rate=2e-3,
        warmup_steps=200,
        min_ratio=0.02,
        weight_decay=0.05,
        ema_decay=0.998,
        log_every=100,
        save_every=1_000,
        eval_every=500,
        time_limit_s=500,
    )


SMOKE = {
    "preset": "clip_scenes_nano",
    "tower": None,
    "precision": "float32",
    "pairs": 4,
    "workers": 0,
    "gallery": 8,
    "train.steps": 3,
    "train.warmup_steps": 1,
    "train.log_every": 1,
    "train.save_every": 3,
    "train.eval_every": 3,
}


def make_tokenizer(config: Config) -> ChatTokenizer:
    """Lower-case byte-level BPE of the descriptions; every word often enough to become one token."""
    source = Source("retrieve", seed=config.seed, num_objects=config.num_objects)
    texts = [source[i].text for i in range(300)]
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, *[" ".join(lexicon())] * 50], trainer)
    return ChatTokenizer(bpe, EOS)


def make_pipeline(config: Config) -> CLIPPipeline:
    """A fresh model of the preset and its processor, or what `init` holds."""
    if config.init is not None:
        return read(find_model(config.init), config.precision)
    tokenizer = make_tokenizer(config)
    chosen, seen = preset(config.preset), {}
    if config.tower is not None:
        vision, seen = tower_of(config.tower)
        chosen = replace(chosen, vision=vision)
    text = replace(chosen.text, vocab_size=tokenizer.vocab_size)
    settings = CLIPProcessorConfig(
        image_size=chosen.vision.image_size[0],
        fit="letterbox",
        max_length=text.max_length,
        bos=BOS,
        eos=EOS,
        pad=EOS,
        mask=True,
    )
    backend.seed_everything(config.seed)
    architecture = replace(chosen, text=text, logit_bias=config.sigmoid)
    if config.tower is not None:
        fresh = ("text/", "image_pool/", "image_projection/", "text_projection/", "logit_")
        model = CLIP.with_weights(architecture, seen, config.precision, config.tower, fresh)
    else:
        model = CLIP(architecture, dtype=keras.DTypePolicy(config.precision))
    return CLIPPipeline(model, CLIPProcessor(tokenizer, settings))


def told_apart(pipeline: CLIPPipeline, config: Config) -> float:
    """Share of held-out pictures that are more like a short label of their own than like their twin's."""
    source = Labelled(Source("retrieve", split="val", seed=config.seed, num_objects=config.num_objects), 1.0)
    drawn = ((e, e.pair) for e in map(source.__getitem__, count()) if e.pair is not None)
    short = (pair for pair in drawn if all(row.kind == "label" for row in pair))
    rows = [row for pair in islice(short, config.gallery // 4) for row in pair]
    seen = pipeline.embed_images([row.image for row in rows]).reshape(len(rows) // 2, 2, -1)
    said = pipeline.embed_texts([row.text for row in rows]).reshape(len(rows) // 2, 2, -1)
    alike = np.einsum("nie,nje->nij", seen, said)  # (pair, image, text)
    return float(np.mean([alike[:, 0, 0] > alike[:, 0, 1], alike[:, 1, 1] > alike[:, 1, 0]]))


def recipe(config: Config, out_dir: Path | None) -> Trainer:
    pipeline = make_pipeline(config)
    source = Labelled(Source("retrieve", seed=config.seed, num_objects=config.num_objects), config.labels)
    if config.distinct:
        source = Kept(source, config.distinct)
    stream = Stream(
        source,
        CollatePairs(pipeline.processor),
        Contrastive(config.hard_weight, config.chunk),
        2 * config.pairs,
        workers=config.workers,
        shuffle=config.distinct is not None,
        items=config.pairs,
    )

    def evaluate(model) -> dict[str, float]:
        scores = measure(
            pipeline,
            task="retrieve",
            split="val",
            num=config.gallery,
            num_objects=config.num_objects,
            progress=False,
        )
        ways = [scores[way]["dual"] for way in ("text_to_image", "image_to_text")]
        means = {name: sum(way[name] for way in ways) / 2 for name in ("r@5", "before_twin")}
        return {"r@1": scores["r@1"], **means, "labels": told_apart(pipeline, config)}

    def export(trainer: Trainer) -> None:
        if out_dir is not None:
            if config.train.ema_decay is not None:
                trainer.use_ema()
            pipeline.save(out_dir / "model", dtype="bfloat16")

    slower = {} if config.tower is None else {"vision": Part(learning_rate_scale=config.tower_rate)}
    settings = config.train.model_copy(update={"parts": {**slower, **config.train.parts}})
    return Trainer(pipeline.model, {"pairs": stream}, settings, out_dir, on_save=export, evaluate=evaluate)
