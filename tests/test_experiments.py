"""The scripts of experiments/: what they start, and what they make of logs."""

import json
import sys
from pathlib import Path

import pytest

from saccade.train.recipe import load_recipe, make_config

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import nlvr_ablations

    return nlvr_ablations


def write_run(folder: Path, accuracy: float, step: int) -> None:
    (folder / "model").mkdir(parents=True)
    records = [
        {"step": step // 2, "eval/accuracy": 0.5, "eval/consistency": 0.0, "eval/accuracy_all_steps": 0.5},
        {"step": step, "loss": 1.0},
        {"step": step, "eval/accuracy": accuracy, "eval/consistency": 0.25, "eval/accuracy_all_steps": 0.75},
        {"step": step, "loss": 0.9},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_ended_ablations_are_reported_and_not_run_again(ablations, tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "reference_2", 0.80, 1500)
    write_run(tmp_path / "reference_3", 0.90, 1200)
    arguments = [str(tmp_path / "no_data"), "--seeds", "2", "3", "--settings", "reference"]
    monkeypatch.setattr(sys, "argv", ["nlvr_ablations.py", *arguments, "--out", str(tmp_path)])
    monkeypatch.setenv("COLUMNS", "120")
    ablations.main()
    shown = " ".join(capsys.readouterr().out.split())
    assert "1,500 1,200" in shown
    assert "85.0 +- 7.1" in shown  # of the last evaluations
    assert "25.0 +- 0.0" in shown


def test_a_run_that_fails_says_where_its_log_is(ablations, tmp_path, monkeypatch):
    arguments = [str(tmp_path / "no_data"), "--settings", "one_step", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["nlvr_ablations.py", *arguments])
    with pytest.raises(SystemExit, match=r"one_step of seed 1 failed: see .*one_step_1\.txt"):
        ablations.main()
    log = (tmp_path / "runs" / "one_step_1.txt").read_text()
    assert "train_scenes.jsonl.gz" in log
    assert "Traceback" not in log


def test_every_setting_changes_the_recipe(ablations):
    """Each override is one that the recipe takes."""
    recipe = load_recipe("nlvr_vlm_hrm")
    for name, overrides in ablations.SETTINGS.items():
        config = make_config(recipe, overrides)
        assert sum(task.batch for task in config.tasks.values()) == 240, name
