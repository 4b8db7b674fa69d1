"""Conversations through a Stream: order, resuming, workers, and what the Trainer says was left out."""

import io
import re
from dataclasses import replace
from itertools import islice

import chat_parts
import keras
import numpy as np
import pytest
import talk_files
from keras import ops
from rich.console import Console

from saccade.data.chat_processor import ChatConfig, ChatProcessor
from saccade.data.conversations import (
    Conversations,
    RowFormat,
    SceneConversations,
    StreamedConversations,
)
from saccade.data.order import Shuffled
from saccade.data.scenes import Source
from saccade.errors import SaccadeError
from saccade.train import TrainConfig, Trainer
from saccade.train.conversations import conversation_stream

SIDE, M, S, B = 16, 4, 150, 2
PROCESSOR = ChatProcessor(
    chat_parts.tokenizer(), ChatConfig(image_size=SIDE, image_tokens=M, max_length=400, max_side=SIDE)
)
ROWS = talk_files.rows(17)
ROWS[5]["images"] = [{"bytes": b"broken", "path": None}]


class Repeatable:
    """As a streaming data set of `datasets`: begins anew whenever it is iterated over."""

    def __init__(self, rows):
        self.rows, self.begun = rows, 0

    def __iter__(self):
        self.begun += 1
        return iter(list(self.rows))


def stream(source, workers=0, **options):
    return conversation_stream(source, PROCESSOR, None, B, length=S, workers=workers, **options)


def sources(folder):
    jsonl = Conversations.open(talk_files.write_jsonl(folder / "rows.jsonl", ROWS))
    yield "jsonl", jsonl
    yield "streamed", StreamedConversations(Repeatable(ROWS), RowFormat(relevance_min=2))
    yield "scenes", SceneConversations(Source("vqa", max_depth=2))
    try:
        path = talk_files.write_parquet(folder / "rows.parquet", ROWS, group=2)
    except ImportError:
        return
    yield "parquet", Conversations.open(path)


KINDS = ["jsonl", "streamed", "scenes", "parquet"]


def source(kind, folder):
    found = dict(sources(folder))
    if kind not in found:
        pytest.skip("no pyarrow")
    return found[kind]


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("kind", KINDS)
def test_from_any_batch_on_it_is_as_if_never_stopped(kind, tmp_path):
    rows = source(kind, tmp_path)
    whole = list(islice(stream(rows).batches(3), 7))
    assert all("segments" in batch and "account" not in batch for batch in whole)
    assert any((a["tokens"] != b["tokens"]).any() for a, b in zip(whole[1:], whole, strict=False))
    for start in (6, 2, 4):
        for batch, expected in zip(stream(rows).batches(3, start), whole[start:], strict=False):
            same(batch, expected)
    fresh = stream(source(kind, tmp_path))  # another process
    same(next(fresh.batches(3, 5)), whole[5])
    if kind != "streamed":
        assert (next(stream(rows).batches(4))["tokens"] != whole[0]["tokens"]).any()


@pytest.mark.parametrize("kind", ["parquet", "streamed"])
def test_workers_change_nothing(kind, tmp_path):
    rows = source(kind, tmp_path)
    alone, several = stream(rows), stream(rows, workers=2)
    reader = several.batches(3, 1)
    for expected, batch in zip(islice(alone.batches(3, 1), 4), reader, strict=False):
        same(batch, expected)
    assert str(alone.tally) == str(several.tally)
    assert alone.tally.causes["image"] >= 1


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_epoch_holds_every_row_once(kind, tmp_path):
    made = stream(source(kind, tmp_path))
    packer = replace(made.collate, rows=17, sequences=8, tiles=17, length=400)  # a batch is an epoch
    made = replace(made, items=17, collate=packer, batch_size=8)
    for batch in islice(made.batches(5), 2):
        seen = []
        for row, segments in zip(batch["tokens"], batch["segments"], strict=True):
            for segment in range(1, segments.max() + 1):
                seen += re.findall(r"(\d+) what", PROCESSOR.tokenizer.decode(row[segments == segment]))[:1]
        assert sorted(map(int, seen)) == [i for i in range(17) if i != 5]
    assert made.tally.causes == {"image": 2}
    assert re.search(rf"rows.{kind}, row 5: .* is not a PNG", made.tally.examples[0])


class Mean:
    """A model of five tokens is to give nothing."""

    def initial_carry(self, model, batch):
        return {}

    def __call__(self, model, carry, batch, seed):
        x = ops.cast(batch["tokens"][:, :5], "float32") / 300
        return ops.mean(ops.square(model(x))), carry, {}, batch["tokens"].shape[0]


def fit(rows, folder, **options):
    console = Console(record=True, width=400, file=io.StringIO())
    model = keras.Sequential([keras.layers.Dense(1)])
    model.build((None, 5))
    made = conversation_stream(rows, PROCESSOR, Mean(), B, length=S, **options)
    Trainer(model, {"talk": made}, TrainConfig(steps=6, warmup_steps=0), folder, console=console).fit()
    return console.export_text(), made.tally


def test_the_trainer_says_what_was_left_out(tmp_path):
    rows = source("jsonl", tmp_path)
    text, tally = fit(rows, tmp_path / "run")
    assert tally.rows > 17
    assert tally.causes["image"] >= 1
    # batches read ahead are counted after the line was written
    assert re.search(
        r"talk: \d+ rows read, \d+ learnt from, [\d.]+% of tokens used; an image that cannot", text
    )


def test_the_trainer_stops_at_too_many_bad_rows(tmp_path):
    bad = [{**row, "images": [{"bytes": b"broken"}]} for row in ROWS[:9]] + ROWS
    with pytest.raises(
        SaccadeError, match=r"rows cannot be used, more than max_bad=2; the first is .*rows.jsonl, row"
    ):
        fit(Conversations.open(talk_files.write_jsonl(tmp_path / "rows.jsonl", bad)), None, max_bad=2)


def test_rows_stream_in_order_and_begin_again():
    source = Repeatable(ROWS[:5])
    rows = StreamedConversations(source, name="made")
    assert source.begun == 1  # the question whether it can begin again
    said = [rows[i].messages[0]["content"] for i in range(12)]
    assert [text.split()[0] for text in said] == [str(i % 5) for i in range(12)]
    assert rows[7].messages[0]["content"] == said[7]  # back, and on
    assert rows[11].messages[0]["content"] == said[11]
    assert rows[11].where == "made, row 1"
    ahead = StreamedConversations(source)
    assert ahead[1003].messages[0]["content"].split()[0] == "3"
    begun = source.begun
    assert ahead[1001].messages[0]["content"].split()[0] == "1"
    assert source.begun == begun + 1  # its length is known by now


def test_streams_that_are_refused():
    with pytest.raises(SaccadeError, match="made gives its rows only once"):
        StreamedConversations(iter(ROWS), name="made")
    with pytest.raises(SaccadeError, match="made gives no rows"):
        StreamedConversations(Repeatable([]), name="made")[0]


def test_files_without_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n")
    with pytest.raises(SaccadeError, match="there are no conversations: the files are empty"):
        fit(Conversations.open(tmp_path / "rows.jsonl"), None)


def test_an_order_by_parts():
    blocks = [3, 5, 2, 7, 1, 4, 6, 3, 9]
    order = Shuffled(range(40), blocks, seed=1)
    epochs = [[order[40 * epoch + i] for i in range(40)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(40))
    assert epochs[0] != epochs[1] != epochs[2]
    assert [order[i] for i in range(35, 45)] == epochs[0][35:] + epochs[1][:5]
    assert [Shuffled(range(40), blocks, seed=2)[i] for i in range(40)] != epochs[0]
    part = np.repeat(np.arange(9), blocks)
    for epoch in epochs:  # a part is read within one stretch, together with three others at most
        seen = part[epoch]
        last = {p: np.flatnonzero(seen == p).max() for p in range(9)}
        first = {p: np.flatnonzero(seen == p).min() for p in range(9)}
        for at in range(40):
            assert sum(first[p] <= at <= last[p] for p in range(9)) <= 4


def test_scenes_as_conversations():
    source = Source("dialogue")
    rows = SceneConversations(source)
    example = next(source[i] for i in range(9) if source[i].turns)
    index = next(i for i in range(9) if source[i].turns)
    found = rows[index]
    assert found.images[0].shape == example.image.shape
    said = [m["content"] for m in found.messages]
    assert said == [text for turn in (*example.turns, (example.text, example.answer)) for text in turn]
    assert len(rows) == len(source)
    with pytest.raises(SaccadeError, match="task 'ground' is no conversation; use one of vqa"):
        SceneConversations(Source("ground"))
    with pytest.raises(SaccadeError, match="task 'nothing' is no conversation"):
        SceneConversations()


def test_scenes_by_turns():
    sources = Source("vqa"), Source("rationale"), Source("vqa", seed=1), Source("caption")
    rows = SceneConversations(*sources)
    for i in range(3):
        asked, why, other, seen = ([m["content"] for m in rows[4 * i + turn].messages] for turn in range(4))
        assert asked == [sources[0][i].text, sources[0][i].answer]
        assert why == [f"{sources[1][i].text} Say how you know.", sources[1][i].target]
        assert other == [sources[2][i].text, sources[2][i].answer]
        assert seen == ["Describe the picture.", sources[3][i].target]
        assert rows[4 * i + 1].images[0].shape == sources[1][i].image.shape
