"""Directories of transformers' BLIP-2: read whole, or refused in one line."""

import numpy as np
import pytest
import reference
from blip2_dirs import CONFIGS, GENERATION, RECORDS, tensors_of, write
from reference import to_numpy

from saccade.errors import SaccadeError
from saccade.hub.blip2 import HEAD, TABLE, architecture, is_published, read_model
from saccade.models.blip2 import BLIP2


@pytest.fixture(scope="module")
def models():
    return {name: reference.randomize(BLIP2(config)) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_directory_is_read(models, kind, tmp_path):
    assert is_published(RECORDS[kind])
    assert architecture(RECORDS[kind]) == CONFIGS[kind]
    again = read_model(write(tmp_path / "m", RECORDS[kind], tensors_of(models[kind])))
    assert again.config == CONFIGS[kind]
    for name, variable in models[kind].named_variables().items():
        if name != "logit_scale":
            np.testing.assert_array_equal(
                to_numpy(again.named_variables()[name]), to_numpy(variable), err_msg=name
            )


def refused(folder, *parts):
    with pytest.raises(SaccadeError) as error:
        read_model(folder)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value), str(error.value)


def test_a_tied_head_may_be_stored_twice(models, tmp_path):
    given = tensors_of(models["generation"])
    read_model(write(tmp_path / "m", GENERATION, given | {HEAD: given[TABLE]}))
    refused(write(tmp_path / "n", GENERATION, given | {HEAD: given[TABLE] + 1}), "1 not known", HEAD)


def test_damaged_directories(models, tmp_path):
    given = tensors_of(models["generation"])
    name = "vision_model.encoder.layers.0.self_attn.qkv.weight"
    less = {key: tensor for key, tensor in given.items() if key != name}
    refused(write(tmp_path / "a", GENERATION, less), "1 tensors missing", name)
    refused(write(tmp_path / "b", GENERATION, given | {name: given[name][:, :5].copy()}), name)
    wrong = {**GENERATION, "num_query_tokens": 6}
    refused(write(tmp_path / "c", wrong, given), "query_tokens")


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        (None, {"model_type": "blip"}, "model_type is 'blip'"),
        (None, {"architectures": ["Blip2Model"]}, "architectures is 'Blip2Model'"),
        ("text_config", {"model_type": "t5"}, "model_type is 't5'; this version computes 'opt' only"),
        ("text_config", {"do_layer_norm_before": False}, "do_layer_norm_before is False"),
        ("text_config", {"word_embed_proj_dim": 16}, "word_embed_proj_dim is 16"),
        ("text_config", {"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ("vision_config", {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'"),
        ("vision_config", {"qkv_bias": False}, "qkv_bias is False"),
        ("qformer_config", {"use_qformer_text_input": True}, "use_qformer_text_input is True"),
        ("qformer_config", {"num_attention_heads": 0}, "num_attention_heads is 0"),
    ],
)
def test_a_config_that_cannot_be_meant(part, changes, said):
    record = (
        {**GENERATION, **changes} if part is None else {**GENERATION, part: {**GENERATION[part], **changes}}
    )
    with pytest.raises(SaccadeError) as error:
        architecture(record)
    assert said in str(error.value)
