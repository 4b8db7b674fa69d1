"""Weights of tasks, against the papers' equations in NumPy."""

import numpy as np
import pytest
from keras import ops
from reference import to_numpy

from saccade import losses

TASKS = ("vqa", "ground", "match")


def layers():
    fixed = losses.FixedWeights({"vqa": 1.0, "ground": 0.5, "match": 2.0})
    return fixed, losses.UncertaintyWeights(TASKS, regression=("ground",)), losses.GradNorm(TASKS)


def scalars(**values):
    return {name: ops.convert_to_tensor(value, "float32") for name, value in values.items()}


def test_sums():
    fixed, uncertain, grad_norm = layers()
    found = scalars(ground=4.0, match=3.0)
    uncertain.log_variance.assign([7.0, 0.4, -0.6])
    grad_norm.task_weights.assign([0.3, 1.2, 1.5])
    assert float(fixed(found)) == 8.0
    expected = np.exp(-0.4) / 2 * 4 + 0.2 + np.exp(0.6) * 3 - 0.3
    np.testing.assert_allclose(float(uncertain(found)), expected, rtol=1e-6)
    np.testing.assert_allclose(float(grad_norm(found)), 9.3, rtol=1e-6)
    assert [len(layer.trainable_variables) for layer in (fixed, uncertain, grad_norm)] == [0, 1, 0]


@pytest.mark.parametrize("layer", layers(), ids=lambda x: type(x).__name__)
def test_each_is_made_again_from_its_config_and_refuses_unknown_tasks(layer):
    again = type(layer).from_config(layer.get_config())
    assert float(again(scalars(vqa=2.0))) == float(layer(scalars(vqa=2.0)))
    assert float(layer({})) == 0.0
    with pytest.raises(ValueError, match=r"talk.*no weight"):
        layer(scalars(talk=1.0))


def by_the_paper(w, n, now, first, alpha, rate):
    g = w * n
    r = (now / first) / np.mean(now / first)
    wanted = g.mean() * r**alpha
    w = w - rate * np.sign(g - wanted) * n
    return w * len(w) / w.sum()


@pytest.mark.parametrize("seed", range(5))
def test_grad_norm_step(seed):
    rng = np.random.default_rng(seed)
    w = rng.uniform(0.5, 1.5, 3)
    w *= 3 / w.sum()
    n, now, first = rng.uniform(0.5, 2, (3, 3))
    result = to_numpy(losses.grad_norm_step(w, n, now, first, 1.5, 0.05))
    np.testing.assert_allclose(result, by_the_paper(w, n, now, first, 1.5, 0.05), rtol=1e-5)
    np.testing.assert_allclose(result.sum(), 3, rtol=1e-6)


def test_grad_norm_update_leaves_the_absent_alone():
    layer = losses.GradNorm(TASKS, learning_rate=0.1)
    layer.update({"vqa": 1.0, "match": 3.0}, {"vqa": 2.0, "match": 5.0})
    np.testing.assert_allclose(to_numpy(ops.convert_to_tensor(layer.first_losses)), [2, 0, 5])
    w = to_numpy(ops.convert_to_tensor(layer.task_weights))
    assert w[1] == 1.0
    assert w[0] > 1 > w[2]
    np.testing.assert_allclose(w[[0, 2]], by_the_paper(np.ones(2), np.array([1, 3]), 1, np.ones(2), 1.5, 0.1))
    layer.update({"vqa": 1.0}, {"vqa": 1.0})
    np.testing.assert_allclose(to_numpy(ops.convert_to_tensor(layer.first_losses)), [2, 0, 5])


def test_no_weight_falls_below_the_floor_before_they_are_scaled():
    # 1 - 1 * 10 would be negative; then [0.001, 1.1] is scaled to the sum before
    result = to_numpy(losses.grad_norm_step([1.0, 1.0], [10.0, 0.1], [1.0, 1.0], [1.0, 1.0], 1.5, 1.0))
    np.testing.assert_allclose(result, np.array([0.001, 1.1]) * 2 / 1.101, rtol=1e-5)
    for _ in range(50):  # it stays there, and comes back once its gradient is the small one
        result = losses.grad_norm_step(result, [10.0, 0.1], [1.0, 1.0], [1.0, 1.0], 1.5, 1.0)
    assert (to_numpy(result) > 0).all()
    np.testing.assert_allclose(to_numpy(result).sum(), 2, rtol=1e-5)
    back = to_numpy(losses.grad_norm_step([0.002, 1.998], [0.1, 1.0], [1.0, 1.0], [1.0, 1.0], 1.5, 0.1))
    assert back[0] > 0.002
