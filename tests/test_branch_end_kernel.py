"""The last product of a branch, its residual and their norm in one kernel: which shapes it takes, that JAX
lowers it, its values on a CPU that interprets it and on a GPU, and that blocks hand it what it takes."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from kernel_parts import fitting, for_hopper, interpreted_hopper, with_gradient

from saccade import kernels
from saccade.kernels import branch_end, gated, norms, tiles
from saccade.kernels.common import ROWS
from saccade.layers.reasoning import ReasoningBlock

EPSILON = 1e-5
WIDTH = 512
with_and_without = pytest.mark.parametrize("plus", [False, True], ids=["alone", "plus"])


def plain_product(left, right, x, plus=0.0):
    total = x + left @ right
    return (total * jax.lax.rsqrt(jnp.mean(total**2, axis=1, keepdims=True) + EPSILON) + plus,) * 2


def product(left, right, x, plus=None):
    return branch_end.product_norm(left, right, x, plus, EPSILON, 2)


def plain_swiglu(x, kernel, down, rest, plus=0.0):
    gate, up = jnp.split(x @ kernel, 2, axis=1)
    return plain_product(jax.nn.silu(gate) * up, down, rest, plus)


def swiglu(x, kernel, down, rest, plus=None):
    return gated.swiglu_norm(x, kernel, down, rest, plus, EPSILON, 2)


def arguments(rows: int, inner: int, kind: str, plus: bool) -> tuple:
    """What was given by both copies of the result, and the arguments."""
    rng = np.random.default_rng(rows + inner)

    def draw(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), "bfloat16")

    down = draw(inner, WIDTH, scale=inner**-0.5)
    if kind == "product":
        net = draw(rows, inner), down
    else:
        net = draw(rows, WIDTH), draw(WIDTH, 2 * inner, scale=WIDTH**-0.5), down
    given = draw(rows, WIDTH), draw(rows, WIDTH)
    return given, *net, draw(rows, WIDTH), *([draw(rows, WIDTH)] if plus else [])


FUNCTIONS = {"product": (product, plain_product), "swiglu": (swiglu, plain_swiglu)}
both_kinds = pytest.mark.parametrize("kind", list(FUNCTIONS))


def check_values(run, plain, args, times: int = 1) -> None:
    """Values and gradients are float32's, as near as bfloat16 comes."""
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(with_gradient(plain))(*jax.tree.map(lambda t: t.astype("float32"), args))
    for _ in range(times):
        found = run(*args)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            off = jnp.linalg.norm(one.astype("float32") - other) / jnp.linalg.norm(other)
            assert off < 6e-3


def plain_gradient(y, roots, given):
    """As `norms.by_normed_sum`, which is in Triton: its own tests interpret it."""
    given, y = sum(t.astype("float32") for t in given), y.astype("float32")
    return (roots * (given - y * jnp.mean(given * y, axis=1, keepdims=True))).astype("bfloat16")


@pytest.fixture
def four_multiprocessors(monkeypatch):
    for module in (gated, branch_end, tiles, norms):
        monkeypatch.setattr(module, "multiprocessors", lambda: 4)


@contextlib.contextmanager
def told_by_a_board():
    """The interpreter knows no memory of other blocks: what they tell each other lies in global memory."""
    boards = []

    def with_board(launch):
        def launch_with_board(name, body, out_type, groups, blocks, **options):
            def body_with_board(*refs):
                boards.append(refs[-1])
                body(*refs[:-1])
                boards.pop()

            places = blocks // branch_end.CLUSTER, branch_end.CLUSTER, tiles.GROUPS, ROWS
            board = jax.ShapeDtypeStruct(places, jnp.float32)
            call = launch(name, body_with_board, (*out_type, board), groups, blocks, **options)
            return lambda *args: call(*args)[:-1]

        return launch_with_board

    def at(block, group):
        return boards[-1].at[lax.axis_index("grid"), block, group]

    def tell(sums, own, told):
        for group, ref in enumerate(sums):

            @pl.when(lax.axis_index("group") == group)
            def _(group=group, ref=ref):
                ref[...] = own
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(ref, at(lax.axis_index("cluster"), group))
                plgpu.wait_smem_to_gmem(0)

        plgpu.barrier_arrive(told.at[lax.axis_index("group")])

    def of_both(_, told):
        group = lax.axis_index("group")
        plgpu.barrier_wait(told.at[group])
        return at(0, group)[...] + at(1, group)[...]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branch_end, "launch", with_board(branch_end.launch))
        patch.setattr(branch_end, "tell", tell)
        patch.setattr(branch_end, "of_both", of_both)
        yield


@both_kinds
@with_and_without
def test_values_and_gradients_interpreted(four_multiprocessors, monkeypatch, capfd, kind, plus):
    """Five tiles for two clusters, or six."""
    monkeypatch.setattr(branch_end, "by_normed_sum", plain_gradient)
    function, plain = FUNCTIONS[kind]
    rows = 640 if kind == "product" else 768
    with interpreted_hopper(branch_end, gated, tiles), told_by_a_board():
        check_values(with_gradient(function), plain, arguments(rows, 256, kind, plus))
    assert "RACE" not in capfd.readouterr().out


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize(("rows", "inner"), [(62_208, 512), (67_584, 1536), (16_384, 1024)])
@both_kinds
@with_and_without
def test_values_and_gradients_are_float32s(rows, inner, kind, plus):
    function, plain = FUNCTIONS[kind]
    check_values(jax.jit(with_gradient(function)), plain, arguments(rows, inner, kind, plus), times=3)


@both_kinds
@with_and_without
def test_this_jax_lowers_it_for_the_gpu(four_multiprocessors, kind, plus):
    args = arguments(8192, 512, kind, plus)
    with for_hopper():
        lowered = jax.jit(with_gradient(FUNCTIONS[kind][0])).trace(*args).lower(lowering_platforms=("cuda",))
    # The product's and, with SwiGLU, the net's own, forward and back.
    assert lowered.as_text().count("custom_call @mosaic_gpu") == {"product": 1, "swiglu": 3}[kind]


@pytest.mark.parametrize(
    ("shape", "inner", "fits"),
    [
        ((768, 81, 512), 512, True),
        ((62_208, 512), 1536, True),
        ((62_208, 576), 1536, False),  # another width than a cluster has
        ((62_209, 512), 1536, False),  # rows that fill no tile
        ((62_208, 512), 1500, False),
        ((62_208, 512), 192, False),  # fewer stages than the stream holds
        ((1024, 512), 1536, False),  # too few for the multiprocessors
    ],
)
def test_which_fit(shape, inner, fits):
    x = jax.ShapeDtypeStruct(shape, "bfloat16")
    with fitting():
        assert kernels.product_norm_fits(x, inner) is fits
        assert not kernels.product_norm_fits(jax.ShapeDtypeStruct(shape, "float32"), inner)
    assert not kernels.product_norm_fits(x, inner)  # nobody allowed it


def rms(x, epsilon):
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + epsilon)


@pytest.fixture
def by_equations(monkeypatch):
    """Kernels that take what they are asked for, in float32, and give it by equations; which were asked."""
    asked = []

    def allowed(*_):
        return kernels._used.get() is not None

    for name in ("norm_fits", "swiglu_fits", "attention_fits", "product_norm_fits"):
        monkeypatch.setattr(kernels, name, allowed)

    def by_product(left, right, x, epsilon, copies, plus=None):
        asked.append(("product", copies, plus is not None))
        return (rms(x + left @ right.value, epsilon) + (0 if plus is None else plus),) * copies

    def by_swiglu(x, kernel, down, rest, epsilon, copies, plus=None):
        asked.append(("swiglu", copies, plus is not None))
        gate, up = jnp.split(x @ kernel.value, 2, axis=-1)
        hidden = jax.nn.silu(gate) * up
        return (rms(rest + hidden @ down.value, epsilon) + (0 if plus is None else plus),) * copies

    def by_attention(packed, table, num_heads, num_kv_heads, causal):
        asked.append("attention")
        queries, keys, values = jnp.split(packed.reshape(*packed.shape[:2], -1, 32), 3, axis=2)
        return jax.nn.dot_product_attention(queries, keys, values).reshape(*packed.shape[:2], -1)

    monkeypatch.setattr(kernels, "product_norm", by_product)
    monkeypatch.setattr(kernels, "swiglu_norm", by_swiglu)
    monkeypatch.setattr(kernels, "attention", by_attention)
    return asked


@with_and_without
def test_blocks_hand_it_what_it_takes(by_equations, plus):
    block = ReasoningBlock(64, 96, num_heads=2, rope_theta=None, flash=None)
    block.build()
    z, more = (jnp.asarray(part, "float32") for part in np.random.default_rng(0).normal(size=(2, 3, 7, 64)))
    more = more if plus else None
    expected = block(z, plus=more)
    assert not by_equations
    with fitting():
        found = block(z, plus=more)
    assert by_equations == ["attention", ("product", 2, False), ("swiglu", 1, plus)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("settings", [{"norm_position": "pre"}, {"norm_type": "layer"}, {"ffn": "gelu"}])
def test_blocks_that_do_not_ask(by_equations, monkeypatch, settings):
    monkeypatch.setattr(kernels, "post_norm", lambda x, branch, epsilon, n: (rms(x + branch, epsilon),) * n)
    monkeypatch.setattr(kernels, "swiglu", lambda x, kernel, down: by_equations.append("plain swiglu") or x)
    block = ReasoningBlock(64, 96, num_heads=2, flash=None, **settings)
    block.build()
    with fitting():
        block(jnp.ones((3, 7, 64)), plus=jnp.ones((3, 7, 64)))
    asked = [name for name in by_equations if isinstance(name, tuple)]
    assert asked == ([("product", 2, False)] if settings == {"ffn": "gelu"} else [])
