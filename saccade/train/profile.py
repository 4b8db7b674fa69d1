"""Where the time of a recorded profile went: the kernels of the device, the longest first."""

import contextlib
import re
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saccade import backend
from saccade.errors import SaccadeError

SHOWN = 15
_NUMBERED = re.compile(r"([._]\d+)+$")  # fusion_12 and fusion_7.1 are kernels of one kind
_CPU_THREADS = "tf_XLA"  # ...PjRtCpuClient, Eigen, from JAX 0.12 on Execute


class Spent(NamedTuple):
    """What the kernels of one name took, together."""

    name: str
    milliseconds: float
    calls: int


@contextlib.contextmanager
def recorded(folder: Path | str, steps: int) -> Generator[None]:
    """Record so many steps, all of which must have ended within, and print where their time went.

    Raises: SaccadeError: not with this backend of Keras.
    """
    if not backend.start_profile(folder):
        raise SaccadeError(f"profiles need KERAS_BACKEND=jax, this is {backend.name()}")
    try:
        yield
    finally:
        backend.stop_profile()
    Console().print(table(busiest(folder), steps))


def busiest(folder: Path | str) -> list[Spent]:
    """Kernels of the newest profile under a folder, by time: their own only, a loop counts without what it
    calls. Numbers at the end of names are left out.

    Args: folder: the run's, or another that backend.start_profile was given.
    Raises: SaccadeError: no profile there, or one without kernels.
    """
    import jax

    found = list(Path(folder).rglob("*.xplane.pb"))
    if not found:
        raise SaccadeError(f"no profile (*.xplane.pb) under {folder}; record one, by train.profile=true say")
    newest = max(found, key=lambda path: path.stat().st_mtime)
    planes = list(jax.profiler.ProfileData.from_file(str(newest)).planes)
    gpus = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    own = _on_gpus(gpus) if gpus else _on_cpu(planes)
    times: dict[str, list[float]] = {}
    for name, duration in own:
        times.setdefault(_NUMBERED.sub("", name), []).append(duration / 1e6)
    if not times:
        raise SaccadeError(f"{newest} holds no kernels of a GPU or CPU; open it in Perfetto or TensorBoard")
    spent = [Spent(name, sum(each), len(each)) for name, each in times.items()]
    return sorted(spent, key=lambda one: -one.milliseconds)


def _on_gpus(planes: list) -> Iterator[tuple[str, float]]:
    for plane in planes:
        for line in plane.lines:
            if "Stream" in line.name:
                yield from own_times(line.events)


def _on_cpu(planes: list) -> Iterator[tuple[str, float]]:
    """Names with :: or a space are those of the runtime, which waits."""
    for plane in planes:
        for line in plane.lines:
            if line.name.startswith(_CPU_THREADS):
                yield from (own for own in own_times(line.events) if not re.search("::| ", own[0]))


def own_times(events: Iterable) -> list[tuple[str, float]]:
    """Name of each event of a line, and its duration in ns less that of the events within.

    Args: events: each with start_ns, duration_ns and name.
    """
    own: list[tuple[str, float]] = []
    open_until: list[tuple[float, int]] = []  # the events that the next may lie in, the innermost last
    for event in sorted(events, key=lambda e: (e.start_ns, -e.duration_ns)):
        end = event.start_ns + event.duration_ns
        while open_until and open_until[-1][0] <= event.start_ns:
            open_until.pop()
        if open_until:
            outer_end, outer = open_until[-1]
            name, left = own[outer]
            own[outer] = name, left - (min(end, outer_end) - event.start_ns)
        open_until.append((end, len(own)))
        own.append((event.name, event.duration_ns))
    return own


def table(spent: list[Spent], steps: int) -> Table:
    """The kernels that take longest, for each of so many steps."""
    total = sum(one.milliseconds for one in spent)
    shown = Table(title=f"Where {steps} steps spent their time")
    shown.add_column("kernel", overflow="fold")  # on a narrow terminal names give way, not numbers
    for column in ("ms a step", "share", "calls a step"):
        shown.add_column(column, justify="right", no_wrap=True)
    rest = spent[SHOWN:]
    others = Spent(f"{len(rest)} others", sum(r.milliseconds for r in rest), sum(r.calls for r in rest))
    for one in [*spent[:SHOWN], *([others] if rest else [])]:
        shown.add_row(
            Text(one.name[:60]),  # names of C++ have brackets, which would be markup
            f"{one.milliseconds / steps:.3f}",
            f"{100 * one.milliseconds / total:.1f} %" if total else "",
            f"{one.calls / steps:g}",
        )
    shown.caption = f"{total / steps:.2f} ms of kernels a step"
    return shown
