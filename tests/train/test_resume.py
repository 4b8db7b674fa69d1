import json

import numpy as np
import pytest
from killed_run import CONFIG, trainer
from killing import kill

from saccade.errors import SaccadeError
from saccade.train import checkpoint

LEARNT = ("trained", "others", "slots", "ema", "seed", "carries")


def learnt(run) -> dict[str, np.ndarray]:
    """Everything learnt. Not the queues: how far ahead they are filled may differ, what steps see may not."""
    leaves = checkpoint.flatten({key: run.state[key] for key in LEARNT})
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted():
    run = trainer(None)
    run.fit()
    return learnt(run)


def test_a_killed_run_continues_bit_for_bit(tmp_path, uninterrupted):
    reached = kill("killed_run.py", tmp_path)
    assert 0 < reached < CONFIG.steps

    run = trainer(tmp_path)
    result = run.fit()
    assert result.steps == CONFIG.steps - reached
    assert_same(learnt(run), uninterrupted)
    assert not list(tmp_path.glob(".*.partial"))
    logged = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged == list(range(4, CONFIG.steps + 1, 4))


def test_a_finished_run_does_nothing_more(tmp_path):
    config = CONFIG.model_copy(update={"steps": 3})
    first = trainer(tmp_path, config)
    first.fit()
    again = trainer(tmp_path, config)
    assert again.fit().steps == 0
    assert_same(learnt(first), learnt(again))
    for a, b in zip(first.model.variables, again.model.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(a.value), np.asarray(b.value))


@pytest.mark.parametrize("damage", ["flip", "truncate", "facts"])
def test_a_damaged_checkpoint_is_passed_over_aloud(tmp_path, capsys, damage, uninterrupted):
    config = CONFIG.model_copy(update={"steps": 15})
    trainer(tmp_path, config).fit()
    newest = checkpoint.list_checkpoints(tmp_path)[-1]
    file = newest / ("state.json" if damage == "facts" else "state.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2])
    run = trainer(tmp_path, config)
    assert run.fit().steps == 1
    said = capsys.readouterr().err
    assert "skipping a damaged checkpoint" in said
    assert newest.name in said


def test_all_checkpoints_damaged_is_an_error(tmp_path):
    config = CONFIG.model_copy(update={"steps": 2})
    trainer(tmp_path, config).fit()
    for path in checkpoint.list_checkpoints(tmp_path):
        (path / "state.json").unlink()
    with pytest.raises(SaccadeError, match=r"1 checkpoints in .* are damaged"):
        trainer(tmp_path, config).fit()


def test_two_runs_are_not_mixed_in_one_folder(tmp_path):
    config = CONFIG.model_copy(update={"steps": 2})
    assert trainer(tmp_path, config, resume=False).fit().steps == 2
    with pytest.raises(SaccadeError, match="already has checkpoints"):
        trainer(tmp_path, config, resume=False).fit()


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    trainer(tmp_path, CONFIG.model_copy(update={"steps": 2})).fit()
    with pytest.raises(SaccadeError, match=r"of another run: it has the unexpected ema/0000"):
        trainer(tmp_path, CONFIG.model_copy(update={"steps": 3, "ema_decay": None})).fit()


@pytest.mark.parametrize(
    "optimizer", ["lion", "muon"]
)  # one vector as before, with other slots; many tensors
def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path, optimizer):
    assert CONFIG.optimizer == "adamw"
    trainer(tmp_path, CONFIG.model_copy(update={"steps": 2})).fit()
    with pytest.raises(SaccadeError, match=r"of another run: it .*use a new output folder"):
        trainer(tmp_path, CONFIG.model_copy(update={"steps": 3, "optimizer": optimizer})).fit()


def test_only_the_newest_are_kept(tmp_path):
    trainer(tmp_path, CONFIG.model_copy(update={"steps": 21, "keep": 2})).fit()
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step_00000014", "step_00000021"]
