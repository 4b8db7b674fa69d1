"""The recipe that trains task heads on the bundled model's features: labels, features, and that it learns."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

import saccade
from saccade import backend
from saccade.data.scenes import Source
from saccade.errors import SaccadeError
from saccade.features import from_saccade
from saccade.features.stored import SIDES
from saccade.heads.create import create_vlm_head
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
    return list(scene_heads.Drawn(source(name), count))


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


def test_twins_follow_each_other():
    """A pair is drawn once, whatever is asked for first; an odd one out has no twin."""
    pairs = [source("matching")[i] for i in range(2)]
    drawn = scene_heads.Drawn(source("matching"), 5)
    assert len(drawn) == 4
    for i in (3, 0, 1, 2):
        wanted = pairs[i // 2] if i % 2 == 0 else pairs[i // 2].pair
        assert drawn[i].text == wanted.text
        np.testing.assert_array_equal(drawn[i].image, wanted.image)
    with pytest.raises(IndexError):
        drawn[4]


def test_candidates_differ_from_chunk_to_chunk(pipeline):
    examples = drawn("dialogue", 40)
    labels = RECIPE.TASKS["dialogue"].labels
    first, second = (labels(pipeline.processor, examples, start)["answer_index"] for start in (0, 250))
    assert (first != second).any()
    np.testing.assert_array_equal(labels(pipeline.processor, examples, 250)["answer_index"], second)


def test_workers_prepare_the_same(pipeline):
    """Three chunks, the last short, by two processes and by none: the same arrays in the same order."""
    encoder = from_saccade(pipeline, max_turns=scene_heads.MAX_TURNS)
    examples = scene_heads.Drawn(source("dialogue"), 45)
    labels = partial(scene_heads.candidate_labels, pipeline.processor)
    alone, together = (
        encoder.encode_all(examples, 20, labels=labels, workers=workers, progress=False) for workers in (0, 2)
    )
    assert alone.arrays.keys() == together.arrays.keys() >= {"turns", "roles", "candidates"}
    assert len(alone) == 45
    assert alone.placements == together.placements
    for key, value in alone.arrays.items():
        np.testing.assert_array_equal(value, together.arrays[key], err_msg=key)


def test_twins_share_a_batch(pipeline):
    config = RECIPE.Config(tasks=("matching",), examples=8, held_out=4)
    data = RECIPE.prepare(config, "matching", pipeline)
    batch = data.gather([3, 1])
    assert (len(data.train), len(data.rows), len(data.features)) == (8, 4, 4)
    for name in ("vision_features", "text_features", "text_mask"):
        assert len(batch[name]) == 4
        np.testing.assert_array_equal(batch[name], data.train.arrays[name][[6, 7, 2, 3]])
    streamed = next(data.stream(None, 4).batches())
    assert {len(value) for value in streamed.values()} == {4}


def test_heads_read_float16(pipeline):
    """Features go to the head as they are kept: the outputs are those of the same values in float32."""
    rng = np.random.default_rng(0)
    for name, task in RECIPE.TASKS.items():
        labels = task.labels(pipeline.processor, drawn(name, 2)) if task.labels else {}
        halves = {f"{side}_features": rng.normal(size=(2, 64, 256)).astype(np.float16) for side in SIDES}
        places = {key: np.zeros((2, 64), np.int32) for key in ("turns", "roles")}
        if not task.text:
            del halves["text_features"]
        batch = {**labels, **places, **halves}
        wide = {**batch, **{key: value.astype(np.float32) for key, value in halves.items()}}
        config = RECIPE.Config(tasks=(name,), dim=32)
        head = create_vlm_head(RECIPE.head_config(config, name, pipeline), dtype="mixed_bfloat16")
        call = backend.compiled(head, head)
        narrow = call(batch)
        for key, value in call(wide).items():
            assert value.dtype == narrow[key].dtype
            both = (np.float32(ops.convert_to_numpy(v)) for v in (narrow[key], value))
            np.testing.assert_allclose(*both, atol=2e-6, err_msg=f"{name} {key}")


def test_every_task_trains_as_one_head(tmp_path):
    names = ",".join(RECIPE.TASKS)
    run_recipe("heads_scenes", [f"tasks=[{names}]", "dim=32"], smoke=True, out=str(tmp_path))
    log = (tmp_path / "log.jsonl").read_text()
    for name in RECIPE.TASKS:
        assert f"eval/{name}/" in log
    from saccade.heads.create import load_vlm_head

    assert set(load_vlm_head(tmp_path / "model").heads) == set(RECIPE.TASKS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["tasks=[vqua]"], "choose some of vqa, grounding"),
        (["tasks=[vqa,vqa]"], "each once"),
        (["tasks=[]"], "each once"),
        (["examples=0"], "examples=0: give at least 1"),
        (["tasks=[vqa,grounding]", "fusion=concat"], "fusion 'concat' tells no patch"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_encoded(options, message, monkeypatch):
    monkeypatch.setattr(RECIPE, "prepare", lambda *args: pytest.fail("encodes"))
    with pytest.raises(SaccadeError, match=message):
        RECIPE.recipe(make_config(RECIPE, options), None)


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
