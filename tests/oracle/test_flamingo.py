"""Flamingo's parts against Idefics in transformers, live; every parameter random, gates open."""

import numpy as np
import pytest
from keras import ops
from reference import to_numpy

from saccade.fusion.cross_attention import GatedCrossAttention
from saccade.fusion.resampler import PerceiverResampler
from saccade.hub.convert import Rule, rules, to_ours
from saccade.models import llama
from saccade.models.flamingo import Flamingo, FlamingoConfig
from saccade.models.llama import LlamaConfig
from saccade.models.vit import ViTConfig

B, T, K, M, N, C, D, HEADS, MLP, DEPTH, V = 3, 9, 2, 5, 7, 20, 24, 6, 44, 4, 53
ATOL = 2e-5
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of transformers
]
RESAMPLER = (
    Rule("queries", "latents"),
    Rule("memory_norm_{}/gamma", "blocks.{}.0.context_layer_norm.weight"),
    Rule("memory_norm_{}/beta", "blocks.{}.0.context_layer_norm.bias"),
    Rule("latents_norm_{}/gamma", "blocks.{}.0.latents_layer_norm.weight"),
    Rule("latents_norm_{}/beta", "blocks.{}.0.latents_layer_norm.bias"),
    Rule("read_{}/query/kernel", "blocks.{}.0.q_proj.weight", "linear"),
    Rule("read_{}/key_value/kernel", ("blocks.{}.0.k_proj.weight", "blocks.{}.0.v_proj.weight"), "linear"),
    Rule("read_{}/output/kernel", "blocks.{}.0.output_proj.weight", "linear"),
    Rule("mlp_norm_{}/gamma", "blocks.{}.1.ln.weight"),
    Rule("mlp_norm_{}/beta", "blocks.{}.1.ln.bias"),
    Rule("mlp_{}/up/kernel", "blocks.{}.1.fc.weight", "linear"),
    Rule("mlp_{}/down/kernel", "blocks.{}.1.c_proj.weight", "linear"),
    Rule("norm/gamma", "layer_norm.weight"),
    Rule("norm/beta", "layer_norm.bias"),
)
GATED = (
    Rule("attention_norm/scale", "input_layernorm.weight"),
    Rule("attention/query/kernel", "cross_attn.q_proj.weight", "linear"),
    Rule("attention/key_value/kernel", ("cross_attn.k_proj.weight", "cross_attn.v_proj.weight"), "linear"),
    Rule("attention/output/kernel", "cross_attn.o_proj.weight", "linear"),
    Rule("mlp_norm/scale", "post_attention_layernorm.weight"),
    Rule("mlp/gate_up/kernel", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "linear"),
    Rule("mlp/down/kernel", "mlp.down_proj.weight", "linear"),
)
IGNORES = (r".*rotary_emb\..*", r"alpha_.*")


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


def idefics_config(**changes):
    import transformers

    given = {
        "vocab_size": V, "additional_vocab_size": 0, "hidden_size": D, "intermediate_size": MLP,
        "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "rms_norm_eps": 1e-5,
        "alpha_initializer": "ones", "alpha_type": "float", "cross_layer_interval": 2, "use_resampler": True,
        "vision_config": {"embed_dim": C, "num_attention_heads": 2, "num_hidden_layers": 1, "image_size": 28},
        "attn_implementation": "eager", "qk_layer_norms": False,
        "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "perceiver_config": {"resampler_depth": 2, "resampler_n_latents": M, "resampler_n_heads": 4,
                             "resampler_head_dim": C // 4, "qk_layer_norms_perceiver": False},
    }  # fmt: skip
    return transformers.IdeficsConfig(**{**given, **changes})


def randomize(torch, module, seed=0):
    """Every parameter but the gates, which stay at one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "alpha" in name:
            continue
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
        scale = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread + float(scale)
    return module.eval()


def assign(layer, table, module, depth=1):
    """Their tensors into our layer, every one of both used once."""
    named = {v.path.split(f"{layer.name}/", 1)[1]: v for v in layer.variables}
    tensors = {name: t.detach().numpy() for name, t in module.state_dict().items()}
    gates = {name: v for name, v in named.items() if name.endswith("_gate")}
    shapes = {name: tuple(v.shape) for name, v in named.items()}
    found = to_ours(rules(table, depth), tensors, shapes, "Idefics", IGNORES)
    assert found.keys() == named.keys() - gates.keys()
    for name, value in found.items():
        named[name].assign(value)
    for gate in gates.values():
        gate.assign(1.0)


def test_the_resampler_equals_idefics(torch):
    from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

    theirs = randomize(torch, IdeficsPerceiverResampler(idefics_config(), C, 2, 4, C // 4, M))
    ours = PerceiverResampler(M, C, 4, 2, published=True)
    ours.build()
    assign(ours, RESAMPLER, theirs, 2)
    media = np.random.default_rng(0).normal(size=(B, N, C)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(media)).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(to_numpy(ours(media)), expected, atol=ATOL, rtol=0)


def test_the_gated_block_equals_idefics(torch):
    from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

    theirs = randomize(torch, IdeficsGatedCrossAttentionLayer(idefics_config(), layer_idx=0))
    ours = GatedCrossAttention(D, HEADS, MLP, C, 1e-5)
    ours.build()
    assign(ours, GATED, theirs)
    rng = np.random.default_rng(1)
    x, media = (rng.normal(size=size).astype(np.float32) for size in ((B, T, D), (B, N, C)))
    mask = rng.random((B, T, N)) < 0.4
    mask[0, :4] = False  # tokens ahead of every image
    unseen = torch.zeros((B, 1, T, N)).masked_fill(~torch.from_numpy(mask)[:, None], -1e30)
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(x),
            image_hidden_states=torch.from_numpy(media),
            image_attention_mask=unseen,
            cross_attention_gate=torch.from_numpy(mask.any(-1)),
        ).numpy()
    assert np.abs(expected - x).max() > 0.5
    np.testing.assert_allclose(to_numpy(ours(x, media, mask)), expected, atol=ATOL, rtol=0)


def test_the_whole_decoder_equals_idefics(torch):
    """Llama's blocks, a gated block ahead of every second, the resampler, and which image a token reads."""
    import transformers

    theirs = randomize(torch, transformers.IdeficsModel(idefics_config()))
    config = FlamingoConfig(
        ViTConfig(C, 0, 4, 8, 4, (4, 8)),
        LlamaConfig(V, D, DEPTH, HEADS, HEADS, MLP, 64, 10_000.0, 1e-5, tie=True),
        M, 2, 4, cross_every=2,
    )  # fmt: skip
    ours = Flamingo(config)
    assign(ours.resampler, RESAMPLER, theirs.perceiver_resampler, 2)
    for i, layer in enumerate(theirs.gated_cross_attn_layers):
        assign(ours.cross[2 * i], GATED, layer)
    state = {n: t for n, t in theirs.state_dict().items() if n.split(".")[0] in ("layers", "norm")}
    state["embed_tokens.weight"] = theirs.embed_tokens.weight
    holder = type("Holder", (), {"state_dict": lambda self: state})()
    assign(ours.language, llama.WEIGHT_MAP, holder, DEPTH)

    rng = np.random.default_rng(2)
    patches = rng.normal(size=(B, K, N, C)).astype(np.float32)
    tokens = rng.integers(3, V, size=(B, T)).astype(np.int32)
    image_mask = np.zeros((B, T), bool)
    image_mask[0, [2, 5]] = image_mask[1, [0, 1]] = image_mask[2, 4] = True
    seen = image_mask.cumsum(1)
    reads = seen[..., None] == np.arange(1, K + 1)
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.from_numpy(tokens).long(),
            image_encoder_embeddings=torch.from_numpy(patches),
            image_attention_mask=torch.from_numpy(reads).long(),
            use_cache=False,
        ).last_hidden_state.numpy()
    soft = ops.reshape(ours.resampler(patches.reshape(-1, N, C)), (B, K * M, C))
    memories = [block.project_memory(soft) for block in ours.cross.values()]
    look = ours._look(memories, ops.convert_to_tensor(seen.astype(np.int32)))
    found = to_numpy(ours.language(ours.language.embed(tokens), before=look))
    np.testing.assert_allclose(found, expected, atol=ATOL, rtol=0)
