"""The dialogue head: who spoke and when, ranking, its history; what the heads that write refuse."""

from types import SimpleNamespace

import numpy as np
import pytest
import reference
from reference import to_numpy
from writing_heads import (
    SIZES,
    B,
    C,
    D,
    K,
    R,
    V,
    Words,
    batch_of,
    compiled,
    fit,
    head_of,
    on_jax,
    outputs_of,
    same,
    without,
    write,
)

from saccade import backend
from saccade.data.text import BOS, EOS, PAD
from saccade.errors import SaccadeError
from saccade.heads.dialogue import ROLES, flatten_history
from saccade.heads.task import VLMTaskConfig
from saccade.train.tasks import HeadLoss


@pytest.mark.parametrize("name", ["turns", "roles"])
def test_dialogue_is_told_who_speaks_and_when(name):
    head, batch = head_of("dialogue"), batch_of("dialogue")
    before = outputs_of(head, batch)
    after = outputs_of(head, {**batch, name: (batch[name] + 1) % len(ROLES)})
    assert np.abs(after["logits"] - before["logits"]).max((1, 2)).min() > 1e-4
    # As if the row of the table had been added to the features.
    table = to_numpy(head.role_table if name == "roles" else head.turn_table)
    told = {**without(batch, name), "text_features": batch["text_features"] + table[batch[name]]}
    same(before, outputs_of(head, told))


# -- ranking


def test_candidates_are_ordered_and_padded_ones_never_win():
    head, batch = head_of("dialogue"), batch_of("dialogue")
    batch["candidates"][0, 2] = PAD  # nothing in it: padded too
    outputs = outputs_of(head, batch)
    order = head.decode(outputs)["order"]
    for by in ("score", "likelihood"):
        scores = to_numpy(compiled(head, by)(batch))
        assert scores.dtype == np.float32
        kept = batch["candidate_mask"].copy()
        kept[0, 2] = False
        assert (scores[~kept] == -1e9).all()
        assert (scores[kept] > -1e6).all()
    np.testing.assert_allclose(
        to_numpy(compiled(head, "score")(batch)), outputs["candidate_scores"], atol=2e-5
    )
    falling = np.take_along_axis(outputs["candidate_scores"], order, 1)
    assert (np.diff(falling) <= 0).all()
    assert sorted(order[2, :2].tolist()) == [0, 1]
    assert order[2, 2:].tolist() == [2, 3]
    tie = {"candidate_scores": np.zeros((1, 3), np.float32)}
    assert head.decode(tie)["order"].tolist() == [[0, 1, 2]]


def test_a_score_depends_on_its_candidate_alone():
    head, batch = head_of("dialogue"), without(batch_of("dialogue"), "answer_index", "candidate_mask")
    turn = [2, 0, 3, 1]
    moved = {**batch, "candidates": batch["candidates"][:, turn]}
    for by in ("score", "likelihood"):
        before, after = (to_numpy(compiled(head, by)(b)) for b in (batch, moved))
        np.testing.assert_allclose(after, before[:, turn], atol=2e-5)
        assert np.abs(np.diff(before, axis=1)).min() > 1e-5


def test_likelihood_is_that_of_the_candidate_as_a_response():
    head, batch = head_of("dialogue"), without(batch_of("dialogue"), "answer_index", "candidate_mask")
    found = to_numpy(compiled(head, "likelihood")(batch))
    for k in range(K):
        tokens = batch["candidates"][:, k]
        logits = outputs_of(head, {**batch, "response": tokens})["logits"]
        log_p = reference.log_softmax(logits.astype(np.float64))[:, :-1]
        each = np.take_along_axis(log_p, tokens[:, 1:, None], -1)[..., 0]
        np.testing.assert_allclose(found[:, k], (each * (tokens[:, 1:] != PAD)).sum(1), rtol=1e-4)


def test_dialogue_decodes_what_there_is():
    head, batch = head_of("dialogue"), batch_of("dialogue")
    tokens, _ = write(head, batch)
    answers = head.decode({**outputs_of(head, batch), "tokens": tokens}, Words())
    assert answers["order"].shape == (B, K)
    assert answers["text"] == head.decode({"tokens": tokens}, Words())["text"]
    assert len(answers["text"]) == B
    assert head.decode({"tokens": tokens}) == {}
    only = outputs_of(head, without(batch, "candidates", "candidate_mask", "answer_index"))
    assert only.keys() == {"logits"}


# -- the history


def test_a_history_is_flattened_and_loses_its_oldest_rounds():
    encode = lambda text: [int(word) for word in text.split()]  # noqa: E731
    rows = [
        SimpleNamespace(text="7 8", turns=(("3", "4"), ("5", "6 6")), context="1 2"),
        SimpleNamespace(text="9", turns=(), context=None),
    ]
    batch = flatten_history(rows, encode, length=10, max_turns=4)
    question, answer, caption = range(3)
    assert batch["tokens"].tolist() == [[1, 2, 3, 4, 5, 6, 6, 7, 8, 0], [9] + [0] * 9]
    assert batch["turns"].tolist() == [[0, 0, 2, 2, 1, 1, 1, 0, 0, 0], [0] * 10]
    assert batch["roles"][0, :9].tolist() == [
        *[caption] * 2, question, answer, question, answer, answer, question, question,
    ]  # fmt: skip
    assert batch["text_mask"].sum(1).tolist() == [9, 1]
    for limits in ({"length": 8, "max_turns": 4}, {"length": 10, "max_turns": 2}):
        shorter = flatten_history(rows, encode, **limits)
        assert shorter["tokens"][0, :7].tolist() == [1, 2, 5, 6, 6, 7, 8]
        assert shorter["text_mask"].sum(1).tolist() == [7, 1]
    with pytest.raises(SaccadeError, match="are 4 tokens, length=3"):
        flatten_history(rows, encode, length=3, max_turns=4)


# -- bad input

BAD = {
    "no 'tokens' to score": ("captioning", lambda b: b.pop("tokens")),
    "tokens have 10 tokens, not 2 to 9": (
        "captioning",
        lambda b: b.update(tokens=np.pad(b["tokens"], [(0, 0), (0, 10 - R)])),
    ),
    "tokens have 1 tokens": ("captioning", lambda b: b.update(tokens=b["tokens"][:, :1])),
    "tokens are \\(2, 6\\)": ("captioning", lambda b: b.update(tokens=b["tokens"][:2])),
    "give whole numbers": ("captioning", lambda b: b.update(tokens=b["tokens"].astype(np.float32))),
    "tokens holds 13; give 0 to 12": ("captioning", lambda b: b["tokens"].__setitem__((0, 1), V)),
    "tokens holds -1": ("captioning", lambda b: b["tokens"].__setitem__((0, 1), -1)),
    "starts with 5; put BOS": ("captioning", lambda b: b["tokens"].__setitem__((2, 0), 5)),
    "text_features is 13 wide": (
        "captioning",
        lambda b: b.update(text_features=b["text_features"][..., :-1]),
    ),
    "no 'text_features'": ("dialogue", lambda b: b.pop("text_features")),
    "no 'response' and no 'candidates'": (
        "dialogue",
        lambda b: [b.pop(name) for name in ("response", "candidates")],
    ),
    "K = 0; give at least 1": ("dialogue", lambda b: b.update(candidates=b["candidates"][:, :0])),
    "candidates are \\(3, 6\\)": ("dialogue", lambda b: b.update(candidates=b["candidates"][:, 0])),
    "candidates have 10 tokens": (
        "dialogue",
        lambda b: b.update(candidates=np.pad(b["candidates"], [(0, 0), (0, 0), (0, 10 - R)])),
    ),
    "candidate_mask is \\(3, 3\\)": (
        "dialogue",
        lambda b: b.update(candidate_mask=b["candidate_mask"][:, :3]),
    ),
    "answer_index holds 4; give 0 to 3": ("dialogue", lambda b: b["answer_index"].__setitem__(1, K)),
    "answer_index holds -1": ("dialogue", lambda b: b["answer_index"].__setitem__(1, -1)),
    "answer_index of row 2 is 3, a padded": ("dialogue", lambda b: b["answer_index"].__setitem__(2, 3)),
    "turns holds 4; give 0 to 3": ("dialogue", lambda b: b["turns"].__setitem__((0, 0), 4)),
    "roles holds 3; give 0 to 2": ("dialogue", lambda b: b["roles"].__setitem__((0, 0), 3)),
    "turns are \\(3, 4\\)": ("dialogue", lambda b: b.update(turns=b["turns"][:, :4])),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_batches_are_named_in_one_line(message):
    task, spoil = BAD[message]
    batch = batch_of(task)
    spoil(batch)
    with pytest.raises(SaccadeError, match=message) as caught:
        head_of(task)(batch)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_ranked_or_learned_is_refused():
    head, batch = head_of("dialogue"), batch_of("dialogue")
    with pytest.raises(SaccadeError, match="text_features is 13 wide"):
        head.prompt({**batch, "text_features": batch["text_features"][..., :-1]})
    with pytest.raises(SaccadeError, match="no rank_by 'taste'"):
        head.rank(batch, "taste")
    with pytest.raises(SaccadeError, match="no 'candidates' to rank"):
        head.rank(without(batch, "candidates"))
    with pytest.raises(SaccadeError, match="no 'answer_index' to learn from"):
        HeadLoss()(head, {}, without(batch, "answer_index", "response"), None)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("captioning", {"vocab_size": None}, "vocab_size of captioning is None"),
        ("captioning", {"vocab_size": 3}, "give at least 4"),
        ("captioning", {"max_length": 1}, "give at least 2"),
        ("captioning", {"decoder_depth": 0}, "decoder_depth of captioning is 0"),
        ("captioning", {"text_dim": 0}, "text_dim of captioning is 0"),
        ("dialogue", {"max_turns": None}, "max_turns of dialogue is None"),
        ("dialogue", {"text_dim": None}, "text_dim of dialogue is None"),
    ],
)
def test_bad_configurations(task, change, message):
    good = {"vision_dim": C, "text_dim": D, **SIZES, "max_turns": 4}
    with pytest.raises(SaccadeError, match=message):
        VLMTaskConfig(task, **{**good, **change})


# -- learning


@on_jax
def test_ranking_learns_what_the_last_question_asks_of_the_image():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(256):
        values, asked, asked_before = rng.integers(4, size=2), *rng.integers(2, size=2)
        image = np.zeros((2, C), np.float32)
        image[[0, 1], values], image[0, 8], image[1, 9] = 1, 1, 1
        text = np.zeros((2, D), np.float32)  # two questions that differ in their turns only
        text[0, asked_before], text[1, asked] = 1, 1
        swap = rng.permutation(2)
        order = rng.permutation(4)
        candidates = np.stack([np.full(4, BOS), order + 4, np.full(4, EOS)], 1)
        rows.append(
            {
                "vision_features": image,
                "text_features": text[swap],
                "turns": np.array([1, 0], np.int32)[swap],
                "roles": np.zeros(2, np.int32),
                "candidates": candidates.astype(np.int32),
                "answer_index": np.int32(np.argmax(order == values[asked])),
            }
        )
    config = VLMTaskConfig("dialogue", C, D, **{**SIZES, "dim": 24}, max_turns=2)
    head, batch = fit(config, rows, 400)
    order = head.decode(backend.compiled(head, head)(batch))["order"]
    assert np.mean(order[:, 0] == batch["answer_index"]) >= 0.95
