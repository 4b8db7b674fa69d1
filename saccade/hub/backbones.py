"""Backbones in the format of transformers: SigLIP towers and Llama-like language models, in and out."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from keras import ops

from saccade.errors import SaccadeError
from saccade.files import atomic_directory, save_tensors
from saccade.hub.convert import Rule, rules, to_ours, to_theirs
from saccade.hub.records import Record
from saccade.hub.weights import read_weights
from saccade.layers.embeddings import resize_positions
from saccade.model import CONFIG, WEIGHTS, read_config
from saccade.models import llama, vit
from saccade.models.llama import LlamaConfig
from saccade.models.nano_vlm import NanoVLM, NanoVLMConfig
from saccade.models.vit import ViTConfig

TOWER, DECODER = "vision_model.", "model."
POSITIONS = f"{TOWER}embeddings.position_embedding.weight"
# The text tower, the pooling head and the temperature of a whole SigLIP; nanoVLM reads patches only.
TOWER_IGNORES = (r"text_model\..*", r"logit_(scale|bias)", r"vision_model\.head\..*", r".*\.position_ids")
TABLE, HEAD = f"{DECODER}embed_tokens.weight", "lm_head.weight"
DECODER_IGNORES = (r".*\.rotary_emb\.inv_freq",)


def read_siglip(folder: str | Path, image_size: tuple[int, int] | None = None) -> tuple[ViTConfig, dict]:
    """A SigLIP or SigLIP2 tower, of a whole model or alone.

    Args: image_size: (height, width) to use it at; its positions are interpolated (bicubic, as in
        transformers). None = its own.
    Returns: its configuration, pixels in [0, 1] as nanoVLM gives them; our name ("patches/...") -> array.
    Raises: SaccadeError: no SigLIP, or one with flexible sizes; see also `read_weights`, `to_ours`.
    """
    folder = Path(folder)
    record = read_config(folder)
    r = Record(record, str(folder / CONFIG))
    r.only("model_type", "siglip", "siglip_vision_model")
    r = Record(record.get("vision_config") or record, r.source)
    r.only("hidden_act", "gelu_pytorch_tanh")
    r.only("num_channels", 3)
    side = r.count("image_size", 224)
    native = ViTConfig(  # transformers leaves out what equals its defaults, which are those of SigLIP base
        dim=r.count("hidden_size", 768),
        depth=r.count("num_hidden_layers", 12, most=1000),
        num_heads=r.count("num_attention_heads", 12),
        mlp_dim=r.count("intermediate_size", 3072),
        patch_size=r.count("patch_size", 16),
        image_size=(side, side),
        pixel_mean=0.0,
        pixel_std=1.0,
        epsilon=r.number("layer_norm_eps", 1e-6),
        interpolation="bicubic",
    )
    config = native if image_size is None else replace(native, image_size=tuple(image_size))
    tensors = read_weights(folder)
    if "post_layernorm.weight" in tensors:  # a tower alone, as transformers 5 writes it
        tensors = {TOWER + name: tensor for name, tensor in tensors.items()}
    if config != native and POSITIONS in tensors:
        tensors[POSITIONS] = _resized(tensors[POSITIONS], native, config, str(folder))
    shapes = _shapes(NanoVLMConfig(vision=config, language=_SMALL), "vision/")
    table = rules(vit.WEIGHT_MAP, config.depth, "", TOWER)
    return config, to_ours(table, tensors, shapes, str(folder), TOWER_IGNORES)


_SMALL = LlamaConfig(1, 2, 0, 1, 1, 1)  # stands in for the part that is not asked for


def _shapes(config: NanoVLMConfig, part: str) -> dict:
    try:
        shapes = NanoVLM.shapes(config)
    except ValueError as error:  # widths that do not divide
        raise SaccadeError(f"the configuration cannot be built: {error}") from error
    return {name.removeprefix(part): shape for name, shape in shapes.items() if name.startswith(part)}


def _resized(table: np.ndarray, native: ViTConfig, config: ViTConfig, source: str) -> np.ndarray:
    grid = native.grid(native.image_size)
    if table.ndim != 2 or table.shape[0] != grid[0] * grid[1]:
        raise SaccadeError(
            f"{source}: {POSITIONS} is {table.shape}, the {grid[0]} x {grid[1]} patches of its config.json "
            "need one row each; use the config.json that belongs to it"
        )
    positions = table.astype(np.float32).reshape(*grid, -1)
    grid = config.grid(config.image_size)
    resized = ops.convert_to_numpy(resize_positions(positions, grid, config.interpolation))
    return np.asarray(resized).reshape(-1, table.shape[1])


def read_llama(folder: str | Path, extra_tokens: int = 0, seed: int = 0) -> tuple[LlamaConfig, dict]:
    """A Llama-like language model: SmolLM2, Llama 2, TinyLlama.

    Args: extra_tokens: rows to add to the vocabulary, drawn from N(0, 0.02^2).  seed: of the draw.
    Returns: its configuration; our name ("block_0/...") -> array.
    Raises: SaccadeError: another architecture, scaled RoPE, biases; see also `read_weights`, `to_ours`.
    """
    folder = Path(folder)
    r = Record(read_config(folder), str(folder / CONFIG))
    r.only("model_type", "llama")
    for key, meant in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        r.only(key, meant)
    rope = r.get("rope_parameters") or r.get("rope_scaling") or {}
    Record(rope, f"{r.source}, rope").only("rope_type", "default")
    heads, dim = r.count("num_attention_heads"), r.count("hidden_size")
    r.only("head_dim", dim // heads, None)
    native = LlamaConfig(
        vocab_size=r.count("vocab_size"),
        dim=dim,
        depth=r.count("num_hidden_layers", most=1000),
        num_heads=heads,
        num_kv_heads=r.count("num_key_value_heads", heads),
        mlp_dim=r.count("intermediate_size"),
        max_length=r.count("max_position_embeddings", 2048),
        rope_theta=Record({**rope, **r.values}, r.source).number("rope_theta", 10_000.0),
        epsilon=r.number("rms_norm_eps", 1e-6),
        tie=r.flag("tie_word_embeddings", False),
    )
    config = replace(native, vocab_size=native.vocab_size + extra_tokens)
    tensors = read_weights(folder)
    if native.tie and np.array_equal(tensors.get(HEAD), tensors.get(TABLE)):
        tensors.pop(HEAD, None)  # stored twice by some writers
    rng = np.random.default_rng(seed)
    for name in (TABLE, HEAD):
        if extra_tokens and name in tensors:
            new = rng.normal(scale=0.02, size=(extra_tokens, dim)).astype(np.float32)
            tensors[name] = np.concatenate([tensors[name].astype(np.float32), new])
    shapes = _shapes(NanoVLMConfig(vision=_ONE_PATCH, language=config, shuffle=1), "language/")
    return config, to_ours(llama_map(config), tensors, shapes, str(folder), DECODER_IGNORES)


_ONE_PATCH = ViTConfig(1, 0, 1, 1, 1, (1, 1))


def llama_map(config: LlamaConfig) -> list[Rule]:
    """Every tensor of a LlamaForCausalLM and its place in Llama."""
    head = [] if config.tie else [Rule("head", HEAD)]
    return [*rules(llama.WEIGHT_MAP, config.depth, "", DECODER), *head]


def from_backbones(
    vision: str | Path,
    language: str | Path,
    shuffle: int,
    image_size: int | None = None,
    extra_tokens: int = 0,
    seed: int = 0,
    dtype: str = "float32",
) -> NanoVLM:
    """A NanoVLM to train: two backbones, and a linear map between them that starts at random.

    Args:
        vision, language: directories in the format of transformers (`saccade.hub.fetch` finds them by name).
        shuffle: r of the pixel shuffle.  image_size: pixels a side; None = the tower's own.
        extra_tokens: rows to add to the vocabulary.  seed: of all that starts at random.
    Raises: SaccadeError: a directory that cannot be used; sizes that r does not divide, or that are none.
    """
    for name, value, least in (
        ("shuffle", shuffle, 1),
        ("image_size", image_size, 1),
        ("extra_tokens", extra_tokens, 0),
    ):
        if value is not None and value < least:
            raise SaccadeError(f"{name} is {value}, it must be at least {least}")
    tower, seen = read_siglip(vision, None if image_size is None else (image_size, image_size))
    decoder, said = read_llama(language, extra_tokens, seed)
    rows = tower.grid(tower.image_size)[0]
    if rows % shuffle or tower.image_size[0] % tower.patch_size:
        raise SaccadeError(
            f"image_size {tower.image_size[0]} gives {rows} x {rows} patches of {tower.patch_size} px, which "
            f"shuffle={shuffle} does not divide; choose another image_size"
        )
    tensors = {f"vision/{name}": t for name, t in seen.items()}
    tensors |= {f"language/{name}": t for name, t in said.items()}
    keras.utils.set_random_seed(seed)
    config = NanoVLMConfig(tower, decoder, shuffle)
    return NanoVLM.with_weights(config, tensors, dtype, f"{vision} and {language}", fresh=("projection/",))


def write_siglip(folder: str | Path, model: NanoVLM) -> None:
    """Write the tower as a SiglipVisionModel, for other runtimes. Raises: SaccadeError: it is none."""
    c = model.config.vision
    if c.stem or not c.plain or c.image_size[0] != c.image_size[1]:
        raise SaccadeError("SigLIP has no stem and square images; this tower cannot be written as one")
    record = {
        "architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model",
        "hidden_size": c.dim, "intermediate_size": c.mlp_dim, "num_hidden_layers": c.depth,
        "num_attention_heads": c.num_heads, "num_channels": 3, "image_size": c.image_size[0],
        "patch_size": c.patch_size, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": c.epsilon,
        "attention_dropout": 0.0, "vision_use_head": False,
    }  # fmt: skip
    _write(folder, model, "vision/", rules(vit.WEIGHT_MAP, c.depth, "", TOWER), record)


def write_llama(folder: str | Path, model: NanoVLM) -> None:
    """Write the decoder as a LlamaForCausalLM, for other runtimes."""
    c = model.config.language
    record = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": c.vocab_size,
        "hidden_size": c.dim, "intermediate_size": c.mlp_dim, "num_hidden_layers": c.depth,
        "num_attention_heads": c.num_heads, "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.dim // c.num_heads, "hidden_act": "silu", "max_position_embeddings": c.max_length,
        "rms_norm_eps": c.epsilon, "rope_theta": c.rope_theta, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": c.tie,
    }  # fmt: skip
    _write(folder, model, "language/", llama_map(c), record)


def _write(folder, model: NanoVLM, part: str, table: list[Rule], record: dict) -> None:
    ours = {
        name.removeprefix(part): np.asarray(ops.convert_to_numpy(v.value))
        for name, v in model.named_variables().items()
        if name.startswith(part)
    }
    with atomic_directory(Path(folder)) as partial:
        save_tensors(partial / WEIGHTS, to_theirs(table, ours), {"format": "pt"})
        (partial / CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
