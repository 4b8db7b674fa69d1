"""How fast a TRM trains: `python benchmarks/trm_speed.py [--mixer mlp_t attention ...] [--prefix 0 1 7]`.

Mixers: mlp_t, attention, units, candidates, neighbours.

One line for each variant: samples/s (rows times optimiser steps a second, the unit of the published code's
figures), the model FLOPs utilisation, the step's time, compilation and peak memory. The whole step counts:
Sudokus turned around on the device, forward, backward, AdamATan2, moving average. Products of matrices are
counted, attention's own included; elementwise work is not.

On a CPU the default is a small batch of a small model, so that it ends within seconds.
"""

import argparse
import time

import numpy as np

from saccade import backend
from saccade.data.puzzles import sudoku
from saccade.evaluation import environment
from saccade.layers.boards import NEIGHBOURS, OF_A_UNIT
from saccade.models.trm import TRM, TRMConfig, preset
from saccade.train import profile
from saccade.train.config import TrainConfig
from saccade.train.engine import Engine
from saccade.train.objectives import Recursive
from saccade.train.puzzles import Drawn, Fill, SudokuSymmetries
from saccade.train.stream import Stream

FASTEST_PREFIX = {"mlp_t": [0], "attention": [7], "units": [1], "candidates": [1], "neighbours": [1]}
WITH_KERNELS = {"mlp_t": [7], "attention": [0]}  # 88 and 81 tokens


def flops_per_sample(config: TRMConfig) -> float:
    """FLOPs of matrix products for one row and step: all calls of the net forward, backward through the last
    cycle's (twice a forward)."""
    length, dim = config.length, config.dim
    channels = 3 * length * dim * _inner(config, dim)
    if config.mixer == "mlp_t":
        mix = 3 * length * dim * _inner(config, length)
    elif config.mixer in ("units", "candidates"):
        # Gate and up of every token; down of the rows, columns, boxes, (cells) and the board.
        parts = len(OF_A_UNIT) + (config.digits > 1)
        cells = config.seq_len if config.digits > 1 else 0
        means = 3 * config.box**2 * config.digits + cells + 1
        mix = dim * config.unit_dim * (2 * parts * length + means)
    elif config.mixer == "neighbours":  # gate, up and down of every token
        mix = 3 * (len(NEIGHBOURS) + 1) * length * dim * config.unit_dim
    else:
        mix = 4 * length * dim * dim + 2 * length * length * dim
    call = 2 * (channels + mix)
    low, high = config.l_layers, config.h_layers or config.l_layers
    cycle = config.l_cycles * low + high
    learnt = low + high if config.one_step else cycle
    return call * (config.h_cycles * cycle + 2 * learnt)


def _inner(config: TRMConfig, width: int) -> int:
    from saccade.layers.reasoning import inner_width

    return inner_width(width, config.expansion, config.multiple)


def measure(
    config: TRMConfig, batch: int, steps: int, precision: str, train: TrainConfig, folder: str | None
) -> dict:
    """Compile, warm up, time `steps` optimiser steps that the host only launches; profile five more."""
    backend.seed_everything(0)
    model = TRM(config, dtype=precision)
    rng = np.random.default_rng(0)
    grids = np.stack([sudoku.generate(rng, 3, givens=40)[1] for _ in range(8)])
    grids = sudoku.shuffle(rng, np.repeat(grids, 125, 0), np.repeat(grids, 125, 0))[1]
    puzzles = np.where(rng.random(grids.shape) < 0.3, grids, 0)
    objective = Drawn(Recursive(Fill()), SudokuSymmetries(puzzles, grids))
    engine = Engine(model, {"sudoku": Stream(range(len(grids)), list, objective, batch)}, train)
    index = {"index": backend.to_device(rng.integers(len(grids), size=batch).astype(np.int32))}
    state = engine.initial_state({"sudoku": index})

    def run(times: int) -> float:
        """Seconds of so many steps."""
        nonlocal state
        begin = time.perf_counter()
        for _ in range(times):
            state, consumed = engine.step(engine.push(state, "sudoku", index))
        backend.to_host([consumed])
        return time.perf_counter() - begin

    compiled = run(1)
    run(3)
    seconds = run(steps) / steps
    if folder:
        with profile.recorded(folder, 5):
            run(5)
    peak = backend.peak_flops()
    done = flops_per_sample(config) * batch / seconds
    return {
        "samples_per_s": batch / seconds,
        "step_ms": 1000 * seconds,
        "tflops": done / 1e12,
        "mfu": done / peak if peak else None,
        "compile_s": compiled,
        "memory_mib": backend.memory_peak_bytes() / 2**20,
        "environment": " ".join(f"{key}={value}" for key, value in environment(model).items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixer", nargs="+", default=["mlp_t", "attention"])
    parser.add_argument(
        "--prefix", nargs="+", type=int, help="prefix tokens; default: the fastest known of each"
    )
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="use saccade.kernels where they fit, on a Hopper GPU",
    )
    parser.add_argument("--unroll", action="store_true", help="unroll the cycles without gradient")
    parser.add_argument("--remat", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--ffn", default="swiglu", choices=("swiglu", "gated_norm"))
    parser.add_argument("--optimizer", default="adam_atan2")
    parser.add_argument("--cycles", nargs=2, type=int, default=(3, 6), metavar=("H", "L"))
    parser.add_argument("--batch", type=int, help="default: 768, on a CPU 8")
    parser.add_argument("--dim", type=int, help="default: 512, on a CPU 64")
    parser.add_argument("--multiple", type=int, default=256, help="of inner widths, see TRMConfig")
    parser.add_argument("--steps", type=int, help="timed steps; default: 30, on a CPU 5")
    parser.add_argument(
        "--profile",
        metavar="DIR",
        help="write a JAX profile of five more steps there, and show what takes long",
    )
    options = parser.parse_args()
    on_cpu = backend.device_name() == "cpu"
    batch, dim = options.batch or (8 if on_cpu else 768), options.dim or (64 if on_cpu else 512)
    steps = options.steps or (5 if on_cpu else 30)
    precision = "float32" if on_cpu else "mixed_bfloat16"
    train = TrainConfig(
        learning_rate=1e-4,
        weight_decay=1.0,
        optimizer=options.optimizer,
        clip_norm=None,
        ema_decay=0.999,
        kernels=options.kernels,
    )
    print(f"batch {batch}, dim {dim}, h/l cycles {options.cycles}, {precision}, {options.optimizer}")
    for mixer in options.mixer:
        fastest = WITH_KERNELS if options.kernels and mixer in WITH_KERNELS else FASTEST_PREFIX
        for prefix in options.prefix or fastest[mixer]:
            config = preset(
                "trm_sudoku",
                mixer=mixer,
                prefix_tokens=prefix,
                num_puzzles=min(prefix, 1),
                dim=dim,
                multiple=options.multiple,
                h_cycles=options.cycles[0],
                l_cycles=options.cycles[1],
                ffn=options.ffn,
                unroll=options.unroll,
                remat=options.remat,
            )
            row = measure(config, batch, steps, precision, train, options.profile)
            mfu = "" if row["mfu"] is None else f"  MFU {100 * row['mfu']:.1f} %"
            print(
                f"{mixer:9} prefix {prefix:2}  {row['samples_per_s']:9.1f} samples/s"
                f"  {row['step_ms']:8.2f} ms"
                f"  {row['tflops']:7.2f} TFLOP/s{mfu}  compile {row['compile_s']:.1f} s"
                f"  peak {row['memory_mib']:.0f} MiB",
                flush=True,
            )
    print(row["environment"])


if __name__ == "__main__":
    main()
