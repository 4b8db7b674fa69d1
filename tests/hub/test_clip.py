"""Published CLIPs and SigLIPs: what transformers says of them (golden), there and back, and refusals."""

import clips
import numpy as np
import pytest
from reference import to_numpy
from safetensors.numpy import load_file

from saccade import backend
from saccade.errors import SaccadeError
from saccade.hub import clip as hub

ATOL = 2e-5


@pytest.fixture(scope="module", params=clips.VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def published(variant, tmp_path_factory):
    return clips.write(tmp_path_factory.mktemp("golden") / "m", variant)


def test_outputs_equal_transformers(published, variant):
    model = hub.read_model(published)
    found = backend.compiled(model, model)(clips.part(variant, "batch"))
    result, expected = {k: to_numpy(v) for k, v in found.items()}, clips.part(variant, "output")
    assert result.keys() == expected.keys()
    assert np.abs(expected["logits"]).max() > 1
    for name, value in result.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected[name], atol=ATOL, rtol=0, err_msg=name)


def test_a_published_directory_goes_back_as_it_came(published, variant, tmp_path):
    model = hub.read_model(published)
    hub.write(tmp_path, model)
    given, written = clips.part(variant, "tensor"), load_file(tmp_path / "model.safetensors")
    assert written.keys() == given.keys()
    for name in given:
        np.testing.assert_array_equal(written[name], given[name], err_msg=name)
    assert hub.read_model(tmp_path).config == model.config


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("clip_quick", {"model_type": "clipseg"}, "model_type is 'clipseg'"),
        ("clip_quick", {"vision_config__hidden_act": "mish"}, "hidden_act is 'mish'"),
        ("clip_quick", {"vision_config__num_hidden_layers": 3}, "3 tensors|tensors missing"),
        ("clip_quick", {"vision_config__image_size": 25}, "cannot become vision/cls_position"),
        ("clip_quick", {"vision_config__num_channels": 1}, "num_channels is 1"),
        ("clip_quick", {"vision_config__num_attention_heads": 5}, "num_heads=5 does not divide"),
        ("clip_quick", {"text_config__vocab_size": 50}, r"\(53, 20\) cannot become text/embedding/table"),
        ("clip_quick", {"projection_dim": 17}, "cannot become image_projection/kernel"),
        ("clip_quick", {"projection_dim": None}, "has no projection_dim"),
        ("clip_quick", {"text_config__max_position_embeddings": "many"}, "max_position_embeddings is 'many'"),
        ("siglip", {"model_type": "clip"}, "tensors missing"),
        ("siglip", {"text_config__projection_size": 23}, "texts become 23 wide and images 24"),
        ("siglip", {"vision_config__vision_use_head": False}, "vision_use_head is False"),
    ],
)
def test_a_directory_that_is_refused(tmp_path, variant, changes, message):
    folder = clips.write(tmp_path / "m", variant, **changes)
    with pytest.raises(SaccadeError, match=message):
        hub.read_model(folder)


def test_missing_and_further_tensors_are_named(tmp_path):
    tensors = clips.part("clip_quick", "tensor")
    extra = {**tensors, "text_model.adapter.weight": np.zeros(3, np.float32)}
    with pytest.raises(SaccadeError, match=r"1 not known \(first: \['text_model.adapter.weight'\]\)"):
        hub.read_model(clips.write(tmp_path / "a", "clip_quick", extra))
    del extra["text_model.adapter.weight"], extra["logit_scale"]
    with pytest.raises(SaccadeError, match=r"1 tensors missing \(first: \['logit_scale'\]\)"):
        hub.read_model(clips.write(tmp_path / "b", "clip_quick", extra))
    ids = {**tensors, "text_model.embeddings.position_ids": np.arange(11)[None]}  # of older writers
    hub.read_model(clips.write(tmp_path / "c", "clip_quick", ids))


def test_pickles_are_never_read(tmp_path):
    folder = clips.write(tmp_path / "m", "siglip")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SaccadeError, match="as a pickle"):
        hub.read_model(folder)


def test_the_end_of_the_text(tmp_path):
    """Old configurations say 2 and mean the highest id; new ones name the token."""
    old, new = (hub.architecture(clips.config_of(name)).text for name in ("clip_quick", "clip_gelu"))
    assert (old.pool, new.pool, new.eos_id) == ("highest", "eos", 7)
