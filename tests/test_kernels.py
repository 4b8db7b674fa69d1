"""Kernels for Hopper GPUs: which shapes they take, that this JAX lowers them, and their values, on a CPU that
interprets them and on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_parts import fitting, interpreted_hopper, with_gradient

from saccade import backend, kernels
from saccade.data.puzzles import sudoku
from saccade.errors import SaccadeError
from saccade.kernels import gated, gelu, sequence, tiles
from saccade.layers.mlp import MLP
from saccade.layers.reasoning import ReasoningBlock
from saccade.models.trm import TRM, preset
from saccade.train.config import TrainConfig
from saccade.train.engine import Engine
from saccade.train.objectives import Recursive
from saccade.train.puzzles import Drawn, Fill, SudokuSymmetries
from saccade.train.stream import Stream

SWIGLU = (768, 64), (64, 2 * 128), (128, 64)
GELU = (768, 64), (64, 256), (256,), (256, 64)
MIXED = (16, 512), (16, 2 * 128), (128, 16)


def drawn(seed: int, *shapes):
    rng = np.random.default_rng(seed)
    scales = [
        1.0,
        1.0,
        *(shape[0] ** -0.5 for shape in shapes[2:]),
    ]  # the gradient given and x, then matrices
    return [
        jnp.asarray(scale * rng.normal(size=shape), "bfloat16")
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def mixed(x, kernel, down):
    return sequence.mixed(x, kernel, down, 1e-5)


def gelu_net(x, up, bias, down):
    return gelu.net(x, up, bias.astype("float32"), down)


@pytest.fixture
def hopper(monkeypatch):
    """As if the program were for an H100."""
    for module in (gated, gelu, sequence, tiles):
        monkeypatch.setattr(module, "multiprocessors", lambda: 132)
    monkeypatch.setattr(kernels, "_check_device", lambda: None)


@pytest.mark.parametrize(
    ("function", "shapes", "count"),
    # One forward; the gradient is one too, or two of mixed's passes.
    [(gated.swiglu, SWIGLU, 2), (gelu_net, GELU, 2), (mixed, MIXED, 3)],
)
def test_this_jax_lowers_them_for_the_gpu(hopper, function, shapes, count):
    args = drawn(0, shapes[0], *shapes)
    lowered = jax.jit(with_gradient(function)).trace(*args).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("custom_call @mosaic_gpu") == count


@pytest.mark.parametrize(
    ("shape", "inner", "fits"),
    [
        ((64, 128, 576), 1536, True),
        ((8192, 512), 1536, True),
        ((8191, 512), 1536, False),  # rows that fill no tile
        ((8192, 500), 1536, False),
        ((8192, 512), 1500, False),
        ((256, 512), 1536, False),  # too few for the multiprocessors
        ((None, 512), 1536, False),
    ],
)
def test_which_swiglu_fits(hopper, shape, inner, fits):
    x = jax.ShapeDtypeStruct(shape, "bfloat16") if None not in shape else _Unknown()
    with fitting():
        assert kernels.swiglu_fits(x, inner) is fits
    assert not kernels.swiglu_fits(x, inner)  # nobody allowed it


class _Unknown:
    shape, dtype = (None, 512), "bfloat16"


@pytest.mark.parametrize(
    ("shape", "inner", "fits"),
    [
        ((88, 768, 512), 256, True),
        ((96, 768, 512), 256, True),
        ((81, 768, 512), 256, False),  # no multiple of 8
        ((104, 768, 512), 256, False),  # longer than a tile
        ((88, 768, 512), 512, False),  # its kernels do not fit beside the tiles
        ((88, 769, 500), 256, False),  # columns that fill no tile
        ((88, 3, 512), 256, False),  # too few
        ((88, 768, 512), 96, False),
        ((88, 768, 512), 64, True),
        ((88, 768, 512), 192, True),
    ],
)
def test_which_mixer_fits(hopper, shape, inner, fits):
    with fitting():
        assert kernels.mixer_fits(jax.ShapeDtypeStruct(shape, "bfloat16"), inner) is fits
        assert not kernels.mixer_fits(jax.ShapeDtypeStruct(shape, "float32"), inner)


def test_asked_for_where_they_do_not_run():
    with pytest.raises(SaccadeError, match="this is jax on cpu"), kernels.allowed():
        pass


def test_asked_for_with_another_jax(monkeypatch):
    monkeypatch.setattr(backend, "compute_capability", lambda: (9, 0))
    monkeypatch.setattr(kernels, "VERSION", (0, 2))
    with pytest.raises(SaccadeError, match=rf"JAX 0\.2, this is {jax.__version__}"), kernels.allowed():
        pass


def engine(**settings) -> Engine:
    model = TRM(
        preset("trm_sudoku", prefix_tokens=7, dim=64, num_heads=2, h_cycles=2, l_cycles=1, multiple=128),
        dtype="mixed_bfloat16",
    )
    rng = np.random.default_rng(0)
    grid = sudoku.generate(rng)[1][None]
    draw = SudokuSymmetries(np.where(rng.random(grid.shape) < 0.5, grid, 0), grid)
    stream = Stream([0], list, Drawn(Recursive(Fill()), draw), 32)
    return Engine(model, {"sudoku": stream}, TrainConfig(**settings))


def lowered_step(built: Engine) -> str:
    """The training step, lowered for a GPU."""
    index = {"index": backend.to_device(np.zeros(32, np.int32))}
    state = built.initial_state({"sudoku": index})
    found = []

    def program(jitted, *args, **static):
        found.append(jitted.trace(*args, **static).lower(lowering_platforms=("cuda",)).as_text())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "program", program)
        built.program(state)
    return found[0]


def test_the_trainer_uses_them_where_it_is_asked_to(hopper, monkeypatch):
    monkeypatch.setattr(kernels, "FEWEST", 0)
    asked, plain = lowered_step(engine(kernels=True)), lowered_step(engine())
    # Each kernel forward without a gradient (the first cycle), forward with one, and backward, mixed in two
    # passes.
    assert asked.count("custom_call @mosaic_gpu") == 7
    assert "mosaic_gpu" not in plain


def test_the_trainer_says_where_none_fits(hopper):
    with pytest.raises(SaccadeError, match="no layer takes one"):
        lowered_step(engine(kernels=True))


def test_layers_hand_the_kernels_what_they_take(hopper, monkeypatch):
    """Plain operations in place of the kernels: a block gives what it gives without them. In float32, which
    no kernel takes, for the rounding of bfloat16 would hide a difference."""
    widths = {"mixer": "mlp_t", "seq_len": 88, "seq_mlp_dim": 64}
    block = ReasoningBlock(64, 128, **widths, epsilon=0.01)
    block.build()
    z = jnp.asarray(np.random.default_rng(1).normal(size=(88, 32, 64)), "float32")
    expected = block(z)
    monkeypatch.setattr(kernels, "FEWEST", 0)
    monkeypatch.setattr(kernels, "_fits", lambda x: kernels._used.get() is not None)
    monkeypatch.setattr(gated, "swiglu", plain_swiglu)
    monkeypatch.setattr(sequence, "mixed", plain_mixed)
    with kernels.allowed():
        found = block(z)
        assert kernels._used.get() == {"swiglu", "mixed"}
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_mlp_hands_the_kernel_what_it_takes(hopper, monkeypatch):
    rng = np.random.default_rng(1)
    net, plain = MLP(64, 256), MLP(64, 256, activation="gelu")
    for one in (net, plain):
        one.build()
    for variable in net.variables:  # biases are zeros at the start
        variable.assign(rng.normal(scale=0.2, size=variable.shape))
    x = jnp.asarray(rng.normal(size=(4, 64, 64)), "float32")
    expected = net(x)
    monkeypatch.setattr(kernels, "FEWEST", 0)
    monkeypatch.setattr(kernels, "_fits", lambda x: kernels._used.get() is not None)
    monkeypatch.setattr(gelu, "net", plain_gelu)
    with fitting():
        plain(x)  # another GELU
        assert not kernels._used.get()
        found = net(x)
        assert kernels._used.get() == {"gelu"}
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_they_may_be_called_outside_allowed(monkeypatch):
    monkeypatch.setattr(gated, "swiglu", plain_swiglu)
    x, kernel, down = drawn(0, (4, 64), *SWIGLU[1:])
    assert jnp.array_equal(kernels.swiglu(x, kernel, down), plain_swiglu(x, kernel, down))


def plain_swiglu(x, kernel, down):
    gate, up = jnp.split((x @ kernel).astype("float32"), 2, axis=1)
    return (gate * jax.nn.sigmoid(gate) * up).astype(x.dtype) @ down


def plain_gelu(x, up, bias, down):
    before = x @ up + bias
    bent = jnp.tanh((2 / np.pi) ** 0.5 * (before + 0.044715 * before**3))
    return (0.5 * before * (1 + bent)) @ down


def plain_mixed(x, kernel, down, epsilon):
    gate, up = jnp.split((kernel.T @ x).astype("float32"), 2, axis=0)
    total = (x + down.T @ (gate * jax.nn.sigmoid(gate) * up).astype(x.dtype)).astype("float32")
    return (total * jax.lax.rsqrt(jnp.mean(total**2, axis=0) + epsilon)).astype(x.dtype)


def exactly_mixed(*args):
    return plain_mixed(*args, 1e-5)


@pytest.fixture
def interpreted(monkeypatch, capfd):
    """A CPU does what the GPU would, copies, barriers and all: four multiprocessors, several tiles each."""
    for module in (gated, gelu, sequence, tiles):
        monkeypatch.setattr(module, "multiprocessors", lambda: 4)
    with interpreted_hopper(gated, gelu, sequence, tiles):
        yield
    assert "RACE" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("function", "plain", "shapes"),
    [
        (gated.swiglu, plain_swiglu, ((1536, 128), (128, 512), (256, 128))),
        (gelu_net, plain_gelu, ((1536, 128), (128, 512), (512,), (512, 128))),
        (mixed, exactly_mixed, ((88, 1280), (88, 512), (256, 88))),
    ],
    ids=["swiglu", "gelu", "mixed"],
)
def test_values_and_gradients_interpreted(interpreted, function, plain, shapes):
    # Not in one program: on a CPU that would sum its products of bfloat16 in bfloat16.
    check_values(with_gradient(function), plain, drawn(3, shapes[0], *shapes))


@pytest.mark.parametrize(("seq", "inner"), [(96, 64), (96, 128), (88, 192), (96, 256)])
def test_widths_of_the_mixer_interpreted(interpreted, seq, inner):
    """With 64 and 192 channels a group of warps has none in the second pass of the gradient."""
    shapes = (seq, 1152), (seq, 2 * inner), (inner, seq)
    check_values(with_gradient(mixed), exactly_mixed, drawn(5, shapes[0], *shapes))


@pytest.mark.parametrize("columns", [128, 640])
def test_blocks_without_a_tile(interpreted, columns):
    """One tile, and one more than there are multiprocessors: who gets none waits for none."""
    shapes = (88, columns), (88, 256), (128, 88)
    check_values(with_gradient(mixed), exactly_mixed, drawn(4, shapes[0], *shapes))


def check_values(run, plain, args, times: int = 1) -> None:
    """What it returns, values and gradients, is float32's, as near as bfloat16 comes."""
    wide = [t.astype("float32") for t in args]
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(with_gradient(plain))(*wide)
    for _ in range(times):
        for found, wanted in zip(run(*args), exact, strict=True):
            off = jnp.linalg.norm(found.astype("float32") - wanted) / jnp.linalg.norm(wanted)
            assert off < 6e-3


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("function", "plain", "shapes"),
    [
        (gated.swiglu, plain_swiglu, ((67_584, 512), (512, 3072), (1536, 512))),
        (gated.swiglu, plain_swiglu, ((8_192, 576), (576, 3072), (1536, 576))),
        (gelu_net, plain_gelu, ((12_544, 768), (768, 3072), (3072,), (3072, 768))),
        (mixed, exactly_mixed, ((88, 65_536), (88, 512), (256, 88))),
        (mixed, exactly_mixed, ((96, 65_536), (96, 128), (64, 96))),
        (mixed, exactly_mixed, ((96, 65_536), (96, 384), (192, 96))),
    ],
)
def test_values_and_gradients_are_float32s(function, plain, shapes):
    """Many tiles a multiprocessor: what one leaves in shared memory must not reach the next."""
    run = jax.jit(with_gradient(function))
    check_values(run, plain, drawn(3, shapes[0], *shapes), times=3)  # a race is not the same each time
