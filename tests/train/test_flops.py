import jax
import keras
import numpy as np
import pytest
import toys
from keras import ops
from rich.console import Console

from saccade import backend
from saccade.kernels import gated, norms, self_attention
from saccade.kernels.head import Heads
from saccade.train import TrainConfig, Trainer, flops


def counted(function, *args) -> flops.Count:
    return flops.count(backend.program(backend.jit(function), *args).jaxpr)


def test_matmul():
    assert counted(ops.matmul, np.ones((3, 5, 7)), np.ones((3, 7, 11))).total == 2 * 3 * 5 * 7 * 11


def test_convolution():
    layer = keras.layers.Conv2D(4, (3, 2), padding="valid")
    layer.build((None, 9, 8, 5))
    found = counted(lambda x: layer(x), np.ones((2, 9, 8, 5), "float32"))
    assert found.total == 2 * (2 * 7 * 7 * 4) * (3 * 2 * 5)


def test_a_scan_counts_every_pass():
    w = np.ones((5, 5), "float32")
    found = counted(
        lambda x: ops.scan(lambda c, _: (c @ w, None), x, None, length=6)[0], np.ones((3, 5), "float32")
    )
    assert found.total == 6 * 2 * 3 * 5 * 5
    assert found.notes == []


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    w = np.ones((5, 5), "float32")

    def loop(x):
        return ops.while_loop(lambda x: ops.sum(x) < 10, lambda x: (x @ w,), (x,))[0]

    found = counted(loop, np.ones((3, 5), "float32"))
    assert found.total == 2 * 3 * 5 * 5
    assert "counts as one pass" in found.notes[0]


def test_products_within_kernels_are_said_to_be_missing(monkeypatch):
    monkeypatch.setattr(gated, "multiprocessors", lambda: 132)
    shapes = (768, 64), (64, 256), (128, 64)
    traced = jax.make_jaxpr(gated.swiglu)(*(jax.ShapeDtypeStruct(shape, "bfloat16") for shape in shapes))
    found = flops.count(traced)
    assert found.total == 2 * 768 * 128 * 64  # the last product alone
    assert "saccade.kernels" in found.notes[0]


def test_products_of_triton_kernels_are_missing_too():
    heads = Heads(128, 2, 1, 64, True)
    packed = jax.ShapeDtypeStruct((4, 128, 4 * 64), "bfloat16")
    found = flops.count(jax.make_jaxpr(lambda t: self_attention.attention(t, (), heads))(packed))
    assert found.total == 0
    assert "saccade.kernels" in found.notes[0]


def test_norms_in_triton_have_none():
    x, scale = jax.ShapeDtypeStruct((8, 64), "bfloat16"), jax.ShapeDtypeStruct((64,), "float32")
    found = flops.count(jax.make_jaxpr(lambda x, scale: norms.normalized(x, scale, None, 1e-5))(x, scale))
    assert (found.total, found.notes) == (0, [])


def test_a_training_step():
    run = Trainer(toys.model(), {"main": toys.stream()}, TrainConfig(steps=1), console=Console(quiet=True))
    run.fit()
    forward = 2 * 6 * (5 * 7 + 7 * 2)
    backward = forward + 2 * 6 * 7 * 2  # the kernels' gradients, and the input's of the second layer
    assert flops.count(run.engine.program(run.state).jaxpr).total == forward + backward


@pytest.mark.parametrize(
    ("device", "peak"),
    [("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA L4", 121e12), ("cpu", None)],
)
def test_peak(device, peak):
    assert backend.peak_flops(device) == peak
