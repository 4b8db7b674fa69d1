"""Weights survive every way of saving; what is damaged or of another model is refused in one line."""

import json
from dataclasses import replace

import forward
import keras
import numpy as np
import pytest
import tiny
from reference import to_numpy

from saccade.errors import SaccadeError
from saccade.model import CONFIG, WEIGHTS
from saccade.models.clip import CLIP
from saccade.models.vlm_hrm import VLMHRM


def values(model) -> dict:
    return {name: to_numpy(v) for name, v in model.named_variables().items()}


def assert_same_weights(a, b):
    ours, theirs = values(a), values(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def assert_same_function(a, b):
    ours, theirs = (forward.run(model, tiny.batch()) for model in (a, b))
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def test_every_variable_has_a_name_of_its_own(any_model):
    names = any_model.named_variables()
    assert len(names) == len(any_model.variables) == len({id(v) for v in names.values()})
    assert {v.dtype for v in any_model.variables} == {"float32"}


def test_a_directory_gives_back_configuration_and_weights(any_model, tmp_path):
    any_model.save(tmp_path / "m")
    loaded = type(any_model).load(tmp_path / "m")
    assert loaded.config == any_model.config
    assert loaded.tasks == any_model.tasks
    assert_same_weights(any_model, loaded)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras reading its variables
def test_so_does_a_keras_file(any_model, tmp_path):
    any_model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded) is type(any_model)
    assert loaded.config == any_model.config
    assert_same_weights(any_model, loaded)


def test_what_is_loaded_computes_the_same(model, tmp_path):
    model.save(tmp_path / "m")
    assert_same_function(model, VLMHRM.load(tmp_path / "m"))


def test_saving_twice_gives_the_same_bytes(any_model, tmp_path):
    for name in "ab":
        any_model.save(tmp_path / name)
    for file in (WEIGHTS, CONFIG):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_bfloat16_halves_the_file(any_model, tmp_path):
    any_model.save(tmp_path / "wide")
    any_model.save(tmp_path / "narrow", dtype="bfloat16")
    wide, narrow = ((tmp_path / name / WEIGHTS).stat().st_size for name in ("wide", "narrow"))
    assert wide - narrow == pytest.approx(
        2 * any_model.count_params(), abs=600
    )  # the header differs a little
    loaded = type(any_model).load(tmp_path / "narrow")
    found = values(loaded)
    for name, value in values(any_model).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, rtol=2**-8, err_msg=name)
    again = tmp_path / "again"
    loaded.save(again, dtype="bfloat16")
    assert (again / WEIGHTS).read_bytes() == (tmp_path / "narrow" / WEIGHTS).read_bytes()


def test_loading_in_mixed_precision(any_model, tmp_path):
    any_model.save(tmp_path / "m")
    loaded = type(any_model).load(tmp_path / "m", dtype="mixed_bfloat16")
    assert loaded.compute_dtype == "bfloat16"
    assert_same_weights(any_model, loaded)


def test_weights_of_another_configuration_are_refused(any_model, misfit, tmp_path):
    any_model.save(tmp_path / "m")
    with pytest.raises(SaccadeError, match="of another configuration"):
        type(any_model).load(tmp_path / "m", **misfit)


def test_so_is_another_model(any_model, tmp_path):
    any_model.save(tmp_path / "m")
    other = CLIP if not isinstance(any_model, CLIP) else VLMHRM
    with pytest.raises(SaccadeError, match=f"describes a '.*', not a {other.__name__}"):
        other.load(tmp_path / "m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m"
    tiny.vlm_hrm().save(path)
    return path


def copy(folder, tmp_path, **changed):
    """A copy of the directory; `changed` maps a key of config.json to its new value."""
    target = tmp_path / "copy"
    target.mkdir()
    (target / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    record = json.loads((folder / CONFIG).read_text()) | changed
    (target / CONFIG).write_text(json.dumps(record))
    return target


def refused(folder, *parts):
    with pytest.raises(SaccadeError) as error:
        VLMHRM.load(folder)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def config_of(folder, **changes):
    return {**json.loads((folder / CONFIG).read_text())["config"], **changes}


def test_no_directory(tmp_path):
    refused(tmp_path / "nothing", "nothing", "is not a model directory: it has no config.json")


def test_no_json(folder, tmp_path):
    target = copy(folder, tmp_path)
    (target / CONFIG).write_text("{")
    refused(target, CONFIG, "is not readable JSON", "again")


@pytest.mark.parametrize(
    "content", ["[]", "3", "{}", '{"model": "VLMHRM"}', '{"model": "VLMHRM", "config": 3}']
)
def test_json_of_something_else(folder, tmp_path, content):
    target = copy(folder, tmp_path)
    (target / CONFIG).write_text(content)
    refused(target, CONFIG)


def test_another_model(folder, tmp_path):
    refused(copy(folder, tmp_path, model="NanoVLM"), "describes a 'NanoVLM', not a VLMHRM")


@pytest.mark.parametrize("changes", [{"layers": 3}, {"vision": {"dim": 3}}])
def test_a_configuration_with_unknown_or_missing_keys(folder, tmp_path, changes):
    refused(copy(folder, tmp_path, config=config_of(folder, **changes)), "is no VLMHRM configuration")


def test_weights_of_another_shape(folder, tmp_path):
    target = copy(folder, tmp_path, config=config_of(folder, num_answers=12))
    refused(target, "another configuration", "vqa/linear", "(24, 11)", "(24, 12)")


def test_weights_of_another_depth(folder, tmp_path):
    target = copy(folder, tmp_path, config=config_of(folder, depth=2))
    refused(target, "another configuration", "missing (first: ['core/net/block_1/")


@pytest.mark.parametrize("place", [0.01, 0.5, 0.999])
def test_a_flipped_byte(folder, tmp_path, place):
    target = copy(folder, tmp_path)
    content = bytearray((target / WEIGHTS).read_bytes())
    content[int(place * len(content))] ^= 4
    (target / WEIGHTS).write_bytes(content)
    refused(target, WEIGHTS, "damaged", "sha256")


@pytest.mark.parametrize("length", [0, 5, 1000])
def test_a_truncated_file(folder, tmp_path, length):
    target = copy(folder, tmp_path)
    (target / WEIGHTS).write_bytes((target / WEIGHTS).read_bytes()[:length])
    refused(target, WEIGHTS)
    record = json.loads((target / CONFIG).read_text())
    del record["weights_sha256"]  # an older file without a hash
    (target / CONFIG).write_text(json.dumps(record))
    refused(target, WEIGHTS, "not a complete safetensors file")


def test_no_weights(folder, tmp_path):
    target = copy(folder, tmp_path)
    (target / WEIGHTS).unlink()
    refused(target, WEIGHTS)


def test_a_config_is_immutable_and_hashable():
    config = tiny.CONFIG
    assert hash(config) == hash(replace(config))
    with pytest.raises(AttributeError):
        config.dim = 3
