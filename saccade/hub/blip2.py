"""Directories of transformers' Blip2ForConditionalGeneration (OPT) and Blip2ForImageTextRetrieval."""

from pathlib import Path

import numpy as np

from saccade.errors import SaccadeError
from saccade.hub.convert import Rule, rules, to_ours
from saccade.hub.records import Record
from saccade.hub.weights import read_weights
from saccade.model import CONFIG, read_config
from saccade.models import opt, qformer
from saccade.models.blip2 import BLIP2, BLIP2Config
from saccade.models.opt import OPTConfig
from saccade.models.qformer import QFormerConfig
from saccade.models.vit import FIRST_AND_LAST, ViTConfig

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Names of Blip2VisionModel, under "vision_model."; what stands in one row there is unwrapped first.
ROWS = ("query_tokens", "vision_model.embeddings.position_embedding")
CLASS = "vision_model.embeddings.class_embedding"
QKV = ("block_{}/attention/query", "block_{}/attention/key_value")
VISION_MAP = (
    *FIRST_AND_LAST,
    Rule("patches/projection/bias", "embeddings.patch_embedding.bias"),
    Rule("cls", "embeddings.class_embedding"),
    Rule(("cls_position", "patches/positions"), "embeddings.position_embedding", "grid"),
    Rule(tuple(f"{name}/kernel" for name in QKV), "encoder.layers.{}.self_attn.qkv.weight", "linear"),
    Rule(tuple(f"{name}/bias" for name in QKV), "encoder.layers.{}.self_attn.qkv.bias"),
    *(
        Rule(f"block_{{}}/{ours}/{a}", f"encoder.layers.{{}}.{theirs}.{b}", layout)
        for ours, theirs in (
            ("attention/output", "self_attn.projection"),
            ("mlp/up", "mlp.fc1"),
            ("mlp/down", "mlp.fc2"),
        )
        for a, b, layout in (("kernel", "weight", "linear"), ("bias", "bias", "same"))
    ),
    *(
        Rule(f"block_{{}}/{ours}/{a}", f"encoder.layers.{{}}.{theirs}.{b}")
        for ours, theirs in (("attention_norm", "layer_norm1"), ("mlp_norm", "layer_norm2"))
        for a, b in (("gamma", "weight"), ("beta", "bias"))
    ),
)
HEADS = {"image_head": "vision_projection", "text_head": "text_projection", "itm": "itm_head"}
TABLE, HEAD = "language_model.model.decoder.embed_tokens.weight", "language_model.lm_head.weight"
IGNORES = (r".*\.position_ids",)


def is_published(record: dict) -> bool:
    """Whether a config.json is of this format."""
    return "model" not in record and record.get("model_type") == "blip-2"


def architecture(record: dict, source: str = CONFIG, pixels: tuple | None = None) -> BLIP2Config:
    """The model that a config.json describes; what it leaves out has transformers' defaults.

    Args: pixels: (mean, std) of the channels; None = those that the published models use.
    Raises: SaccadeError: another model or language model; a key that asks for what is not computed here.
    """
    r = Record(record, source)
    r.only("model_type", "blip-2")
    kinds = ("Blip2ForConditionalGeneration", "Blip2ForImageTextRetrieval")
    kind = (r.get("architectures") or [kinds[0]])[0]
    if kind not in kinds:
        raise SaccadeError(f"{source}: architectures is {kind!r}; this version reads {' and '.join(kinds)}")
    retrieval = kind == kinds[1]
    v, q, t = (
        Record(r.get(f"{name}_config") or {}, f"{source}, {name}") for name in ("vision", "qformer", "text")
    )
    return BLIP2Config(
        _vision(v, *(pixels or (MEAN, STD))),
        _qformer(q, r.count("num_query_tokens", 32), retrieval),
        None if retrieval else _opt(t),
        r.count("image_text_hidden_size", 256) if retrieval else None,
    )


def _vision(v: Record, mean: tuple, std: tuple) -> ViTConfig:
    v.only("hidden_act", "gelu")
    v.only("qkv_bias", True)
    side = v.count("image_size", 224)
    return ViTConfig(
        dim=v.count("hidden_size", 1408),
        depth=v.count("num_hidden_layers", 39, most=1000),
        num_heads=v.count("num_attention_heads", 16),
        mlp_dim=v.count("intermediate_size", 6144),
        patch_size=v.count("patch_size", 14),
        image_size=(side, side),
        pixel_mean=mean,
        pixel_std=std,
        epsilon=v.number("layer_norm_eps", 1e-6),
        cls=True,
        activation="gelu",
        interpolation="bicubic",
    )


def _qformer(q: Record, num_queries: int, retrieval: bool) -> QFormerConfig:
    q.only("hidden_act", "gelu")
    if q.flag("use_qformer_text_input", False) != retrieval:
        raise SaccadeError(
            f"{q.source}: use_qformer_text_input is {not retrieval}; retrieval has it and generation has not"
        )
    return QFormerConfig(
        vocab_size=q.count("vocab_size", 30522),
        dim=q.count("hidden_size", 768),
        depth=q.count("num_hidden_layers", 12, most=1000),
        num_heads=q.count("num_attention_heads", 12),
        mlp_dim=q.count("intermediate_size", 3072),
        num_queries=num_queries,
        cross_every=q.count("cross_attention_frequency", 2),
        max_length=q.count("max_position_embeddings", 512),
        epsilon=q.number("layer_norm_eps", 1e-12),
        text=retrieval,
    )


def _opt(t: Record) -> OPTConfig:
    t.only("model_type", "opt")
    for key, meant in (
        ("activation_function", "relu"), ("do_layer_norm_before", True), ("enable_bias", True),
        ("layer_norm_elementwise_affine", True), ("_remove_final_layer_norm", False),
        ("tie_word_embeddings", True),
    ):  # fmt: skip
        t.only(key, meant)
    dim = t.count("hidden_size", 768)
    t.only("word_embed_proj_dim", dim)
    return OPTConfig(
        vocab_size=t.count("vocab_size", 50272),
        dim=dim,
        depth=t.count("num_hidden_layers", 12, most=1000),
        num_heads=t.count("num_attention_heads", 12),
        mlp_dim=t.count("ffn_dim", 3072),
        max_length=t.count("max_position_embeddings", 2048),
    )


def weight_map(config: BLIP2Config) -> list[Rule]:
    """Every tensor of a checkpoint and its place in BLIP2."""
    q = config.qformer
    here, there = "qformer/", "qformer."
    table = [
        *rules(VISION_MAP, config.vision.depth, "vision/", "vision_model."),
        Rule("qformer/queries", "query_tokens"),
        *rules((*qformer.FIRST_NORM, *qformer.EVERY_BLOCK), q.depth, here, there),
    ]
    for i in range(0, q.depth, q.cross_every):
        table += rules([rule.of_block(i) for rule in qformer.CROSS_BLOCK], 0, here, there)
    heads = dict(HEADS) if config.embedding_dim is not None else {}
    if config.embedding_dim is not None:
        table += rules(qformer.TEXT_BLOCK, q.depth, here, there)
        for ours, theirs in (("table", "word"), ("positions", "position")):
            table.append(Rule(f"qformer/embedding/{ours}", f"embeddings.{theirs}_embeddings.weight"))
    if config.language is not None:
        heads["projection"] = "language_projection"
        table += rules(opt.WEIGHT_MAP, config.language.depth, "language/", "language_model.model.decoder.")
    for ours, theirs in heads.items():
        table += [
            Rule(f"{ours}/kernel", f"{theirs}.weight", "linear"),
            Rule(f"{ours}/bias", f"{theirs}.bias"),
        ]
    return table


def read_model(folder: str | Path, dtype: str = "float32", pixels: tuple | None = None) -> BLIP2:
    """The model of a published directory. Args: pixels: see `architecture`.

    Raises: SaccadeError: see `architecture`, `read_weights` and `saccade.hub.convert.to_ours`.
    """
    folder = Path(folder)
    config = architecture(read_config(folder), str(folder / CONFIG), pixels)
    tensors = read_weights(folder)
    for name in ROWS:
        if name in tensors and tensors[name].ndim == 3:
            tensors[name] = tensors[name][0]
    if CLASS in tensors:
        tensors[CLASS] = tensors[CLASS].reshape(-1)
    if np.array_equal(tensors.get(HEAD), tensors.get(TABLE)):
        tensors.pop(HEAD, None)  # stored twice by some writers
    try:
        shapes = BLIP2.shapes(config)
    except ValueError as error:  # widths that do not divide
        raise SaccadeError(f"{folder / CONFIG}: {error}") from error
    ours = to_ours(weight_map(config), tensors, shapes, str(folder), IGNORES)
    fresh = ("logit_scale",)  # transformers' retrieval gives plain cosines
    return BLIP2.with_weights(config, ours, dtype, str(folder), fresh=fresh)
