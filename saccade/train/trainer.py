"""The training loop: read, step, log, save, and go on exactly where a killed run stopped."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from saccade import backend
from saccade.errors import SaccadeError
from saccade.train import checkpoint, flops, memory, profile, report
from saccade.train.config import TrainConfig
from saccade.train.curriculum import Curriculum
from saccade.train.engine import Engine
from saccade.train.queue import READ_LAG, Budget
from saccade.train.stream import Reader, Stream

PROFILED_STEPS = (10, 15)


@dataclass
class Result:
    """What a finished run measured. Compilation is left out of the times, evaluation and saving are not.

    Args:
        steps: updates made in this process. loss: of the last logged interval.
        examples_per_s: fresh examples consumed. data_wait: share of the time spent waiting for data.
        mfu: share of the device's bfloat16 peak; None on a CPU. memory_peak_bytes: see backend.
        history: the logged records, whose rates are of training alone.
    """

    steps: int
    loss: float
    examples_per_s: float
    data_wait: float
    mfu: float | None
    memory_peak_bytes: int
    history: list[dict]

    def __str__(self) -> str:
        mfu = "" if self.mfu is None else f", MFU {100 * self.mfu:.1f}%"
        return (
            f"{self.steps} steps, loss {self.loss:.4g}, {self.examples_per_s:.0f} examples/s{mfu}, "
            f"waited for data {100 * self.data_wait:.1f}% of the time, "
            f"peak memory {self.memory_peak_bytes / 2**20:.0f} MiB"
        )


class Trainer:
    """Trains a built model on one or more streams at once.

    Args:
        model: built; holds the trained weights after `fit`.
        streams: name -> Stream. Every step takes from each; the losses are summed with their weights.
        config: settings.
        out_dir: checkpoints and log.jsonl go there; None = nothing is written.
        resume: continue from the newest intact checkpoint in `out_dir`; False refuses a folder that has any.
        on_save: called with the Trainer after every checkpoint, its weights in the model; may `use_ema`.
        evaluate: model -> {name: number}, called every `config.eval_every` steps and after the last, with the
            moving averages in the model if there are any; what it returns goes into the log, and decides on
            the level of a stream whose source is a Curriculum.
    Raises: SaccadeError: the config does not fit the model, see Engine; a curriculum without evaluation.
    """

    def __init__(
        self,
        model: keras.Model,
        streams: Mapping[str, Stream],
        config: TrainConfig,
        out_dir: str | Path | None = None,
        resume: bool = True,
        console=None,
        on_save: Callable[["Trainer"], None] | None = None,
        evaluate: Callable[[keras.Model], dict[str, float]] | None = None,
    ):
        if not streams:
            raise SaccadeError("a Trainer needs at least one stream")
        self.model, self.streams, self.config = model, dict(streams), config
        self.out_dir = Path(out_dir) if out_dir is not None else None
        self.resume, self.console, self.on_save, self.evaluate = resume, console, on_save, evaluate
        self.engine = Engine(model, streams, config)
        self.step = 0
        self._before_s = 0.0  # seconds of the runs that this one continues
        self._begin_s = time.monotonic()
        self.state: dict = {}
        self.budgets: dict[str, Budget] = {}
        self.readers: dict[str, Reader] = {}
        self._notes: list[str] = []
        self._profiled_from: int | None = None
        self.curricula = {
            name: stream.source
            for name, stream in self.streams.items()
            if isinstance(stream.source, Curriculum)
        }
        stuck = [name for name, source in self.curricula.items() if not source.last]
        if stuck and not (evaluate and config.eval_every):
            raise SaccadeError(
                f"stream {stuck[0]!r} is a curriculum, but nothing is evaluated, so its level never rises; "
                "set eval_every and give evaluate"
            )

    def fit(self) -> Result:
        """Train to `config.steps`, then put the weights into the model; before, `on_save` alone sees them.

        Raises: SaccadeError: the loss is no longer finite; a checkpoint cannot be read or written.
        """
        if self.state:
            raise SaccadeError("this Trainer has run already; make a new one to train further")
        saved = self._find_checkpoint()
        if saved:
            self.step = saved[2]["step"]
            self._before_s = saved[2].get("elapsed_s", 0.0)
        log = report.Report(
            self.config.steps, self.step, self.out_dir, self.config.tensorboard, console=self.console
        )
        try:
            for note in self._notes:
                log.say(note)
            log.say(report.parts_table(self.engine.groups, self.model.non_trainable_variables))
            self._start(saved)
            if saved:
                log.say(f"resumed from {saved[0]}")
            result = self._loop(log)
        finally:
            for reader in self.readers.values():
                reader.close()
            log.close()
        self.engine.write_back(self.state)
        return result

    @property
    def elapsed_s(self) -> float:
        """Seconds in the loop so far, compilation, evaluation, saving and earlier runs included."""
        return self._before_s + time.monotonic() - self._begin_s

    def use_ema(self) -> None:
        """Put the moving averages into the model in place of the last weights, after `fit`."""
        if not self.state or self.config.ema_decay is None:
            raise SaccadeError("there are no moving averages: set ema_decay and call fit first")
        self.engine.write_back(self.state, ema=True)

    # -- starting

    def _find_checkpoint(self):
        if self.out_dir is None:
            return None
        if not self.resume and checkpoint.list_checkpoints(self.out_dir):
            # Starting anew among them would mix two runs, and the newest would be the old one's.
            raise SaccadeError(
                f"{self.out_dir} already has checkpoints; use a new output folder, or resume=True"
            )
        return checkpoint.load_newest(self.out_dir, self._notes.append)

    def _start(self, saved) -> None:
        facts = (
            saved[2]["streams"] if saved else {name: {"pushed": 0, "consumed": 0} for name in self.streams}
        )
        if facts.keys() != self.streams.keys():
            raise SaccadeError(
                f"{saved[0]} has the streams {', '.join(facts)}, this run {', '.join(self.streams)}; "
                "use a new output folder"
            )
        for name, source in self.curricula.items():
            if saved and "level" not in facts[name]:
                raise SaccadeError(f"{saved[0]} has no level for {name}; use a new output folder")
            if saved:
                source.restore(facts[name])
        first = {}
        for name, stream in self.streams.items():
            self.budgets[name] = Budget(stream.batch_size, facts[name]["pushed"], facts[name]["consumed"])
            self._open(name)
            first[name] = self.readers[name].next()
        self.state = self.engine.initial_state(first)
        if saved:
            self.state = checkpoint.unflatten(self.state, saved[1], backend.to_device, saved[0])
        self._first = first  # read already, so pushed before the readers are asked

    def _open(self, name: str) -> None:
        """Read a stream from where its queue ends; a curriculum from its present level."""
        stream, number = self.streams[name], list(self.streams).index(name)
        if name in self.curricula:
            stream = replace(stream, source=self.curricula[name].drawn(), shuffle=False)
        start = self.budgets[name].pushed // stream.batch_size
        self.readers[name] = Reader(stream, self.config.seed + number, start)

    # -- the loop

    def _feed(self) -> None:
        """Push batches until no queue can run short in the next step."""
        for name, budget in self.budgets.items():
            while budget.must_push:
                batch = self._first.pop(name, None) or self.readers[name].next()
                self.state = self.engine.push(self.state, name, batch)
                budget.note_push()

    def _settle(self, lag: int) -> None:
        """Learn what all but the newest `lag - 1` steps consumed."""
        while len(self._unread) >= lag:
            counts = np.asarray(backend.to_host([self._unread.popleft()])[0])
            for budget, taken in zip(self.budgets.values(), counts, strict=True):
                budget.settle(int(taken))

    def _train_step(self) -> None:
        for micro in range(self.config.accumulate):
            self._settle(READ_LAG)
            self._feed()
            self.state, consumed = self.engine.step(self.state, update=micro == self.config.accumulate - 1)
            backend.start_host_copy(consumed)
            self._unread.append(consumed)
            for budget in self.budgets.values():
                budget.note_step()
        self.step += 1

    def _loop(self, log: report.Report) -> Result:
        self._unread: deque = deque()
        self._begin_s = time.monotonic()
        config, first_step = self.config, self.step
        meter = Meter(self)
        if self.step < config.steps:
            self._feed()
            meter.flops = flops.count(self.engine.program(self.state).jaxpr)
            for note in meter.flops.notes:
                log.say(note)
            if predicted := memory.predict(self.engine, self.state):
                log.say(predicted.table())
                memory.check(predicted, backend.memory_limit_bytes())
        deadline = self._begin_s + (config.time_limit_s or math.inf)
        last = self.step >= config.steps
        while not last:
            self._train_step()
            last = self.step >= config.steps or time.monotonic() > deadline
            if self.step == first_step + 1:
                self._settle(1)  # compilation ends here
                meter.restart()
            if self.step % config.log_every == 0 or last:
                log.log(meter.record())
            log.progress(self.step)
            self._pause(log, meter, last)
            if config.profile and self.out_dir:
                self._profile(self.out_dir / "profile", log, meter, last)
        self._settle(1)
        result = meter.result(self.step - first_step)
        log.say(str(result))
        for name, stream in self.streams.items():
            if stream.tally:
                log.say(f"{name}: {stream.tally}")
        return result

    def _pause(self, log: report.Report, meter: "Meter", last: bool) -> None:
        """Evaluate and save where it is time to."""
        config = self.config
        evaluates = self.evaluate and config.eval_every and (self.step % config.eval_every == 0 or last)
        saves = self.out_dir if self.step % config.save_every == 0 or last else None
        if not (evaluates or saves):
            return
        self._settle(1)
        began = time.perf_counter()
        if evaluates:
            self._evaluate(log)
        if saves:
            self._save(saves)
        meter.paused(time.perf_counter() - began)

    def _evaluate(self, log: report.Report) -> None:
        assert self.evaluate is not None
        self.engine.write_back(self.state, ema=self.config.ema_decay is not None)
        found = {name: float(value) for name, value in self.evaluate(self.model).items()}
        levels = {f"level/{name}": source.level for name, source in self.curricula.items()}
        values = {f"eval/{name}": value for name, value in found.items()}
        log.log({"step": self.step, "elapsed_s": round(self.elapsed_s, 2), **values, **levels})
        for name, source in self.curricula.items():
            if source.note(found):
                self._reopen(name)
                log.say(f"step {self.step}: {name} rises to level {source.level}")

    def _reopen(self, name: str) -> None:
        """Drop what was read ahead, which is of the level before, and read it anew."""
        old = self.readers[name]
        old.close()
        self._open(name)
        self.readers[name].waited_s = old.waited_s

    def _save(self, folder: Path) -> None:
        leaves = checkpoint.flatten(self.state)
        tensors = dict(zip(leaves, backend.to_host(list(leaves.values())), strict=True))
        facts = {
            "config": self.config.model_dump(mode="json"),
            "elapsed_s": self.elapsed_s,
            "streams": {
                name: {
                    "pushed": budget.pushed,
                    "consumed": budget.consumed,
                    **(self.curricula[name].state() if name in self.curricula else {}),
                }
                for name, budget in self.budgets.items()
            },
        }
        checkpoint.save(folder, self.step, tensors, facts, self.config.keep)
        if self.on_save:
            self.engine.write_back(self.state)
            self.on_save(self)

    def _profile(self, folder: Path, log: report.Report, meter: "Meter", last: bool) -> None:
        begin, end = PROFILED_STEPS
        if self._profiled_from is None and begin <= self.step < end and not last:
            self._settle(1)
            self._profiled_from = self.step if backend.start_profile(folder) else None
        elif self._profiled_from is not None and (last or self.step == end):
            self._settle(1)
            ended = time.perf_counter()
            backend.stop_profile()
            steps, self._profiled_from = self.step - self._profiled_from, None
            try:
                log.say(profile.table(profile.busiest(folder), steps))
            except SaccadeError as error:  # no reason to end a training
                log.say(str(error))
            meter.leave_out(time.perf_counter() - ended)


class Meter:
    """Rates of a run, over the last logged interval and over everything since compilation."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self.flops = flops.Count()
        self.history: list[dict] = []
        self._peak = backend.peak_flops()
        self.restart()

    def restart(self) -> None:
        self._last = self._now()
        self._begin = dict(self._last)

    def leave_out(self, seconds: float) -> None:
        """Of every rate: time in which nothing was trained."""
        self._begin["time"] += seconds
        self._last["time"] += seconds

    def paused(self, seconds: float) -> None:
        """To evaluate or save: no part of the interval's rates, nor of what they forecast."""
        self._last["time"] += seconds

    def _now(self) -> dict:
        trainer = self._trainer
        return {
            "time": time.perf_counter(),
            "step": trainer.step,
            "waited": sum(reader.waited_s for reader in trainer.readers.values()),
            "examples": sum(budget.consumed for budget in trainer.budgets.values()),
        }

    def _rates(self, since: dict, now: dict) -> dict:
        seconds = max(now["time"] - since["time"], 1e-9)
        steps = now["step"] - since["step"]
        done = self.flops.total * steps * self._trainer.config.accumulate / seconds
        return {
            "steps_per_s": steps / seconds,
            "examples_per_s": (now["examples"] - since["examples"]) / seconds,
            "data_wait": min(1.0, (now["waited"] - since["waited"]) / seconds),
            "mfu": done / self._peak if self._peak and done else None,
        }

    def record(self) -> dict:
        """Read and reset the metric sums, after the last step. Raises: SaccadeError: loss not finite."""
        trainer = self._trainer
        trainer._settle(1)
        names = list(trainer.state["metrics"])
        sums = backend.to_host([trainer.state["metrics"][name] for name in names])
        trainer.state["metrics"] = trainer.engine.zero_metrics()
        values = {name: float(s[0] / s[1]) for name, s in zip(names, sums, strict=True) if s[1]}
        if not math.isfinite(values["loss"]):
            raise SaccadeError(
                f"the loss is {values['loss']} by step {trainer.step}; lower the learning "
                "rate, or resume from an older checkpoint"
            )
        now = self._now()
        rates = self._rates(self._last, now)
        left = trainer.config.steps - trainer.step
        record = {
            "step": trainer.step,
            "elapsed_s": round(trainer.elapsed_s, 2),
            "loss": values.pop("loss"),
            **rates,
            "eta_s": left / rates["steps_per_s"] if rates["steps_per_s"] else 0.0,
            **values,
        }
        self._last = now
        self.history.append(record)
        return record

    def result(self, steps: int) -> Result:
        rates = self._rates(self._begin, self._now())
        return Result(
            steps=steps,
            loss=self.history[-1]["loss"] if self.history else math.nan,
            examples_per_s=rates["examples_per_s"],
            data_wait=rates["data_wait"],
            mfu=rates["mfu"],
            memory_peak_bytes=backend.memory_peak_bytes(),
            history=self.history,
        )
