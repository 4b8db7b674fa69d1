"""transformers' CLIPModel and SiglipModel, small, every parameter random: what our CLIP must equal.

    python tests/oracle/clip_reference.py      writes tests/golden/clip.npz

For each variant of VARIANTS the golden file holds a checkpoint in the published format (config, `tensor:`
names), a batch, and what transformers makes of it.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "clip.npz"
B, C, T, SIDE, PATCH, V, E = 3, 4, 9, 20, 5, 53, 18
VISION = {
    "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_attention_heads": 3,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
TEXT = {
    "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": V, "max_position_embeddings": 11, "bos_token_id": 51, "pad_token_id": 1,
}  # fmt: skip
# quick: OpenAI's activation and its way to find the end; gelu: the exact one, the end by its id
VARIANTS = ("clip_quick", "clip_gelu", "siglip")
EOS = {"clip_quick": 52, "clip_gelu": 7, "siglip": 1}


def model(variant: str):
    """The model of transformers, every parameter random."""
    import torch
    import transformers

    if variant == "siglip":
        config = transformers.SiglipConfig(
            vision_config=VISION, text_config={**TEXT, "projection_size": 24, "eos_token_id": 1}
        )
        made = transformers.SiglipModel(config)
    else:
        act = {"hidden_act": "quick_gelu" if variant == "clip_quick" else "gelu"}
        eos = {"eos_token_id": 2 if variant == "clip_quick" else EOS[variant]}
        config = transformers.CLIPConfig(
            vision_config={**VISION, **act}, text_config={**TEXT, **act, **eos}, projection_dim=E
        )
        made = transformers.CLIPModel(config)
    generator = torch.Generator().manual_seed(VARIANTS.index(variant))
    for name, parameter in made.named_parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
        value = torch.randn(parameter.shape, generator=generator) * spread
        parameter.data = value + (2.0 if name == "logit_scale" else 0.0)
    return made.eval()


def batch(variant: str) -> dict:
    rng = np.random.default_rng(VARIANTS.index(variant))
    tokens = rng.integers(8, 51, size=(C, T)).astype(np.int32)
    for row, end in enumerate((8, 3, 5, 1)):
        tokens[row, end:] = EOS[variant]  # filled up with the end, as the published tokenizers do
    tokens[:, 0] = 51
    images = rng.random((B, SIDE, SIDE, 3)).astype(np.float32)
    return {"images": images, "tokens": tokens}


def outputs(variant: str, made, batch: dict) -> dict:
    """What transformers says of our batch: it normalises the pixels itself."""
    import torch

    from saccade.models.clip import OPENAI_MEAN, OPENAI_STD

    mean, std = (0.5, 0.5) if variant == "siglip" else (OPENAI_MEAN, OPENAI_STD)
    pixels = ((batch["images"] - np.array(mean)) / np.array(std)).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.no_grad():
        said = made(pixel_values=torch.from_numpy(pixels), input_ids=torch.from_numpy(batch["tokens"]).long())
    return {
        "image_embeddings": said.image_embeds.numpy(),
        "text_embeddings": said.text_embeds.numpy(),
        "logits": said.logits_per_image.numpy(),
    }


def arrays() -> dict:
    """All that the golden file holds."""
    from safetensors.numpy import load_file

    found = {}
    for variant in VARIANTS:
        made = model(variant)
        with tempfile.TemporaryDirectory() as folder:
            made.save_pretrained(folder)
            tensors = load_file(Path(folder) / "model.safetensors")
            config = json.loads((Path(folder) / "config.json").read_text())
        config.pop("transformers_version", None)
        found[f"{variant}:config"] = np.array(json.dumps(config))
        rows = batch(variant)
        parts = {"tensor": tensors, "batch": rows, "output": outputs(variant, made, rows)}
        for kind, values in parts.items():
            found |= {f"{variant}:{kind}:{name}": value for name, value in values.items()}
    return found


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **arrays())
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1024:.0f} KiB")
