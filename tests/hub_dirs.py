"""Backbone directories in the format of transformers, written by hand: small, every value random."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

C, MLP_C, SIDE, PATCH = 12, 20, 12, 4
D, MLP_D, HEADS, KV_HEADS, V = 24, 40, 3, 1, 31
SIGLIP = {
    "model_type": "siglip",
    "text_config": {"model_type": "siglip_text_model"},
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": C, "intermediate_size": MLP_C,
        "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH,
    },
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "hidden_size": D, "intermediate_size": MLP_D, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": V, "rms_norm_eps": 1e-5,
    "rope_theta": 50_000, "max_position_embeddings": 99, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip


def _random(shapes: dict) -> dict:
    rng = np.random.default_rng(4)
    return {n: (rng.normal(size=s) * 0.3).astype(np.float32) for n, s in shapes.items()}


def siglip_tensors() -> dict:
    e, shapes = "vision_model.embeddings", {}
    shapes[f"{e}.patch_embedding.weight"] = (C, 3, PATCH, PATCH)
    shapes[f"{e}.patch_embedding.bias"] = (C,)
    shapes[f"{e}.position_embedding.weight"] = ((SIDE // PATCH) ** 2, C)
    for i in range(2):
        layer = f"vision_model.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}.self_attn.{name}.weight"] = (C, C)
            shapes[f"{layer}.self_attn.{name}.bias"] = (C,)
        for name in ("layer_norm1", "layer_norm2"):
            shapes[f"{layer}.{name}.weight"] = shapes[f"{layer}.{name}.bias"] = (C,)
        shapes[f"{layer}.mlp.fc1.weight"], shapes[f"{layer}.mlp.fc1.bias"] = (MLP_C, C), (MLP_C,)
        shapes[f"{layer}.mlp.fc2.weight"], shapes[f"{layer}.mlp.fc2.bias"] = (C, MLP_C), (C,)
    shapes["vision_model.post_layernorm.weight"] = shapes["vision_model.post_layernorm.bias"] = (C,)
    # what a whole SigLIP has besides
    shapes |= {"logit_scale": (1,), "logit_bias": (1,), "vision_model.head.probe": (1, 1, C)}
    shapes |= {"text_model.final_layer_norm.weight": (C,)}
    return _random(shapes)


def llama_tensors() -> dict:
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    kv = D // HEADS * KV_HEADS
    for i in range(2):
        layer = f"model.layers.{i}"
        for name, width in (("q", D), ("k", kv), ("v", kv), ("o", D)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (width, D)
        for name in ("gate", "up"):
            shapes[f"{layer}.mlp.{name}_proj.weight"] = (MLP_D, D)
        shapes[f"{layer}.mlp.down_proj.weight"] = (D, MLP_D)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}.{name}.weight"] = (D,)
    return _random(shapes)


def write(folder: Path, config: dict, tensors: dict, **changes) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder
