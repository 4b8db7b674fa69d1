"""Checkpoint directories in the published nanoVLM format: a flat config.json and model.safetensors."""

import json
import warnings
from pathlib import Path

import numpy as np
from keras import ops

from saccade.errors import SaccadeError, SaccadeWarning
from saccade.files import save_tensors
from saccade.hub.convert import Rule, rules, to_ours, to_theirs
from saccade.hub.records import Record
from saccade.hub.weights import read_weights
from saccade.layers.rotary import frequencies
from saccade.model import CONFIG, WEIGHTS, read_config
from saccade.models.llama import LlamaConfig
from saccade.models.nano_vlm import LANGUAGE_MAP, PROJECTION_MAP, VISION_MAP, NanoVLM, NanoVLMConfig
from saccade.models.vit import ViTConfig

TABLE, HEAD = "decoder.token_embedding.weight", "decoder.head.weight"
FREQUENCIES = "decoder.rotary_embd.inv_freq"
# Keys that say nothing about the function; they are kept and written back.
INERT = {
    "vit_dropout", "vit_model_type", "lm_dropout", "lm_base_vocab_size", "extra_token_amount",
    "lm_use_tokens", "lm_model_type", "vlm_load_backbone_weights", "vlm_checkpoint_path", "hf_repo_name",
}  # fmt: skip
# Keys that the processor reads.
SPOKEN = {
    "lm_tokenizer", "lm_chat_template", "lm_max_length", "lm_eos_token_id", "mp_image_token_length",
    "max_img_size", "resize_to_max_side_len", "vlm_extra_tokens",
}  # fmt: skip


def is_published(record: dict) -> bool:
    """Whether a config.json is of this format."""
    return "model" not in record and "vit_hidden_dim" in record and "lm_hidden_dim" in record


def architecture(record: dict, source: str = CONFIG) -> NanoVLMConfig:
    """The model that a flat config.json describes.

    Raises: SaccadeError: a key is missing or cannot be meant, or asks for what no published checkpoint has.
    Warns: SaccadeWarning: keys that this version does not know.
    """
    r = Record(record, source)
    for key, meant in (("vit_cls_flag", False), ("lm_attn_scaling", 1.0)):
        r.only(key, meant)
    side = r.count("vit_img_size")
    vision = ViTConfig(
        dim=r.count("vit_hidden_dim"),
        depth=r.count("vit_n_blocks", most=1000),
        num_heads=r.count("vit_n_heads"),
        mlp_dim=r.count("vit_inter_dim"),
        patch_size=r.count("vit_patch_size"),
        image_size=(side, side),
        pixel_mean=0.0,
        pixel_std=1.0,
        epsilon=r.number("vit_ln_eps"),
        interpolation="bicubic",
    )
    language = LlamaConfig(
        vocab_size=r.count("lm_vocab_size"),
        dim=r.count("lm_hidden_dim"),
        depth=r.count("lm_n_blocks", most=1000),
        num_heads=r.count("lm_n_heads"),
        num_kv_heads=r.count("lm_n_kv_heads"),
        mlp_dim=r.count("lm_inter_dim"),
        max_length=r.count("lm_max_position_embeddings"),
        rope_theta=r.number("lm_re_base"),
        epsilon=r.number("lm_rms_eps"),
        tie=r.flag("lm_tie_weights", True),
    )
    config = NanoVLMConfig(vision, language, r.count("mp_pixel_shuffle_factor"))
    unknown = sorted(record.keys() - flat(config).keys() - INERT - SPOKEN)
    if unknown:
        warnings.warn(
            f"{source} has {len(unknown)} keys that this version does not know and does not use: "
            f"{', '.join(unknown[:8])}",
            SaccadeWarning,
            stacklevel=2,
        )
    rows, rest = divmod(side, config.vision.patch_size)
    if rest or rows % config.shuffle:
        raise SaccadeError(
            f"{source}: vit_img_size {side} is not a multiple of vit_patch_size {config.vision.patch_size} "
            f"times mp_pixel_shuffle_factor {config.shuffle}; get the file again"
        )
    return config


def flat(config: NanoVLMConfig) -> dict:
    """The keys of a flat config.json that follow from a model's configuration.

    Raises: SaccadeError: the format cannot say it (a stem, a normalisation, an image that is not square).
    """
    v, l = config.vision, config.language  # noqa: E741, as in the keys
    if (
        v.stem
        or not v.plain
        or (v.pixel_mean, v.pixel_std) != (0.0, 1.0)
        or v.image_size[0] != v.image_size[1]
    ):
        raise SaccadeError(
            "the published nanoVLM format has no stem, pixels in [0, 1] and square images; "
            "save this model with `save` instead"
        )
    theta = int(l.rope_theta) if float(l.rope_theta).is_integer() else l.rope_theta
    return {
        "vit_hidden_dim": v.dim, "vit_inter_dim": v.mlp_dim, "vit_patch_size": v.patch_size,
        "vit_img_size": v.image_size[0], "vit_n_heads": v.num_heads, "vit_n_blocks": v.depth,
        "vit_ln_eps": v.epsilon, "vit_cls_flag": False,
        "lm_hidden_dim": l.dim, "lm_inter_dim": l.mlp_dim, "lm_rms_eps": l.epsilon, "lm_re_base": theta,
        "lm_max_position_embeddings": l.max_length, "lm_vocab_size": l.vocab_size, "lm_n_heads": l.num_heads,
        "lm_n_kv_heads": l.num_kv_heads, "lm_n_blocks": l.depth, "lm_attn_scaling": 1.0,
        "lm_tie_weights": l.tie, "mp_pixel_shuffle_factor": config.shuffle,
    }  # fmt: skip


def weight_map(config: NanoVLMConfig) -> list[Rule]:
    """Every tensor of a checkpoint but the frequencies, and its place in NanoVLM."""
    tied = config.language.tie
    tables = [Rule("language/table", HEAD if tied else TABLE)]
    tables += [] if tied else [Rule("language/head", HEAD)]
    return [
        *rules(VISION_MAP, config.vision.depth, "vision/", "vision_encoder."),
        *rules(PROJECTION_MAP, 0, "projection/", "MP."),
        *tables,
        *rules(LANGUAGE_MAP, config.language.depth, "language/", "decoder."),
    ]


def read_model(folder: str | Path, dtype: str = "float32") -> NanoVLM:
    """The model of a published directory.

    Raises: SaccadeError: see `architecture`, `read_weights` and `saccade.hub.convert.to_ours`; a head that
        differs from the table it is tied to.
    """
    folder = Path(folder)
    config = architecture(read_config(folder), str(folder / CONFIG))
    tensors = read_weights(folder)
    if config.language.tie:
        tensors = _one_table(tensors, str(folder))
    try:
        with_shapes = NanoVLM.shapes(config)
    except ValueError as error:  # widths that do not divide
        raise SaccadeError(f"{folder / CONFIG}: {error}") from error
    ours = to_ours(weight_map(config), tensors, with_shapes, str(folder), ignore=(FREQUENCIES,))
    return NanoVLM.with_weights(config, ours, dtype, str(folder))


def _one_table(tensors: dict, source: str) -> dict:
    """The tied table is stored once, under either name; a file may hold both."""
    head, table = tensors.get(HEAD), tensors.get(TABLE)
    if head is not None and table is not None and not np.array_equal(head, table):
        raise SaccadeError(
            f"{source}: {HEAD} and {TABLE} differ, but lm_tie_weights is true; set it to false in {CONFIG}"
        )
    tensors = {name: tensor for name, tensor in tensors.items() if name != TABLE}
    return tensors | {HEAD: table} if head is None and table is not None else tensors


def write(folder: Path, model: NanoVLM, record: dict) -> None:
    """Write config.json and model.safetensors as the reference does, into an existing folder.

    Args: record: further keys of config.json (what the processor reads, names); see `flat` for the others.
    """
    config = model.config
    ours = {name: np.asarray(ops.convert_to_numpy(v.value)) for name, v in model.named_variables().items()}
    tensors = to_theirs(weight_map(config), ours)
    tensors[FREQUENCIES] = frequencies(
        config.language.dim // config.language.num_heads, config.language.rope_theta
    )
    # The note on shared tensors that safetensors' own writer leaves for torch.
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"} | ({TABLE: HEAD} if config.language.tie else {}))
    text = json.dumps({**record, **flat(config)}, indent=4, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
