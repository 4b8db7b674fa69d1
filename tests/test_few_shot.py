"""Flamingo and BLIP-2 as a user meets them: replies, demonstrations, matching, ranking, commands."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import saccade
from saccade.cli import app
from saccade.data.interleaved import Chunk, InterleavedConfig, InterleavedProcessor
from saccade.data.text import Tokenizer
from saccade.errors import SaccadeError
from saccade.few_shot import FewShot
from saccade.models.blip2 import BLIP2, BLIP2Config
from saccade.models.flamingo import Flamingo, FlamingoConfig
from saccade.models.llama import LlamaConfig
from saccade.models.qformer import QFormerConfig
from saccade.models.vit import ViTConfig

SIDE, WORDS, READ = 16, 280, 300
RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(256, size=(20, 24, 3)).astype(np.uint8) for _ in range(5)]
TEXTS = ["a red ball", "a blue cube", "this is a dax", "two things"]


def made(kind):
    tokenizer = Tokenizer.train(TEXTS * 10, WORDS)
    vision = ViTConfig(12, 1, 2, 20, 8, (SIDE, SIDE))
    language = LlamaConfig(tokenizer.vocab_size + 2, 16, 1, 2, 1, 24)
    if kind == "Flamingo":
        config = FlamingoConfig(vision, language, 2, 1, 2, 1)
        return FewShot(
            Flamingo(config), InterleavedProcessor(tokenizer, InterleavedConfig((SIDE, SIDE), max_images=3))
        )
    queries = QFormerConfig(tokenizer.vocab_size, 24, 2, 3, 32, num_queries=4, max_length=READ)
    config = BLIP2Config(vision, queries, language, embedding_dim=8)
    settings = InterleavedConfig((SIDE, SIDE), max_length=400, max_images=1, image_tokens=4)
    return FewShot(BLIP2(config), InterleavedProcessor(tokenizer, settings))


@pytest.fixture(scope="module")
def flamingo():
    few_shot = made("Flamingo")
    for block in few_shot.model.cross.values():  # open gates: images count
        block.attention_gate.assign(1.0)
    return few_shot


@pytest.fixture(scope="module")
def blip2():
    return made("BLIP2")


@pytest.fixture(scope="module")
def folder(flamingo, blip2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few_shot")
    flamingo.save(folder / "flamingo")
    blip2.save(folder / "blip2")
    for name, picture in zip(("a", "b"), PICTURES, strict=False):
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_reply_says_how_sure_it_was_and_how_long(flamingo):
    batch = flamingo.processor([[Chunk("this is a", PICTURES[0], closed=False)]])
    reply = flamingo.ask(PICTURES[0], "this is a", max_new_tokens=1)
    logits = np.asarray(flamingo.model(batch))[0, -1].astype(np.float64)
    best = logits.argmax()
    assert reply.text == flamingo.processor.decode([best])
    assert reply.confidence == pytest.approx(np.exp(logits[best] - np.logaddexp.reduce(logits)), rel=1e-4)
    assert reply.tokens == 1


def test_rows_of_a_batch_are_replied_to_as_alone(flamingo):
    shots = [Chunk("this is a", PICTURES[1], "dax")]
    prompts = [
        [*shots, Chunk("this is a", PICTURES[0], closed=False)],
        [Chunk("two", PICTURES[2], closed=False)],
    ]
    both = flamingo.reply(prompts)
    for reply, prompt in zip(both, prompts, strict=True):
        (alone,) = flamingo.reply([prompt])
        assert (alone.text, alone.tokens) == (reply.text, reply.tokens)
        assert alone.confidence == pytest.approx(reply.confidence, rel=1e-4)
    assert flamingo.ask(PICTURES[0], "this is a", shots) == flamingo.reply(prompts[:1])[0]
    assert flamingo.caption(PICTURES[0]).text == flamingo.ask(PICTURES[0], "", max_new_tokens=64).text


def test_an_array_of_images_is_a_list_of_them(flamingo):
    images = np.stack(PICTURES[:2])
    text = "<image>this is a dax<|endofchunk|><image>this is a"
    assert flamingo.complete(text, images) == flamingo.complete(text, list(images))


def test_matching_and_ranking_are_the_models(blip2):
    picture, text = PICTURES[0], TEXTS[0]
    batch = blip2.processor.pairs([picture], [text], READ)
    vision = blip2.model.see(batch["images"])
    logits = np.asarray(blip2.model.match(vision, batch["tokens"], batch["padding_mask"]))[0]
    found = blip2.match(picture, text)
    assert found.probability == pytest.approx(1 / (1 + np.exp(logits[0] - logits[1])), rel=1e-4)
    ranked = blip2.retrieve(PICTURES, TEXTS, k=2)
    assert ranked.similarity.shape == (5, 4)
    assert ranked.similarity[0, 0] == pytest.approx(found.similarity, abs=1e-5)
    for i, picture in enumerate(PICTURES):
        for j, text in enumerate(TEXTS):
            assert blip2.match(picture, text).similarity == pytest.approx(ranked.similarity[i, j], abs=1e-5)
    np.testing.assert_array_equal(ranked.images_of[:, 0], ranked.similarity.argmax(0))
    np.testing.assert_array_equal(ranked.texts_of[:, 0], ranked.similarity.argmax(1))


def test_many_are_ranked_in_batches(blip2, monkeypatch):
    whole = blip2.retrieve(PICTURES, TEXTS)
    monkeypatch.setattr("saccade.few_shot.BATCH", 2)
    np.testing.assert_allclose(blip2.retrieve(PICTURES, TEXTS).similarity, whole.similarity, atol=1e-5)


def test_what_cannot_be_asked(flamingo, blip2):
    with pytest.raises(SaccadeError, match="not learned 'match', only chat"):
        flamingo.match(PICTURES[0], "a ball")
    with pytest.raises(SaccadeError, match="0 images, 1 texts and k 5"):
        blip2.retrieve([], ["a"])
    with pytest.raises(SaccadeError, match=f"tokens with <bos> and <eos>, the limit is {READ}"):
        blip2.match(PICTURES[0], "zqxj " * 99)
    with pytest.raises(SaccadeError, match="there are no prompts"):
        flamingo.reply([])


def test_tasks_are_what_a_configuration_has():
    vision, words = ViTConfig(12, 1, 2, 20, 8, (SIDE, SIDE)), QFormerConfig(50, 24, 1, 3, 32, 4)
    assert BLIP2(BLIP2Config(vision, words, None, 8)).tasks == ("retrieve", "match")
    language, silent = LlamaConfig(52, 16, 1, 2, 1, 24), QFormerConfig(50, 24, 1, 3, 32, 4, text=False)
    assert BLIP2(BLIP2Config(vision, silent, language, None)).tasks == ("chat",)


def test_evaluation(flamingo, blip2, tmp_path):
    scores = saccade.evaluate(flamingo, num=5, batch_size=3, max_depth=1, out=tmp_path, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    assert scores["accuracy"] == np.mean([row["prediction"] == row["truth"] for row in rows])
    assert scores["by_depth"].keys() <= {"0", "1"}
    assert "word for word" in scores["rule"]
    ranked = saccade.evaluate(blip2, task="retrieve", num=4, progress=False)
    assert 0 <= ranked["r@1"] <= 1
    assert ranked["rerank"] == 0
    with pytest.raises(SaccadeError, match="task caption; use scenes, task vqa or retrieve"):
        saccade.evaluate(blip2, task="caption", num=4)


@pytest.fixture
def rows(tmp_path):
    """A published data set of one's own; the third text is too long for the prompts of either model."""
    texts = ["this is a", "two things", "zqxj " * 200, "a blue"]
    for number, picture in enumerate(PICTURES[:4]):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    lines = [{"image": f"{i}.png", "text": text, "answers": ["dax"]} for i, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("kind", ["flamingo", "blip2"])
def test_published_data(kind, rows, request):
    few_shot, out = request.getfixturevalue(kind), rows / "out"
    given = {"data": "jsonl", "folder": rows, "rule": "exact", "max_tokens": 3, "batch_size": 3}
    scores = saccade.evaluate(few_shot, out=out, progress=False, **given)
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    for at in (0, 1, 3):
        alone = few_shot.ask(PICTURES[at], lines[at]["text"], max_new_tokens=3)
        assert (lines[at]["prediction"], lines[at]["confidence"]) == (alone.text, round(alone.confidence, 4))
    assert lines[2]["prediction"] == ""
    assert "tokens, at most" in lines[2]["refused"]
    assert scores["refused"] == 0.25
    assert scores["accuracy"] == np.mean([line["prediction"] == "dax" for line in lines])
    assert (scores["decoding"], scores["prompt"]) == ("greedy, at most 3 tokens", "{text}")


def test_published_data_with_a_prompt_and_other_rules(flamingo, rows):
    options = {"data": "jsonl", "folder": rows, "num": 2, "progress": False, "max_tokens": 3}
    saccade.evaluate(flamingo, rule="exact", prompt="a red {text}", out=rows / "asked", **options)
    line = json.loads((rows / "asked" / "predictions.jsonl").read_text().splitlines()[0])
    assert line["prediction"] == flamingo.ask(PICTURES[0], "a red this is a", max_new_tokens=3).text
    assert 0 <= saccade.evaluate(flamingo, rule="caption", **options)["bleu_1"] <= 1
    with pytest.raises(SaccadeError, match="cannot locate, which rule grounding"):
        saccade.evaluate(flamingo, rule="grounding", **options)
    with pytest.raises(SaccadeError, match="threshold is for models that reason in steps"):
        saccade.evaluate(flamingo, rule="exact", threshold=0.0, **options)


def test_published_data_of_a_blip2_of_stage_one(rows):
    vision, words = ViTConfig(12, 1, 2, 20, 8, (SIDE, SIDE)), QFormerConfig(READ, 24, 1, 3, 32, 4)
    first = FewShot(BLIP2(BLIP2Config(vision, words, None, 8)), made("BLIP2").processor)
    with pytest.raises(SaccadeError, match="not learned 'chat', only retrieve, match"):
        saccade.evaluate(first, data="jsonl", folder=rows, rule="exact")


def test_published_data_by_command(folder, rows):
    told = run("evaluate", folder / "flamingo", "--data", "jsonl", "--folder", rows, "--rule", "exact",
               "--max-tokens", 3, "--num", 2, "--json")  # fmt: skip
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["num"] == 2


def test_command_line(folder, flamingo):
    asked = ("ask", folder / "a.png", "this is a", "--model", folder / "flamingo", "--max-tokens", 3)
    told = json.loads(run(*asked, "--json").stdout)
    assert told["text"] == flamingo.ask(PICTURES[0], "this is a", max_new_tokens=3).text
    shown = run(*asked, "--shot", f"{folder / 'b.png'}=dax", "--json")
    shots = [Chunk("this is a", PICTURES[1], "dax")]
    expected = flamingo.ask(PICTURES[0], "this is a", shots, max_new_tokens=3)
    assert json.loads(shown.stdout) == {**expected.to_json()}
    matched = run("match", folder / "a.png", "a red ball", "--model", folder / "blip2")
    assert matched.exit_code == 0, matched.output
    assert "similarity" in matched.output
    assert "step" not in matched.output
    assert run("caption", folder / "a.png", "--model", folder / "blip2").exit_code == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["ask", "a.png", "what?", "--model", "flamingo", "--shot", "a.png"], "give IMAGE=ANSWER"),
        (["ask", "a.png", "what?", "--model", "flamingo", "--shot", "no.png=dax"], "no.png does not exist"),
        (["ask", "a.png", "what?", "--model", "blip2", "--shot", "b.png=dax"], "2 images, at most 1"),
        (["ask", "a.png", "what?", "--shot", "b.png=dax"], "learns from no demonstrations"),
        (["ask", "a.png", "what?", "--model", "flamingo", "--max-tiles", "2"], "whole, not in tiles"),
        (["ask", "a.png", "what?", "--model", "flamingo", "--explain"], "--explain is for models"),
        (["caption", "a.png", "--model", "flamingo", "--attention", "o.png"], "keeps no attention"),
        (["match", "a.png", "a ball", "--model", "flamingo"], "has not learned 'match', only chat"),
    ],
)  # fmt: skip
def test_commands_that_are_refused(folder, monkeypatch, command, message):
    monkeypatch.chdir(folder)
    refused = run(*command)
    assert refused.exit_code == 2
    assert message in " ".join(refused.output.split())
