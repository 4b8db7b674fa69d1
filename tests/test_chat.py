"""ChatPipeline: directories of both ages load and answer; batches; saving; bad input; the command."""

import json
from types import SimpleNamespace

import chat_parts
import hub_dirs
import numpy as np
import pytest
from keras import ops
from PIL import Image
from reference import to_numpy
from typer.testing import CliRunner

import saccade
from saccade import pipeline
from saccade.cli import app
from saccade.errors import SaccadeError, SaccadeWarning
from saccade.generate import Writer
from saccade.train import lora

AGES = {"v0.1": None, "v0.2": {"image_token": "<|image|>"}, "8k": chat_parts.TILES}
IMAGE = np.random.default_rng(0).integers(0, 256, size=(40, 70, 3)).astype(np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, size=(20, 20, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("ages")
    return {age: chat_parts.write_model(base / age, extra) for age, extra in AGES.items()}


@pytest.fixture(scope="module")
def chats(folders):
    return {age: saccade.load(folder) for age, folder in folders.items()}


@pytest.mark.parametrize("age", AGES)
def test_a_published_directory_answers(chats, age):
    reply = chats[age].ask(IMAGE, "What is this?", max_new_tokens=6)
    assert 1 <= reply.tokens <= 6
    assert 0 < reply.confidence <= 1
    assert reply.to_json().keys() == {"text", "confidence", "tokens"}
    assert reply == chats[age].ask(IMAGE, "What is this?", max_new_tokens=6)


@pytest.mark.parametrize("age", AGES)
def test_a_row_of_a_batch_is_answered_as_alone(chats, age):
    questions = ["What is this?", "How many cubes are red, and what else is there to see?"]
    together = chats[age].chat([[IMAGE], [OTHER]], questions, max_new_tokens=5)
    for reply, image, question in zip(together, (IMAGE, OTHER), questions, strict=True):
        alone = chats[age].ask(image, question, max_new_tokens=5)
        assert (reply.text, reply.tokens) == (alone.text, alone.tokens)
        assert reply.confidence == pytest.approx(alone.confidence, abs=1e-5)


def test_the_image_and_the_question_matter(chats):
    def first_logits(image, text):
        chat = chats["8k"]
        batch = chat.processor([[image]], [text])
        return to_numpy(chat.model.prefill(batch, 1)[0])

    one = first_logits(OTHER, "red?")
    assert np.abs(one - first_logits(255 - OTHER, "red?")).max() > 1e-3
    assert np.abs(one - first_logits(OTHER, "blue?")).max() > 1e-3


def test_streaming_gives_the_same_text(chats):
    for seed in range(3):
        options = {"max_new_tokens": 7, "temperature": 3.0, "seed": seed}
        pieces = list(chats["8k"].stream(OTHER, "What is this?", **options))
        assert all(pieces)
        assert "".join(pieces).strip() == chats["8k"].ask(OTHER, "What is this?", **options).text


def test_several_images_or_none(chats):
    assert chats["8k"].ask([OTHER, OTHER], "same?", max_new_tokens=2).tokens <= 2
    assert chats["8k"].ask(None, "hello?", max_new_tokens=2).tokens <= 2


def test_the_budget_of_tiles(chats):
    images = chats["8k"].processor([[IMAGE]], ["a"])["images"]
    assert images.shape[0] == 9
    chat = chats["8k"].configure(max_tiles=3)
    assert chat.processor([[IMAGE]], ["a"])["images"].shape[0] == 3
    chat = chats["8k"].configure(reference_tiles=True)
    images = chat.processor([[OTHER]], ["a"])["images"]
    assert images.shape[0] == 17  # as published: filled up to max_img_size
    assert images.dtype == np.float32
    assert chat.ask(OTHER, "a", max_new_tokens=1).tokens == 1


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("form", ["save", "save_published"])
def test_saving_and_loading(chats, folders, age, form, tmp_path):
    chat = chats[age]
    getattr(chat, form)(tmp_path / "m")
    again = saccade.load(tmp_path / "m")
    assert again.processor.config == chat.processor.config
    assert again.model.config == chat.model.config
    assert again.ask(OTHER, "red?", max_new_tokens=3) == chat.ask(OTHER, "red?", max_new_tokens=3)
    if form == "save_published":
        record, first = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "m", folders[age]))
        assert record == first


def test_the_tokenizer_is_asked_of_the_hub_by_name(monkeypatch, tmp_path):
    folder = chat_parts.write_model(tmp_path / "m", chat_parts.TILES, with_tokenizer=False)
    words = chat_parts.write_tokenizer(tmp_path / "words")
    asked = []
    monkeypatch.setattr("saccade.chat.fetch", lambda name, **k: asked.append((name, k)) or words)
    assert saccade.load(folder).processor.tokenizer.eos == "<|im_end|>"
    assert asked == [("somebody/words", {"weights": False})]
    folder = chat_parts.write_model(tmp_path / "n", None, with_tokenizer=False, lm_tokenizer=None)
    with pytest.raises(SaccadeError, match=r"has no tokenizer\.json and names no lm_tokenizer"):
        saccade.load(folder)


def test_a_name_of_the_hub_is_fetched(monkeypatch, folders, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("saccade.hub.fetch.fetch", lambda name: asked.append(name) or folders["v0.2"])
    assert pipeline.find_model("lusxvr/nanoVLM-222M@v1") == folders["v0.2"]
    assert asked == ["lusxvr/nanoVLM-222M@v1"]
    (tmp_path / "runs").mkdir()
    with pytest.raises(SaccadeError, match="no model or directory is called 'runs/mine'"):
        pipeline.find_model("runs/mine")


def test_a_tokenizer_with_more_words_than_the_model(tmp_path):
    folder = chat_parts.write_model(tmp_path / "m", {"image_token": "<|image|>"})
    record = json.loads((folder / "config.json").read_text())
    record["vlm_extra_tokens"]["more"] = "<|more|>"
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(SaccadeError, match=r"the tokenizer has \d+ tokens, the model \d+"):
        saccade.load(folder)


def test_another_count_of_image_tokens(tmp_path):
    folder = chat_parts.write_model(tmp_path / "m", chat_parts.TILES, mp_image_token_length=64)
    with pytest.raises(SaccadeError, match="mp_image_token_length 64, but the model makes 4 tokens"):
        saccade.load(folder)


@pytest.mark.parametrize(
    "changes", [{"image_size": 24}, {"image_tokens": 9}, {"image_size": 20, "image_tokens": 4}]
)
def test_a_processor_for_images_of_another_size(chats, changes):
    with pytest.raises(SaccadeError, match=r"does not fit the model, which makes a token of 8 x 8 pixels"):
        chats["v0.2"].configure(**changes)


def test_a_larger_image_becomes_more_tokens(chats):
    larger = chats["v0.2"].configure(image_size=24, image_tokens=9)
    assert larger.ask(IMAGE, "red?", max_new_tokens=2).confidence > 0


def test_a_backbone_answers_nothing(tmp_path):
    folder = hub_dirs.write(tmp_path / "m", hub_dirs.LLAMA, hub_dirs.llama_tensors())
    with pytest.raises(SaccadeError, match="describes a 'llama', which answers nothing; give a nanoVLM"):
        saccade.load(folder)


def test_nothing_asked(chats):
    assert chats["v0.2"].chat([], []) == []


def test_the_places_of_images_are_no_words_to_repeat(chats):
    """In v0.1 they hold the token that ends an answer, which a repetition penalty would make rarer."""
    chat = chats["v0.1"].configure()
    end, prefill = chat.processor.tokenizer.eos_id, chat.model.prefill

    def likes_to_end(batch, room):
        logits, cache = prefill(batch, room)
        scores = np.where(np.arange(logits.shape[1]) == end, 1.1, 1.0)  # penalised, it would not be the best
        return ops.broadcast_to(scores.astype("float32"), logits.shape), cache

    chat._writer = Writer(chat.model, SimpleNamespace(prefill=likes_to_end, step=chat.model.step))
    assert chat.ask(IMAGE, "red?", max_new_tokens=2, repetition_penalty=1.5).tokens == 1


def test_adapters_that_come_after_an_answer_count(folders):
    chat = saccade.load(folders["v0.2"])
    before = chat.ask(IMAGE, "red?", max_new_tokens=2)
    lora.add(chat.model, {"projection": lora.Lora(rank=2)})
    assert chat.ask(IMAGE, "red?", max_new_tokens=2).confidence == pytest.approx(before.confidence, abs=1e-6)
    b = chat.model.projection.linear.lora_kernel_b
    b.assign(np.random.default_rng(0).normal(size=b.shape))
    assert chat.ask(IMAGE, "red?", max_new_tokens=2).confidence != pytest.approx(before.confidence, abs=1e-4)


def test_room_for_the_answer(chats):
    with pytest.raises(SaccadeError, match="max_new_tokens is 400, but the model takes 400 tokens"):
        chats["8k"].ask(OTHER, "red?", max_new_tokens=400)
    with pytest.warns(SaccadeWarning, match="the prompt was cut"):
        assert chats["8k"].ask(OTHER, "x " * 500, max_new_tokens=2).tokens <= 2


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_line(folders, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(OTHER).save(path)
    result = run("ask", path, "What is this?", "--model", folders["8k"], "--max-tokens", 3, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["tokens"] <= 3
    result = run("ask", path, "What is this?", "--model", folders["v0.1"], "--max-tokens", 3)
    assert "confidence" in result.stdout
    result = run("ask", path, "What is this?", "--model", folders["8k"], "--explain")
    assert result.exit_code == 2
    assert "--explain is for models that reason in steps" in result.output
    result = run("ask", path, "a?", "--model", folders["8k"], "--max-tokens", 2, "--max-tiles", 1)
    assert result.exit_code == 0, result.output
    result = run("ask", path, "a?", "--model", folders["v0.2"], "--max-tiles", 1)
    assert result.exit_code == 2
    assert "sees an image whole, not in tiles" in result.output
    result = run("caption", path, "--model", folders["8k"])
    assert result.exit_code == 2
    assert "has no 'caption'; use `saccade ask`" in result.output


def test_presets_are_listed_with_their_true_size():
    found = {info.name: info.parameters for info in pipeline.presets()}
    assert found["nano_vlm_222m"] == 222_081_600
    assert list(found.values()) == sorted(found.values())
    assert "nano_vlm_460m_8k" in run("list").stdout
