"""The vision tower equals transformers' SiglipVisionModel, with every parameter random."""

import numpy as np
import pytest
import reference
from reference import to_numpy

from saccade.models.vit import ViT, ViTConfig

D, DEPTH, HEADS, MLP_DIM, PATCH, SIDE, B = 24, 2, 3, 40, 4, 20, 2


def assign(layer, name, weight, bias):
    """A torch Linear or norm into a Keras one: kernels are transposed."""
    part = getattr(layer, name)
    weight = weight.detach().numpy()
    if weight.ndim == 2:
        part.kernel.assign(weight.T)
    else:
        part.gamma.assign(weight)
    (part.bias if weight.ndim == 2 else part.beta).assign(bias.detach().numpy())


def load_from(tower, theirs, torch):
    embeddings = theirs.embeddings
    tower.patches.projection.kernel.assign(
        embeddings.patch_embedding.weight.detach().numpy().transpose(2, 3, 1, 0)
    )
    tower.patches.projection.bias.assign(embeddings.patch_embedding.bias.detach().numpy())
    positions = embeddings.position_embedding.weight.detach().numpy()
    tower.patches.positions.assign(positions.reshape(SIDE // PATCH, SIDE // PATCH, D))
    for block, layer in zip(tower.blocks, theirs.encoder.layers, strict=True):
        assign(block, "attention_norm", layer.layer_norm1.weight, layer.layer_norm1.bias)
        assign(block, "mlp_norm", layer.layer_norm2.weight, layer.layer_norm2.bias)
        attention = layer.self_attn
        assign(block.attention, "query", attention.q_proj.weight, attention.q_proj.bias)
        key_value = [
            torch.cat([getattr(attention.k_proj, k), getattr(attention.v_proj, k)])
            for k in ("weight", "bias")
        ]
        assign(block.attention, "key_value", *key_value)
        assign(block.attention, "output_projection", attention.out_proj.weight, attention.out_proj.bias)
        assign(block.mlp, "up", layer.mlp.fc1.weight, layer.mlp.fc1.bias)
        assign(block.mlp, "down", layer.mlp.fc2.weight, layer.mlp.fc2.bias)
    assign(tower, "norm", theirs.post_layernorm.weight, theirs.post_layernorm.bias)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # those of transformers
def test_the_tower_is_siglips():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.SiglipVisionConfig(
        hidden_size=D,
        intermediate_size=MLP_DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=PATCH,
    )
    theirs = transformers.SiglipVisionModel(config).eval()
    theirs = getattr(theirs, "vision_model", theirs)
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread
    tower = ViT(ViTConfig(D, DEPTH, HEADS, MLP_DIM, PATCH, (SIDE, SIDE), pixel_mean=0.0, pixel_std=1.0))
    tower.build()
    reference.randomize(tower, 7)  # whatever is not copied is wrong
    load_from(tower, theirs, torch)
    images = np.random.default_rng(0).normal(size=(B, SIDE, SIDE, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2))).last_hidden_state.numpy()
    result = to_numpy(tower(images))
    assert result.shape == expected.shape == (B, (SIDE // PATCH) ** 2, D)
    np.testing.assert_allclose(result, expected, atol=2e-5)
