"""NanoVLM and its backbones against transformers, live; and on torch against JAX."""

import os
import subprocess
import sys
from pathlib import Path

import nano
import nano_vlm_reference as theirs
import nano_vlm_run
import numpy as np
import pytest
from reference import to_numpy

from saccade import backend
from saccade.hub.backbones import from_backbones, read_siglip, write_llama, write_siglip
from saccade.hub.nano_vlm import read_model, write
from saccade.layers.attention import segment_mask
from saccade.models.llama import positions_of
from saccade.models.vit import ViT

HERE = Path(__file__).parent
ATOL = 2e-5
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of transformers
]


@pytest.fixture(scope="module", autouse=True)
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def test_the_golden_file_is_what_transformers_says_today():
    made, kept = theirs.make(), nano.golden()
    assert made.keys() == kept.keys()
    for name in made:
        if made[name].dtype.kind == "f":
            np.testing.assert_allclose(made[name], kept[name], atol=2e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(made[name], kept[name], err_msg=name)


@pytest.mark.parametrize("tie", [True, False])
def test_a_published_checkpoint_equals_transformers(tmp_path, tie):
    arrays = theirs.make(tie)
    found = nano_vlm_run.outputs(nano.write(tmp_path / "m", arrays))
    keep = arrays["batch:padding_mask"]
    np.testing.assert_allclose(found["logits"][keep], arrays["output:logits"][keep], atol=ATOL, rtol=0)
    np.testing.assert_array_equal(found["written"], arrays["output:written"])


def test_a_written_checkpoint_is_read_by_torch(tmp_path):
    """safetensors' own loader, as the reference calls it, takes the tied head back."""
    import torch
    from safetensors.torch import load_model

    folder = nano.write(tmp_path / "m")
    (tmp_path / "again").mkdir()
    write(tmp_path / "again", read_model(folder), {})

    class Part(torch.nn.Module):
        pass

    module = Part()
    for name, tensor in nano.part(nano.golden(), "tensor").items():
        owner = module
        *parents, last = name.split(".")
        for parent in parents:
            if not hasattr(owner, parent):
                owner.add_module(parent, Part())
            owner = getattr(owner, parent)
        empty = torch.zeros(tensor.shape)
        if last == "inv_freq":
            owner.register_buffer(last, empty)
        else:
            owner.register_parameter(last, torch.nn.Parameter(empty))
    module.decoder.add_module("token_embedding", Part())
    module.decoder.token_embedding.weight = module.decoder.head.weight
    missing, unexpected = load_model(module, tmp_path / "again" / "model.safetensors")
    assert not missing
    assert not unexpected
    table = module.decoder.token_embedding.weight.detach().numpy()
    np.testing.assert_array_equal(table, nano.golden()["tensor:decoder.head.weight"])


@pytest.mark.timeout(600)
def test_torch_computes_what_jax_computes(tmp_path):
    folder = nano.write(tmp_path / "m")
    paths = (HERE.parent.parent, HERE.parent, HERE)
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, str(HERE / "nano_vlm_run.py"), str(folder), str(tmp_path / "out.npz")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    with np.load(tmp_path / "out.npz") as file:
        torch_says = dict(file)
    keep, expected = nano.golden()["batch:padding_mask"], nano.part(nano.golden(), "output")
    np.testing.assert_allclose(torch_says["logits"][keep], expected["logits"][keep], atol=ATOL, rtol=0)
    np.testing.assert_array_equal(torch_says["written"], expected["written"])
    ours = nano_vlm_run.outputs(folder)
    for name in ("score", "packed"):
        np.testing.assert_allclose(torch_says[name], ours[name], atol=ATOL, rtol=0)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Directories that transformers wrote, and its two models."""
    folder = tmp_path_factory.mktemp("backbones")
    vision, _, language = theirs.models(tie=True)
    vision.save_pretrained(folder / "siglip")
    language.save_pretrained(folder / "llama")
    return folder, vision, language


def test_backbones_that_transformers_wrote(backbones):
    import torch

    folder, vision, language = backbones
    model = from_backbones(folder / "siglip", folder / "llama", shuffle=2)
    given = theirs.batch()
    with torch.no_grad():
        patches = vision(torch.from_numpy(given["images"]).permute(0, 3, 1, 2)).last_hidden_state.numpy()
        mask = torch.from_numpy(given["padding_mask"]).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = language(
            torch.from_numpy(given["tokens"]).long(), attention_mask=mask, position_ids=positions
        ).logits.numpy()
    np.testing.assert_allclose(to_numpy(model.vision(given["images"])), patches, atol=ATOL, rtol=0)
    reader = model.language
    run = backend.compiled(lambda t, m: reader.unembed(reader(reader.embed(t), m)), reader)
    keep = given["padding_mask"]
    found = to_numpy(run(given["tokens"], keep))
    np.testing.assert_allclose(found[keep], logits[keep], atol=ATOL, rtol=0)
    ours = positions_of(segment_mask(keep.astype(np.int32)))
    np.testing.assert_array_equal(to_numpy(ours), positions.numpy())


@pytest.mark.parametrize("size", [(24, 24), (8, 8), (20, 12)])
def test_positions_at_another_size_are_those_of_transformers(backbones, size):
    """Interpolated once, when the weights are read, and at every call."""
    import torch

    folder, vision, _ = backbones
    images = np.random.default_rng(2).random((2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        expected = vision(pixels, interpolate_pos_encoding=True).last_hidden_state.numpy()
    for image_size in (size, None):
        config, tensors = read_siglip(folder / "siglip", image_size)
        tower = ViT(config)
        tower.build()
        for variable in tower.variables:
            variable.assign(tensors[variable.path.split("/", 1)[1]])
        np.testing.assert_allclose(to_numpy(tower(images)), expected, atol=ATOL, rtol=0)


def test_transformers_reads_the_backbones_we_write(backbones, transformers, tmp_path):
    folder, vision, language = backbones
    model = from_backbones(folder / "siglip", folder / "llama", shuffle=2)
    write_siglip(tmp_path / "s", model)
    write_llama(tmp_path / "l", model)
    pairs = (
        (transformers.SiglipVisionModel.from_pretrained(tmp_path / "s"), vision),
        (transformers.LlamaForCausalLM.from_pretrained(tmp_path / "l"), language),
    )
    for ours, given in pairs:
        found, wanted = ours.state_dict(), given.state_dict()
        assert found.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_array_equal(found[name].numpy(), wanted[name].numpy(), err_msg=name)
    config = pairs[1][0].config
    assert config.rope_parameters["rope_theta"] == theirs.THETA
    assert config.rms_norm_eps == 1e-5
    assert pairs[0][0].config.layer_norm_eps == 1e-6
