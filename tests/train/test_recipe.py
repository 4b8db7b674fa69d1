import textwrap

import pytest
from pydantic import BaseModel, ConfigDict

from saccade.errors import SaccadeError
from saccade.train import TrainConfig, recipe


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    train: TrainConfig = TrainConfig()
    width: int = 7
    name: str = "toy"


def test_overrides_are_typed():
    config = recipe.apply_overrides(
        Config(),
        ["train.learning_rate=3e-4", "train.betas=[0.8, 9e-1]", "width=9", "train.ema_decay=null", "name=3D"],
    )
    assert config.train.learning_rate == 3e-4
    assert config.train.betas == (0.8, 0.9)
    assert (config.width, config.name, config.train.ema_decay) == (9, "3D", None)
    assert Config().width == 7


def test_parts_can_be_overridden():
    text = ["train.parts.vision.freeze=true", "train.parts.head={learning_rate_scale: 1e-1}"]
    parts = recipe.apply_overrides(Config(), text).train.parts
    assert parts["vision"].freeze
    assert parts["head"].learning_rate_scale == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lerning_rate=1", "unknown key 'train.lerning_rate'; did you mean 'learning_rate'?"),
        ("xyz=1", "unknown key 'xyz'; known are name, train, width"),
        ("width.a=1", "'width' is a single value; 'width.a' does not exist"),
        ("train.steps=many", "train.steps: 'many' does not fit: input should be a valid integer"),
        ("train.steps=0", "train.steps: 0 does not fit: input should be greater than or equal to 1"),
        ("train.optimizer=adam", "train.optimizer: 'adam' does not fit: input should be 'adamw'"),
        ("train.parts.vision.frozen=true", "unknown key 'train.parts.vision.frozen'"),
        ("train=5", "train: 5 does not fit"),
        ("train.steps", "cannot read the override 'train.steps'; write key=value"),
        ("name=[1", "cannot read the value of name: '[1' is not YAML"),
    ],
)
def test_bad_overrides_are_one_clear_line(override, message):
    with pytest.raises(SaccadeError) as error:
        recipe.apply_overrides(Config(), [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


RECIPE = """
    from pydantic import BaseModel
    import toys
    from saccade.train import TrainConfig, Trainer

    class Config(BaseModel):
        train: TrainConfig = TrainConfig(steps=100_000, log_every=2)
        width: int = 7

    SMOKE = {"train.steps": 4, "width": 3}

    def recipe(config, out_dir):
        return Trainer(toys.model(config.width), {"main": toys.stream()}, config.train, out_dir)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe, "PACKAGED", tmp_path / "packaged")
    # The cache would stay on for the tests that follow.
    monkeypatch.setattr("saccade.backend.enable_compilation_cache", lambda path=None: None)
    for name in ("recipes", "packaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "packaged" / "tiny_run.py").write_text(textwrap.dedent(RECIPE))
    return tmp_path


def test_a_recipe_runs_by_name(folder):
    assert recipe.run_recipe("tiny_run", ["train.log_every=1"], smoke=True).steps == 4
    assert not (folder / "runs").exists()
    assert recipe.run_recipe("tiny_run", ["train.steps=3"]).steps == 3
    assert (folder / "runs" / "tiny_run" / "step_00000003" / "state.json").is_file()
    assert '"steps": 3' in (folder / "runs" / "tiny_run" / "config.json").read_text()


def test_recipes_of_a_checkout_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"nano_vlm", "sudoku_fast"} <= set(recipe.list_recipes())
    assert recipe.find_recipe("nano_vlm").read_text().startswith('"""nanoVLM')


def test_the_folder_here_comes_before_the_package(folder):
    (folder / "recipes" / "tiny_run.py").write_text("Config = 1\nSMOKE = {}\nrecipe = 'mine'\n")
    assert recipe.load_recipe("tiny_run").recipe == "mine"
    assert recipe.load_recipe(folder / "packaged" / "tiny_run.py").SMOKE == {"train.steps": 4, "width": 3}


def test_recipes_that_cannot_be_loaded(folder):
    with pytest.raises(SaccadeError, match=r"no recipe is called 'tiny_rum'; did you mean 'tiny_run'\?"):
        recipe.load_recipe("tiny_rum")
    with pytest.raises(SaccadeError, match=r"gone\.py does not exist"):
        recipe.load_recipe("gone.py")
    (folder / "recipes" / "half.py").write_text("Config = 1\n")
    with pytest.raises(SaccadeError, match="defines no recipe and no SMOKE"):
        recipe.load_recipe("half")
    (folder / "recipes" / "broken.py").write_text("x = (\n")
    with pytest.raises(SaccadeError, match=r"broken\.py, line 1"):
        recipe.load_recipe("broken")
