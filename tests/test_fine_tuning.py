"""fine_tune: what trains, what stays, and that it learns, resumes and refuses."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import tiny

import saccade
from saccade.data.batching import ATTRIBUTES
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.readers.rows import Row
from saccade.data.scenes.kept import Kept
from saccade.data.scenes.panels import PanelStatements, panel_lexicon
from saccade.data.text import Tokenizer
from saccade.errors import SaccadeError
from saccade.fine_tuning import MEMORY, TRAIN, as_example, fine_tune
from saccade.pipeline import Pipeline

CANVAS = (8, 48)
QUICK = TRAIN.model_copy(update={"steps": 3, "warmup_steps": 0, "log_every": 1, "save_every": 3})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    tokenizer = Tokenizer.train([" ".join(panel_lexicon())] * 40, vocab_size=330)
    config = replace(
        tiny.CONFIG,
        vocab_size=tokenizer.vocab_size,
        num_answers=2,
        max_length=48,
        halt_max_steps=2,
        attributes=tuple(len(values) for values in ATTRIBUTES.values()),
    )
    processor = ProcessorConfig(
        image_sizes=(CANVAS, (16, 16)), answers=("no", "yes"), max_length=48, lexicon=panel_lexicon()
    )
    folder = tmp_path_factory.mktemp("start") / "model"
    Pipeline(tiny.fresh(config=config, seed=5), Processor(tokenizer, processor)).save(folder)
    return folder


@pytest.fixture(scope="module")
def data():
    return Kept(PanelStatements(seed=8), 12)


@pytest.fixture(scope="module")
def tuned(start, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        pipeline = fine_tune(
            start,
            "statement",
            data,
            out,
            validation=[data[0], data[1]],
            freeze=iter(("vision", "text")),
            words="thingamajig",
            batch_size=4,
            memory="float32",
            train=QUICK,
        )
    return pipeline, out, said.getvalue()


def values(folder_or_model) -> dict:
    model = (
        folder_or_model
        if hasattr(folder_or_model, "named_variables")
        else saccade.load(folder_or_model).model
    )
    return {name: np.asarray(v) for name, v in model.named_variables().items()}


def test_frozen_parts_and_other_heads_stay(start, tuned):
    before, after = values(start), values(tuned[0].model)
    changed = {
        name.split("/")[0]
        for name, value in after.items()
        if name != "text/table" and (before[name] != value).any()
    }
    assert {"core", "fusion", "projection", "statement", "objects", "halting"} <= changed
    assert not changed & {"vision", "text", "text_block_0", "vqa", "ground", "match", "write", "retrieve"}
    rows = len(before["text/table"])
    np.testing.assert_array_equal(after["text/table"][:rows], before["text/table"])
    assert len(after["text/table"]) > rows  # the new word


def test_it_says_what_trains(tuned):
    said = tuned[2]
    for part in ("vision/", "text/", "write/", "frozen", "rest", "parameters train"):
        assert part in said


def test_the_result_is_a_model_like_any_other(tuned, data):
    pipeline, out, _ = tuned
    assert pipeline.model.tasks == ("statement",)
    loaded = saccade.load(out / "model")
    text = "there is a blue circle"
    one, two = pipeline.ask(data[0].image, text), loaded.ask(data[0].image, text)
    assert (one.text, one.steps) == (two.text, two.steps)
    assert one.confidence == pytest.approx(two.confidence, abs=1e-4)
    assert 0.5 <= one.confidence <= 1
    with pytest.raises(SaccadeError, match="has not learned 'vqa'"):
        pipeline.ask(data[0].image, text, task="vqa")
    log = (out / "log.jsonl").read_text()
    assert "eval/accuracy" in log
    assert "statement/perceived" in log


def test_the_same_call_goes_on_and_recomputing_changes_nothing(start, data, tmp_path, monkeypatch):
    monkeypatch.setitem(MEMORY, "small", {**MEMORY["small"], "precision": "float32"})
    found = []
    for name, memory, stops in (("a", "float32", (4,)), ("b", "small", (2, 4))):
        for steps in stops:
            train = QUICK.model_copy(update={"steps": steps, "schedule": "constant", "save_every": 2})
            tuned = fine_tune(
                start, "statement", data, tmp_path / name, batch_size=4, memory=memory, train=train
            )
        assert tuned.model.config.remat == (memory == "small")
        found.append(values(tuned.model))
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, atol=1e-4, err_msg=name)


def test_rows_of_data_sets_are_examples(data):
    row = Row("1", b"", "there is a box", ("true", "false"), boxes=((0, 0, 1, 1),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Row, "image", property(lambda self: data[0].image))
        assert as_example(row, "statement").answer == "true"
        assert as_example(row, "ground").box == (0, 0, 1, 1)
        with pytest.raises(SaccadeError, match="no answer"):
            as_example(replace(row, answers=()), "statement")
        with pytest.raises(SaccadeError, match="one box"):
            as_example(replace(row, boxes=()), "ground")
    assert as_example(data[0], "statement") is data[0]


def test_an_example_without_a_scene_among_others_is_named(start, data):
    mixed = [data[0], *(replace(data[i], scene=None) for i in range(1, 4))]
    with pytest.raises(SaccadeError, match="has no scene, the first has one"):
        fine_tune(start, "statement", mixed, batch_size=4, memory="float32", train=QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "caption"}, "unknown task 'caption'"),
        ({"memory": "none"}, "unknown memory"),
        ({"freeze": ("eyes",)}, "unknown part 'eyes'"),
        ({"data": []}, "no examples"),
        ({"batch_size": 6, "memory": "smallest"}, "multiple of 4"),
        ({"model": "no_such_model"}, "no model or directory"),
        ({"data": iter([1])}, "data is a list_iterator: give examples with random access"),
        ({"image_size": (8, 50)}, r"image_size is \(8, 50\): both sides must be multiples of \d+ pixels"),
        ({"halting": 1}, "unknown field"),
        ({"model": tiny.fresh}, "model is a function: give a bundled name or a directory"),
    ],
)
def test_what_cannot_be_done_is_refused(start, data, change, message):
    arguments = {"model": start, "task": "statement", "data": data, **change}
    with pytest.raises(SaccadeError, match=message):
        fine_tune(**arguments)
