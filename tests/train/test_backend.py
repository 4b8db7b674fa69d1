import jax
import numpy as np
import toys

from saccade import backend


def test_compiled_reads_the_weights_at_call_time():
    model, traces = toys.model(), []

    def double(x):
        traces.append(1)
        return {"y": 2 * model(x)}

    run = backend.compiled(double, model)
    x = np.ones((3, 5), "float32")
    before = np.asarray(run(x)["y"])
    np.testing.assert_allclose(before, 2 * np.asarray(model(x)), atol=1e-6)
    for variable in model.trainable_variables:
        variable.assign(0.5 * np.ones(variable.shape))
    after = np.asarray(run(x)["y"])
    np.testing.assert_allclose(after, 2 * np.asarray(model(x)), atol=1e-5)
    assert not np.allclose(before, after)
    assert len(traces) == 1


def test_the_cache_folder_follows_xdg(tmp_path, monkeypatch):
    names = [
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    ]
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        assert backend.enable_compilation_cache() == tmp_path / "saccade" / "compiled"
        assert (tmp_path / "saccade" / "compiled").is_dir()
        (tmp_path / "file").write_text("")
        assert backend.enable_compilation_cache(tmp_path / "file" / "below") is None
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_memory_and_device():
    assert backend.memory_peak_bytes() > 2**20
    assert backend.device_name()
