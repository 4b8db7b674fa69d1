"""The losses of torch, on random inputs."""

import numpy as np
import pytest
from reference import to_numpy

from saccade import losses

pytestmark = [pytest.mark.oracle]
B, T, V = 3, 7, 5


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_token_loss(torch, smoothing):
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(B, T, V)).astype(np.float32), rng.integers(V, size=(B, T))
    mask = np.arange(T) < np.array([[7], [4], [2]])
    targets = torch.tensor(np.where(mask, tokens, -100))[:, 1:]
    for b in range(B):
        expected = torch.nn.functional.cross_entropy(
            torch.tensor(logits)[b, :-1], targets[b], ignore_index=-100, label_smoothing=smoothing
        )
        result = to_numpy(losses.token_loss(logits, tokens, mask, smoothing))[b]
        np.testing.assert_allclose(result, expected.numpy(), rtol=1e-5)


def test_binary_answers(torch):
    rng = np.random.default_rng(1)
    x, soft = rng.normal(size=(B, V)).astype(np.float32), rng.random((B, V)).astype(np.float32)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(x), torch.tensor(soft), reduction="none"
    ).sum(-1)
    np.testing.assert_allclose(to_numpy(losses.vqa_loss(x, soft)), expected.numpy(), rtol=1e-5)


def test_margin(torch):
    scores = np.random.default_rng(2).normal(size=(B, 2)).astype(np.float32)
    first, second = torch.tensor(scores).unbind(1)
    expected = torch.nn.functional.margin_ranking_loss(
        first, second, torch.ones(B), margin=0.2, reduction="none"
    )
    result = losses.margin_loss(scores, np.zeros(B, np.int32), np.ones((B, 2), bool))
    np.testing.assert_allclose(to_numpy(result), expected.numpy(), rtol=1e-5, atol=1e-6)
