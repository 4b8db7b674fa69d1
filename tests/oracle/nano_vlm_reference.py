"""nanoVLM put together from transformers' parts, every parameter random: what our NanoVLM must equal.

    python tests/oracle/nano_vlm_reference.py      writes tests/golden/nano_vlm.npz

The golden file holds a checkpoint in the published format (`tensor:` names, config.json), a left-padded batch
and what transformers makes of it.
"""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "nano_vlm.npz"
C, MLP_C, HEADS_C, DEPTH_C, PATCH, SIDE = 20, 28, 2, 2, 4, 16
D, MLP_D, HEADS, KV_HEADS, DEPTH, V, THETA = 24, 44, 6, 2, 3, 53, 100_000
SHUFFLE, M = 2, 4
LENGTHS, IMAGES, S = (13, 11, 4), (1, 2, 0), 13


def flat_config(tie: bool) -> dict:
    return {
        "vit_hidden_dim": C, "vit_inter_dim": MLP_C, "vit_patch_size": PATCH, "vit_img_size": SIDE,
        "vit_n_heads": HEADS_C, "vit_dropout": 0.0, "vit_n_blocks": DEPTH_C, "vit_ln_eps": 1e-6,
        "vit_cls_flag": False, "lm_hidden_dim": D, "lm_inter_dim": MLP_D, "lm_rms_eps": 1e-5,
        "lm_re_base": THETA, "lm_max_position_embeddings": 64, "lm_vocab_size": V, "lm_n_heads": HEADS,
        "lm_n_kv_heads": KV_HEADS, "lm_dropout": 0.0, "lm_n_blocks": DEPTH, "lm_attn_scaling": 1.0,
        "lm_tie_weights": tie, "mp_pixel_shuffle_factor": SHUFFLE,
    }  # fmt: skip


def batch() -> dict:
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, V, size=(len(LENGTHS), S)).astype(np.int32)
    padding_mask = np.arange(S) >= S - np.array(LENGTHS)[:, None]
    image_mask = np.zeros_like(padding_mask)
    image_mask[0, 3 : 3 + M] = True
    image_mask[1, 2 : 2 + M] = True  # at the row's start, and again after one word
    image_mask[1, 3 + M : 3 + 2 * M] = True
    images = rng.random((sum(IMAGES), SIDE, SIDE, 3)).astype(np.float32)
    return {"images": images, "tokens": tokens, "padding_mask": padding_mask, "image_mask": image_mask}


def models(tie: bool):
    """(SiglipVisionModel, the linear map, LlamaForCausalLM), every parameter random."""
    import torch
    import transformers

    vision = transformers.SiglipVisionConfig(
        hidden_size=C, intermediate_size=MLP_C, num_hidden_layers=DEPTH_C, num_attention_heads=HEADS_C,
        image_size=SIDE, patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    language = transformers.LlamaConfig(
        hidden_size=D, intermediate_size=MLP_D, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, vocab_size=V, rms_norm_eps=1e-5, max_position_embeddings=64,
        rope_parameters={"rope_theta": float(THETA), "rope_type": "default"}, tie_word_embeddings=tie,
        head_dim=D // HEADS, attn_implementation="eager",
    )  # fmt: skip
    parts = (
        transformers.SiglipVisionModel(vision).eval(),
        torch.nn.Linear(C * SHUFFLE**2, D, bias=False),
        transformers.LlamaForCausalLM(language).eval(),
    )
    generator = torch.Generator().manual_seed(0)
    for part in parts:
        for parameter in part.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
            value = torch.randn(parameter.shape, generator=generator) * spread
            parameter.data = value + (1.0 if parameter.ndim == 1 and "Llama" in type(part).__name__ else 0.0)
    return parts


def published(parts, tie: bool) -> dict:
    """The tensors under the names of a published checkpoint."""
    import torch

    vision, linear, language = parts
    v = {name.removeprefix("vision_model."): t for name, t in vision.state_dict().items()}
    out = {
        "vision_encoder.patch_embedding.conv.weight": v["embeddings.patch_embedding.weight"],
        "vision_encoder.patch_embedding.conv.bias": v["embeddings.patch_embedding.bias"],
        "vision_encoder.patch_embedding.position_embedding": v["embeddings.position_embedding.weight"][None],
        "vision_encoder.layer_norm.weight": v["post_layernorm.weight"],
        "vision_encoder.layer_norm.bias": v["post_layernorm.bias"],
        "MP.proj.weight": linear.weight,
    }
    for i in range(DEPTH_C):
        here, there = f"vision_encoder.blocks.{i}", f"encoder.layers.{i}"
        for kind in ("weight", "bias"):
            qkv = [v[f"{there}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            out[f"{here}.attn.qkv_proj.{kind}"] = torch.cat(qkv)
            out[f"{here}.attn.out_proj.{kind}"] = v[f"{there}.self_attn.out_proj.{kind}"]
            for number in (1, 2):
                out[f"{here}.ln{number}.{kind}"] = v[f"{there}.layer_norm{number}.{kind}"]
                out[f"{here}.mlp.fc{number}.{kind}"] = v[f"{there}.mlp.fc{number}.{kind}"]
    w = language.state_dict()
    for i in range(DEPTH):
        here, there = f"decoder.blocks.{i}", f"model.layers.{i}"
        for p in "qkv":
            out[f"{here}.attn.{p}_proj.weight"] = w[f"{there}.self_attn.{p}_proj.weight"]
        out[f"{here}.attn.out_proj.weight"] = w[f"{there}.self_attn.o_proj.weight"]
        for p in ("gate", "up", "down"):
            out[f"{here}.mlp.{p}_proj.weight"] = w[f"{there}.mlp.{p}_proj.weight"]
        out[f"{here}.norm1.weight"] = w[f"{there}.input_layernorm.weight"]
        out[f"{here}.norm2.weight"] = w[f"{there}.post_attention_layernorm.weight"]
    out["decoder.norm.weight"] = w["model.norm.weight"]
    out["decoder.head.weight"] = w["lm_head.weight"]
    if not tie:
        out["decoder.token_embedding.weight"] = w["model.embed_tokens.weight"]
    out["decoder.rotary_embd.inv_freq"] = language.model.rotary_emb.inv_freq
    return {name: tensor.detach().numpy().copy() for name, tensor in out.items()}


def outputs(parts) -> dict:
    """What transformers' parts make of `batch`: image tokens, logits, and five greedy tokens."""
    import torch
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

    vision, linear, language = parts
    given = {name: torch.from_numpy(value) for name, value in batch().items()}
    with torch.no_grad():
        patches = vision(given["images"].permute(0, 3, 1, 2)).last_hidden_state
        soft = linear(Idefics3Connector.pixel_shuffle(None, patches, SHUFFLE))
        x = language.get_input_embeddings()(given["tokens"].long())
        x = x.masked_scatter(given["image_mask"][..., None], soft)
        mask = given["padding_mask"].long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = language(inputs_embeds=x, attention_mask=mask, position_ids=positions).logits
        written = []
        for _ in range(5):  # no cache: everything again
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            step = language(inputs_embeds=x, attention_mask=mask, position_ids=positions, use_cache=False)
            best = step.logits[:, -1].argmax(-1)
            written.append(best)
            x = torch.cat([x, language.get_input_embeddings()(best)[:, None]], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return {
        "patches": patches.numpy(),
        "soft": soft.numpy(),
        "logits": logits.numpy(),
        "written": torch.stack(written, 1).numpy().astype(np.int32),
    }


def make(tie: bool = True) -> dict:
    """Everything of the golden file, name -> array."""
    parts = models(tie)
    return {
        "config": np.array(json.dumps(flat_config(tie))),
        **{f"tensor:{name}": tensor for name, tensor in published(parts, tie).items()},
        **{f"batch:{name}": value for name, value in batch().items()},
        **{f"output:{name}": value for name, value in outputs(parts).items()},
    }


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **make())
