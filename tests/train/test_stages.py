"""Stages: what trains when, from what, and that a killed run goes on inside its stage bit for bit."""

import numpy as np
import pytest
import toys
from killed_stages import CONFIG, STAGES, trainer
from killing import kill
from reference import to_numpy

from saccade.data.scenes import Source
from saccade.errors import SaccadeError
from saccade.train import MultiStageTrainer, Part, Trainer, checkpoint
from saccade.train.stages import InTurn, Stage


def values(model) -> dict[str, np.ndarray]:
    return {v.path.split("/", 1)[1]: to_numpy(v.value).copy() for v in model.variables}


def assert_same(a, b):
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture
def seen(monkeypatch):
    """(config, stream names, weights before, weights after) of every Trainer that ran."""
    fit, found = Trainer.fit, []

    def spied(self):
        before = values(self.model)
        result = fit(self)
        found.append((self.config, tuple(self.streams), before, values(self.model)))
        return result

    monkeypatch.setattr(Trainer, "fit", spied)
    return found


def test_each_stage_trains_its_parts_by_its_own_settings(seen):
    run = trainer(None, [STAGES[0], Stage(name="all", steps=3, weight_decay=0.1, streams=("plain",))])
    assert run.fit().steps == 3
    (first, streams, before, after), (second, later, begun, ended) = seen
    assert (first.optimizer, first.learning_rate, first.steps) == ("lion", 0.01, 9)
    assert (second.optimizer, second.learning_rate, second.weight_decay) == ("adamw", 0.03, 0.1)
    assert (streams, later) == (("plain", "slots"), ("plain",))
    assert first.seed != second.seed
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert {name.split("/")[0] for name in changed if "seed" not in name} == {"head"}
    # Handed on: the moving averages, not the last weights, and what was frozen as it was.
    assert (begun["head/kernel"] != after["head/kernel"]).any()
    assert (begun["encoder/kernel"] == before["encoder/kernel"]).all()
    assert (ended["encoder/kernel"] != begun["encoder/kernel"]).any()


def test_without_averages_the_last_weights_are_handed_on(seen):
    config = CONFIG.model_copy(update={"ema_decay": None})
    trainer(None, [STAGES[0], Stage(name="all", steps=2)], config).fit()
    assert_same({k: v for k, v in seen[0][3].items() if "seed" not in k}, seen[1][2])


def test_epochs_are_passes_over_the_longest_stream(seen):
    config = CONFIG.model_copy(update={"accumulate": 2})
    trainer(None, [Stage(name="a", epochs=0.5, streams=("plain",)), Stage(name="b", steps=2)], config).fit()
    assert seen[0][0].steps == 2  # ceil(0.5 * 30 / 4 / 2)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage(name="a", trains={}, steps=1), "'a' trains nothing; name in `trains` .*: encoder, head"),
        (Stage(name="a", trains={".*": Part(freeze=True)}, steps=1), "'a' trains nothing"),
        (Stage(name="a", learning_rate=0, steps=1), "'a' trains nothing: its learning rates are 0"),
        (Stage(name="a", trains={"hed": Part()}, steps=1), "'a': part 'hed' matches no trainable variable"),
        (Stage(name="a", trains={"(": Part()}, steps=1), r"'a': part '\('.*unterminated subpattern"),
        (Stage(name="a"), "'a' has steps None and epochs None; give one of the two"),
        (Stage(name="a", steps=1, epochs=2), "'a' has steps 1 and epochs 2.0; give one of the two"),
        (Stage(name="a", steps=1, streams=("plane",)), "'a' learns from plane; the streams are plain, slots"),
        (Stage(name="a", steps=1, streams=()), "'a' learns from no stream"),
        (Stage(name="a", steps=3, warmup_steps=4), "'a' has steps 3, fewer than its warmup_steps 4, so it"),
        (
            Stage(name="a", steps=1),
            "'a' has steps 1, fewer than its warmup_steps 2, .* change one of the two",
        ),
        (Stage(name="head", steps=1), "stages are called head, head; give each a name of its own"),
    ],
)
def test_a_stage_that_cannot_work_is_refused_before_the_first_begins(stage, message):
    with pytest.raises(SaccadeError, match=message):
        trainer(None, [STAGES[0], stage])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "a", "steps": 0},
            "stage 'a': steps: 0 does not fit: input should be greater than or equal",
        ),
        ({"name": "a", "epochs": "two"}, "stage 'a': epochs: 'two' does not fit"),
        ({"name": "a", "trains": {"head": {"freeze": 7}}}, "stage 'a': trains.head.freeze: 7 does not fit"),
        ({"name": "a", "step": 3}, "stage 'a': unknown key 'step'; remove it"),
        ({"steps": 3}, "a stage: name: .* does not fit: field required"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(values, message):
    for make in (lambda: Stage(**values), lambda: Stage.model_validate(values)):
        with pytest.raises(SaccadeError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_a_warm_up_may_take_the_whole_stage():
    run = trainer(None, [Stage(name="a", steps=2, warmup_steps=2)])
    assert [settings.warmup_steps for _, settings in run.stages] == [2]


def test_epochs_of_an_endless_stream_are_refused():
    streams = {"plain": toys.stream(batch_size=4, source=Source("vqa"))}
    stage = Stage(name="a", epochs=2)
    with pytest.raises(SaccadeError, match="'a' has epochs 2, but 'plain' never ends; give steps"):
        MultiStageTrainer(toys.model(), streams, CONFIG, [stage])


def test_no_stages_is_an_error():
    with pytest.raises(SaccadeError, match="there are no stages"):
        InTurn((), lambda *_: None).fit()


def test_the_runs_own_parts_hold_where_a_stage_names_none(seen):
    config = CONFIG.model_copy(update={"parts": {"encoder": Part(freeze=True)}})
    trainer(None, [Stage(name="a", steps=2)], config).fit()
    _, _, before, after = seen[0]
    assert (before["encoder/kernel"] == after["encoder/kernel"]).all()
    assert (before["head/kernel"] != after["head/kernel"]).any()


def test_a_killed_run_goes_on_inside_its_stage_bit_for_bit(tmp_path, seen):
    trainer(None).fit()
    whole = seen[-1][3]
    reached = kill("killed_stages.py", tmp_path)
    assert 0 < reached < STAGES[1].steps
    assert checkpoint.step_of(checkpoint.list_checkpoints(tmp_path / "stage_1")[-1]) == STAGES[0].steps

    assert trainer(tmp_path).fit().steps == STAGES[1].steps - reached
    assert_same(seen[-1][3], whole)


def test_cut_off_in_the_first_stage(tmp_path, seen):
    """As if killed there: the checkpoint of its step 7 is there, and nothing else."""
    stages = [STAGES[0], Stage(name="all", steps=3)]
    trainer(None, stages).fit()
    whole = seen[-1][3]
    short = [STAGES[0].model_copy(update={"steps": 9})]
    trainer(tmp_path / "stage_1", short).fit()  # the last stage writes its folder itself
    newest = checkpoint.list_checkpoints(tmp_path / "stage_1")[-1]
    assert checkpoint.step_of(newest) == 9
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    assert checkpoint.step_of(checkpoint.list_checkpoints(tmp_path / "stage_1")[-1]) == 7
    trainer(tmp_path, stages).fit()
    assert_same(seen[-1][3], whole)
