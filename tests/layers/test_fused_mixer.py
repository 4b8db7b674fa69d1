"""The kernel against ordinary operations, interpreted on a CPU; and that it can be lowered for a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saccade.layers.fused_mixer import mix, plain

S, B, D, F = 81, 3, 64, 128


def arguments(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    z = jax.random.normal(keys[0], (S, B, D), dtype)
    return (
        z,
        0.1 * jax.random.normal(keys[1], (S, 2 * F), dtype),
        0.1 * jax.random.normal(keys[2], (F, S), dtype),
    )


@pytest.mark.parametrize("gated_norm", [False, True])
def test_values_and_gradients(gated_norm):
    given = arguments()
    np.testing.assert_allclose(mix(*given, gated_norm), plain(*given, gated_norm, 1e-5), atol=2e-5)
    weight = jax.random.normal(jax.random.key(5), given[0].shape)
    ours, theirs = (
        jax.grad(lambda *a, f=f: (f(*a) * weight).sum(), argnums=(0, 1, 2))(*given)
        for f in (lambda *a: mix(*a, gated_norm), lambda *a: plain(*a, gated_norm, 1e-5))
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_it_lowers_for_a_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    lowered = (
        jax.jit(lambda *a: mix(*a, True)).trace(*arguments(jnp.bfloat16)).lower(lowering_platforms=("cuda",))
    )
    assert "sequence_mixer" in lowered.as_text()


def test_widths_that_do_not_fit():
    z, gate_up, down = arguments()
    with pytest.raises(ValueError, match="inner width 100"):
        mix(z, gate_up[:, :200], down[:100], False)


@pytest.mark.parametrize("ffn", ["swiglu", "gated_norm"])
def test_the_model_is_the_same(ffn):
    import reference

    from saccade.models.trm import TRM, preset

    batch = {"tokens": np.arange(32, dtype=np.int32).reshape(2, 16) % 5, "puzzle": np.zeros(2, np.int32)}
    results = []
    for fused in (False, True):
        config = preset("trm_sudoku_4x4", dim=32, multiple=64, ffn=ffn, fused=fused)
        model = reference.randomize(TRM(config, name="trm"), seed=1)
        results.append(np.asarray(model(batch)["logits"]))
    np.testing.assert_allclose(*results, atol=1e-4)
