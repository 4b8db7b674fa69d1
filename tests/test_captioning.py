"""The captioners' recipe, and what its model does: captions, words with what they looked at, evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import saccade
from saccade.captioning import CaptionPipeline, _by_word
from saccade.cli import app
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import Source
from saccade.data.text import Tokenizer
from saccade.errors import SaccadeError
from saccade.evaluation import scenes
from saccade.evaluation.texts import predict_captions
from saccade.models.captioners import CaptionerConfig, ShowAndTell, ShowAttendTell
from saccade.train import recipe

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "captioners_scenes.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner")
    result = recipe.run_recipe(RECIPE, [], smoke=True, out=folder)
    assert result.steps == 3
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert 0 <= records[-1]["eval/caption_true"] <= 1
    assert 0 <= records[-1]["eval/greedy_true"] <= 1
    assert {"caption/perceived", "caption/pointed", "caption/token_accuracy"} <= records[0].keys()
    return folder / "model"


def untrained(kind, **changes):
    texts = [Source("caption")[i].target for i in range(60)]
    processor = Processor(Tokenizer.train(texts, 300), ProcessorConfig(image_sizes=((32, 48),)))
    config = CaptionerConfig(
        **{
            "vocab_size": processor.tokenizer.vocab_size,
            "dim": 16,
            "word_dim": 12,
            "max_length": 10,
            "vision_dim": 16,
            "depth": 1,
            "patch_size": 8,
            "stem": (8,),
            "image_size": (32, 48),
            **changes,
        }
    )
    return CaptionPipeline(kind(config), processor)


@pytest.fixture(scope="module")
def looking():
    return untrained(ShowAttendTell)


def picture(height=40, width=60):
    return np.random.default_rng(0).integers(256, size=(height, width, 3)).astype(np.uint8)


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_recipe_of_show_and_tell_is_not_told_where_to_look():
    made = recipe.load_recipe(RECIPE)
    config = recipe.make_config(made, ["model=show_and_tell"], smoke=True)
    trainer = made.recipe(config, None)
    assert type(trainer.model) is ShowAndTell
    objective = trainer.streams["caption"].objective
    assert (objective.point_weight, objective.attend_weight) == (0, 0)
    assert objective.also
    bare = recipe.make_config(made, ["perceive_weight=0", "point_weight=0"], smoke=True)
    trainer = made.recipe(bare, None)
    assert type(trainer.model) is ShowAttendTell
    assert not trainer.model.config.attributes
    assert not trainer.streams["caption"].objective.also


def test_load_caption_and_save(trained, tmp_path):
    pipeline = saccade.load(trained)
    assert isinstance(pipeline, CaptionPipeline)
    caption = pipeline.caption(picture())
    assert 0 < caption.confidence <= 1
    assert caption.words == ()
    pipeline.save(tmp_path / "again")
    assert saccade.load(tmp_path / "again").caption(picture()) == caption
    assert pipeline.caption(picture(), num_beams=2, max_new_tokens=5).text


def test_words_say_what_they_looked_at(looking):
    caption = looking.caption(picture(), words=True)
    assert [word.text for word in caption.words] == caption.text.split()
    for word in caption.words:
        assert word.attention.shape == (4, 6)
        assert word.attention.sum() == pytest.approx(1, abs=1e-4)
        assert 0 < word.confidence <= 1
    # The text with its end is as likely as the words and the end together: no word is counted twice.
    assert np.prod([word.confidence for word in caption.words]) >= caption.confidence**10 * 0.99
    blind = untrained(ShowAndTell).caption(picture(), words=True)
    assert all(word.attention is None for word in blind.words)
    assert json.dumps(caption.to_json())


class Pieces:
    """A tokenizer of given pieces."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def decode(self, tokens):
        return "".join(self.pieces[t] for t in tokens)


def test_tokens_are_gathered_into_words():
    assert _by_word(Pieces("a", " re", "d", " cube", "."), [0, 1, 2, 3, 4]) == [
        (0, 1, "a"),
        (1, 3, "red"),
        (3, 5, "cube."),
    ]
    assert _by_word(Pieces("a b", "c"), [0, 1]) == [(0, 1, "a"), (0, 2, "bc")]
    assert _by_word(Pieces("", "a"), [0, 1]) == [(1, 2, "a")]
    assert _by_word(Pieces(), []) == []


def test_the_tokenizer_must_fit():
    with pytest.raises(SaccadeError, match=r"the tokenizer has \d+ tokens, the model 50"):
        untrained(ShowAttendTell, vocab_size=50)


def test_evaluate(trained, tmp_path):
    pipeline = saccade.load(trained)
    scores = saccade.evaluate(pipeline, task="caption", num=6, batch_size=4, out=tmp_path, progress=False)
    assert (scores["num"], scores["decoding"], scores["threshold"]) == (6, "greedy", None)
    assert 0 <= scores["accuracy"] <= 1
    assert not {"mean_steps", "max_steps", "accuracy_all_steps"} & scores.keys()
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert scores["accuracy"] == np.mean([row["correct"] for row in rows])
    for options, message in (
        ({"task": "vqa"}, "cannot be measured by scenes, task vqa; use scenes, task caption"),
        ({"task": "caption", "threshold": 1.0}, "this model reasons in no steps"),
    ):
        with pytest.raises(SaccadeError, match=message):
            saccade.evaluate(pipeline, num=2, **options)


def test_evaluate_by_beam_search(trained):
    pipeline = saccade.load(trained)
    pipeline.model.heads["write"].output_projection.kernel.assign(  # sure of itself: beams then differ
        10 * np.asarray(pipeline.model.heads["write"].output_projection.kernel)
    )
    asked = {"task": "caption", "num": 4, "batch_size": 4, "progress": False}
    scores = saccade.evaluate(pipeline, **asked, beams=3)
    assert scores["decoding"] == "beam search, 3 beams"
    run = scenes.scene_run(pipeline, "caption", 4, 99, "test", 4, None, False, {})
    run.beams = 3
    told = predict_captions(run, 0)
    _, batch = run.batch(0)
    wide, narrow = (pipeline.write(batch, num_beams=beams)["tokens"] for beams in (3, 1))
    decode = pipeline.processor.tokenizer.decode
    assert [row["prediction"] for row in told] == [decode(row.tolist()) for row in wide]
    assert (wide != narrow).any()
    for options in ({"task": "vqa"}, {"data": "nlvr", "task": "statement"}):
        with pytest.raises(SaccadeError, match="beams is 2, but only a captioner's captions"):
            saccade.evaluate(pipeline, num=2, beams=2, **options)


def test_command_line(trained, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "in.png")
    out = tmp_path / "out.png"
    shown = run("caption", tmp_path / "in.png", "--model", trained, "--attention", out)
    assert shown.exit_code == 0, shown.output
    assert "step" not in shown.output
    with Image.open(out) as drawn:
        assert min(drawn.size) > 200
    told = json.loads(run("caption", tmp_path / "in.png", "--model", trained, "--json").stdout)
    assert told["words"] == []
    beams = run("caption", tmp_path / "in.png", "--model", trained, "--beams", 2, "--json")
    assert json.loads(beams.stdout)["text"] == saccade.load(trained).caption(picture(), num_beams=2).text
    refused = run("caption", tmp_path / "in.png", "--beams", 2)
    assert "--beams is 2, but vlm_hrm_scenes writes its likeliest words" in refused.output
    scored = run("evaluate", trained, "--task", "caption", "-n", 2, "--beams", 2, "--json")
    assert json.loads(scored.stdout)["task"] == "caption"
    refused = run("ask", tmp_path / "in.png", "what?", "--model", trained)
    assert refused.exit_code == 2
    assert "writes captions, but has no 'ask'; use `saccade caption`" in refused.output
    refused = run("evaluate", trained)
    assert refused.exit_code == 2
    assert "task vqa; use scenes, task caption" in refused.output


def test_attention_of_a_model_that_does_not_look_again_is_refused(tmp_path):
    untrained(ShowAndTell).save(tmp_path / "m")
    Image.fromarray(picture()).save(tmp_path / "in.png")
    refused = run(
        "caption", tmp_path / "in.png", "--model", tmp_path / "m", "--attention", tmp_path / "o.png"
    )
    assert refused.exit_code == 2
    assert "looks at the image once, before the first word; leave --attention out" in refused.output
    assert not (tmp_path / "o.png").exists()
