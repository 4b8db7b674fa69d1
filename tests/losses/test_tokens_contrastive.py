"""Losses of texts, answers and pairs against float64, and what must not matter to them."""

import numpy as np
import pytest
from reference import log_softmax, to_numpy

from saccade import losses

B, T, V, R = 3, 7, 5, 6


def texts(seed=0):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(B, T, V)) * 3).astype(np.float32)
    return logits, rng.integers(V, size=(B, T)), np.arange(T) < np.array([[7], [4], [1]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_token_loss(smoothing):
    logits, tokens, mask = texts()
    expected = np.zeros(B)
    for b in range(B):
        terms = []
        for t in range(T - 1):
            if mask[b, t + 1]:
                wanted = (1 - smoothing) * np.eye(V)[tokens[b, t + 1]] + smoothing / V
                terms.append(-(wanted * log_softmax(logits[b, t].astype(np.float64))).sum())
        expected[b] = np.mean(terms) if terms else 0.0
    result = to_numpy(losses.token_loss(logits, tokens, mask, smoothing))
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    spoiled = np.where(mask, tokens, 0)
    np.testing.assert_array_equal(to_numpy(losses.token_loss(logits, spoiled, mask, smoothing)), result)
    order = [2, 0, 1]
    moved = losses.token_loss(logits[order], tokens[order], mask[order], smoothing)
    np.testing.assert_array_equal(to_numpy(moved), result[order])


def test_token_loss_is_zero_for_logits_that_know_the_next_token_and_not_for_this_one():
    tokens = np.array([[0, 1, 2, 3]])
    sure = 100 * np.eye(4, dtype=np.float32)[tokens]
    mask = np.ones((1, 4), bool)
    assert float(losses.token_loss(np.roll(sure, -1, axis=1), tokens, mask)[0]) < 1e-6
    assert float(losses.token_loss(sure, tokens, mask)[0]) > 50
    with pytest.raises(ValueError, match="length 1"):
        losses.token_loss(sure[:, :1], tokens[:, :1], mask[:, :1])


def test_vqa_loss():
    rng = np.random.default_rng(0)
    x, kinds = rng.normal(size=(B, V)), rng.normal(size=(B, 3))
    soft = np.array([[1, 0.3, 0, 0, 0], [0, 0, 0.6, 0.6, 0], [0, 0, 0, 0, 0]])
    types = np.array([2, 0, 1])
    bce = (soft * np.logaddexp(0, -x) + (1 - soft) * np.logaddexp(0, x)).sum(-1)
    kind = -log_softmax(kinds)[np.arange(B), types]
    result = losses.vqa_loss(x, soft, kinds, types, type_weight=0.5)
    np.testing.assert_allclose(to_numpy(result), bce + 0.5 * kind, rtol=1e-5)
    p = soft / np.maximum(soft.sum(-1, keepdims=True), 1e-9)
    result = losses.vqa_loss(x, soft, form="categorical")
    np.testing.assert_allclose(to_numpy(result), -(p * log_softmax(x)).sum(-1), rtol=1e-5)
    with pytest.raises(ValueError, match="form is 'mse'"):
        losses.vqa_loss(x, soft, form="mse")
    with pytest.raises(ValueError, match="only one of"):
        losses.vqa_loss(x, soft, kinds)


@pytest.mark.parametrize("extra", [0, 2])
def test_siglip_loss(extra):
    similarity = np.random.default_rng(0).normal(size=(B, B + extra)) * 4
    z = 2 * np.eye(B, B + extra) - 1
    expected = np.logaddexp(0, -z * (similarity - 1.5)).sum(1)
    np.testing.assert_allclose(to_numpy(losses.siglip_loss(similarity, -1.5)), expected, rtol=1e-5)


def test_hard_negatives():
    similarity = np.array([[9, 1, 5, 2], [7, 9, 8, 1], [3, 2, 9, 1]], np.float32)
    index, found = losses.hard_negatives(similarity)
    np.testing.assert_array_equal(to_numpy(index), [2, 2, 0])
    assert to_numpy(found).all()
    same = np.array([[0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)  # 0 and 2 are one picture
    index, found = losses.hard_negatives(similarity, same)
    np.testing.assert_array_equal(to_numpy(index)[:2], [3, 2])
    np.testing.assert_array_equal(to_numpy(found), [True, True, False])


def test_drawn_negatives_follow_the_softmax_and_are_never_matches():
    logits = np.log(np.array([0.6, 0.3, 0.1]))
    rows = 900
    similarity = np.full((rows, rows), -1e4, np.float32)
    similarity[:, -3:] = logits
    index = to_numpy(losses.hard_negatives(similarity, seed=3)[0])
    assert (index != np.arange(rows)).all()
    share = np.bincount(index[:-3], minlength=rows)[-3:] / (rows - 3)
    np.testing.assert_allclose(share, [0.6, 0.3, 0.1], atol=0.06)


def test_itm_loss():
    true, false = np.array([2.0, -1.0]), np.array([[0.5, -3.0], [1.0, 4.0]])
    mask = np.array([[True, True], [True, False]])
    right, wrong = np.logaddexp(0, -true), np.logaddexp(0, false)
    expected = [(right[0] + wrong[0].sum()) / 3, (right[1] + wrong[1, 0]) / 2]
    np.testing.assert_allclose(to_numpy(losses.itm_loss(true, false, mask)), expected, rtol=1e-5)
    whole = losses.itm_loss(true, false)
    np.testing.assert_allclose(to_numpy(whole), (right + wrong.sum(1)) / 3, rtol=1e-5)


@pytest.mark.parametrize("name", ["margin_loss", "listwise_loss"])
def test_ranking(name):
    rng = np.random.default_rng(0)
    scores, target = rng.normal(size=(B, R)), np.array([0, 2, 1])
    mask = np.arange(R) < np.array([[6], [4], [2]])
    mask[2, 0] = False  # nothing but the right one
    expected = []
    for s, t, m in zip(scores, target, mask, strict=True):
        others = [s[j] for j in range(R) if m[j] and j != t]
        if name == "margin_loss":
            expected.append(np.mean([max(0, 0.2 - s[t] + o) for o in others]) if others else 0.0)
        else:
            expected.append(np.log(np.exp([s[t], *others]).sum()) - s[t])
    loss = getattr(losses, name)
    result = to_numpy(loss(scores, target, mask))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        to_numpy(loss(np.where(mask | np.eye(R, dtype=bool)[target], scores, 99.0), target, mask)), result
    )
