"""The recipe that trains task heads on the bundled model's features: labels, features, and that it learns."""

import keras
import numpy as np
import pytest

import saccade
from saccade.errors import SaccadeError
from saccade.train import scene_heads
from saccade.train.recipe import load_recipe, make_config, run_recipe

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="the Trainer runs on jax")
RECIPE = load_recipe("heads_scenes")


@pytest.fixture(scope="module")
def pipeline():
    return saccade.load("vlm_hrm_scenes")


def drawn(name, count):
    return RECIPE.draw(RECIPE.Config(), RECIPE.TASKS[name], "test", count)


def test_boxes_are_of_the_canvas(pipeline):
    """Pictures of other shapes are letterboxed: the model finds what the label says, on its own canvas."""
    examples = drawn("grounding", 40)
    assert len({e.image.shape for e in examples}) > 1
    labels = RECIPE.TASKS["grounding"].labels(pipeline, examples)["box"]
    batch = pipeline.processor([e.image for e in examples], [e.text for e in examples])
    found = pipeline.reasoner.run(batch, "ground")["box"]
    near = np.abs(found - labels).max(1) < 0.1
    assert near.mean() >= 0.95
    plain = np.abs(found - np.array([e.box for e in examples])).max(1) < 0.1
    assert plain.mean() < near.mean()


@pytest.mark.parametrize("count", [2, 10, 30])
def test_candidates_hold_the_right_answer_once(pipeline, count):
    examples = drawn("dialogue", 30)
    labels = RECIPE.TASKS["dialogue"].labels(pipeline, examples, count)
    assert labels["candidates"].shape[:2] == (30, count)
    right = labels["candidates"][np.arange(30), labels["answer_index"]]
    np.testing.assert_array_equal(right, labels["response"])
    assert all(len({tuple(text) for text in row}) == count for row in labels["candidates"].tolist())
    assert len(set(labels["answer_index"].tolist())) > 1


def test_features_do_not_depend_on_the_chunk(pipeline, monkeypatch):
    """The last chunk is padded; a row's features are its own."""
    examples = drawn("vqa", 5)
    whole = scene_heads.encode(pipeline, examples, steps=1)
    monkeypatch.setattr(scene_heads, "CHUNK", 3)
    parts = scene_heads.encode(pipeline, examples, steps=1)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert len(value) == 5
        np.testing.assert_allclose(
            np.float32(parts[name]), np.float32(value), atol=0.05, err_msg=name
        )  # float16


def test_twins_share_a_batch(pipeline):
    config = RECIPE.Config(tasks=("matching",), examples=8, held_out=4)
    data = RECIPE.prepare(config, "matching", pipeline)
    batch = RECIPE.join([data.train[0], data.train[1]])
    assert len(data.train) == 4
    assert len(batch["vision_features"]) == 4
    assert batch["vision_features"].dtype == np.float32
    assert "text_features" in batch
    assert len(data.examples) == 4


def test_every_task_trains_as_one_head(tmp_path):
    names = ",".join(RECIPE.TASKS)
    run_recipe("heads_scenes", [f"tasks=[{names}]", "dim=32"], smoke=True, out=str(tmp_path))
    log = (tmp_path / "log.jsonl").read_text()
    for name in RECIPE.TASKS:
        assert f"eval/{name}/" in log
    from saccade.heads.create import load_vlm_head

    assert set(load_vlm_head(tmp_path / "model").heads) == set(RECIPE.TASKS)


def test_unknown_task():
    with pytest.raises(SaccadeError, match="choose some of vqa, grounding"):
        RECIPE.recipe(make_config(RECIPE, ["tasks=[vqua]"]), None)


def test_grounding_is_learnt(pipeline):
    """A head of 64 on 600 phrases: what the frozen model marked is enough to point."""
    config = make_config(
        RECIPE,
        [
            "tasks=[grounding]", "dim=64", "examples=600", "held_out=100", "batch=50", "precision=float32",
            "train.steps=150", "train.log_every=150", "train.learning_rate=0.003", "train.ema_decay=null",
            "train.eval_every=null", "train.warmup_steps=10",
        ],
    )  # fmt: skip
    data = {"grounding": RECIPE.prepare(config, "grounding", pipeline)}
    trainer = RECIPE.make_trainer(config, pipeline, data)
    trainer.fit()
    assert trainer.evaluate(trainer.model)["grounding/accuracy"] >= 0.9
