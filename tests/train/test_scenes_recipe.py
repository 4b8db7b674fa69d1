"""The recipe of the bundled model: texts that fit, labels for every loss, a model that fits its file."""

from dataclasses import replace

import keras
import pytest

from saccade.data.batching import ATTRIBUTES, prompt
from saccade.data.scenes import Source
from saccade.data.scenes import builders as builders_module
from saccade.data.scenes.referents import CHANNELS
from saccade.models.vlm_hrm import PRESETS, VLMHRM
from saccade.train.recipe import apply_overrides, load_recipe

NUMBER = 3000


@pytest.fixture(scope="module")
def scenes(repository):
    return load_recipe(repository / "recipes" / "scenes_vlm_hrm.py")


@pytest.fixture(scope="module")
def processor(scenes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders_module, "render", lambda scene: None)  # texts alone are wanted
        return scenes.make_processor(scenes.Config())


def abstract(scenes, processor, **changes) -> VLMHRM:
    """The recipe's model, its variables never given values."""
    with keras.StatelessScope(initialize_variables=False):
        return scenes.make_model(
            apply_overrides(scenes.Config(), [f"{k}={v}" for k, v in changes.items()]), processor
        )


@pytest.mark.parametrize(
    "task", ["vqa", "rationale", "statement", "panels", "ground", "caption", "match", "retrieve"]
)
def test_every_text_fits_the_recipes_lengths(scenes, processor, monkeypatch, task):
    """What fits `job.MAX_PIECES` fits 64 tokens: a piece of the scene language is nearly always one token."""
    monkeypatch.setattr(builders_module, "render", lambda scene: None)
    config = scenes.Config()
    assert config.text_length == config.target_length == 64
    kind, style = ("statement", "nlvr") if task == "panels" else (task, "world")
    source = Source(kind, style=style, seed=config.seed, num_objects=config.num_objects)
    longest = 0
    for i in range(NUMBER):
        example = source[i]
        pair = [example.pair.text] if example.pair else []
        read = [len(processor.encode(text, 10**6)) for text in (prompt(example), example.other_text, *pair)]
        written = len(processor.tokenizer.encode(example.target)) + 1  # <eos>
        longest = max(longest, *read, written)
        assert max(read) <= config.text_length, example
        assert written <= config.target_length, example.target
    assert longest > 20


def test_every_stream_brings_the_labels_its_losses_read(scenes, processor):
    config = apply_overrides(scenes.Config(), ["workers=false"])
    model = abstract(scenes, processor)
    assert config.tasks.keys() == scenes.make_objectives(config).keys()
    for name, task in config.tasks.items():
        stream = scenes.make_stream(name, task, config, processor, model)
        batch = stream.collate([stream.source[i] for i in range(3)])
        layout = model.layout(batch)
        cells = layout.grid[0] * layout.grid[1]
        assert cells == 64  # of all canvases: the group reasons in one pass
        assert batch["tokens"].shape == (3, 64)
        for loss in stream.objective.also:
            assert set(loss.reads) <= batch.keys(), (name, loss)
        assert batch["objects"].shape == (3, cells, len(ATTRIBUTES))
        assert batch["object_boxes"].shape == (3, cells, 4)
        assert batch["referents"].shape == (3, cells, CHANNELS)
        assert batch["told"].shape == (3, cells)
        placed = (batch["objects"][..., 0] >= 0).sum(1)
        assert (placed >= 1).all()
        if any("referents" in loss.reads for loss in stream.objective.also) and name != "match":
            assert (batch["referents"] >= 0).any((1, 2)).all(), name


def test_the_bundled_model_fits_its_file(scenes, processor):
    """16 MB in bfloat16 with room for tokenizer, card and header."""
    model = abstract(scenes, processor)
    assert model.config == replace(
        PRESETS["vlm_hrm_small"],
        vocab_size=processor.tokenizer.vocab_size,
        num_answers=len(processor.config.answers),
        attributes=tuple(len(values) for values in ATTRIBUTES.values()),
        referents=CHANNELS,
        max_length=64,
    )
    assert model.count_params() <= 7.95e6
