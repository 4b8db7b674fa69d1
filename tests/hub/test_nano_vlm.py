"""Published checkpoint directories: read, written back to the bit, and refused in one line when damaged."""

import json
import pickle

import chat_parts
import ml_dtypes
import nano
import numpy as np
import pytest
from reference import to_numpy
from safetensors.numpy import load_file, save_file

from saccade.data.chat import CHATML
from saccade.data.chat_processor import published_config, published_keys
from saccade.errors import SaccadeError, SaccadeWarning
from saccade.hub.nano_vlm import FREQUENCIES, HEAD, TABLE, architecture, flat, read_model, write
from saccade.models.nano_vlm import PRESETS, NanoVLM

QKV = "vision_encoder.blocks.1.attn.qkv_proj.weight"


def tensors():
    return nano.part(nano.golden(), "tensor")


def test_a_directory_round_trips(tmp_path):
    folder = nano.write(tmp_path / "m", lm_model_type="a/b", lm_max_length=79, vit_dropout=0.0)
    record = json.loads((folder / "config.json").read_text())
    model = read_model(folder)
    (tmp_path / "again").mkdir()
    write(tmp_path / "again", model, record)
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == record
    ours, theirs = load_file(tmp_path / "again" / "model.safetensors"), tensors()
    assert ours.keys() == theirs.keys()
    assert TABLE not in ours  # the tied table is stored once, as the head
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype
        if name == FREQUENCIES:  # a constant, computed anew
            np.testing.assert_allclose(ours[name], theirs[name], rtol=3e-7)
        else:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_an_untied_head_round_trips(tmp_path):
    table = np.random.default_rng(0).normal(size=tensors()[HEAD].shape).astype(np.float32)
    folder = nano.write(tmp_path / "m", tensors=tensors() | {TABLE: table}, lm_tie_weights=False)
    model = read_model(folder)
    np.testing.assert_array_equal(to_numpy(model.language.table), table)
    np.testing.assert_array_equal(to_numpy(model.language.head), tensors()[HEAD])
    (tmp_path / "again").mkdir()
    write(tmp_path / "again", model, {})
    assert {TABLE, HEAD} < load_file(tmp_path / "again" / "model.safetensors").keys()


@pytest.mark.parametrize("both", [True, False])
def test_a_tied_table_under_its_other_name(tmp_path, both):
    given = tensors()
    table = given[HEAD] if both else given.pop(HEAD)
    model = read_model(nano.write(tmp_path / "m", tensors=given | {TABLE: table}))
    assert model.language.head is model.language.table
    np.testing.assert_array_equal(to_numpy(model.language.table), table)


def test_a_file_without_the_frequencies(tmp_path):
    given = tensors()
    del given[FREQUENCIES]
    assert read_model(nano.write(tmp_path / "m", tensors=given)).count_params() > 0


def test_bfloat16_weights(tmp_path):
    narrow = {name: t.astype(ml_dtypes.bfloat16) for name, t in tensors().items()}
    model = read_model(nano.write(tmp_path / "m", tensors=narrow))
    table = to_numpy(model.language.table)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, narrow[HEAD].astype(np.float32))


def test_shards(tmp_path):
    folder = nano.write(tmp_path / "m")
    given = tensors()
    (folder / "model.safetensors").unlink()
    halves = [dict(list(given.items())[i::2]) for i in range(2)]
    where = {}
    for i, half in enumerate(halves):
        save_file(half, folder / f"model-{i}.safetensors")
        where |= dict.fromkeys(half, f"model-{i}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    np.testing.assert_array_equal(to_numpy(read_model(folder).language.table), given[HEAD])
    index.write_text(json.dumps({"weight_map": where | {"more": "model-0.safetensors"}}))
    refused(folder, "differ by 1 tensors (first: more)")
    index.write_text(json.dumps({"weight_map": where | {"more": "../secret.safetensors"}}))
    refused(folder, "'../secret.safetensors', not a .safetensors file beside it")
    index.write_text("[]")
    refused(folder, "is not an index of shards")


def refused(folder, *parts):
    with pytest.raises(SaccadeError) as error:
        read_model(folder)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_a_missing_tensor(tmp_path):
    given = tensors()
    del given[QKV]
    refused(nano.write(tmp_path / "m", tensors=given), "1 tensors missing", QKV)


def test_an_extra_tensor(tmp_path):
    extra = {"vision_encoder.cls": np.zeros(3, np.float32)}
    refused(nano.write(tmp_path / "m", tensors=tensors() | extra), "1 not known", "vision_encoder.cls")


@pytest.mark.parametrize(
    ("name", "shape", "variable"),
    [
        (QKV, (60, 21), "vision/block_1/attention/query/kernel"),
        (QKV, (20, 60), "vision/block_1/attention/query/kernel"),
        ("decoder.norm.weight", (25,), "language/norm/scale"),
        ("decoder.blocks.0.attn.k_proj.weight", (9, 24), "language/block_0/attention/key_value/kernel"),
        ("vision_encoder.patch_embedding.position_embedding", (1, 9, 20), "vision/patches/positions"),
        ("MP.proj.weight", (24, 80, 1), "projection/linear/kernel"),
    ],
)
def test_a_tensor_of_another_shape(tmp_path, name, shape, variable):
    given = tensors() | {name: np.zeros(shape, np.float32)}
    refused(nano.write(tmp_path / "m", tensors=given), name, str(shape), variable)


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_a_truncated_file(tmp_path, length):
    folder = nano.write(tmp_path / "m")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refused(folder, "model.safetensors is not a complete safetensors file")


def test_a_pickle_is_never_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the pickle ran",)

    folder = nano.write(tmp_path / "m")
    content = pickle.dumps(Trap())
    (folder / "model.safetensors").write_bytes(content)  # under a false name
    refused(folder, "not a complete safetensors file")
    (folder / "model.safetensors").unlink()
    refused(folder, "has no model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(content)
    refused(folder, "as a pickle (pytorch_model.bin)", "never read")


# Every key of the reference's VLMConfig at each age, with the values of the published checkpoints.
FIRST = {
    "vit_hidden_dim": 768, "vit_inter_dim": 3072, "vit_patch_size": 16, "vit_img_size": 224,
    "vit_n_heads": 12,
    "vit_dropout": 0.0, "vit_n_blocks": 12, "vit_ln_eps": 1e-6, "vit_cls_flag": False,
    "vit_model_type": "google/siglip-base-patch16-224", "lm_hidden_dim": 576, "lm_inter_dim": 1536,
    "lm_rms_eps": 1e-5, "lm_re_base": 100000, "lm_max_position_embeddings": 8192, "lm_vocab_size": 49152,
    "lm_n_heads": 9, "lm_n_kv_heads": 3, "lm_dropout": 0.0, "lm_n_blocks": 30, "lm_attn_scaling": 1.0,
    "lm_eos_token_id": 0, "lm_max_length": 79, "lm_use_tokens": False, "lm_tie_weights": True,
    "lm_model_type": "HuggingFaceTB/SmolLM2-135M", "lm_tokenizer": "HuggingFaceTB/cosmo2-tokenizer",
    "mp_pixel_shuffle_factor": 2, "vlm_load_backbone_weights": True, "vlm_checkpoint_path": "checkpoints",
}  # fmt: skip
LARGE = {
    "lm_hidden_dim": 960, "lm_inter_dim": 2560, "lm_n_heads": 15, "lm_n_kv_heads": 5, "lm_n_blocks": 32,
}  # fmt: skip
SPOKEN_LATER = {
    "lm_chat_template": CHATML, "lm_tokenizer": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "lm_base_vocab_size": 49152, "mp_image_token_length": 64, "hf_repo_name": "nanoVLM",
}  # fmt: skip
SECOND = FIRST | LARGE | SPOKEN_LATER | {
    "vit_img_size": 256, "extra_token_amount": 1, "lm_vocab_size": 49153, "lm_max_length": 1024,
    "vlm_extra_tokens": {"image_token": "<|image|>"},
}  # fmt: skip
THIRD = FIRST | SPOKEN_LATER | {
    "vit_img_size": 512, "extra_token_amount": 66, "lm_vocab_size": 49218, "lm_max_length": 8192,
    "max_img_size": 2048, "resize_to_max_side_len": True, "mp_pixel_shuffle_factor": 4,
    "vlm_extra_tokens": chat_parts.TILES,
}  # fmt: skip


@pytest.mark.parametrize(
    ("record", "name", "tiles"),
    [
        (FIRST, "nano_vlm_222m", False),
        (SECOND, "nano_vlm_450m", False),
        (THIRD, "nano_vlm_230m_8k", True),
        (THIRD | LARGE, "nano_vlm_460m_8k", True),
    ],
)
def test_the_published_configurations_are_the_presets(record, name, tiles):
    """Without a warning: every key is known."""
    config = architecture(record)
    assert config == PRESETS[name]
    spoken = published_config(record, config.image_tokens)
    assert spoken.tiled is tiles
    assert spoken.max_length == record["lm_max_length"]
    assert {**record, **flat(config), **published_keys(spoken)} == record


def test_unknown_keys_are_told_and_tolerated(tmp_path):
    folder = nano.write(tmp_path / "m", momh=True, zeta=[1])
    with pytest.warns(SaccadeWarning, match="2 keys that this version does not know.*: momh, zeta"):
        assert isinstance(read_model(folder), NanoVLM)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lm_n_heads", None, "has no lm_n_heads"),
        ("lm_n_heads", "6", "lm_n_heads is '6'; a whole number"),
        ("lm_n_blocks", 10**9, "lm_n_blocks is 1000000000"),
        ("vit_n_blocks", True, "vit_n_blocks is True"),
        ("lm_re_base", -1, "lm_re_base is -1; a positive number"),
        ("lm_tie_weights", "yes", "lm_tie_weights is 'yes'; true or false"),
        ("vit_cls_flag", True, "vit_cls_flag is True; this version computes False only"),
        ("lm_attn_scaling", 2.0, "lm_attn_scaling is 2.0"),
        ("lm_n_heads", 5, "does not divide dim=24"),
        ("lm_n_kv_heads", 4, "num_kv_heads=4 does not divide num_heads=6"),
        ("vit_img_size", 18, "vit_img_size 18 is not a multiple of vit_patch_size 4"),
        ("mp_pixel_shuffle_factor", 3, "mp_pixel_shuffle_factor 3"),
    ],
)
def test_a_config_that_cannot_be_meant(tmp_path, key, value, said):
    refused(nano.write(tmp_path / "m", **{key: value}), said)


def test_tied_weights_that_differ(tmp_path):
    given = tensors()
    refused(
        nano.write(tmp_path / "m", tensors=given | {TABLE: given[HEAD] + 1}), "differ, but lm_tie_weights"
    )


def test_no_json(tmp_path):
    folder = nano.write(tmp_path / "m")
    (folder / "config.json").write_text("{")
    refused(folder, "is not readable JSON")


def test_saccades_own_format_round_trips(tmp_path):
    model = read_model(nano.write(tmp_path / "m"))
    model.save(tmp_path / "own")
    again = NanoVLM.load(tmp_path / "own")
    assert again.config == model.config
    ours, theirs = (m.named_variables() for m in (again, model))
    for name in theirs:
        np.testing.assert_array_equal(to_numpy(ours[name]), to_numpy(theirs[name]), err_msg=name)
