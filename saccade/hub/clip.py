"""Directories of transformers' CLIPModel and SiglipModel, in and out."""

import json
from pathlib import Path

import numpy as np
from keras import ops

from saccade.errors import SaccadeError
from saccade.files import save_tensors
from saccade.hub.convert import Rule, rules, to_ours, to_theirs
from saccade.hub.records import Record
from saccade.hub.weights import read_weights
from saccade.layers.mlp import ACTIVATIONS
from saccade.model import CONFIG, WEIGHTS, read_config
from saccade.models.clip import (
    CLIP,
    CLIP_MAP,
    OPENAI_MEAN,
    OPENAI_STD,
    SIGLIP_MAP,
    TEXT_MAP,
    CLIPConfig,
    TextConfig,
)
from saccade.models.vit import CLIP_WEIGHT_MAP, WEIGHT_MAP, ViTConfig

IGNORES = (r".*\.position_ids",)  # 0, 1, 2, ..., stored by some writers
LEGACY_EOS = 2  # configurations that say so mean the highest id, as transformers reads them


def is_published(record: dict) -> bool:
    """Whether a config.json is of this format."""
    return "model" not in record and record.get("model_type") in ("clip", "siglip")


def architecture(record: dict, source: str = CONFIG, pixels: tuple | None = None) -> CLIPConfig:
    """The model that a config.json describes; what it leaves out has transformers' defaults (base models').

    Args: pixels: (mean, std) of the channels; None = those that the published models use.
    Raises: SaccadeError: another model; a key that cannot be meant, or asks for what is not computed here.
    """
    r = Record(record, source)
    r.only("model_type", "clip", "siglip")
    siglip = record["model_type"] == "siglip"
    parts = [r.get(f"{name}_config") or {} for name in ("vision", "text")]
    v, t = (Record(p, f"{source}, {n}") for p, n in zip(parts, ("vision", "text"), strict=True))
    v.only("num_channels", 3)
    for part in (v, t):
        part.only("hidden_act", *([_act(siglip), *ACTIVATIONS]))
    side = v.count("image_size", 224)
    mean, std = pixels or ((0.5, 0.5) if siglip else (OPENAI_MEAN, OPENAI_STD))
    vision = ViTConfig(
        dim=v.count("hidden_size", 768),
        depth=v.count("num_hidden_layers", 12, most=1000),
        num_heads=v.count("num_attention_heads", 12),
        mlp_dim=v.count("intermediate_size", 3072),
        patch_size=v.count("patch_size", 16 if siglip else 32),
        image_size=(side, side),
        pixel_mean=mean,
        pixel_std=std,
        epsilon=v.number("layer_norm_eps", 1e-6 if siglip else 1e-5),
        cls=not siglip,
        pre_norm=not siglip,
        patch_bias=siglip,
        activation=v.text("hidden_act", _act(siglip)),
        interpolation="bicubic",
    )
    eos = t.get("eos_token_id", 49407)
    text = TextConfig(
        vocab_size=t.count("vocab_size", 32000 if siglip else 49408),
        dim=t.count("hidden_size", 768 if siglip else 512),
        depth=t.count("num_hidden_layers", 12, most=1000),
        num_heads=t.count("num_attention_heads", 12 if siglip else 8),
        mlp_dim=t.count("intermediate_size", 3072 if siglip else 2048),
        max_length=t.count("max_position_embeddings", 64 if siglip else 77),
        epsilon=t.number("layer_norm_eps", 1e-6 if siglip else 1e-5),
        activation=t.text("hidden_act", _act(siglip)),
        causal=not siglip,
        pool="last" if siglip else "highest" if eos == LEGACY_EOS else "eos",
        eos_id=49407 if siglip or eos == LEGACY_EOS else t.count("eos_token_id", 49407),
        head_bias=siglip,
    )
    if not siglip:
        return CLIPConfig(vision, text, r.count("projection_dim", 512))
    v.only("vision_use_head", True)
    if t.count("projection_size", text.dim) != vision.dim:
        raise SaccadeError(
            f"{source}: texts become {t.get('projection_size', text.dim)} wide and images {vision.dim}; get "
            "the file again"
        )
    return CLIPConfig(vision, text, None, logit_bias=True)


def _act(siglip: bool) -> str:
    return "gelu_pytorch_tanh" if siglip else "quick_gelu"


def weight_map(config: CLIPConfig) -> list[Rule]:
    """Every tensor of a checkpoint and its place in CLIP."""
    siglip = config.logit_bias
    return [
        *rules(WEIGHT_MAP if siglip else CLIP_WEIGHT_MAP, config.vision.depth, "vision/", "vision_model."),
        *rules(TEXT_MAP, config.text.depth, "text/", "text_model."),
        *(SIGLIP_MAP if siglip else CLIP_MAP),
    ]


def read_model(folder: str | Path, dtype: str = "float32", pixels: tuple | None = None) -> CLIP:
    """The model of a published directory. Args: pixels: see `architecture`.

    Raises: SaccadeError: see `architecture`, `read_weights` and `saccade.hub.convert.to_ours`.
    """
    folder = Path(folder)
    config = architecture(read_config(folder), str(folder / CONFIG), pixels)
    tensors = read_weights(folder)
    try:
        shapes = CLIP.shapes(config)
    except ValueError as error:  # widths that do not divide
        raise SaccadeError(f"{folder / CONFIG}: {error}") from error
    ours = to_ours(weight_map(config), tensors, shapes, str(folder), IGNORES)
    return CLIP.with_weights(config, ours, dtype, str(folder))


def write(folder: Path, model: CLIP) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors as transformers has them.

    The folder exists; what the texts need, tokenizer.json, is the tokenizer's own.

    Raises: SaccadeError: the model is neither a CLIP nor a SigLIP as published.
    """
    record = flat(model.config)
    if architecture(record, pixels=(model.config.vision.pixel_mean, model.config.vision.pixel_std)) != (
        model.config
    ):
        raise SaccadeError(
            "this model is neither CLIPModel nor SiglipModel of transformers (another pooling, stem or "
            "projection); save it with `save` instead"
        )
    ours = {name: np.asarray(ops.convert_to_numpy(v.value)) for name, v in model.named_variables().items()}
    save_tensors(folder / WEIGHTS, to_theirs(weight_map(model.config), ours), {"format": "pt"})
    side, siglip = model.config.vision.image_size[0], model.config.logit_bias
    mean, std = (
        list(value) if isinstance(value, tuple) else [value] * 3
        for value in (model.config.vision.pixel_mean, model.config.vision.pixel_std)
    )
    square = {"height": side, "width": side}
    pixels: dict = {
        "image_mean": mean,
        "image_std": std,
        "resample": 3,
        "do_resize": True,
        "do_normalize": True,
    }
    pixels |= {"size": square} if siglip else {"size": {"shortest_edge": side}, "crop_size": square}
    for name, values in ((CONFIG, record), ("preprocessor_config.json", pixels)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def flat(config: CLIPConfig) -> dict:
    """config.json of CLIPModel or SiglipModel."""
    kind = "siglip" if config.logit_bias else "clip"
    v, t = config.vision, config.text

    def tower(part) -> dict:
        return {
            "hidden_size": part.dim, "intermediate_size": part.mlp_dim, "num_hidden_layers": part.depth,
            "num_attention_heads": part.num_heads, "hidden_act": part.activation,
            "layer_norm_eps": part.epsilon, "projection_dim": config.width,
        }  # fmt: skip

    vision = {"model_type": f"{kind}_vision_model", "image_size": v.image_size[0], "patch_size": v.patch_size}
    text = {
        "model_type": f"{kind}_text_model", "vocab_size": t.vocab_size, "projection_size": config.width,
        "max_position_embeddings": t.max_length,
        "eos_token_id": LEGACY_EOS if t.pool == "highest" else t.eos_id,
    }  # fmt: skip
    return {
        "architectures": [{"siglip": "SiglipModel", "clip": "CLIPModel"}[kind]],
        "model_type": kind,
        "projection_dim": config.width,
        "vision_config": {**tower(v), **vision},
        "text_config": {**tower(t), **text},
    }
