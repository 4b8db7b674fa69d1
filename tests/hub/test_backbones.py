"""SigLIP and Llama directories in and out: other sizes, extra tokens, and what is refused."""

from dataclasses import replace

import hub_dirs
import numpy as np
import pytest
from reference import to_numpy
from safetensors.numpy import load_file

from saccade.errors import SaccadeError
from saccade.hub.backbones import from_backbones, read_llama, read_siglip, write_llama, write_siglip
from saccade.models.vit import ViT


@pytest.fixture
def siglip(tmp_path):
    return hub_dirs.write(tmp_path / "siglip", hub_dirs.SIGLIP, hub_dirs.siglip_tensors())


@pytest.fixture
def llama(tmp_path):
    return hub_dirs.write(tmp_path / "llama", hub_dirs.LLAMA, hub_dirs.llama_tensors())


def tower(config, tensors):
    made = ViT(config)
    made.build()
    for variable in made.variables:
        variable.assign(tensors[variable.path.split("/", 1)[1]])
    return made


def test_both_become_one_model_and_go_back(siglip, llama, tmp_path):
    model = from_backbones(siglip, llama, shuffle=3)
    assert model.config.image_tokens == 1
    assert model.config.language.rope_theta == 50_000
    assert np.abs(to_numpy(model.projection.linear.kernel)).max() > 0
    write_siglip(tmp_path / "s", model)
    write_llama(tmp_path / "l", model)
    for name, given in (("s", hub_dirs.siglip_tensors()), ("l", hub_dirs.llama_tensors())):
        written = load_file(tmp_path / name / "model.safetensors")
        assert written
        for key, value in written.items():
            np.testing.assert_array_equal(value, given[key], err_msg=key)
        left = given.keys() - written.keys()
        assert all(key.startswith(("text_model", "logit_", "vision_model.head")) for key in left)
    assert read_siglip(tmp_path / "s")[0] == model.config.vision
    assert read_llama(tmp_path / "l")[0] == model.config.language


def test_the_seed_decides_what_starts_at_random(siglip, llama):
    def kernel(seed):
        model = from_backbones(siglip, llama, shuffle=3, extra_tokens=2, seed=seed)
        return np.concatenate(
            [to_numpy(model.projection.linear.kernel).ravel(), to_numpy(model.language.table)[-2:].ravel()]
        )

    np.testing.assert_array_equal(kernel(1), kernel(1))
    assert (kernel(1) != kernel(2)).all()


def test_a_tower_at_another_size_is_the_tower_that_interpolates(siglip):
    native, own = read_siglip(siglip)
    larger, resized = read_siglip(siglip, (20, 24))
    assert larger == replace(native, image_size=(20, 24))
    assert resized["patches/positions"].shape == (5, 6, hub_dirs.C)
    images = np.random.default_rng(0).random((2, 20, 24, 3)).astype(np.float32)
    expected = to_numpy(tower(native, own)(images))
    np.testing.assert_allclose(to_numpy(tower(larger, resized)(images)), expected, atol=1e-5)


def test_interpolated_positions_are_bicubic(siglip):
    """As transformers interpolates them; tests/oracle asks it."""
    native, resized = read_siglip(siglip)[1], read_siglip(siglip, (24, 24))[1]["patches/positions"]
    table = native["patches/positions"].astype(np.float64)
    # 3 to 6: new centre i lies at (i + 0.5) / 2 - 0.5 of the old, a quarter beyond or before a cell. What is
    # taken of the four cells around, by Keys' kernel with a = -3/4; beyond an edge stands the edge.
    taps = np.array([-0.10546875, 0.87890625, 0.26171875, -0.03515625])
    along = np.zeros((6, 3))
    for i in range(6):
        low = (i - 1) // 2
        for cell, weight in zip(range(low - 1, low + 3), taps if i % 2 else taps[::-1], strict=True):
            along[i, min(max(cell, 0), 2)] += weight
    np.testing.assert_allclose(along.sum(1), 1)
    expected = np.einsum("ir,jc,rcd->ijd", along, along, table)
    np.testing.assert_allclose(resized, expected, atol=1e-6)


def test_extra_tokens_leave_the_others_alone(llama):
    config, tensors = read_llama(llama, extra_tokens=7)
    given = hub_dirs.llama_tensors()["model.embed_tokens.weight"]
    assert config.vocab_size == hub_dirs.V + 7
    np.testing.assert_array_equal(tensors["table"][: hub_dirs.V], given)
    new = tensors["table"][hub_dirs.V :]
    assert new.shape == (7, hub_dirs.D)
    assert 0.015 < new.std() < 0.025
    assert len(np.unique(new)) == new.size


def test_an_untied_head_gets_extra_rows_too(tmp_path):
    given = hub_dirs.llama_tensors()
    given["lm_head.weight"] = given["model.embed_tokens.weight"][::-1].copy()
    folder = hub_dirs.write(tmp_path / "m", hub_dirs.LLAMA, given, tie_word_embeddings=False)
    config, tensors = read_llama(folder, extra_tokens=2)
    assert not config.tie
    np.testing.assert_array_equal(tensors["head"][: hub_dirs.V], given["lm_head.weight"])
    assert tensors["head"].shape == tensors["table"].shape == (hub_dirs.V + 2, hub_dirs.D)


def test_a_tied_head_stored_twice(tmp_path):
    given = hub_dirs.llama_tensors()
    given["lm_head.weight"] = given["model.embed_tokens.weight"].copy()
    assert read_llama(hub_dirs.write(tmp_path / "m", hub_dirs.LLAMA, given))[0].tie
    given["lm_head.weight"] += 1
    with pytest.raises(SaccadeError, match=r"1 not known \(first: \['lm_head.weight'\]\)"):
        read_llama(hub_dirs.write(tmp_path / "n", hub_dirs.LLAMA, given))


def test_rope_as_transformers_5_writes_it(tmp_path):
    config = {key: value for key, value in hub_dirs.LLAMA.items() if key != "rope_theta"}
    rope = {"rope_theta": 1e6, "rope_type": "default"}
    folder = hub_dirs.write(tmp_path / "m", config, hub_dirs.llama_tensors(), rope_parameters=rope)
    assert read_llama(folder)[0].rope_theta == 1e6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"head_dim": 16}, "head_dim is 16"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_type is 'llama3'"),
        ({"num_key_value_heads": 2}, "num_kv_heads=2 does not divide"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"num_hidden_layers": 3}, "tensors missing"),
        ({"vocab_size": 30}, "cannot become table"),
    ],
)
def test_a_language_model_that_is_refused(tmp_path, changes, said):
    folder = hub_dirs.write(tmp_path / "m", hub_dirs.LLAMA, hub_dirs.llama_tensors(), **changes)
    with pytest.raises(SaccadeError, match=said):
        read_llama(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "siglip2"}, "model_type is 'siglip2'"),
        ({"vision_config": {**hub_dirs.SIGLIP["vision_config"], "hidden_act": "gelu"}}, "hidden_act"),
        ({"vision_config": {**hub_dirs.SIGLIP["vision_config"], "image_size": 16}}, "cannot become"),
        ({"vision_config": {}}, "tensors missing"),
    ],
)
def test_a_tower_that_is_refused(tmp_path, changes, said):
    folder = hub_dirs.write(tmp_path / "m", hub_dirs.SIGLIP, hub_dirs.siglip_tensors(), **changes)
    with pytest.raises(SaccadeError, match=said):
        read_siglip(folder)


@pytest.mark.parametrize("wrong", [{"shuffle": 0}, {"image_size": 0}, {"extra_tokens": -1}])
def test_numbers_that_are_none(siglip, llama, wrong):
    with pytest.raises(SaccadeError, match=f"{next(iter(wrong))} is -?[01], it must be at least [01]"):
        from_backbones(siglip, llama, **{"shuffle": 1, **wrong})


def test_a_size_that_does_not_divide(siglip, llama):
    with pytest.raises(SaccadeError, match="image_size 16 gives 4 x 4 patches of 4 px, which shuffle=3"):
        from_backbones(siglip, llama, shuffle=3, image_size=16)
