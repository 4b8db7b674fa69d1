"""AdamATan2, SignSGD, Muon and ShapeMuon against NumPy, several steps long."""

import keras
import numpy as np
import pytest

from saccade.train.optimizers import AdamATan2, Muon, ShapeMuon, SignSGD


def run(optimizer, start, gradients):
    variable = keras.Variable(start.astype(np.float32))
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([gradient.astype(np.float32)])
    return np.asarray(variable.value)


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 6)), [rng.normal(size=(4, 6)) for _ in range(5)]


def test_adam_atan2(values):
    p, gradients = values
    ours = run(AdamATan2(0.02, 0.9, 0.95, weight_decay=0.5), p, gradients)
    m = v = np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        p = p * (1 - 0.02 * 0.5)
        p = p - 0.02 / (1 - 0.9**t) * np.arctan2(m, np.sqrt(v) / np.sqrt(1 - 0.95**t))
    np.testing.assert_allclose(ours, p, atol=1e-5)


def test_adam_atan2_of_no_gradient_stays():
    assert (run(AdamATan2(0.1), np.ones((2, 2)), [np.zeros((2, 2))] * 3) == 1).all()


def test_sign_sgd_touches_used_rows_only(values):
    p, gradients = values
    gradients = [g * (np.arange(4) != i % 4)[:, None] for i, g in enumerate(gradients)]
    ours = run(SignSGD(0.03, row_decay=0.4), p, gradients)
    for g in gradients:
        used = (g != 0).any(1, keepdims=True)
        p = np.where(used, p * (1 - 0.03 * 0.4) - 0.03 * np.sign(g), p)
    np.testing.assert_allclose(ours, p, atol=1e-6)
    alone = run(SignSGD(0.03, row_decay=0.4), np.ones((3, 2)), [np.eye(3)[:, :2]] * 4)
    assert (alone[2] == 1).all()


@pytest.mark.parametrize(("shape", "scale"), [((6, 24), 2.0), ((24, 6), 1.0), ((8, 8), 1.0)])
def test_shape_muon_takes_orthogonal_steps(shape, scale):
    rng = np.random.default_rng(1)
    start, gradient = rng.normal(size=shape), rng.normal(size=shape)
    step = start - run(ShapeMuon(0.02, weight_decay=None, adam_weight_decay=None), start, [gradient])
    singular = np.linalg.svd(step / (0.02 * scale), compute_uv=False)
    assert (singular > 0.6).all()
    assert (singular < 1.3).all()
    u, _, v = np.linalg.svd(gradient, full_matrices=False)
    assert np.vdot(u @ v, step) / np.linalg.norm(u @ v) / np.linalg.norm(step) > 0.95


@pytest.mark.parametrize("kind", [Muon, ShapeMuon])
def test_muon_takes_a_convolution_as_the_matrix_it_multiplies(kind):
    rng = np.random.default_rng(2)
    start, gradients = rng.normal(size=(3, 3, 2, 40)), [rng.normal(size=(3, 3, 2, 40)) for _ in range(3)]
    options = {"weight_decay": 0.1, "adam_weight_decay": 0.1}
    ours = run(kind(0.02, **options), start, gradients)
    flat = run(kind(0.02, **options), start.reshape(18, 40), [g.reshape(18, 40) for g in gradients])
    np.testing.assert_allclose(ours, flat.reshape(start.shape), atol=1e-6)
    singular = np.linalg.svd(
        (start * (1 - 0.02 * 0.1) - run(kind(0.02, **options), start, gradients[:1])).reshape(18, 40)
    )[1]
    assert singular.max() < 2 * singular.min(), "every direction moves alike, as Adam's do not"


def test_muon_steps_are_kerass_though_matrices_of_a_shape_go_together():
    rng = np.random.default_rng(3)
    shapes = (6, 24), (24, 6), (8, 8), (6, 24), (5,), (8, 8)
    start = [rng.normal(size=shape).astype("float32") for shape in shapes]
    steps = [[rng.normal(size=shape).astype("float32") for shape in shapes] for _ in range(3)]

    def trained(kind):
        variables = [keras.Variable(values) for values in start]
        optimizer = kind(0.02, weight_decay=0.1, adam_weight_decay=0.2)
        optimizer.build(variables)
        for gradients in steps:
            optimizer.apply(gradients)
        return [np.asarray(v.value) for v in variables]

    for ours, kerass in zip(trained(Muon), trained(keras.optimizers.Muon), strict=True):
        np.testing.assert_allclose(ours, kerass, atol=2e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras reads its own rate that way
def test_they_are_made_again_from_their_configs():
    for optimizer in (AdamATan2(0.1, 0.8, 0.9, weight_decay=0.2), SignSGD(0.1, row_decay=0.3)):
        again = type(optimizer).from_config(optimizer.get_config())
        assert again.get_config() == optimizer.get_config()
