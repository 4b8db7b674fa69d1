"""Losses against float64 and boxes worked out by hand."""

import numpy as np
import pytest
from keras import ops
from reference import log_softmax, to_numpy

from saccade import backend, losses

B, T, K = 3, 7, 5


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy(smoothing):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(B, T, K)) * 4, rng.integers(K, size=(B, T))
    wanted = (1 - smoothing) * np.eye(K)[targets] + smoothing / K
    expected = -(wanted * log_softmax(logits)).sum(-1)
    result = losses.cross_entropy(logits.astype(np.float32), targets, smoothing)
    assert result.shape == (B, T)
    np.testing.assert_allclose(to_numpy(result), expected, rtol=1e-5)


def test_cross_entropy_of_huge_logits_is_finite():
    result = to_numpy(losses.cross_entropy(np.array([[1e4, -1e4]], np.float32), np.array([1])))
    np.testing.assert_allclose(result, [2e4])


def test_binary_cross_entropy():
    logits = np.array([-80.0, -20.0, -3.0, 0.0, 0.5, 7.0, 20.0, 80.0])
    for target in (0.0, 0.3, 1.0):
        # log(sigmoid(x)) = -log1p(exp(-x)), exact in float64 for these
        expected = target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)
        result = losses.binary_cross_entropy(logits.astype(np.float32), np.full(8, target))
        np.testing.assert_allclose(to_numpy(result), expected, rtol=1e-5, atol=1e-30)


def test_masked_mean():
    values = np.array([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    mask = np.array([[True, False, True], [False, False, False]])
    np.testing.assert_allclose(to_numpy(losses.masked_mean(values, mask)), [3.5, 0.0])


def test_to_xyxy():
    corners = losses.to_xyxy(np.array([[0.5, 0.4, 0.2, 0.6]]))
    np.testing.assert_allclose(to_numpy(corners), [[0.4, 0.1, 0.6, 0.7]], atol=1e-7)


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1, 1),
        # overlap 1, union 7, hull 3 x 3
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),
        # apart: union 2, hull 4 x 1
        ((0, 0, 1, 1), (3, 0, 4, 1), 0, -2 / 4),
        # inside: overlap 1, union 16, hull 16
        ((0, 0, 4, 4), (1, 2, 2, 3), 1 / 16, 1 / 16),
        # no area: the hull is 2 x 2, the union 1
        ((1, 1, 2, 2), (0, 0, 0, 0), 0, -3 / 4),
    ],
)
def test_iou_by_hand(a, b, iou, giou):
    for one, two in ((a, b), (b, a)):
        result = losses.box_iou(np.array([one], np.float32), np.array([two], np.float32))
        np.testing.assert_allclose(to_numpy(result[0]), [iou], atol=1e-6)
        np.testing.assert_allclose(to_numpy(result[1]), [giou], atol=1e-6)


def test_box_loss_by_hand():
    predicted, target = (
        np.array([[0.2, 0.2, 0.4, 0.4]], np.float32),
        np.array([[0.2, 0.2, 0.6, 0.6]], np.float32),
    )
    loss, iou = losses.box_loss(predicted, target)  # corners (0, 0, .4, .4): the hand-worked 1/7 again
    np.testing.assert_allclose(to_numpy(iou), [1 / 7], atol=1e-6)
    np.testing.assert_allclose(to_numpy(loss), [5 * 0.2 + 2 * (1 - (1 / 7 - 2 / 9))], atol=1e-5)


def test_info_nce():
    similarity = np.random.default_rng(1).normal(size=(T, T)) * 3
    rows = -np.diag(log_softmax(similarity, axis=1))
    columns = -np.diag(log_softmax(similarity, axis=0))
    result = losses.info_nce(similarity.astype(np.float32))
    np.testing.assert_allclose(to_numpy(result), (rows + columns) / 2, rtol=1e-5)


@pytest.mark.parametrize("extra", [1, 4])
def test_info_nce_with_texts_of_no_image(extra):
    """Images choose among all texts; a text among the images chooses only if it has one."""
    similarity = np.random.default_rng(2).normal(size=(T, T + extra)) * 3
    rows = -np.diag(log_softmax(similarity, axis=1))
    columns = -np.diag(log_softmax(similarity[:, :T], axis=0))
    result = losses.info_nce(similarity.astype(np.float32))
    assert result.shape == (T,)
    np.testing.assert_allclose(to_numpy(result), (rows + columns) / 2, rtol=1e-5)


@pytest.mark.parametrize("chunk", [3, 8, 64])  # several blocks, the last one short; one that fits; too large
@pytest.mark.parametrize("counted", [0, 1, 8, 16])
@pytest.mark.parametrize("weighted", [False, True])
def test_next_token_equals_the_plain_loss_and_its_gradients(chunk, counted, weighted):
    n, d, v = 16, 6, 11
    rng = np.random.default_rng(counted)
    hidden, table = rng.normal(size=(n, d)), rng.normal(size=(v, d))
    targets = np.full(n, -100)
    places = rng.permutation(n)[:counted]
    targets[places] = rng.integers(v, size=counted)
    logits = hidden @ table.T
    log_p = log_softmax(logits)
    right = (logits.argmax(1) == targets).sum()
    weights = rng.uniform(0.1, 2, n).astype(np.float32) if weighted else np.ones(n, np.float32)
    slope = np.where((targets >= 0)[:, None], np.exp(log_p) - np.eye(v)[np.maximum(targets, 0)], 0.0)
    slope *= weights[:, None]

    def scaled(values):
        given = weights if weighted else None
        sums = losses.next_token(*values, targets.astype(np.int32), chunk, given)
        return 3.0 * sums[0], sums

    values = [backend.to_device(a.astype(np.float32)) for a in (hidden, table)]
    (_, sums), gradients = backend.value_and_grad(scaled, values)
    total = -(log_p[places, targets[places]] * weights[places]).sum()
    np.testing.assert_allclose(to_numpy(sums), [total, right], atol=1e-5)
    np.testing.assert_allclose(to_numpy(gradients[0]), 3 * slope @ table, atol=1e-5)
    np.testing.assert_allclose(to_numpy(gradients[1]), 3 * slope.T @ hidden, atol=1e-5)


def test_a_target_that_shares_the_highest_logit_is_right():
    targets = np.array([0, 4, -100, 2], np.int32)
    sums = losses.next_token(np.zeros((4, 3), np.float32), np.ones((5, 3), np.float32), targets)
    np.testing.assert_allclose(to_numpy(sums), [3 * np.log(5), 3], rtol=1e-6)


def test_next_token_in_bfloat16_gives_the_table_float32_gradients():
    rng = np.random.default_rng(0)
    hidden, table = (rng.normal(size=(n, 8)).astype(np.float32) for n in (32, 24))
    targets = rng.integers(24, size=32).astype(np.int32)
    narrow = ops.cast(hidden, "bfloat16")
    values = [narrow, backend.to_device(table)]

    def mean(values):
        sums = losses.next_token(*values, targets, 8)
        return sums[0] / 32, sums

    (loss, _), gradients = backend.value_and_grad(mean, values)
    assert [str(g.dtype) for g in gradients] == ["bfloat16", "float32"]
    logits = to_numpy(ops.cast(narrow, "float32")) @ table.T
    expected = -log_softmax(logits)[np.arange(32), targets].mean()
    assert abs(float(loss) - expected) < 0.02 * expected
    slope = (np.exp(log_softmax(logits)) - np.eye(24)[targets]) / 32
    np.testing.assert_allclose(to_numpy(gradients[1]), slope.T @ hidden, atol=4e-3)
