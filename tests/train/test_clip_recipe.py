"""The recipe of the scene world's CLIP: texts that fit, a run of either loss, a model that loads."""

import json

import numpy as np
import pytest
from reference import to_numpy

import saccade
from saccade.data.scenes import Source
from saccade.data.scenes import builders as builders_module
from saccade.models.vlm_hrm import VLMHRM
from saccade.train.recipe import load_recipe, make_config


@pytest.fixture(scope="module")
def module(repository):
    return load_recipe(repository / "recipes" / "clip_scenes.py")


def test_every_description_fits(module):
    config = module.Config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders_module, "render", lambda scene: None)  # texts alone are wanted
        tokenizer = module.make_tokenizer(config)
        source = Source("retrieve", split="val", seed=7, num_objects=config.num_objects)
        examples = [source[i] for i in range(300)]
    lengths = [len(tokenizer.encode(e.text).ids) + 2 for x in examples for e in (x, x.pair)]
    assert 40 < max(lengths) <= module.preset(config.preset).text.max_length
    assert tokenizer.vocab_size <= config.vocab_size


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_whole_run(module, tmp_path, sigmoid):
    overrides = [f"sigmoid={sigmoid}", "chunk=4", "num_objects=[3,3]", "distinct=12"]
    config = make_config(module, overrides, smoke=True)
    run = module.recipe(config, tmp_path)
    assert run.model.config.logit_bias == sigmoid
    stream = run.streams["pairs"]
    batch = next(stream.batches(0))
    assert batch["images"].shape == (8, 64, 64, 3)
    assert batch["tokens"].shape == batch["padding_mask"].shape == (8, 80)
    assert run.fit().steps == 3
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"eval/r@1", "eval/r@5", "eval/before_twin", "eval/labels"} <= log[-1].keys()
    assert np.isfinite(log[0]["loss"])
    pipeline = saccade.load(tmp_path / "model")
    example = stream.source[0]
    (result,) = pipeline.classify([example.image], [example.text, example.pair.text])
    assert {label.text for label in result.labels} == {example.text, example.pair.text}


def test_the_image_tower_starts_as_the_bundled_one_and_learns_more_slowly(module):
    config = make_config(module, ["preset=clip_scenes_nano", "workers=0", "pairs=2"])
    run = module.recipe(config, None)
    bundled = VLMHRM.load(config.tower).named_variables()
    ours = run.model.named_variables()
    seen = [name for name in ours if name.startswith("vision/")]
    assert len(seen) > 20
    for name in seen:
        np.testing.assert_array_equal(to_numpy(ours[name]), to_numpy(bundled[name]), err_msg=name)
    assert run.model.config.vision.image_size == (128, 128)
    assert run.streams["pairs"].collate.processor.config.image_size == 128
    rates = {group.part: group.learning_rate for group in run.engine.groups}
    assert rates["vision"] == pytest.approx(0.3 * rates["rest"])


def test_it_goes_on_from_a_model_and_the_score_of_labels_is_that_of_its_vectors(module):
    """The bundled one: half of its weights' tower, its tokenizer, and a score that chance does not give."""
    config = make_config(module, ["init=clip_scenes", "gallery=240", "tower=null"], smoke=True)
    pipeline = module.make_pipeline(config)
    bundled = saccade.load("clip_scenes")
    for name, variable in bundled.model.named_variables().items():
        np.testing.assert_array_equal(to_numpy(pipeline.model.named_variables()[name]), to_numpy(variable))
    share = module.told_apart(pipeline, config)
    source = module.Labelled(Source("retrieve", split="val", seed=config.seed), 1.0)
    won = []
    for i in range(200):
        pair = (source[i], source[i].pair)
        if len(won) < 120 and all(row.kind == "label" for row in pair):
            for own, other in (pair, pair[::-1]):
                (result,) = bundled.classify([own.image], [own.text, other.text])
                won.append(result.text == own.text)
    assert share == pytest.approx(np.mean(won))
