"""Puzzles turned around on the device, what is learnt of them, and runs of the recipes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import reference
from reference import to_numpy

from saccade import backend
from saccade.data.puzzles import arc, maze, sudoku
from saccade.errors import SaccadeError
from saccade.models.trm import TRM, preset
from saccade.solve import measure
from saccade.train import Stream, TrainConfig, Trainer, checkpoint, optim, puzzle_run, recipe
from saccade.train.engine import Engine
from saccade.train.objectives import Recursive
from saccade.train.puzzles import (
    ArcDraws,
    Drawn,
    Fill,
    Indices,
    MazeMirrors,
    SudokuSymmetries,
    WinnerTakesAll,
)

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = {"dim": 16, "num_heads": 2, "multiple": 8, "h_cycles": 2, "l_cycles": 1, "halt_max_steps": 4}


def draws(draw, index, seed=0) -> dict:
    return {k: to_numpy(v) for k, v in draw(index, keras.random.SeedGenerator(seed)).items()}


@pytest.mark.parametrize("box", [2, 3])
def test_sudokus_drawn_are_proper_and_new(box):
    rng = np.random.default_rng(0)
    puzzles, grids = zip(
        *(sudoku.generate(rng, box, givens=35 if box == 3 else 0) for _ in range(3)), strict=True
    )
    puzzles, grids = np.stack(puzzles), np.stack(grids)
    index = np.repeat(np.arange(3), 200).astype(np.int32)
    found = draws(SudokuSymmetries(puzzles, grids), index)
    assert sudoku.solved(found["tokens"], found["targets"]).all()
    np.testing.assert_array_equal((found["tokens"] > 0).sum(1), (puzzles > 0).sum(1)[index])
    assert len({row.tobytes() for row in found["targets"]}) > (
        590 if box == 3 else 150
    )  # 4 x 4 has 288 grids
    # Every cell of the original can go anywhere, every digit becomes any other, evenly.
    n = box * box
    share = np.mean(found["targets"][:, :, None] == np.arange(1, n + 1), axis=(0, 1))
    np.testing.assert_allclose(share, 1 / n, atol=1e-6)
    first = [np.mean(found["targets"][:, 0] == d) for d in range(1, n + 1)]
    np.testing.assert_allclose(first, 1 / n, atol=0.06)
    other = draws(SudokuSymmetries(puzzles, grids), index, seed=1)
    assert (other["targets"] != found["targets"]).any(1).mean() > 0.9


def test_revealed_cells_are_of_the_solution():
    puzzle, grid = sudoku.generate(np.random.default_rng(0), 3, givens=30)
    draw = SudokuSymmetries(puzzle[None], grid[None], reveal=0.4)
    found = draws(draw, np.zeros(4000, np.int32))
    shown = found["tokens"] > 0
    np.testing.assert_array_equal(found["tokens"][shown], found["targets"][shown])
    more = shown.sum(1) - 30
    assert more.min() == 0
    assert 20 < more.max() <= 51
    assert abs((more > 0).mean() - 0.4) < 0.05
    # Of the rows that show more: a quarter of the 51 blanks on average, the share drawn from U(0, 1/2).
    assert abs(more.mean() - 0.4 * 51 / 4) < 0.4
    assert sudoku.solved(found["tokens"], found["targets"]).all()


def test_every_kind_of_move_is_drawn():
    """Reachable from one grid: all orders of bands, of rows in a band, and the transposed grid."""
    grid = np.arange(16, dtype=np.int8).reshape(1, 16) % 4 + 1
    draw = SudokuSymmetries(grid, grid)
    draw.puzzles = draw.solutions = np.arange(16, dtype=np.int8).reshape(1, 16)  # name cells, not digits
    seen = set()
    index = np.zeros(4000, np.int32)
    generator = keras.random.SeedGenerator(0)
    rows, columns = (to_numpy(draw._lines(len(index), generator)) for _ in range(2))
    for r, c in zip(rows, columns, strict=True):
        seen.add((tuple(r), tuple(c)))
    assert len(seen) == 64  # (2! * 2! * 2!) squared: bands and the rows in each, and the same for columns
    for order in {r for r, _ in seen}:
        assert {order[0] // 2, order[1] // 2} in ({0}, {1})  # bands stay together


def test_mazes_drawn_are_labelled_anew():
    mazes, _ = maze.generate_many(np.random.default_rng(0), 4, 8)
    found = draws(MazeMirrors(mazes), np.repeat(np.arange(4), 50).astype(np.int32))
    assert maze.solved(found["tokens"], found["targets"]).all()
    np.testing.assert_array_equal(maze.label(found["tokens"]), found["targets"])
    assert len({row.tobytes() for row in found["tokens"]}) == 32


def test_arc_pairs_drawn_move_together_and_stay_whole():
    rng = np.random.default_rng(0)
    tasks = [arc.generate(rng, 6) for _ in range(3)]
    table = arc.make_table(tasks, 4, rng, side=9)
    found = draws(ArcDraws(table), np.repeat(np.arange(3), 150).astype(np.int32))
    places = set()
    for row, (tokens, targets, puzzle) in enumerate(
        zip(found["tokens"], found["targets"], found["puzzle"], strict=True)
    ):
        corners = [np.argwhere(cells.reshape(9, 9) >= arc.FIRST).min(0) for cells in (tokens, targets)]
        np.testing.assert_array_equal(*corners)
        down, right = (int(v) for v in corners[0])
        places.add((down, right))
        whole = [
            arc.decode(np.pad(c.reshape(9, 9)[down:, right:], ((0, down), (0, right))).ravel())
            for c in (tokens, targets)
        ]
        own = [
            (arc.decode(a), arc.decode(b))
            for a, b, p in zip(table.inputs, table.outputs, table.puzzle, strict=True)
            if p == puzzle
        ]
        assert any(np.array_equal(whole[0], a) and np.array_equal(whole[1], b) for a, b in own), row
    assert len(places) > 10
    np.testing.assert_array_equal(found["loss_mask"], found["targets"] > 0)
    assert len(set(found["puzzle"])) == 12


def engine(objective, model, batch=6, **changes):
    config = TrainConfig(learning_rate=1e-3, schedule="constant", **changes)
    return Engine(model, {"p": Stream(Indices(5), list, objective, batch)}, config)


def one_step(objective, model, batch):
    made = engine(objective, model, len(batch["tokens"]))
    state = made.push(made.initial_state({"p": batch}), "p", batch)
    return backend.value_and_grad(made._loss, optim.split(made.groups, state["trained"]), state)


def test_one_chain_is_plain_recursion():
    config = preset("trm_sudoku_4x4", **SMALL)
    rng = np.random.default_rng(0)
    batch = {key: rng.integers(5, size=(6, 16)).astype(np.int32) for key in ("tokens", "targets")}
    batch["puzzle"] = np.zeros(6, np.int32)
    results = []
    for objective in (Recursive(Fill()), WinnerTakesAll(Fill())):
        model = reference.randomize(TRM(config, name="trm"), seed=2)
        results.append(one_step(objective, model, batch))
    ((loss, _), gradients), ((other_loss, _), others) = results
    assert float(loss) == pytest.approx(float(other_loss), rel=1e-6)
    for a, b in zip(gradients, others, strict=True):
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), atol=1e-6)


def test_the_best_chain_teaches_and_hands_on_its_answer():
    chains, rows = 3, 5
    config = preset("trm_sudoku_4x4", num_chains=chains, **SMALL)
    model = reference.randomize(TRM(config, name="trm"), seed=2)
    rng = np.random.default_rng(0)
    batch = {key: rng.integers(5, size=(rows, 16)).astype(np.int32) for key in ("tokens", "targets")}
    batch["puzzle"] = np.zeros(rows, np.int32)
    (loss, aux), _ = one_step(WinnerTakesAll(Fill(), halt_weight=0.0), model, batch)
    each = []
    for chain in range(chains):
        x, mask = model.encode(batch)
        carry, outputs = model.step(model.initial_carry(x, chain), x, mask)
        cells = Fill()(model, outputs, batch, None)[0]
        each.append((to_numpy(cells), to_numpy(carry["z_h"]), to_numpy(carry["z_l"])))
    by_chain = np.stack([cells for cells, _, _ in each])
    winner = by_chain.argmin(0)
    assert len(set(winner)) > 1
    assert float(loss) == pytest.approx(by_chain.min(0).mean(), rel=1e-5)
    state = aux[0]["p"]["state"]
    z_h = to_numpy(state["z_h"]).reshape(rows, chains, 17, 16)
    z_l = to_numpy(state["z_l"]).reshape(rows, chains, 17, 16)
    for row in range(rows):
        for chain in range(chains):
            np.testing.assert_allclose(z_h[row, chain], each[winner[row]][1][row], atol=1e-4)
            np.testing.assert_allclose(z_l[row, chain], each[chain][2][row], atol=1e-4)


def test_cells_outside_the_mask_do_not_count():
    model = reference.randomize(TRM(preset("trm_sudoku_4x4", **SMALL)), seed=2)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 16, 5)).astype(np.float32)
    targets = logits.argmax(-1).astype(np.int32)
    targets[0, 3] += 1 if targets[0, 3] < 4 else -1
    mask = np.ones((2, 16), bool)
    for hidden, expected in ((None, [False, True]), (3, [True, True])):
        if hidden is not None:
            mask[0, hidden] = False
        data = {"targets": targets, "loss_mask": mask}
        rows, correct, _ = Fill()(model, {"logits": logits}, data, None)
        assert to_numpy(correct).tolist() == expected
    other = targets.copy()
    other[0, 3] = 0
    again = Fill()(model, {"logits": logits}, {"targets": other, "loss_mask": mask}, None)[0]
    np.testing.assert_array_equal(to_numpy(rows), to_numpy(again))


@pytest.mark.parametrize("name", ["sudoku_fast", "sudoku_trm", "maze_fast", "maze_trm", "arc_trm"])
def test_recipes_run(name, tmp_path):
    assert recipe.run_recipe(RECIPES / f"{name}.py", smoke=True, out=tmp_path).steps == 3
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    evaluated = [record for record in log if any(key.startswith("eval/") for key in record)]
    assert [record["step"] for record in evaluated] == [2, 3]
    assert log[-1]["elapsed_s"] >= log[0]["elapsed_s"] > 0
    assert TRM.load(tmp_path / "model").config.dim


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "four.txt").write_text("...1.....23..3..\n" * 2)
    (folder / "arc").mkdir()
    secret = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[1]]}]}
    (folder / "arc" / "a.json").write_text(json.dumps(secret))
    inputs, labels = maze.generate_many(np.random.default_rng(0), 2, 6)
    np.savez(folder / "one.npz", inputs=inputs[:1], labels=labels[:1])
    np.savez(folder / "two.npz", inputs=inputs, labels=labels)
    TRM(preset("trm_sudoku_4x4", **SMALL)).save(folder / "four")
    return folder


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("sudoku_trm", ["preset=nope"], "no preset is called 'nope'; use one of trm_sudoku"),
        ("sudoku_trm", ["model={dimm: 16}"], "has no field 'dimm'; its fields are vocab_size"),
        ("sudoku_trm", ["model={mixer: x}"], "mixer='x' is not one of attention, mlp_t, units"),
        ("sudoku_trm", ["model={seq_len: 81}"], "need a model of seq_len=16, trm_sudoku_4x4 has 81"),
        ("sudoku_trm", ["init={files}/four", "box=3", "made=2"], "of seq_len=81, .*four has 16"),
        (
            "sudoku_trm",
            ["train_file={files}/four.txt", "box=3"],
            "16 cells for training, of 81 for validation",
        ),
        ("sudoku_trm", ["box=4"], "box: 4 does not fit"),
        ("maze_trm", ["file={files}/one.npz"], "holds one maze"),
        ("maze_trm", ["file={files}/two.npz", "held_out=0"], "held_out: 0 does not fit"),
        ("arc_trm", ["eval_folder={files}/arc"], "ARC task a: a test has no output"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_training(name, overrides, message, files):
    made = recipe.load_recipe(RECIPES / f"{name}.py")
    given = [override.replace("{files}", str(files)) for override in overrides]
    with pytest.raises(SaccadeError, match=message):
        made.recipe(recipe.make_config(made, given, smoke=True), None)


def test_mazes_of_another_side_go_on_from_small_ones(tmp_path):
    made = recipe.load_recipe("maze_fast")
    first = made.recipe(recipe.make_config(made, [], smoke=True), None).model
    first.save(tmp_path / "small")
    given = [f"init={tmp_path / 'small'}", "side=8", "model={}"]
    model = made.recipe(recipe.make_config(made, given, smoke=True), None).model
    assert (first.config.seq_len, model.config.seq_len) == (36, 64)
    for own, other in zip(model.variables, first.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(own), to_numpy(other))


def test_made_mazes_beside_those_of_a_file(files):
    made = recipe.load_recipe("maze_fast")
    given = [f"file={files}/two.npz", "more=3", "varied=true"]
    trainer = made.recipe(recipe.make_config(made, given, smoke=True), None)
    (stream,) = trainer.engine.streams.values()
    draw, mazes = stream.objective.draw, maze.load(files / "two.npz")[0]
    assert len(stream.source) == 4  # one of the file, the other is for validation
    assert draw.mazes.shape == (4 * 8, 36)
    assert (draw.mazes == mazes[0]).all(1).any()
    assert not (draw.mazes == mazes[1]).all(1).any()
    assert len({m.tobytes() for m in draw.mazes[8:]}) > 8
    with pytest.raises(
        SaccadeError, match="varied=true is for mazes that are made, and none are; give more="
    ):
        made.recipe(recipe.make_config(made, [given[0], given[2]], smoke=True), None)
    edges = draw.mazes.reshape(-1, 6, 6)[8:]
    assert any((edge == maze.WALL).all() for grid in edges for edge in (grid[0], grid[:, 0]))


def test_variants_are_drawn_as_often_as_what_they_come_from():
    made = recipe.load_recipe("sudoku_fast")
    given = ["made=3", "variants=4", "reveal=0.5", "stagger=true"]
    trainer = made.recipe(recipe.make_config(made, given, smoke=True), None)
    (stream,) = trainer.engine.streams.values()
    table, grids = stream.objective.draw.puzzles, stream.objective.draw.solutions
    assert table.shape == (2 * 3 * 4, 16)
    assert len(stream.source) == len(table)
    assert len({puzzle.tobytes() for puzzle in table[:12]}) == 3
    assert len({puzzle.tobytes() for puzzle in table[12:]}) > 6
    assert sudoku.solved(table, grids).all()


def test_what_is_solved_with_is_validated_and_written(tmp_path, monkeypatch):
    scored = []

    def spied(solver, *args):
        scored.append((solver.model.config.h_cycles, to_numpy(solver.model.variables[0].value).copy()))
        return measure(solver, *args)

    monkeypatch.setattr(puzzle_run, "measure", spied)
    made = recipe.load_recipe("sudoku_fast")
    given = [
        "solve={h_cycles: 5, halt_threshold: 1.5}",
        "model={dim: 8, multiple: 8, h_cycles: 2, l_cycles: 1}",
    ]
    trainer = made.recipe(recipe.make_config(made, [*given, "train.ema_decay=0.5"], smoke=True), tmp_path)
    trainer.fit()
    trainer.use_ema()
    assert trainer.model.config.h_cycles == 2  # it learns with these
    assert [cycles for cycles, _ in scored] == [5, 5]  # after two steps, and at the end
    np.testing.assert_array_equal(scored[1][1], to_numpy(trainer.model.variables[0].value))
    assert (scored[0][1] != scored[1][1]).any()
    written = TRM.load(tmp_path / "model")
    assert (written.config.h_cycles, written.config.halt_threshold) == (5, 1.5)
    for own, averaged in zip(written.variables, trainer.model.variables, strict=True):  # bfloat16
        np.testing.assert_allclose(to_numpy(own.value), to_numpy(averaged.value), rtol=1e-2, atol=1e-6)
    with pytest.raises(SaccadeError, match=r"solve=.*'cycles'"):
        made.recipe(recipe.make_config(made, ["solve={cycles: 3}"], smoke=True), None)


def test_the_puzzles_decide_the_size_of_a_model(files):
    made = recipe.load_recipe(RECIPES / "sudoku_trm.py")
    small = json.dumps({"dim": 16, "num_heads": 2, "multiple": 8})
    given = [
        "preset=trm_sudoku",
        f"model={small}",
        *(f"{key}_file={files}/four.txt" for key in ("train", "val")),
    ]
    config = made.recipe(recipe.make_config(made, given, smoke=True), None).model.config
    assert (config.seq_len, config.vocab_size) == (16, 5)


RUN = [
    "--smoke",
    "train.steps=40",
    "train.save_every=6",
    "train.log_every=5",
    "train.eval_every=20",
    "train.ema_decay=0.9",
]


def test_a_killed_run_continues_bit_for_bit(tmp_path):
    overrides = RUN[1:]
    whole = recipe.load_recipe(RECIPES / "sudoku_fast.py")
    config = recipe.make_config(whole, overrides, smoke=True)
    alone = whole.recipe(config, tmp_path / "whole")
    alone.fit()
    command = [sys.executable, "-m", "saccade.cli", "train", str(RECIPES / "sudoku_fast.py"), *RUN]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "cut")],
        env={**os.environ, "PYTHONPATH": str(RECIPES.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 200
    while (
        not checkpoint.list_checkpoints(tmp_path / "cut")
        and process.poll() is None
        and time.monotonic() < limit
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=20) == -signal.SIGKILL, "the run ended before it could be killed"
    again = whole.recipe(config, tmp_path / "cut")
    reached = checkpoint.step_of(checkpoint.list_checkpoints(tmp_path / "cut")[-1])
    assert again.fit().steps == 40 - reached > 0
    for key in ("trained", "others", "slots", "ema", "seed", "carries"):
        one, other = checkpoint.flatten(alone.state[key]), checkpoint.flatten(again.state[key])
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), err_msg=name)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps.count(20) == 2  # a record of training and one of evaluation, each once


def test_stages_hand_on_their_averages_and_resume(tmp_path, monkeypatch):
    overrides = [
        "stages=[{h_cycles: 1, l_cycles: 1, steps: 4}]",
        "model={dim: 16, num_heads: 2, multiple: 8, h_cycles: 2, l_cycles: 1}",
        "train.ema_decay=0.5",
    ]
    made = recipe.load_recipe(RECIPES / "sudoku_fast.py")
    config = recipe.make_config(made, overrides, smoke=True)
    fit, started = Trainer.fit, []

    def spied(trainer):
        started.append([to_numpy(v.value) for v in trainer.model.variables])
        return fit(trainer)

    monkeypatch.setattr(Trainer, "fit", spied)
    assert made.recipe(config, tmp_path).fit().steps == 3
    first = TRM.load(tmp_path / "stage_1" / "model")
    assert (first.config.h_cycles, first.config.l_cycles) == (1, 1)
    assert TRM.load(tmp_path / "model").config.h_cycles == 2
    assert any((a != b).any() for a, b in zip(*started, strict=True))
    for own, variable in zip(started[1], first.variables, strict=True):  # saved as bfloat16
        np.testing.assert_allclose(own, to_numpy(variable.value), rtol=1e-2, atol=1e-6)
    log = [json.loads(line) for line in (tmp_path / "stage_1" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 4

    # Cut off before the last stage and started again: the first takes no step, the last the same ones.
    whole = (tmp_path / "model" / "model.safetensors").read_bytes()
    for path in tmp_path.glob("step_*"):
        shutil.rmtree(path)
    shutil.rmtree(tmp_path / "model")
    assert made.recipe(config, tmp_path).fit().steps == 3
    again = [json.loads(line) for line in (tmp_path / "stage_1" / "log.jsonl").read_text().splitlines()]
    assert again == log
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == whole


def test_nothing_drawn_is_lost():
    """Slots take the stream's puzzles in order; a puzzle no slot took is offered again."""
    taken = []

    class Counting:
        def initial_carry(self, model, batch):
            return {"last": batch["index"] * 0}

        def __call__(self, model, carry, batch, seed):
            taken.append(batch["index"])
            return 0.0 * model.token_table[0, 0], {"last": batch["index"]}, {}, 2

    model = TRM(preset("trm_sudoku_4x4", **SMALL))
    drawn = Drawn(Counting(), lambda index, seed: {"index": index})
    made = engine(drawn, model, batch=4)
    batch = {"index": np.arange(4, dtype=np.int32)}
    state = made.push(made.initial_state({"p": batch}), "p", batch)
    state = made.push(state, "p", {"index": np.arange(4, 8, dtype=np.int32)})
    seen = []
    for _ in range(3):
        state, _ = made.step(state)
        seen.append(to_numpy(state["carries"]["p"]["last"]).tolist())
    assert seen == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
