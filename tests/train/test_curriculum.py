"""Levels by score, the rule of promotion, what is drawn, and that a killed run sees the same examples."""

import json
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import toys
from killed_curriculum import CONFIG, curriculum, trainer
from killing import kill
from reference import to_numpy

from saccade.data.scenes import Source, difficulty
from saccade.errors import SaccadeError
from saccade.train import Trainer
from saccade.train.curriculum import Curriculum


def levels_drawn(source, count=2000):
    found = Counter(int(source[i]["id"]) // 100 for i in range(count))
    return {level: found[level] / count for level in sorted(found)}


def at(level, **options):
    source = curriculum(**options)
    source.level = level
    return source


def test_it_rises_after_three_in_a_row_and_never_falls():
    source = curriculum()
    told = [0.5, 0.9, 0.4, 0.6, math.nan, 0.6, 0.6, 0.6, 0.0, 0.0, 0.9, 0.9, 0.9, 0.0, 0.0, 0.0, 1, 1, 1]
    levels = []
    for value in told:
        before = source.level
        assert source.note({"accuracy": value}) == (source.level > before)
        levels.append(source.level)
    assert levels == [0] * 7 + [1] * 5 + [2] * 7


def test_each_level_has_its_threshold():
    source = Curriculum([toys.Points()] * 3, (0.9, 0.2), watch="val")
    assert not any(source.note({"val": 0.8}) for _ in range(5))
    assert [source.note({"val": 0.95}) for _ in range(3)] == [False, False, True]
    assert [source.note({"val": 0.3}) for _ in range(3)] == [False, False, True]
    with pytest.raises(SaccadeError, match="watches 'val', evaluate returned accuracy, loss"):
        source.note({"accuracy": 1.0, "loss": 2.0})


def test_samplers():
    assert levels_drawn(at(2, sampler="current").drawn()) == {2: 1.0}
    assert levels_drawn(at(2).drawn()) == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3}, abs=0.05)
    assert levels_drawn(at(2, sampler=(6, 3)).drawn()) == pytest.approx(
        {0: 1 / 4, 1: 1 / 4, 2: 1 / 2}, abs=0.05
    )
    assert levels_drawn(at(2, sampler=(6, 3, 1)).drawn()) == pytest.approx({0: 0.1, 1: 0.3, 2: 0.6}, abs=0.05)
    for sampler in ("current", "up_to", (6, 3)):
        assert levels_drawn(at(0, sampler=sampler).drawn()) == {0: 1.0}


def test_what_is_drawn_is_a_function_of_the_index_and_stays():
    source = at(1)
    drawn = source.drawn()
    ids = [int(drawn[i]["id"]) for i in range(40)]
    source.level = 2  # a reader that is at work does not see it
    again = pickle.loads(pickle.dumps(drawn))
    assert [int(again[i]["id"]) for i in range(40)] == ids
    assert len(set(ids)) > 20
    other = at(1, seed=1).drawn()
    assert [int(other[i]["id"]) for i in range(40)] != ids


class Numbers:
    def __init__(self, *values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return self.values[i]


def test_levels_of_a_score():
    made = Curriculum.scored(Numbers(3, 1, 2, 2, 9, 1), float, edges=(2, 3), threshold=0.5, sampler="current")
    assert [[level[i] for i in range(len(level))] for level in made.sources] == [[1, 1], [2, 2], [3, 9]]
    with pytest.raises(
        SaccadeError, match=r"level 1 .* scores in \[4, 5\), has no example among 6, .* 1 to 9"
    ):
        Curriculum.scored(Numbers(3, 1, 2, 2, 9, 1), float, edges=(4, 5), threshold=0.5)
    with pytest.raises(SaccadeError, match=r"edges are \[5, 4\]; they must rise"):
        Curriculum.scored(Numbers(1), float, edges=(5, 4), threshold=0.5)
    with pytest.raises(SaccadeError, match="source has no examples"):
        Curriculum.scored(Numbers(), float, edges=(5,), threshold=0.5)


def test_levels_of_scenes_by_hops():
    made = Curriculum.scored(
        Source("vqa", max_depth=3, num_objects=(3, 4)),
        lambda example: difficulty(example)[0],
        edges=(2, 3),
        threshold=0.8,
        size=40,
        sampler="current",
    )
    for level in range(3):
        made.level = level
        assert {made.drawn()[i].depth for i in range(5)} == {level + 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 0.5), "has no levels"),
        (([toys.Points(), toys.Points(0)], 0.5), "level 1 of the curriculum has no examples"),
        (([toys.Points()] * 3, (0.5,)), "3 levels need 2 thresholds, 1 are given"),
        (([toys.Points()], 0.5, "a", "all"), "unknown sampler 'all': use current, up_to, or weights"),
        (([toys.Points()], 0.5, "a", (0.0, 1.0)), "that of the current level, the first, above 0"),
        (([toys.Points()], 0.5, "a", ()), r"sampler is \(\)"),
        (([toys.Points()] * 2, float("nan")), r"thresholds are \[nan\]; give numbers"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(SaccadeError, match=message):
        Curriculum(*arguments)


def test_scores_must_be_numbers_and_thresholds_may_be_numpys():
    with pytest.raises(SaccadeError, match="the score of example 3 is nan; give each a number"):
        Curriculum.scored(range(9), lambda i: np.nan if i == 3 else i, (5,), 0.5)
    assert Curriculum([toys.Points()] * 3, np.float32(0.5)).thresholds == [0.5, 0.5]


def test_a_curriculum_needs_evaluations():
    with pytest.raises(SaccadeError, match="'slots' is a curriculum, but nothing is evaluated"):
        trainer(None, evaluate=None)
    with pytest.raises(SaccadeError, match="set eval_every"):
        trainer(None, CONFIG.model_copy(update={"eval_every": None}))


def seen_ids(run) -> Counter:
    """How often each id was taken into a slot."""
    return Counter(dict(enumerate(to_numpy(run.state["carries"]["slots"]["seen"]).tolist())))


def test_the_trainer_raises_the_level(tmp_path):
    run = trainer(tmp_path, CONFIG.model_copy(update={"steps": 36}), curriculum(sampler="current"))
    run.fit()
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    levels = {record["step"]: record["level/slots"] for record in records if "level/slots" in record}
    assert levels == {4: 0, 8: 0, 12: 0, 16: 1, 20: 1, 24: 1, 28: 2, 32: 2, 36: 2}
    by_level = Counter()
    for number, count in seen_ids(run).items():
        by_level[number // 100] += count
    assert {level for level, count in by_level.items() if count} == {0, 1, 2}
    assert run.curricula["slots"].level == 2


def test_a_level_that_is_not_passed_stays():
    run = trainer(None, CONFIG.model_copy(update={"steps": 30}), evaluate=lambda _: {"accuracy": 0.4})
    run.fit()
    assert {number // 100 for number, count in seen_ids(run).items() if count} == {0}


def test_a_killed_run_sees_the_same_examples(tmp_path):
    whole = trainer(None)
    whole.fit()
    assert whole.curricula["slots"].level == 2
    reached = kill("killed_curriculum.py", tmp_path, checkpoints=2)
    assert 7 < reached < CONFIG.steps
    run = trainer(tmp_path)
    assert run.fit().steps == CONFIG.steps - reached
    assert seen_ids(run) == seen_ids(whole)
    for a, b in zip(run.model.variables, whole.model.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(a.value), to_numpy(b.value), err_msg=a.path)


@pytest.mark.parametrize("stop", [7, 14, 21, 28])
def test_stopped_at_any_level_it_goes_on_the_same(tmp_path, stop, monkeypatch):
    """At 14 a level has just begun and two evaluations of the next three are still to come, and so on."""
    whole = trainer(None, CONFIG.model_copy(update={"steps": 35, "schedule": "constant"}))
    whole.fit()
    first = trainer(tmp_path, CONFIG.model_copy(update={"steps": stop, "schedule": "constant"}))
    monkeypatch.setattr(Trainer, "_evaluate", _only_at_fours(Trainer._evaluate))
    first.fit()
    run = trainer(tmp_path, CONFIG.model_copy(update={"steps": 35, "schedule": "constant"}))
    run.fit()
    assert seen_ids(run) == seen_ids(whole)


def _only_at_fours(evaluate):
    """A run that ends early evaluates at its end, which the whole run does not do there."""
    return lambda self, log: evaluate(self, log) if self.step % 4 == 0 else None


def test_a_checkpoint_of_more_levels_is_refused(tmp_path):
    trainer(tmp_path, CONFIG.model_copy(update={"steps": 28})).fit()
    with pytest.raises(SaccadeError, match="the checkpoint is at level 2, this curriculum has 2 levels"):
        trainer(tmp_path, source=Curriculum([toys.Points(), toys.Points()], 0.5)).fit()
