"""The recipes of Flamingo and BLIP-2, tiny: what each stage freezes, and a model that is saved and asked."""

from dataclasses import replace

import numpy as np
import pytest
from reference import to_numpy

import saccade
from saccade.data.scenes import builders
from saccade.errors import SaccadeError
from saccade.few_shot import FewShot
from saccade.models import blip2, flamingo
from saccade.models.blip2 import BLIP2Config
from saccade.models.flamingo import FlamingoConfig
from saccade.models.llama import LlamaConfig
from saccade.models.qformer import QFormerConfig
from saccade.train.recipe import load_recipe, make_config
from saccade.train.scene_chunks import scene_tokenizer

LANGUAGE = LlamaConfig(1026, 16, 2, 2, 1, 24)
TINY = {
    "flamingo_scenes": FlamingoConfig(
        language=LANGUAGE, num_latents=2, resampler_depth=1, resampler_heads=2, cross_every=1
    ),
    "blip2_scenes": BLIP2Config(
        qformer=QFormerConfig(1024, 16, 2, 2, 24, 2, max_length=64), language=LANGUAGE, embedding_dim=8
    ),
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for module, name in ((flamingo, "flamingo_scenes"), (blip2, "blip2_scenes")):
        monkeypatch.setitem(module.PRESETS, name, TINY[name])


def moved(repository, tmp_path, name, *overrides):
    """Runs two steps; the parts of which a weight moved, and the Trainer."""
    module = load_recipe(repository / "recipes" / f"{name}.py")
    config = make_config(module, overrides, smoke=True)
    trainer = module.recipe(config, tmp_path)
    before = {name: to_numpy(v).copy() for name, v in trainer.model.named_variables().items()}
    trainer.fit()
    after = {name: to_numpy(v) for name, v in trainer.model.named_variables().items()}
    return {n.split("/")[0] for n in before if np.abs(after[n] - before[n]).max() > 0}, trainer


def test_flamingo_by_stages(repository, tmp_path):
    parts, _ = moved(repository, tmp_path / "a", "flamingo_scenes", "stage=language")
    assert parts == {"language"}
    init = f"init={tmp_path / 'a' / 'model'}"
    parts, trainer = moved(repository, tmp_path / "b", "flamingo_scenes", "stage=vision", init)
    assert parts == {"resampler", "cross_0", "cross_1"}
    again = saccade.load(tmp_path / "b" / "model")
    image = np.full((128, 128, 3), 99, np.uint8)
    ours = FewShot(trainer.model, again.processor)
    prompt = ours.processor([[*trainer.streams["episodes"].source[0]]])
    assert prompt["images"].shape[1] == 3
    said = ours.ask(image, "what?").text
    assert again.ask(image, "what?").text == again.complete("<image>what?", [image]).text == said


def test_blip2_by_stages(repository, tmp_path):
    heads = {"image_head", "text_head", "itm", "logit_scale"}
    parts, _ = moved(repository, tmp_path / "a", "blip2_scenes", "batch=2")
    assert parts == {"qformer", *heads}
    init = f"init={tmp_path / 'a' / 'model'}"
    parts, trainer = moved(repository, tmp_path / "b", "blip2_scenes", "stage=two", "frozen=true", init)
    assert parts == {"qformer", "projection"}
    again = saccade.load(tmp_path / "b" / "model")
    assert again.model.config == replace(trainer.model.config)
    image = np.full((128, 128, 3), 99, np.uint8)
    ours = FewShot(trainer.model, again.processor)
    assert again.ask(image, "what?").text == ours.ask(image, "what?").text
    assert (saccade.load(tmp_path / "a" / "model").model.tasks, again.model.tasks) == (
        ("retrieve", "match"),
        ("chat",),
    )


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("flamingo_scenes", "preset=big", "no preset is called 'big'; use one of flamingo_scenes"),
        ("flamingo_scenes", "tower=clip_scenes", "describes a 'CLIP', not a VLMHRM"),
        ("flamingo_scenes", "held_out=0", "held_out: 0 does not fit"),
        ("blip2_scenes", "init=FLAMINGO", "is a Flamingo of another making; give the folder model/"),
        ("blip2_scenes", "init=nowhere", "no model or directory is called 'nowhere'"),
        ("clip_scenes", "gallery=7", "gallery: 7 does not fit"),
        ("captioners_scenes", "architecture={dimm: 3}", "has no field 'dimm'; its fields are"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant(repository, tmp_path, name, override, message):
    if "FLAMINGO" in override:
        made = load_recipe(repository / "recipes" / "flamingo_scenes.py")
        made.make_few_shot(make_config(made, [], smoke=True)).save(tmp_path / "f")
        override = f"init={tmp_path / 'f'}"
    module = load_recipe(repository / "recipes" / f"{name}.py")
    with pytest.raises(SaccadeError, match=message):
        module.recipe(make_config(module, [override], smoke=True), None)


@pytest.mark.parametrize("name", TINY)
def test_the_longest_texts_fit(repository, name):
    """Eight objects, each described by as many tokens as there can be; a question of one hop."""
    module = load_recipe(repository / "recipes" / f"{name}.py")
    config = module.Config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "render", lambda scene: None)  # texts alone are wanted
        words = scene_tokenizer(config.rows("vqa"), config.vocab_size)
        asked = [config.rows("vqa", "val")[i][0] for i in range(500)]
    places = 1 if name == "flamingo_scenes" else blip2.PRESETS[name].image_tokens
    each = ["a medium-sized transparent yellow cylinder"] * 8
    longest = f"from left to right, there are {', '.join(each[:-1])} and {each[-1]}."
    around = 2  # <bos>, and <|endofchunk|> or <eos>
    assert len(words.encode(f" {longest}")) + around + places <= config.max_length
    if name == "blip2_scenes":
        assert len(words.encode(longest)) + around <= config.text_length
    questions = [len(words.encode(x.text)) + len(words.encode(f" {x.answer}")) for x in asked]
    assert max(questions) + around + 1 <= config.question_length


def test_what_is_no_few_shot_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model": "TRM"}')
    with pytest.raises(SaccadeError, match="holds a 'TRM'; few-shot prompts need Flamingo or BLIP2"):
        FewShot.load(tmp_path)
