"""A bar on a terminal's standard error, and nothing anywhere else."""

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def track(steps: Iterable[T], total: int, label: str, shown: bool = True) -> Iterable[T]:
    """The same steps, with a bar while they are taken if `shown` and standard error is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not (shown and console.is_terminal)
    return track(steps, label, total, console=console, transient=True, disable=hidden)
