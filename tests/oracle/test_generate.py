"""The filters are those of transformers, and so is what greedy and beam search write with a Llama."""

import causal
import numpy as np
import pytest
from reference import softmax, to_numpy

from saccade.decoding.sampling import filtered, occurring, penalised
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer

B, S, L, PAD, EOS = 3, 7, 11, 0, 5
pytestmark = [
    pytest.mark.oracle,
    # Those of transformers and torch.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


FILTERS = [
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_k": 99},
    {"top_p": 0.6},
    {"top_p": 1e-4},
    {"min_p": 0.1},
    {"temperature": 1.6, "top_k": 11, "top_p": 0.7, "min_p": 0.15},
    {"temperature": 0.5, "top_p": 0.93, "min_p": 0.01},
]


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_filters(torch, options):
    from transformers.generation import logits_process as theirs

    config = GenerationConfig(**{"temperature": 1.0, **options})
    logits = (np.random.default_rng(5).normal(size=(40, 31)) * 2).astype(np.float32)
    # In the order of GenerationMixin._get_logits_processor.
    processors = [theirs.TemperatureLogitsWarper(float(config.temperature))]
    if config.top_k:
        processors.append(theirs.TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        processors.append(theirs.TopPLogitsWarper(config.top_p))
    if config.min_p:
        processors.append(theirs.MinPLogitsWarper(config.min_p))
    expected = torch.tensor(logits)
    for processor in processors:
        expected = processor(torch.zeros((len(logits), 1), dtype=torch.int64), expected)
    found = to_numpy(filtered(logits, config, config.numbers))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected.numpy()))
    np.testing.assert_allclose(softmax(found), softmax(expected.numpy()), atol=1e-6)


@pytest.mark.parametrize("penalty", [1.8, 0.5])
def test_repetition_penalty(torch, penalty):
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(B, 31)).astype(np.float32)
    tokens = rng.integers(31, size=(B, S)).astype(np.int32)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(tokens).long(), torch.tensor(logits))
    seen = occurring(tokens, np.ones((B, S), bool), 31)
    found = penalised(logits, seen, GenerationConfig(repetition_penalty=penalty).numbers)
    np.testing.assert_allclose(to_numpy(found), expected.numpy(), rtol=1e-6)


def llama(torch, model):
    """LlamaForCausalLM with the weights of tests/causal.py."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=causal.VOCABULARY,
        hidden_size=causal.D,
        intermediate_size=causal.MLP_DIM,
        num_hidden_layers=causal.DEPTH,
        num_attention_heads=causal.HEADS,
        num_key_value_heads=causal.KV_HEADS,
        rms_norm_eps=causal.EPSILON,
        rope_parameters={"rope_theta": causal.THETA, "rope_type": "default"},
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    theirs = LlamaForCausalLM(config).eval()

    def tensor(variable):
        return torch.tensor(to_numpy(variable).T)

    keys = causal.KV_HEADS * causal.D // causal.HEADS
    weights = {
        "model.embed_tokens.weight": tensor(model.table).T,
        "model.norm.weight": tensor(model.norm.scale),
        "lm_head.weight": tensor(model.head),
    }
    for i in range(causal.DEPTH):
        attention, mlp = model.attentions[i], model.mlps[i]
        key_value, gate_up = tensor(attention.key_value.kernel), tensor(mlp.gate_up.kernel)
        parts = {
            "self_attn.q_proj": tensor(attention.query.kernel),
            "self_attn.k_proj": key_value[:keys],
            "self_attn.v_proj": key_value[keys:],
            "self_attn.o_proj": tensor(attention.output_projection.kernel),
            "mlp.gate_proj": gate_up[: causal.MLP_DIM],
            "mlp.up_proj": gate_up[causal.MLP_DIM :],
            "mlp.down_proj": tensor(mlp.down.kernel),
            "input_layernorm": tensor(model.attention_norms[i].scale),
            "post_attention_layernorm": tensor(model.mlp_norms[i].scale),
        }
        weights |= {f"model.layers.{i}.{name}.weight": value for name, value in parts.items()}
    theirs.load_state_dict({name: value.contiguous() for name, value in weights.items()}, strict=True)
    return theirs


@pytest.fixture(scope="module")
def both(torch):
    model = causal.causal(9)
    return Writer(model), llama(torch, model)


def test_the_two_models_are_one(torch, both):
    writer, theirs = both
    tokens, mask = causal.prompts(B, S)
    with torch.no_grad():
        positions = torch.tensor(np.maximum(mask.cumsum(1) - 1, 0))
        expected = theirs(
            torch.tensor(tokens).long(), attention_mask=torch.tensor(mask), position_ids=positions
        ).logits.numpy()
    found = to_numpy(writer.model(tokens, mask))
    np.testing.assert_allclose(found[mask], expected[mask], atol=2e-5)


WAYS = [
    {},
    {"eos_token_id": (EOS, 15)},
    {"repetition_penalty": 1.7},
    {"prompt_lookup_num_tokens": 3},
    *({"num_beams": n, "length_penalty": p} for n in (2, 4) for p in (-1.0, 0.0, 1.0, 2.5)),
    {"num_beams": 3, "eos_token_id": (EOS, 15, 28)},
    {"num_beams": 3, "repetition_penalty": 1.5},
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_the_same_text(torch, both, options, seed):
    writer, theirs = both
    tokens, mask = causal.prompts(B, S, seed=seed)
    settings = GenerationConfig(**{"max_new_tokens": L, "eos_token_id": EOS, "pad_token_id": PAD, **options})
    found, _ = writer.generate((tokens, mask), settings, tokens=tokens, padding_mask=mask)
    names = ("num_beams", "length_penalty", "repetition_penalty", "max_new_tokens", "pad_token_id")
    for i in range(B):
        # A row at a time: transformers counts padding among the tokens that it penalises, and looks up in
        # one row only.
        row = torch.tensor(tokens[i : i + 1, mask[i].argmax() :]).long()
        chosen = {name: getattr(settings, name) for name in names}
        if settings.prompt_lookup_num_tokens:
            chosen["prompt_lookup_num_tokens"] = settings.prompt_lookup_num_tokens
        with torch.no_grad():
            expected = theirs.generate(
                row,
                attention_mask=torch.ones_like(row),
                do_sample=False,
                eos_token_id=list(settings.ends),
                **chosen,
            )
        expected = expected[0, row.shape[1] :].tolist()
        assert found[i].tolist() == expected + [PAD] * (L - len(expected))


@pytest.mark.parametrize("beams", [1, 3])
def test_a_padded_batch_writes_the_same(torch, both, beams):
    writer, theirs = both
    tokens, mask = causal.prompts(B, S, seed=4)
    fill = 1  # transformers' beam search takes a pad_token_id of 0 for none
    settings = GenerationConfig(max_new_tokens=L, eos_token_id=EOS, pad_token_id=fill, num_beams=beams)
    found, _ = writer.generate((tokens, mask), settings)
    with torch.no_grad():
        expected = theirs.generate(
            torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            num_beams=beams,
            max_new_tokens=L,
            eos_token_id=EOS,
            pad_token_id=fill,
        )[:, S:].numpy()
    width = expected.shape[1]
    np.testing.assert_array_equal(found[:, :width], expected)
    assert (found[:, width:] == fill).all()
