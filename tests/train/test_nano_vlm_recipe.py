"""The recipe of nanoVLM: what it starts from, what learns how fast, and a whole small run with adapters."""

import json

import chat_parts
import hub_dirs
import numpy as np
import pytest
from PIL import Image
from reference import to_numpy

import saccade
from saccade.data.conversations import Conversation
from saccade.errors import SaccadeError
from saccade.evaluation.exact_match import exact_match
from saccade.models import nano_vlm
from saccade.models.llama import LlamaConfig
from saccade.models.nano_vlm import NanoVLM, NanoVLMConfig
from saccade.models.vit import ViTConfig
from saccade.train.recipe import apply_overrides, load_recipe, make_config

TINY = NanoVLMConfig(
    ViTConfig(16, 1, 2, 24, 4, (16, 16), pixel_mean=0.0, pixel_std=1.0), LlamaConfig(99, 24, 1, 6, 2, 44)
)


@pytest.fixture(scope="module")
def module(repository):
    return load_recipe(repository / "recipes" / "nano_vlm.py")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(nano_vlm.PRESETS, "tiny", TINY)


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """A jsonl file of rows with one image each, and an image that is damaged."""
    folder = tmp_path_factory.mktemp("talks")
    lines = []
    for i in range(12):
        Image.new("RGB", (20, 16), (20 * i, 0, 0)).save(folder / f"{i}.png")
        texts = [{"user": f"how many {i}?", "assistant": str(i)}, {"user": "why?", "assistant": "because"}]
        lines.append({"images": [f"{i}.png"], "texts": texts})
    (folder / "3.png").write_bytes(b"no picture")
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def config_of(module, *overrides):
    return make_config(module, ["preset=tiny", "image_size=null", *overrides], smoke=True)


def rates(module, config, model=None):
    parts = module.make_train_config(config, model or module.make_pipeline(config).model).parts
    return {name: 0 if part.freeze else part.learning_rate_scale for name, part in parts.items()}


def test_rates_are_the_published_ones_unless_said_and_0_freezes(module):
    assert rates(module, config_of(module)) == {"projection": 2e-3, "vision": 1e-4, "language": 1e-4}
    later = config_of(module, "published=later", "rates={vision: 0}")
    assert rates(module, later) == {"projection": 5.12e-3, "vision": 0, "language": 5e-5}
    settings = module.make_train_config(config_of(module, "train.steps=1000"), NanoVLM(TINY))
    assert (settings.learning_rate, settings.warmup_steps, settings.clip_norm) == (1.0, 30, 1.0)
    assert (settings.schedule, settings.min_ratio, settings.optimizer) == ("cosine", 0.1, "adamw")


@pytest.mark.parametrize(
    ("settings", "length"),
    [((), 79), (("published=later",), 1024), (("published=later", "max_length=300"), 300)],
)
def test_sequences_are_as_long_as_published_unless_said(module, settings, length):
    assert module.make_pipeline(config_of(module, *settings)).processor.config.max_length == length


def test_a_whole_run_on_scenes_with_adapters(module, tmp_path):
    config = config_of(module, "lora={language: {rank: 2}}", "lora_train=[projection]", "remat=true")
    run = module.recipe(config, tmp_path)
    start = {name: to_numpy(v).copy() for name, v in run.model.named_variables().items()}
    result = run.fit()
    assert result.steps == 3
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"eval/hops_1", "eval/hops_2"} <= log[-1].keys()
    named = run.model.named_variables()
    moved = {name for name, v in named.items() if np.abs(to_numpy(v) - start[name]).max() > 0}
    assert all("lora" in name or name.startswith("projection") for name in moved)
    assert any("lora" in name for name in moved)
    assert (tmp_path / "adapters" / "adapters.safetensors").is_file()
    again = saccade.load(tmp_path / "model")
    image = np.full((16, 16, 3), 99, np.uint8)
    ours = saccade.ChatPipeline(run.model, again.processor).ask(image, "what?", max_new_tokens=4)
    assert again.ask(image, "what?", max_new_tokens=4).text == ours.text


def test_files_of_conversations_and_a_tokenizer(module, talks, tmp_path):
    tokenizer = chat_parts.write_tokenizer(tmp_path / "tokenizer")
    settings = ("max_bad=2", "published=later", "pack=true", "max_length=128")
    config = config_of(module, f"data={talks}/*.jsonl", f"tokenizer={tokenizer}", *settings)
    run = module.recipe(config, None)
    stream = run.streams["chat"]
    batches = stream.batches(0)
    batch = next(batches)
    assert batch["segments"].max() >= 2
    assert batch["images"].shape[0] == batch["tokens"].shape[0] == config.batch
    for _ in range(12):
        next(batches)
    assert stream.tally.causes["image"] >= 1
    assert run.evaluate is None
    processor = module.make_pipeline(config).processor
    assert run.model.config.language.vocab_size == processor.tokenizer.vocab_size
    learned = batch["targets"][0][batch["targets"][0] >= 0]
    assert "because" in processor.tokenizer.decode(learned)


def test_v01_learns_the_first_turn_only(module, talks, tmp_path):
    tokenizer = chat_parts.write_tokenizer(tmp_path / "tokenizer")
    run = module.recipe(config_of(module, f"data={talks}", f"tokenizer={tokenizer}", "max_bad=2"), None)
    batch = next(run.streams["chat"].batches(0))
    processor = chat_parts.tokenizer()
    texts = [processor.decode(row[row >= 0]) for row in batch["targets"]]
    assert "because" not in "".join(texts)
    assert any(text.strip().isdigit() for text in texts)


def test_backbones(module, tmp_path):
    vision = hub_dirs.write(tmp_path / "v", hub_dirs.SIGLIP, hub_dirs.siglip_tensors())
    language = hub_dirs.write(tmp_path / "l", hub_dirs.LLAMA, hub_dirs.llama_tensors())
    chat_parts.write_tokenizer(language)
    config = config_of(module, f"vision={vision}", f"language={language}", "published=later", "shuffle=1")
    pipeline = module.make_pipeline(config)
    words = pipeline.processor.tokenizer.vocab_size
    assert pipeline.model.config.language.vocab_size == max(words, hub_dirs.V)
    assert pipeline.processor.config.image_tokens == pipeline.model.config.image_tokens == 9


def test_from_scratch_pixels_are_centred(module):
    for published, mean in (("scratch", 0.5), ("v0.1", 0.0)):
        vision = module.make_pipeline(config_of(module, f"published={published}")).model.config.vision
        assert (vision.pixel_mean, vision.pixel_std) == (mean, 1.0 - mean)


def test_a_checkpoint_goes_on(module, tmp_path):
    folder = chat_parts.write_model(tmp_path / "m", None)
    pipeline = module.make_pipeline(config_of(module, f"init={folder}"))
    assert pipeline.record["lm_tokenizer"] == "somebody/words"
    assert rates(module, config_of(module, f"init={folder}", "rates={language: 0}"), pipeline.model) == {
        "projection": 2e-3, "vision": 1e-4, "language": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["vision=somewhere"], "give both vision and language, or init"),
        (["data=talks.jsonl"], "needs a tokenizer; give tokenizer"),
        (["init=somewhere", "tokenizer=words"], "tokenizer=words is for a preset that starts at random"),
        (["preset=nano_vlm_large"], "no preset is called 'nano_vlm_large'; use one of"),
        (
            ["filters={relevance: 3}"],
            "filters.relevance.*: 'relevance' does not fit: input should be 'relevance_min'",
        ),
        (["filters={max_turns: 2}"], "'max_turns' does not fit: input should be 'relevance_min'"),
        (["rates={vision: -1}"], "rates.vision: -1 does not fit: input should be greater than or equal to 0"),
        (["tasks=[]"], r"tasks: \[\] does not fit"),
        (["precision=bf16"], "precision: 'bf16' does not fit"),
        (["rates={speech: 1}"], "part 'speech' matches no trainable variable; the parts are language"),
        (["lora={speech: {rank: 1}}"], "lora 'speech' matches no Dense kernel"),
    ],
)
def test_settings_that_cannot_be_meant(module, overrides, message):
    with pytest.raises(SaccadeError, match=message):
        module.recipe(config_of(module, *overrides), None)


def test_an_end_that_chatml_does_not_know(module, tmp_path):
    tokenizer = chat_parts.write_tokenizer(tmp_path / "t", "<|endoftext|>")
    config = config_of(module, f"tokenizer={tokenizer}", "data=x", "published=later")
    with pytest.raises(SaccadeError, match=r"ends answers with <\|endoftext\|>, ChatML with"):
        module.make_pipeline(config)


def test_exact_match_counts_whole_answers(module):
    pipeline = module.make_pipeline(config_of(module))
    image = np.zeros((16, 16, 3), np.uint8)
    said = pipeline.ask(image, "what?", max_new_tokens=5).text
    rows = [
        Conversation((image,), ({"role": "user", "content": "what?"}, {"role": "assistant", "content": text}))
        for text in (said, said + "x", f" {said}\n", "")
    ]
    assert exact_match(pipeline, rows, 4, batch_size=3, max_new_tokens=5) == (0.5 if said else 0.75)
    assert exact_match(pipeline, rows, 4, max_new_tokens=5, read=lambda reply: f"{reply}x") == 0.25


def test_explained_questions_keep_their_answers(module):
    rows = module.scenes(config_of(module), ("vqa",), "val", (2, 2))
    for plain, explained in zip([rows[i] for i in range(5)], module.Explained(rows), strict=False):
        asked, answer = explained.messages
        assert asked["content"] == f"{plain.messages[0]['content']} Say how you know."
        assert answer == plain.messages[1]
        assert (explained.images[0] == plain.images[0]).all()


def test_what_a_rationale_ends_with_is_scored_where_rationales_are_learnt(module):
    run = module.recipe(config_of(module, "tasks=[vqa, rationale]"), None)
    assert list(run.evaluate(run.model)) == ["hops_1", "hops_2", "hops_1_explained", "hops_2_explained"]
    assert list(module.recipe(config_of(module), None).evaluate(run.model)) == ["hops_1", "hops_2"]


def test_every_setting_can_be_overridden(module):
    config = apply_overrides(module.Config(), ["lora.language.rank=4", "data=[a.jsonl, b.tar]"])
    assert config.lora["language"].rank == 4
    assert config.data == ("a.jsonl", "b.tar")
