"""Adapters: an unchanged start, nothing else that trains, and the way back to a plain model."""

import json

import nano
import numpy as np
import pytest
from reference import to_numpy
from rich.console import Console
from talks import golden_rows, rows_of, stream

from saccade import backend
from saccade.errors import SaccadeError
from saccade.hub.nano_vlm import read_model
from saccade.models.nano_vlm import NanoVLM
from saccade.train import TrainConfig, Trainer, lora
from saccade.train.lora import Lora

PARTS = {"language/block_.*/attention": Lora(rank=2, alpha=6), "projection": Lora(rank=3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return nano.write(tmp_path_factory.mktemp("golden") / "m")


@pytest.fixture(scope="module")
def batch():
    rows = rows_of(golden_rows())
    del rows["targets"]
    return rows


@pytest.fixture(scope="module")
def trained(folder):
    """A run over the adapters, and the weights it began with."""
    model = read_model(folder)
    lora.add(model, PARTS)
    before = {name: to_numpy(v).copy() for name, v in model.named_variables().items()}
    config = TrainConfig(steps=4, learning_rate=0.03, log_every=1, schedule="constant", weight_decay=0.1)
    run = Trainer(model, {"chat": stream()}, config, console=Console(quiet=True))
    run.result = run.fit()
    return run, before


def logits(model, batch):
    return to_numpy(backend.compiled(model, model)(batch))[batch["padding_mask"]]


def test_the_start_is_the_same_function(folder, batch):
    plain, adapted = read_model(folder), read_model(folder)
    lora.add(adapted, PARTS)
    np.testing.assert_array_equal(logits(adapted, batch), logits(plain, batch))


def test_only_adapters_train(trained):
    run, before = trained
    names = {name.rsplit("/", 1)[-1] for name in run.model.named_variables() if "lora" in name}
    assert names == {"lora_kernel_a", "lora_kernel_b"}
    depth = run.model.config.language.depth
    assert len(run.engine.trained) == 2 * (3 * depth + 1)  # query, key_value, output; the projection
    numbers = sum(np.prod(v.shape) for v in run.engine.trained)
    assert sum(np.size(tensor) for tensor in run.state["trained"]) == numbers
    assert sum(np.size(slot) for slots in run.state["slots"] for slot in slots) < 2 * numbers + 9
    for name, variable in run.model.named_variables().items():
        assert (np.abs(to_numpy(variable) - before[name]).max() > 0) == ("lora" in name), name
    assert run.result.history[-1]["loss"] < run.result.history[0]["loss"]


def test_what_trains_besides_is_named(folder):
    model = read_model(folder)
    lora.add(model, {"language/.*mlp": Lora(rank=1)}, train=("projection", "language/norm"))
    kept = {name for name, v in model.named_variables().items() if v.trainable and "lora" not in name}
    assert kept == {"projection/linear/kernel", "language/norm/scale"}


def test_merging_changes_nothing(trained, batch):
    model = trained[0].model
    plain = lora.merged(model)
    assert set(plain.named_variables()) == set(NanoVLM.shapes(model.config))
    assert not lora.adapted(plain)
    assert all(v.trainable for v in plain.variables)
    ours, theirs = logits(plain, batch), logits(model, batch)
    np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.abs(theirs).max())
    kernel = model.language.blocks[0].attention.query
    by_hand = to_numpy(kernel.lora_kernel_a) @ to_numpy(kernel.lora_kernel_b) * 3  # alpha 6, rank 2
    base = trained[1]["language/block_0/attention/query/kernel"]
    found = to_numpy(plain.language.blocks[0].attention.query.kernel)
    np.testing.assert_allclose(found, base + by_hand, atol=1e-6)


def test_the_merged_model_is_a_plain_checkpoint(trained, batch, tmp_path):
    lora.merged(trained[0].model).save(tmp_path / "m")
    again = NanoVLM.load(tmp_path / "m")
    theirs = logits(trained[0].model, batch)
    np.testing.assert_allclose(logits(again, batch), theirs, atol=2e-6 * np.abs(theirs).max())


def test_saved_adapters_come_back(trained, folder, batch, tmp_path):
    lora.save(trained[0].model, tmp_path / "adapters")
    model = read_model(folder)
    lora.load(model, tmp_path / "adapters")
    np.testing.assert_array_equal(logits(model, batch), logits(trained[0].model, batch))
    assert {v.path for v in model.trainable_variables} == {
        v.path for v in trained[0].model.trainable_variables
    }


def test_merging_a_bfloat16_model_keeps_float32_weights(folder):
    model = read_model(folder, dtype="mixed_bfloat16")
    lora.add(model, {"projection": Lora(rank=2)})
    layer = model.projection.linear
    layer.lora_kernel_b.assign(np.full(layer.lora_kernel_b.shape, 1e-4, np.float32))
    base = to_numpy(model.named_variables()["projection/linear/kernel"])
    plain = lora.merged(model)
    assert plain.dtype_policy.name == "mixed_bfloat16"
    moved = to_numpy(plain.named_variables()["projection/linear/kernel"]) - base
    expected = to_numpy(layer.lora_kernel_a) @ np.full((2, base.shape[1]), 1e-4)
    np.testing.assert_allclose(moved, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"speech": Lora()}, "lora 'speech' matches no Dense kernel; those are in language, projection"),
        ({"language": Lora(rank=1), ".*attention": Lora(rank=1)}, "both match language/block_"),
        ({"projection": Lora(rank=4000)}, "rank 4000 is not below the sides of projection/linear/kernel"),
    ],
)
def test_parts_that_cannot_be_meant(folder, parts, message):
    with pytest.raises(SaccadeError, match=message):
        lora.add(read_model(folder), parts)


def test_what_trains_besides_must_exist(folder):
    model = read_model(folder)
    with pytest.raises(
        SaccadeError, match="train 'projecton' matches nothing that trains; that is in language, pro"
    ):
        lora.add(model, {"language": Lora(rank=1)}, ("projecton",))
    assert not lora.adapted(model)


def test_adapters_twice_or_none(folder, tmp_path):
    model = read_model(folder)
    with pytest.raises(SaccadeError, match="no adapters to save"):
        lora.save(model, tmp_path / "a")
    lora.add(model, {"projection": Lora(rank=1)})
    with pytest.raises(SaccadeError, match="has adapters already"):
        lora.add(model, {"projection": Lora(rank=1)})


def test_adapters_of_another_model(folder, tmp_path):
    model = read_model(folder)
    lora.add(model, {"projection": Lora(rank=2)})
    lora.save(model, tmp_path / "a")
    record = json.loads((tmp_path / "a" / lora.CONFIG).read_text())
    record["lora"]["projection/linear/kernel"]["rank"] = 3
    (tmp_path / "a" / lora.CONFIG).write_text(json.dumps(record))
    with pytest.raises(SaccadeError, match=r"lora_kernel_a as .* the model wants"):
        lora.load(read_model(folder), tmp_path / "a")
    (tmp_path / "a" / lora.CONFIG).write_text("[]")
    with pytest.raises(SaccadeError, match="is not of saved adapters"):
        lora.load(read_model(folder), tmp_path / "a")
    (tmp_path / "a" / lora.CONFIG).write_text(json.dumps({**record, "weights_sha256": "0" * 64}))
    with pytest.raises(SaccadeError, match="damaged"):
        lora.load(read_model(folder), tmp_path / "a")
