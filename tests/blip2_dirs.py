"""Directories in the format of transformers' BLIP-2, without transformers."""

import json
from dataclasses import replace

import numpy as np
from reference import to_numpy
from safetensors.numpy import save_file

from saccade.hub.blip2 import CLASS, MEAN, ROWS, STD, weight_map
from saccade.hub.convert import to_theirs
from saccade.models.blip2 import BLIP2Config
from saccade.models.opt import OPTConfig
from saccade.models.qformer import QFormerConfig
from saccade.models.vit import ViTConfig

VISION = {
    "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
QFORMER = {
    "vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 16,
}  # fmt: skip
TEXT = {
    "model_type": "opt", "vocab_size": 53, "hidden_size": 32, "num_hidden_layers": 1, "ffn_dim": 44,
    "num_attention_heads": 4, "max_position_embeddings": 40, "word_embed_proj_dim": 32,
}  # fmt: skip
GENERATION = {
    "architectures": ["Blip2ForConditionalGeneration"], "model_type": "blip-2", "num_query_tokens": 5,
    "vision_config": VISION, "qformer_config": QFORMER, "text_config": TEXT,
}  # fmt: skip
RETRIEVAL = {
    **GENERATION, "architectures": ["Blip2ForImageTextRetrieval"], "image_text_hidden_size": 12,
    "qformer_config": {**QFORMER, "use_qformer_text_input": True},
}  # fmt: skip
VIT = ViTConfig(
    20, 1, 2, 28, 4, (8, 8), pixel_mean=MEAN, pixel_std=STD, cls=True, activation="gelu",
    interpolation="bicubic",
)  # fmt: skip
CONFIG = BLIP2Config(
    VIT, QFormerConfig(31, 24, 3, 3, 40, 5, 2, 16, text=False), OPTConfig(53, 32, 1, 4, 44, 40), None
)
CONFIGS = {
    "generation": CONFIG,
    "retrieval": replace(CONFIG, qformer=replace(CONFIG.qformer, text=True), language=None, embedding_dim=12),
}
RECORDS = {"generation": GENERATION, "retrieval": RETRIEVAL}


def tensors_of(model):
    """As transformers stores them."""
    ours = {name: to_numpy(v) for name, v in model.named_variables().items() if name != "logit_scale"}
    theirs = to_theirs(weight_map(model.config), ours)
    for name in ROWS:
        theirs[name] = theirs[name][None]
    theirs[CLASS] = theirs[CLASS].reshape(1, 1, -1)
    return {name: np.ascontiguousarray(t) for name, t in theirs.items()}


def write(folder, record, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(record))
    return folder
