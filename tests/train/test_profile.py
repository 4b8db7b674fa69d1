"""Where a profile's time went."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
import toys
from rich.console import Console

from saccade.errors import SaccadeError
from saccade.train import profile
from saccade.train.config import TrainConfig
from saccade.train.trainer import Trainer


def event(start, duration, name):
    return SimpleNamespace(start_ns=start, duration_ns=duration, name=name)


def test_a_loop_counts_without_what_it_calls():
    events = [
        event(10, 5, "copy"),
        event(0, 100, "while"),
        event(20, 30, "body"),
        event(25, 10, "product"),
        event(35, 15, "sum"),
        event(100, 7, "after"),
    ]
    assert dict(profile.own_times(events)) == {
        "while": 65,
        "copy": 5,
        "body": 5,
        "product": 10,
        "sum": 15,
        "after": 7,
    }


def test_what_overlaps_counts_once():
    events = [event(0, 10, "first"), event(5, 15, "second"), event(12, 2, "within")]
    assert dict(profile.own_times(events)) == {"first": 5, "second": 13, "within": 2}


def shown(table) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_kinds_of_kernels_by_time(monkeypatch, tmp_path):
    """As an H100 records them; what the host does is no kernel."""
    stream = SimpleNamespace(
        name="Stream #13(Compute)",
        events=[
            event(0, 2e6, "loop_add_fusion_7"),
            event(3e6, 1e6, "loop_add_fusion"),
            event(4e6, 5e6, "void cutlass::Kernel2<a, b>[/b]"),
        ],
    )
    modules = SimpleNamespace(name="XLA Modules", events=[event(0, 9e6, "jit_step")])
    host = SimpleNamespace(
        name="/host:CPU", lines=[SimpleNamespace(name="tf_XLAEigen", events=stream.events)]
    )
    gpu = SimpleNamespace(name="/device:GPU:0", lines=[stream, modules])
    found = SimpleNamespace(from_file=lambda _: SimpleNamespace(planes=[host, gpu]))
    monkeypatch.setattr(jax.profiler, "ProfileData", found)
    (tmp_path / "a.xplane.pb").write_bytes(b"")
    spent = profile.busiest(tmp_path)
    assert spent == [("void cutlass::Kernel2<a, b>[/b]", 5.0, 1), ("loop_add_fusion", 3.0, 2)]
    text = shown(profile.table(spent, steps=2))
    assert "Kernel2<a, b>[/b]" in text
    assert "2.500 │ 62.5 % │          0.5" in text
    assert "4.00 ms of kernels a step" in text


def test_many_kinds_are_summed_up():
    spent = [profile.Spent(f"kernel_{chr(97 + i)}", 20.0 - i, 1) for i in range(18)]
    text = shown(profile.table(spent, steps=1))
    assert "kernel_o" in text
    assert "kernel_p" not in text
    assert "3 others" in text
    assert "12.000" in text  # 5 + 4 + 3


def test_what_this_machine_records(tmp_path, capsys):
    double = jax.jit(lambda x: jnp.tanh(x @ x))
    x = jnp.ones((300, 300))
    double(x).block_until_ready()
    with profile.recorded(tmp_path, 3):
        for _ in range(3):
            double(x).block_until_ready()
    spent = profile.busiest(tmp_path)
    assert any("tanh" in one.name and one.calls == 3 for one in spent)
    assert all(one.milliseconds >= 0 for one in spent)
    assert "Where 3 steps spent their time" in capsys.readouterr().out


def test_no_profile(tmp_path, monkeypatch):
    with pytest.raises(SaccadeError, match=r"no profile .* by train\.profile=true say"):
        profile.busiest(tmp_path)
    monkeypatch.setattr(profile.backend, "start_profile", lambda _: False)
    with pytest.raises(SaccadeError, match="profiles need KERAS_BACKEND=jax"), profile.recorded(tmp_path, 1):
        pass


def test_a_profile_without_kernels(tmp_path, monkeypatch):
    host = SimpleNamespace(
        name="/host:CPU", lines=[SimpleNamespace(name="python", events=[event(0, 1, "f")])]
    )
    found = SimpleNamespace(from_file=lambda _: SimpleNamespace(planes=[host]))
    monkeypatch.setattr(jax.profiler, "ProfileData", found)
    (tmp_path / "a.xplane.pb").write_bytes(b"")
    with pytest.raises(SaccadeError, match="holds no kernels"):
        profile.busiest(tmp_path)


def test_a_step_that_fails_ends_the_recording(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), profile.recorded(tmp_path, 1):
            raise ZeroDivisionError


@pytest.mark.parametrize("limit", [{"steps": 13}, {"steps": 99}])
def test_a_run_says_where_its_time_went(tmp_path, capsys, limit):
    config = TrainConfig(log_every=4, profile=True, **limit)
    Trainer(toys.model(), {"main": toys.stream()}, config, tmp_path).fit()
    said = capsys.readouterr().err
    assert f"Where {3 if limit['steps'] == 13 else 5} steps spent their time" in said
    assert "ms of kernels a step" in said
    assert "dot" in said
