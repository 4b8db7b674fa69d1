"""Packing: nothing is lost without being counted, and sequences hold conversations as they are alone."""

import pickle
from collections import Counter
from dataclasses import replace

import chat_parts
import numpy as np
import pytest
import talk_files
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.data.chat_processor import IGNORED, ChatConfig, ChatProcessor
from saccade.data.conversations import Conversation, Packer, RowError, Tally, Tolerant
from saccade.data.conversations.packing import assign, knapsack
from saccade.errors import SaccadeError

SIDE, M, S, T, B = 16, 4, 120, 5, 3
CONFIG = ChatConfig(
    image_size=SIDE, image_tokens=M, max_length=400, extra_tokens=tuple(chat_parts.TILES.items()), max_side=64
)
PROCESSOR = ChatProcessor(chat_parts.tokenizer(), CONFIG)
GOOD = Conversation((), ({"role": "user", "content": "red?"}, {"role": "assistant", "content": "yes"}))


def talk(images, *texts, where="f, row 0"):
    roles = ("user", "assistant") * len(texts)
    messages = tuple({"role": r, "content": t} for r, t in zip(roles, texts, strict=False))
    return Conversation(tuple(images), messages, where)


def packer(**changes) -> Packer:
    made = Packer(PROCESSOR, sequences=B, rows=6, length=S, tiles=T)
    return replace(made, **changes)


def run(made: Packer, items, max_bad=1000):
    tally = Tally(max_bad)
    return tally.take(made(items)), tally


SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 4)), max_size=20)


@given(SIZES, st.integers(1, 5))
def test_greedy_packing(sizes, bins):
    capacity = (30, 4)  # room for any row alone
    places = assign(sizes, capacity, bins)
    free = np.array([capacity] * bins)
    packed = [place for place in places if place is not None]
    assert places == packed + [None] * (len(sizes) - len(packed))  # the first ones, all of them
    for size, place in zip(sizes, packed, strict=False):
        free[place] -= size
    assert (free >= 0).all()
    assert len(packed) >= min(bins, len(sizes))
    if len(packed) < len(sizes):
        assert knapsack(sizes[: len(packed) + 1], capacity, bins) is None


def test_the_longest_go_first_into_the_fullest():
    assert knapsack([(3, 0), (6, 0), (4, 0), (5, 0)], (10, 1), 2) == [1, 0, 0, 1]
    assert knapsack([(5, 1), (5, 1), (1, 0)], (10, 1), 2) == [0, 1, 0]
    assert knapsack([(5, 1), (5, 1), (1, 1)], (10, 1), 2) is None
    assert assign([(6, 0), (6, 0), (5, 0), (1, 0)], (10, 1), 2) == [0, 1, None, None]
    assert assign([], (10, 1), 2) == []


def test_no_length_is_left_out_more_than_others():
    rng = np.random.default_rng(0)
    kept, left = [], []
    for _ in range(200):
        sizes = [(int(n), 0) for n in np.exp(rng.normal(3, 0.8, 60)).clip(1, 200)]
        for (tokens, _), place in zip(sizes, assign(sizes, (200, 0), 7), strict=True):
            (left if place is None else kept).append(tokens)
    assert len(left) > 300
    assert np.median(left) == pytest.approx(np.median(kept), rel=0.15)


KEYS = ("tokens", "image_mask", "targets")
SHORT = ChatProcessor(chat_parts.tokenizer(), replace(CONFIG, max_length=S))


def key(*arrays) -> bytes:
    return b"".join(np.asarray(a, np.int32).tobytes() for a in arrays)


def alone(item) -> bytes | None:
    """What the processor makes of a conversation; None = too long for a sequence."""
    try:
        batch = SHORT([item.images], [item.messages], train=True)
    except SaccadeError:
        return None
    keep = batch["padding_mask"][0]
    return key(*(batch[k][0][keep] for k in KEYS), batch["images"]) if len(batch["images"]) <= T else None


CONVERSATIONS = st.lists(
    st.tuples(
        st.lists(st.sampled_from([(20, 20), (35, 50)]), max_size=2),  # one tile, or seven
        st.sampled_from(
            [("red?", "yes"), ("x " * 90, "y"), ("a", "y " * 30), ("a", "y " * 99), ("a", "b") * 2]
        ),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(CONVERSATIONS)
@pytest.mark.filterwarnings("ignore:the prompt was cut")
def test_each_conversation_is_there_as_it_is_alone(drawn):
    items = [
        talk([talk_files.pixels(10 * i + k, *size) for k, size in enumerate(sizes)], *texts)
        for i, (sizes, texts) in enumerate(drawn)
    ]
    batch, tally = run(packer(rows=len(items)), items)
    expected = Counter(filter(None, map(alone, items)))
    segments = batch["segments"]
    found: Counter = Counter()
    for row in range(B):
        assert (np.diff(segments[row][segments[row] > 0]) >= 0).all()
        tile = 0
        for segment in range(1, segments[row].max() + 1):
            at = np.flatnonzero(segments[row] == segment)
            assert (np.diff(at) == 1).all()
            count = int(batch["image_mask"][row, at].sum()) // M
            found[key(*(batch[k][row, at] for k in KEYS), batch["images"][row, tile : tile + count])] += 1
            tile += count
        assert not batch["images"][row, tile:].any()
        assert (batch["targets"][row][segments[row] == 0] == IGNORED).all()
        assert not batch["image_mask"][row][segments[row] == 0].any()
    assert found <= expected
    assert found.total() == tally.rows - tally.causes.total()
    assert expected.total() == found.total() + tally.causes["room"]
    assert (tally.rows, tally.used, tally.tokens) == (len(items), (segments > 0).sum(), B * S)


def test_without_packing_row_i_is_sequence_i():
    items = [talk([talk_files.pixels(i)] * (i % 2), "red?", f"{i}") for i in range(B)]
    items[1] = RowError("text", "f, row 1: the user says nothing")
    batch, tally = run(packer(pack=False, rows=B), items)
    for row in (0, 2):
        single = PROCESSOR([items[row].images], [items[row].messages], train=True)
        keep = single["padding_mask"][0]
        for name in KEYS:
            np.testing.assert_array_equal(batch[name][row, : keep.sum()], single[name][0][keep])
        assert (batch["targets"][row, keep.sum() :] == IGNORED).all()
    assert (batch["targets"][1] == IGNORED).all()
    assert tally.causes == {"text": 1}


def test_what_is_left_out_is_counted_by_cause():
    items = [
        talk([b"no picture"], "red?", "yes", where="f, row 1"),
        talk([talk_files.png(0)[:-30]], "red?", "yes", where="f, row 2"),
        talk([], "red?", "y " * 300),
        talk([talk_files.pixels(0, 64, 64)], "red?", "yes"),  # 17 tiles
        talk([], "x " * 300, "yes"),
        RowError("rating", "f, row 5: no turn"),
        RowError("missing", "f, row 6: no texts"),
        GOOD,
        *[talk([], "red?", "y " * 40)] * (B + 1),
    ]
    batch, tally = run(packer(rows=len(items)), items)
    assert tally.causes == {"image": 2, "length": 2, "rating": 1, "missing": 1, "room": 2}
    assert (tally.bad, tally.cut, tally.rows) == (3, 1, 12)
    assert tally.examples[0].startswith("f, row 1: the image data is not a PNG, JPEG or WEBP image; save it")
    assert str(tally) == (
        "12 rows read, 4 learnt from, 91.7% of tokens used; a key missing: 1; "
        "an image that cannot be used: 2; below the rating limits: 1; longer than a sequence: 2; "
        "without room in their batch: 2; prompts cut: 1"
    )
    assert (batch["segments"] > 0).sum() == tally.used


def test_too_many_bad_rows_stop_the_stream():
    made = packer(rows=4)
    bad, *others = (RowError("image", f"f, row {row}: not a PNG") for row in (9, 8, 7, 6, 5))
    tally = Tally(2)
    tally.take(made([GOOD, bad, others[0], GOOD]))
    for _ in range(3):  # another epoch brings the same rows
        tally.take(made([bad, GOOD, others[0], bad]))
    message = "3 of 20 rows cannot be used, more than max_bad=2; the first is f, row 9: not a PNG; mend the"
    with pytest.raises(SaccadeError, match=message):
        tally.take(made([others[1], GOOD, GOOD, GOOD]))
    share = Tally(0.003)  # of 1,000 rows: 3
    for _ in range(3):
        share.take(made([GOOD, GOOD, GOOD, bad]))
    with pytest.raises(SaccadeError, match="4 of 16 rows"):
        share.take(made([GOOD, GOOD, GOOD, bad]))
    number = Tally(4.0)  # as a settings file may say it
    number.take(made([bad, *others[:3]]))
    with pytest.raises(SaccadeError, match="5 of 8 rows"):
        number.take(made([GOOD, GOOD, GOOD, others[3]]))
    with pytest.raises(SaccadeError, match="max_bad is -1"):
        Tally(-1)
    filtered = Tally(0)
    filtered.take(made([RowError("rating", "f, row 9: no turn")] * 4))
    assert filtered.causes == {"rating": 4}


def test_an_error_of_ours_is_no_bad_row():
    class Broken:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        Tolerant(Broken())[0]


class Listed:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], RowError):
            raise self.items[index]
        return self.items[index]


def test_sizes_are_measured():
    items = [talk([talk_files.pixels(i)] * (i % 3), "red?", "y " * (10 * (i % 4)) + "y") for i in range(48)]
    made = Packer.measured(PROCESSOR, Listed(items), B, S)
    each = np.mean([len(made.encode(item).tokens) for item in items])
    assert made.rows == round(0.95 * B * S / each)
    assert Packer.measured(PROCESSOR, Listed(items), B, S) == made
    assert Packer.measured(PROCESSOR, Listed(items), B, S, fill=0.5).rows == round(0.5 * B * S / each)
    empty = [RowError("rating", "no turn")] * 48
    half = [item for pair in zip(items, empty, strict=True) for item in pair]
    assert Packer.measured(PROCESSOR, Listed(half), B, S).rows == pytest.approx(2 * made.rows, abs=1)
    single = Packer.measured(PROCESSOR, Listed(items), B, S, pack=False)
    assert (single.rows, single.tiles) == (B, 2)
    assert Packer.measured(PROCESSOR, Listed(items), B).length == PROCESSOR.limit
    assert Packer.measured(PROCESSOR, Listed([GOOD] * 3), B, S).tiles == 0
    with pytest.raises(SaccadeError, match="none of 48 rows looked at can be learnt from; the last: no turn"):
        Packer.measured(PROCESSOR, Listed(empty), B)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": 0}, "a batch of 0 sequences"),
        ({"tiles": -1}, "-1 tiles"),
        ({"pack": False, "rows": 4}, "rows is 4 and sequences 3; make them equal"),
    ],
)
def test_sizes_that_cannot_be(changes, message):
    with pytest.raises(SaccadeError, match=message):
        packer(**changes)


def test_the_first_age_packs_too():
    old = ChatProcessor(
        chat_parts.tokenizer("<|endoftext|>"), replace(CONFIG, template="", extra_tokens=(), max_length=79)
    )
    items = [talk([talk_files.pixels(i)], "red?", "yes") for i in range(4)]
    batch, tally = run(replace(packer(processor=old), rows=4, sequences=1, length=S), items)
    assert tally.rows - tally.causes.total() == batch["segments"].max()
    assert batch["image_mask"].sum() == M * batch["segments"].max()
    two = talk([], "red?", "yes", "blue?", "no")
    _, tally = run(replace(packer(processor=old), rows=1), [two])
    assert tally.causes == {"text": 1}  # max_turns=1 is for this


def test_a_packer_travels_to_other_processes():
    again = pickle.loads(pickle.dumps(packer()))
    items = [talk([talk_files.pixels(i)], "red?", "yes") for i in range(6)]
    one, two = packer()(items), again(items)
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
