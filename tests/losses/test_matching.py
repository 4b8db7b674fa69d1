"""The assignment against SciPy, and the set loss against sums written out."""

import jax
import numpy as np
import pytest
from keras import ops
from reference import to_numpy
from scipy.optimize import linear_sum_assignment

from saccade import backend, losses

SHAPES = [(4, 7), (7, 4), (5, 5), (1, 6), (6, 1)]
assign = jax.jit(losses.assign)


def best_total(cost, mask):
    rows, columns = linear_sum_assignment(cost[mask])
    return cost[mask][rows, columns].sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["normal", "ties", "large"])
def test_assign_costs_what_scipy_costs(shape, kind):
    rng = np.random.default_rng(sum(shape))
    cost = {
        "normal": lambda: rng.normal(size=(60, *shape)),
        "ties": lambda: rng.integers(0, 3, size=(60, *shape)),
        "large": lambda: rng.integers(-30_000, 30_000, size=(60, *shape)),
    }[kind]().astype(np.float32)
    mask = rng.random((60, shape[0])) < 0.7
    mask[0], mask[1] = True, False
    match = to_numpy(assign(cost, mask))
    for c, m, found in zip(cost, mask, match, strict=True):
        taken = found[found >= 0]
        assert len(set(taken)) == len(taken) == min(m.sum(), shape[1])
        assert (found[~m] == -1).all()
        total = c[np.flatnonzero(found >= 0), taken].sum()
        np.testing.assert_allclose(total, best_total(c, m), rtol=1e-5, atol=1e-5)


def test_assign_ends_on_costs_that_are_not_finite():
    cost = np.full((2, 3, 4), np.nan, np.float32)
    assert to_numpy(assign(cost, np.ones((2, 3), bool))).shape == (2, 3)


def draw(rng, batch=3, predicted=5, true=4):
    boxes = rng.uniform(0.2, 0.6, (batch, predicted, 4)).astype(np.float32)
    low = rng.uniform(0, 0.5, (batch, true, 2))
    targets = np.concatenate([low, low + rng.uniform(0.1, 0.4, low.shape)], -1).astype(np.float32)
    scores = rng.normal(size=(batch, predicted)).astype(np.float32)
    return boxes, scores, targets, np.arange(true) < np.array([[2], [4], [0]])


@pytest.mark.parametrize("predicted", [5, 3])
def test_set_loss_is_the_sum_over_scipys_pairs(predicted):
    boxes, scores, targets, mask = draw(np.random.default_rng(0), predicted=predicted)
    result, match = losses.set_loss(boxes, scores, targets, mask)
    for b in range(3):
        pairs = to_numpy(losses.box_loss(boxes[b][None], targets[b][:, None])[0])
        cost = pairs[mask[b]] - 1 / (1 + np.exp(-scores[b]))
        rows, columns = linear_sum_assignment(cost)
        fit = pairs[mask[b]][rows, columns].mean() if len(rows) else 0.0
        object_ = np.isin(np.arange(predicted), columns)
        bce = np.logaddexp(0, np.where(object_, -scores[b], scores[b])).mean()
        np.testing.assert_allclose(to_numpy(result)[b], fit + bce, rtol=1e-5)
        assert set(to_numpy(match)[b][to_numpy(match)[b] >= 0]) == set(columns)


def test_set_loss_ignores_padding_and_order():
    boxes, scores, targets, mask = draw(np.random.default_rng(1))
    expected = to_numpy(losses.set_loss(boxes, scores, targets, mask)[0])
    spoiled = np.where(mask[..., None], targets, np.nan).astype(np.float32)
    np.testing.assert_array_equal(to_numpy(losses.set_loss(boxes, scores, spoiled, mask)[0]), expected)
    turned = losses.set_loss(boxes, scores, targets[:, ::-1], mask[:, ::-1])[0]
    np.testing.assert_allclose(to_numpy(turned), expected, rtol=1e-5)
    swapped = losses.set_loss(boxes[[2, 0, 1]], scores[[2, 0, 1]], targets[[2, 0, 1]], mask[[2, 0, 1]])[0]
    np.testing.assert_allclose(to_numpy(swapped), expected[[2, 0, 1]], rtol=1e-5)


def test_extra_cost_decides_between_equal_boxes():
    boxes = np.full((1, 2, 4), 0.4, np.float32)
    targets = np.full((1, 2, 4), [0.2, 0.2, 0.6, 0.6], np.float32)
    extra = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)
    match = losses.set_loss(boxes, np.zeros((1, 2), np.float32), targets, np.ones((1, 2), bool), extra)[1]
    np.testing.assert_array_equal(to_numpy(match), [[1, 0]])


@pytest.mark.parametrize("target", [[0.8, 0.8, 0.9, 0.9], [0.8, 0.8, 0.8, 0.8]])
def test_boxes_apart_or_without_area_have_a_gradient(target):
    def loss(values):
        args = (
            values[0],
            np.zeros((1, 1), np.float32),
            np.array([[target]], np.float32),
            np.ones((1, 1), bool),
        )
        total = ops.sum(losses.set_loss(*args)[0])
        return total, total

    boxes = backend.to_device(np.array([[[0.2, 0.2, 0.1, 0.1]]], np.float32))
    _, gradients = backend.value_and_grad(loss, [boxes])
    gradient = to_numpy(gradients[0])
    assert np.isfinite(gradient).all()
    assert (gradient[..., :2] < 0).all()


def test_truths_beyond_the_patches_that_are_there_are_left_out():
    keep, some = np.array([[False, True, False, True]]), np.array([[True, True, True]])
    boxes = np.tile(np.array([0.5, 0.5, 0.2, 0.2], np.float32), (1, 4, 1))
    truths = np.array([[[0, 0, 0.1, 0.1], [0.4, 0.4, 0.6, 0.6], [0.5, 0.4, 0.7, 0.6]]], np.float32)
    loss, match = losses.set_loss(boxes, np.zeros((1, 4), np.float32), truths, some, kept=keep)
    assert sorted(to_numpy(match)[0].tolist()) == [-1, 1, 3]
    assert to_numpy(match)[0, 0] == -1  # the worst fit
    assert np.isfinite(to_numpy(loss)).all()
