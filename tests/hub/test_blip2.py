"""Directories of transformers' BLIP-2: read whole, or refused in one line."""

import json
from dataclasses import replace

import numpy as np
import pytest
import reference
from reference import to_numpy
from safetensors.numpy import save_file

from saccade.errors import SaccadeError
from saccade.hub.blip2 import (
    CLASS,
    HEAD,
    MEAN,
    ROWS,
    STD,
    TABLE,
    architecture,
    is_published,
    read_model,
    weight_map,
)
from saccade.hub.convert import to_theirs
from saccade.models.blip2 import BLIP2, BLIP2Config
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
