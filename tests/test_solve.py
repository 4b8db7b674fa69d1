"""Solving with a trained model: what the modes give, and that nothing wrong is called right."""

import jax
import numpy as np
import pytest
import reference

from saccade import backend
from saccade.data.puzzles import maze, sudoku
from saccade.errors import SaccadeError
from saccade.models.trm import TRM, preset
from saccade.puzzles import KINDS, PuzzleModel, load_puzzle_model
from saccade.solve import Search, Solver, as_batch, measure

SMALL = {"dim": 16, "num_heads": 2, "multiple": 8, "h_cycles": 2, "l_cycles": 1, "halt_max_steps": 5}


@pytest.fixture(scope="module")
def puzzles():
    rng = np.random.default_rng(0)
    return np.stack([sudoku.generate(rng, 2)[0] for _ in range(11)])


@pytest.fixture(scope="module")
def model():
    made = reference.randomize(TRM(preset("trm_sudoku_4x4", **SMALL), name="trm"), seed=3)
    spread = np.asarray(Solver(made).trace(np.arange(176).reshape(11, 16) % 5)["halting"])
    bias = made.halting.linear.bias
    bias.assign(np.asarray(bias.value) - np.median(spread))  # so that rows halt at different steps
    return made


def test_halting_is_what_the_trace_says(model, puzzles):
    solver = Solver(model)
    trace = solver.trace(puzzles)
    halts = trace["halting"] > 0
    halts[-1] = True
    step = halts.argmax(0)
    assert len(set(step.tolist())) > 1
    for slots in (3, 256):  # refilled slots give what a batch gives
        cells, q_halt, steps = solver.halting(puzzles, slots=slots)
        np.testing.assert_array_equal(steps, step + 1)
        np.testing.assert_array_equal(cells, trace["cells"][step, np.arange(11)])
        np.testing.assert_allclose(q_halt, trace["q_halt"][step, np.arange(11)], atol=1e-4)


def test_fixed_takes_all_steps(model, puzzles):
    solver = Solver(model)
    trace = solver.trace(puzzles)
    cells, q_halt, steps = solver.fixed(puzzles, slots=4)  # the last batch is not full
    np.testing.assert_array_equal(cells, trace["cells"][-1])
    np.testing.assert_allclose(q_halt, trace["q_halt"][-1], atol=1e-4)
    assert (steps == 5).all()


def test_measure(model, puzzles):
    solver = Solver(model)
    trace = solver.trace(puzzles)
    answers = trace["cells"][-1].copy()
    answers[0] = 0
    found = measure(solver, puzzles, lambda cells: (cells == answers).all(1))
    assert found["exact"] == pytest.approx(10 / 11)
    assert 1 <= found["mean_steps"] <= 5
    assert measure(solver, puzzles, lambda cells: cells[:, 0] >= 0, threshold=1e9)["mean_steps"] == 5


def test_a_threshold_that_is_no_number_is_refused(model, puzzles):
    with pytest.raises(SaccadeError, match="threshold is nan"):
        Solver(model).solve(puzzles, lambda puzzles, cells: cells[:, 0] >= 0, threshold=float("nan"))


def test_noise_belongs_to_the_slot_and_steps_can_be_limited(model, puzzles):
    solver = Solver(model)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((11, 17, 16))
    cells, q_halt, steps = solver.halting(puzzles, noise=noise, threshold=1e9)
    assert (steps == 5).all()
    x, mask = model.encode(as_batch(puzzles))
    carry = model.initial_carry(x)
    carry = {**carry, "z_l": carry["z_l"] + noise.astype(np.float32)}
    for _ in range(5):
        carry, outputs = model.step(carry, x, mask)
    np.testing.assert_array_equal(cells, reference.to_numpy(outputs["logits"]).argmax(-1))
    np.testing.assert_allclose(q_halt, reference.to_numpy(outputs["q_halt"]), atol=1e-4)
    trace = solver.trace(puzzles)
    assert (cells != trace["cells"][-1]).any()
    for most, taken in ((3, 3), (99, 5)):
        cells, _, steps = solver.halting(puzzles, threshold=1e9, max_steps=most)
        assert (steps == taken).all()
        np.testing.assert_array_equal(cells, trace["cells"][taken - 1])
    # One slot: the second puzzle starts with the same noise as the first.
    same = np.repeat(puzzles[:1], 2, axis=0)
    cells, q_halt, _ = solver.halting(same, slots=1, noise=noise[:1], threshold=1e9)
    np.testing.assert_array_equal(cells[0], cells[1])
    assert q_halt[0] == q_halt[1]


class Guesser(Solver):
    """Knows the solution of some turned puzzles only: those whose first cell got a 1."""

    def __init__(self, model):
        super().__init__(model)
        self.calls = []

    def halting(self, tokens, puzzle=None, slots=256, threshold=None, noise=None, max_steps=None):
        if noise is None:
            self.first_steps = max_steps
            return np.ones_like(tokens), np.zeros(len(tokens)), np.ones(len(tokens), np.int32)
        self.calls.append((len(tokens), slots, noise.shape, max_steps))
        grids = np.stack([sudoku.check(row) for row in tokens])
        known = grids[:, 0] == 1
        cells = np.where(known[:, None], grids, 1).astype(np.int8)
        return cells, np.where(known, -3.0, 2.0), np.full(len(tokens), 4, np.int32)


def test_search_goes_on_until_the_rules_are_kept(model, puzzles):
    solver = Guesser(model)
    found = solver.solve(
        puzzles, sudoku.solved, "search", slots=4, search=Search(20, moves=sudoku.draw_moves, steps=4)
    )
    assert all(solution.valid for solution in found)
    assert sudoku.solved(puzzles, np.stack([solution.grid for solution in found])).all()
    for solution in found:  # valid beats believed
        assert solution.confidence == pytest.approx(1 / (1 + np.exp(3)))
        assert solution.tries > 1
        assert solution.steps == 1 + (solution.tries - 1) * 4
    assert solver.first_steps == 4
    assert set(solver.calls) == {(4, 4, (4, 17, 16), 4)}  # one shape: one compilation
    assert sum(solution.tries - 1 for solution in found) == 4 * len(solver.calls)


def test_search_that_fails_says_so(model, puzzles):
    solver = Guesser(model)
    found = solver.solve(puzzles, sudoku.solved, "search", slots=4, search=Search(3))
    solved = [solution.valid for solution in found]
    truth = [sudoku.check(puzzle)[0] == 1 for puzzle in puzzles]  # never turned: a 1 there, or never
    assert solved == truth
    assert 0 < sum(truth) < 11
    assert not any(sudoku.is_solution(p, s.grid) for p, s in zip(puzzles, found, strict=True) if not s.valid)
    believed = [solution.confidence for solution in found if not solution.valid]
    np.testing.assert_allclose(believed, 1 / (1 + np.exp(-2)))


def test_search_begins_nothing_when_its_time_is_over(model, puzzles, monkeypatch):
    clock = iter(np.arange(0.0, 100.0, 2.0))  # every look at it takes two seconds
    monkeypatch.setattr("saccade.solve.time.monotonic", lambda: next(clock))
    solver = Guesser(model)
    found = solver.solve(puzzles[:1], lambda *_: np.array([False]), "search", search=Search(9, seconds=6.0))
    assert len(solver.calls) == 2  # at 2 and 4 seconds, not at 6
    assert found[0].tries == 3
    assert not solver.solve(puzzles[:1], sudoku.solved, "search", search=Search(9, seconds=0.0))[0].valid
    assert len(solver.calls) == 2


def test_a_search_may_have_nothing_to_do(model, puzzles):
    solver = Guesser(model)
    found = solver.solve(puzzles, lambda *_: np.ones(11, bool), "search", search=Search(9))
    assert {(s.valid, s.tries) for s in found} == {(True, 1)}
    assert not solver.calls


def test_the_threshold_is_of_every_try(model, puzzles):
    never = Solver(model).solve(
        puzzles[:2], lambda *_: np.zeros(2, bool), "search", threshold=1e9, search=Search(3, steps=2)
    )
    assert [(s.tries, s.steps) for s in never] == [(4, 8), (4, 8)]


def test_unknown_mode_and_no_slots(model, puzzles):
    with pytest.raises(SaccadeError, match="unknown mode 'best'; use one of halting, fixed, search"):
        Solver(model).solve(puzzles, sudoku.solved, "best")
    with pytest.raises(SaccadeError, match="slots=0 must be at least 1"):
        Solver(model).solve(puzzles, sudoku.solved, slots=0)


@pytest.mark.parametrize("mode", ["halting", "fixed", "search"])
def test_no_puzzles_have_no_solutions(model, mode):
    assert PuzzleModel(model).solve_many(np.zeros((0, 16), int), mode) == []


@pytest.mark.parametrize(
    ("puzzles", "message"),
    [
        (np.zeros(16, int), r"of shape \(16,\) and type int64 are no integers"),
        (["...1.....23..3.."], "read texts with saccade.data.puzzles.sudoku.parse"),
        (np.zeros((1, 16)), "type float64 are no integers"),
        (np.full((2, 16), 5), "must hold cells 0 to 4, found 5 to 5"),
        (np.full((2, 16), -1), "must hold cells 0 to 4, found -1 to -1"),
    ],
)
def test_what_is_no_array_of_puzzles(model, puzzles, message):
    with pytest.raises(SaccadeError, match=message):
        PuzzleModel(model).solve_many(puzzles)


@pytest.mark.skipif(not backend.multiplies_bfloat16(), reason="a CPU without products of bfloat16")
@pytest.mark.parametrize("changes", [{}, {"ffn": "gelu"}, {"mixer": "attention"}], ids=str)
def test_products_of_bfloat16_sum_in_float32(puzzles, monkeypatch, changes):
    config = preset("trm_sudoku_4x4", **SMALL | changes)
    exact = reference.randomize(TRM(config, name="trm"), seed=3)
    narrow = TRM(config, dtype="mixed_bfloat16", name="trm")
    for own, other in zip(narrow.variables, exact.variables, strict=True):
        own.assign(other.value)
    batch = as_batch(puzzles)
    wanted = reference.to_numpy(exact(batch)["logits"])

    def error(model):
        return np.abs(np.asarray(backend.compiled(model, model)(batch)["logits"]) - wanted).mean()

    fast = error(narrow)
    program = str(jax.make_jaxpr(lambda: backend.compiled(narrow, narrow)(batch))())
    assert "preferred_element_type=float32" in program
    monkeypatch.setattr(backend, "multiplies_bfloat16", lambda: False)
    assert fast <= 1.2 * error(narrow) < 0.5


def test_a_puzzle_model_checks_the_puzzle(model):
    puzzle_model = PuzzleModel(model)
    solution = puzzle_model.solve("...1.....23..3..", mode="halting")
    assert solution.valid == sudoku.is_solution(sudoku.parse("...1.....23..3.."), solution.grid)
    with pytest.raises(SaccadeError, match="several solutions"):
        puzzle_model.solve("." * 16)
    with pytest.raises(SaccadeError, match="has 81 cells, the model was trained on 16"):
        puzzle_model.solve("." * 81)
    assert len(puzzle_model.solve_many(np.zeros((3, 16), np.int8))) == 3


def test_kinds_of_models(tmp_path):
    with pytest.raises(SaccadeError, match="12 kinds of cells solves neither"):
        PuzzleModel(TRM(preset("trm_sudoku_4x4", **SMALL, vocab_size=12)))
    small_maze = TRM(preset("trm_maze", **SMALL, seq_len=25, prefix_tokens=1))
    small_maze.save(tmp_path / "maze")
    model = load_puzzle_model(tmp_path / "maze", "maze")
    assert model.kind == "maze"
    solution = model.solve("S....\n.###.\n.#...\n.#.#.\n...#G", mode="fixed")
    assert solution.steps == 5
    assert not solution.valid  # untrained
    with pytest.raises(SaccadeError, match="is a model of maze, not of sudoku"):
        load_puzzle_model(tmp_path / "maze", "sudoku")


def test_a_model_without_places_takes_mazes_of_any_side():
    sizes = {"dim": 8, "multiple": 8, "halt_max_steps": 2}
    small = reference.randomize(TRM(preset("trm_maze_neighbours", **sizes, seq_len=16), name="trm"), seed=3)
    large = reference.randomize(TRM(preset("trm_maze_neighbours", **sizes, seq_len=25), name="trm"), seed=3)
    mazes = maze.generate_many(np.random.default_rng(0), 3, 5)[0]
    model = PuzzleModel(small)
    found = [solution.grid for solution in model.solve_many(mazes, "fixed")]
    np.testing.assert_array_equal(found, Solver(large).fixed(mazes)[0])
    assert model.solver_for(25) is model.solver_for(25)  # compiled once
    assert model.solver_for(16) is model.solver
    for cells in (20, 0):
        with pytest.raises(SaccadeError, match=f"has {cells} cells, which is no square board"):
            model.solve_many(np.ones((1, cells), np.int8))
    with pytest.raises(ValueError, match="has weights for 16 cells only"):
        TRM(preset("trm_sudoku_4x4", **SMALL)).resized(25)


def test_kinds_agree_with_their_rules():
    rng = np.random.default_rng(0)
    examples = {"sudoku": sudoku.generate(rng, 2), "maze": maze.generate(rng, 6)}
    for name, kind in KINDS.items():
        puzzle, answer = examples[name]
        np.testing.assert_array_equal(kind.check(puzzle), answer)
        assert kind.solved(puzzle[None], answer[None]).all()
        moves = kind.draw_moves(rng, np.repeat(puzzle[None], 9, 0))
        turned, turned_answer = (
            moves.apply(np.repeat(puzzle[None], 9, 0)),
            moves.apply(np.repeat(answer[None], 9, 0)),
        )
        assert kind.solved(turned, turned_answer).all()
        np.testing.assert_array_equal(moves.undo(turned), np.repeat(puzzle[None], 9, 0))
