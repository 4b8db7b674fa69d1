"""The recipe that trains task heads on the bundled model's features: labels, features, and that it learns."""

from contextlib import closing

import keras
import numpy as np
import pytest

import saccade
from saccade.data.scenes import Source
from saccade.errors import SaccadeError
from saccade.train import scene_heads
from saccade.train.recipe import load_recipe, make_config, run_recipe

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="the Trainer runs on jax")
RECIPE = load_recipe("heads_scenes")


@pytest.fixture(scope="module")
def pipeline():
    return saccade.load("vlm_hrm_scenes")


def source(name):
    return Source(RECIPE.TASKS[name].source, split="test", seed=1)


def drawn(name, count):
    return scene_heads.draw(source(name), 0, count)


def chunks(pipeline, name, count):
    return scene_heads.Chunks(source(name), count, pipeline.processor, RECIPE.TASKS[name].labels)


def test_boxes_are_of_the_canvas(pipeline):
    """Pictures of other shapes are letterboxed: the model finds what the label says, on its own canvas."""
    examples = drawn("grounding", 40)
    assert len({e.image.shape for e in examples}) > 1
    labels = RECIPE.TASKS["grounding"].labels(pipeline.processor, examples)["box"]
    batch = pipeline.processor([e.image for e in examples], [e.text for e in examples])
    found = pipeline.reasoner.run(batch, "ground")["box"]
    near = np.abs(found - labels).max(1) < 0.1
    assert near.mean() >= 0.95
    plain = np.abs(found - np.array([e.box for e in examples])).max(1) < 0.1
    assert plain.mean() < near.mean()


@pytest.mark.parametrize("count", [2, 10, 30])
def test_candidates_hold_the_right_answer_once(pipeline, count):
    examples = drawn("dialogue", 30)
    labels = RECIPE.TASKS["dialogue"].labels(pipeline.processor, examples, count=count)
    assert labels["candidates"].shape[:2] == (30, count)
    right = labels["candidates"][np.arange(30), labels["answer_index"]]
    np.testing.assert_array_equal(right, labels["response"])
    assert all(len({tuple(text) for text in row}) == count for row in labels["candidates"].tolist())
    assert len(set(labels["answer_index"].tolist())) > 1


def test_features_do_not_depend_on_the_chunk(pipeline, monkeypatch):
    """The last chunk is padded; a row's features are its own."""
    whole = scene_heads.encode(pipeline, chunks(pipeline, "vqa", 5), steps=1)
    monkeypatch.setattr(scene_heads, "CHUNK", 2)
    parts = scene_heads.encode(pipeline, chunks(pipeline, "vqa", 5), steps=1)
    assert whole.keys() == parts.keys() >= {"answer_targets", "text_mask"}
    for name, value in whole.items():
        assert len(value) == 5
        assert value.dtype == parts[name].dtype
        np.testing.assert_allclose(
            np.float32(parts[name]), np.float32(value), atol=0.05, err_msg=name
        )  # float16


def test_workers_draw_the_same(pipeline):
    """Three chunks, the last short, by two processes and by none: the same arrays in the same order."""
    for name in ("dialogue", "matching"):
        alone = chunks(pipeline, name, 2 * scene_heads.CHUNK + 5)
        with closing(alone.read(2)) as items:
            together = list(items)
        assert len(together) == len(alone) == 3
        for (read, rows), (other_read, other_rows) in zip(alone.read(), together, strict=True):
            for one, other in ((read, other_read), (rows, other_rows)):
                assert one.keys() == other.keys()
                for key, value in one.items():
                    np.testing.assert_array_equal(value, other[key], err_msg=key)
    assert len(together[2][0]["tokens"]) == 4  # twins: of 5 examples one has none


def test_chunks_are_drawn_from_where_they_start(pipeline, monkeypatch):
    """Item i holds examples i * CHUNK and on; candidates stand elsewhere in each chunk."""
    monkeypatch.setattr(scene_heads, "CHUNK", 20)
    for name in ("dialogue", "matching"):
        whole = drawn(name, 40)
        items = list(chunks(pipeline, name, 40).read())
        read, rows = scene_heads.inputs(pipeline.processor, whole)
        for key, value in read.items():
            np.testing.assert_array_equal(np.concatenate([item[0][key] for item in items]), value)
        for key, value in rows.items():
            np.testing.assert_array_equal(np.concatenate([item[1][key] for item in items]), value)
        if name == "dialogue":
            assert (items[0][1]["answer_index"] != items[1][1]["answer_index"]).any()


def test_images_only(pipeline):
    found = scene_heads.encode(pipeline, chunks(pipeline, "captioning", 3), text=False)
    assert found.keys() == {"vision_features", "tokens"}
    assert found["vision_features"].shape == (3, 64, 256)
    assert found["vision_features"].dtype == np.float16


def test_twins_share_a_batch(pipeline):
    config = RECIPE.Config(tasks=("matching",), examples=8, held_out=4)
    data = RECIPE.prepare(config, "matching", pipeline)
    batch = data.train([data.train[3], data.train[1]])
    assert len(data.train) == 4
    for name in ("vision_features", "text_features", "text_mask"):
        np.testing.assert_array_equal(batch[name], data.train.arrays[name][[6, 7, 2, 3]])
    assert len(data.examples) == 4


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_heads_read_float16(pipeline, precision):
    """Features go to the head as they are kept: the outputs are those of the same values in float32."""
    for name in RECIPE.TASKS:
        config = RECIPE.Config(tasks=(name,), examples=4, held_out=4, dim=32, precision=precision, batch=4)
        data = RECIPE.prepare(config, name, pipeline)
        head = RECIPE.make_trainer(config, pipeline, {name: data}).model
        batch = data.train(range(len(data.train)))
        halves = {key for key, value in batch.items() if value.dtype == np.float16}
        assert "vision_features" in halves
        narrow = head(batch)
        wide = head({**batch, **{key: batch[key].astype(np.float32) for key in halves}})
        for key, value in wide.items():
            value, other = (np.asarray(keras.ops.convert_to_numpy(v)) for v in (value, narrow[key]))
            assert value.dtype == other.dtype
            np.testing.assert_allclose(other.astype(np.float32), value.astype(np.float32), atol=1e-6)


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
