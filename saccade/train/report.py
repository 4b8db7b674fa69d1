"""What a run says: the table of what trains, progress, and the log files."""

import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from saccade.errors import SaccadeError
from saccade.files import write_error, write_text
from saccade.train.optim import Group


def count(variables: list) -> int:
    """Number of parameters."""
    return sum(int(np.prod(v.shape)) for v in variables)


def parts_table(groups: list[Group], untrainable: list) -> Table:
    """Part, parameters, trainable, learning rate, weight decay and dtype: one line per optimiser group, one
    for the variables that the model itself says do not train."""
    table = Table(title="What trains")
    for column in ("part", "parameters", "trains", "learning rate", "weight decay", "dtype"):
        table.add_column(column, justify="left" if column in ("part", "dtype") else "right")
    for group in groups:
        trains = group.optimizer is not None
        dtypes = Counter(str(v.dtype) for v in group.variables)
        table.add_row(
            group.part,
            f"{count(group.variables):,}",
            "yes" if trains else "frozen",
            f"{group.learning_rate:g}" if trains else "-",
            f"{group.weight_decay:g}" if trains else "-",
            ", ".join(sorted(dtypes)),
        )
    if untrainable:
        dtypes = sorted({str(v.dtype) for v in untrainable})
        table.add_row("untrainable", f"{count(untrainable):,}", "no", "-", "-", ", ".join(dtypes))
    trained = sum(count(g.variables) for g in groups if g.optimizer)
    total = sum(count(g.variables) for g in groups) + count(untrainable)
    table.caption = f"{trained:,} of {total:,} parameters train"
    return table


class Report:
    """Progress on the terminal (a bar on a TTY, else a line per log), log.jsonl, and TensorBoard if asked.

    Args:
        steps: of the whole run. start: the step it begins at.
        out_dir: where log.jsonl goes; None = terminal only. tensorboard: also write events there.
        console: None = standard error.
    """

    def __init__(
        self,
        steps: int,
        start: int = 0,
        out_dir: Path | None = None,
        tensorboard: bool = False,
        console: Console | None = None,
    ):
        self.console = console or Console(stderr=True, soft_wrap=not sys.stderr.isatty())
        self._path = out_dir / "log.jsonl" if out_dir else None
        self._writer = None
        if self._path:
            _drop_later_lines(self._path, start)
        if out_dir and tensorboard:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(out_dir / "tensorboard"))
        columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        self._task = self._bar.add_task("compiling", total=steps, completed=start)
        self._last_bar_s = 0.0
        self._live = self.console.is_terminal
        if self._live:
            self._bar.start()

    def say(self, text) -> None:
        """A line, or anything rich can print, above the bar."""
        self.console.print(text, highlight=False)

    def progress(self, step: int) -> None:
        """Move the bar, at most ten times a second."""
        now = time.perf_counter()
        if self._live and now - self._last_bar_s > 0.1:
            self._last_bar_s = now
            self._bar.update(self._task, completed=step)

    def log(self, record: dict) -> None:
        """Show and store the figures of one logged step. `record` holds `step` and numbers."""
        line = describe(record)
        if self._live:
            self._bar.update(self._task, completed=record["step"], description=line)
        else:
            self.say(line)
        if self._path:
            try:
                with open(self._path, "a") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                raise write_error(error, self._path) from error
        if self._writer:
            for key, value in record.items():
                if isinstance(value, (int, float)) and key != "step":
                    self._writer.add_scalar(key, value, record["step"])

    def close(self) -> None:
        self._bar.stop()
        if self._writer:
            self._writer.close()


def describe(record: dict) -> str:
    """`step 200  loss 0.512  410 examples/s  data wait 0.3%  MFU 21.0%  ETA 1:20` and the other metrics.

    A record of an evaluation holds the step, `elapsed_s` and metrics only.
    """
    words = [f"step {record['step']}"]
    if "loss" in record:
        words.append(f"loss {record['loss']:.4g}")
        words.append(f"{record['examples_per_s']:.0f} examples/s")
        words.append(f"data wait {100 * record['data_wait']:.1f}%")
        if record.get("mfu") is not None:
            words.append(f"MFU {100 * record['mfu']:.1f}%")
        eta = int(record["eta_s"])
        words.append(f"ETA {eta // 3600}:{eta // 60 % 60:02d}:{eta % 60:02d}")
    elif "elapsed_s" in record:
        words.append(f"after {record['elapsed_s']:.0f} s")
    words += [
        f"{key} {value:.4g}" for key, value in record.items() if "/" in key and not key.endswith("/consumed")
    ]
    return "  ".join(words)


def _drop_later_lines(path: Path, step: int) -> None:
    """Forget what was logged after the checkpoint a run resumes from: those steps happen again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:  # the line a killed process was writing
            continue
    try:
        write_text(path, "".join(line + "\n" for line in kept))
    except SaccadeError as error:
        raise SaccadeError(f"cannot continue the log: {error}") from error
