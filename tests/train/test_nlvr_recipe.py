"""The NLVR recipe: its streams carry what its losses read, its ablations are settings, and it runs."""

import json

import keras
import nlvr_files
import pytest

from saccade.data.scenes import sentences as sentences_module
from saccade.errors import SaccadeError
from saccade.models.vlm_hrm import VLMHRM
from saccade.pipeline import load
from saccade.train.recipe import apply_overrides, load_recipe, make_config, run_recipe

ABLATIONS = {
    "one step": ["model.halt_max_steps=1"],
    "never halts early": ["model.halt_threshold=1e6"],
    "two nets": ["model.shared=false"],
    "more cycles": ["model.h_cycles=2", "model.l_cycles=2"],
    "no pretraining": ["init=null"],
    "no panels": ["tasks={human: {batch: 320}}"],
    "no symmetries": ["symmetries=false", "rewording=0"],
}


@pytest.fixture(scope="module")
def nlvr(repository):
    return load_recipe(repository / "recipes" / "nlvr_vlm_hrm.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("nlvr")
    nlvr_files.write(path, sentences=60, scenes=3)
    return path


def build(nlvr, config, human=None):
    """Processor and model, whose variables are given no values."""
    old, new = nlvr.make_processor(config, human)
    with keras.StatelessScope(initialize_variables=False):
        return new, nlvr.make_model(config.model_copy(update={"init": None}), old, new)


def test_streams_bring_what_their_losses_read(nlvr, folder):
    config = apply_overrides(nlvr.Config(), [f"data={folder}", "workers=false"])
    human = nlvr.Sentences(folder)
    processor, model = build(nlvr, config, human)
    for name, task in config.tasks.items():
        stream = nlvr.make_stream(name, task, config, processor, model, human)
        batch = stream.collate([stream.source[i] for i in range(3)])
        layout = model.layout(batch)
        cells = layout.grid[0] * layout.grid[1]
        assert batch["images"].shape == (3, 96, 384, 3)
        assert cells == 144
        assert batch["tokens"].shape == (3, 48)
        for loss in stream.objective.also:
            assert {*loss.reads} <= batch.keys()
        assert (batch["objects"][..., 0] >= 0).any(1).all()
        assert (batch["referents"] >= 0).any((1, 2)).all() == (name == "panels")


def test_every_text_fits(nlvr, shared):
    config = apply_overrides(nlvr.Config(), [f"data={shared / 'data' / 'nlvr'}"])
    human = nlvr.Sentences(config.data, "all", rewording=0.5)
    _, new = nlvr.make_processor(config, human)
    longest = max(len(new.encode(text, 10**6)) for text in human.texts)
    assert longest + 8 <= config.text_length, longest  # room for a word that is misspelt


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_are_settings(nlvr, name):
    config = apply_overrides(nlvr.Config(), ABLATIONS[name])
    _, model = build(nlvr, config)
    assert isinstance(model, VLMHRM)
    for key, value in config.model.items():
        assert getattr(model.config, key) == value
    assert model.config.rotary_grid is None


def test_it_starts_from_the_scene_model(nlvr, folder):
    config = apply_overrides(nlvr.Config(), [f"data={folder}", "precision=float32"])
    human = nlvr.Sentences(folder)
    old, new = nlvr.make_processor(config, human)
    assert new.tokenizer.vocab_size > old.tokenizer.vocab_size
    assert {*old.config.lexicon} <= {*new.config.lexicon}
    assert new.config.answers == old.config.answers
    model = nlvr.make_model(config, old, new)
    assert model.config.vision.grid(model.config.vision.image_size) == (6, 24)
    assert model.config.rotary_grid is None
    assert model.config.vocab_size == new.tokenizer.vocab_size


def test_human_sentences_need_their_file(nlvr):
    with pytest.raises(SaccadeError, match="data=FOLDER"):
        nlvr.recipe(nlvr.Config(), None)


def test_it_runs_and_judges_sentences_that_are_held_out(nlvr, repository, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sentences_module, "HELD_OUT", 6)
    path = repository / "recipes" / "nlvr_vlm_hrm.py"
    overrides = [f"data={folder}", "tasks={human: {batch: 4}, panels: {batch: 2}}", "validation=2"]
    assert make_config(nlvr, overrides, smoke=True).train.steps == 3
    result = run_recipe(path, overrides, smoke=True, out=tmp_path)
    assert result.steps == 3
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    measured = [record for record in records if "eval/accuracy" in record]
    assert 0 <= measured[-1]["eval/consistency"] <= measured[-1]["eval/accuracy"] <= 1
    assert any("human/perceived" in record and "panels/referred" in record for record in records)
    pipeline = load(tmp_path / "model")
    assert pipeline.model.tasks == ("statement",)
    again = apply_overrides(
        nlvr.Config(), [f"data={folder}", f"init={tmp_path / 'model'}", "precision=float32"]
    )
    old, new = nlvr.make_processor(again, nlvr.Sentences(folder))
    assert new.tokenizer.to_json() == old.tokenizer.to_json()  # a second piece starts from the first's export
    assert nlvr.make_model(again, old, new).config.vocab_size == pipeline.model.config.vocab_size
    example = nlvr.Sentences(folder)[0]
    answer = pipeline.ask(example.image, "There is a blue circle.")
    assert answer.text in ("true", "false")
