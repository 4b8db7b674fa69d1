import math

import numpy as np
import pytest

from saccade.train.optim import Warmup


@pytest.mark.parametrize("warmup", [0, 5])
def test_warmup_and_cosine(warmup):
    steps, ratio, peak = 21, 0.1, 0.4
    rate = Warmup(peak, warmup, steps, "cosine", ratio)
    for n in range(steps):
        t = (n - warmup) / (steps - 1 - warmup)
        expected = (n + 1) / warmup if n < warmup else ratio + (1 - ratio) * (1 + math.cos(math.pi * t)) / 2
        assert float(rate(n)) == pytest.approx(peak * expected, rel=1e-5)
    assert float(rate(steps - 1)) == pytest.approx(peak * ratio)
    assert float(rate(steps + 50)) == pytest.approx(peak * ratio)


def test_constant():
    rate = Warmup(0.4, 4, 9, "constant")
    np.testing.assert_allclose([float(rate(n)) for n in range(6)], [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)


def test_steps_that_all_warm_up():
    assert float(Warmup(1.0, 8, 4, "cosine")(3)) == pytest.approx(0.5)
