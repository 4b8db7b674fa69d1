import numpy as np
import pytest

from saccade.data.puzzles import sudoku
from saccade.errors import SaccadeError

# Wikipedia's example, and its solution.
EASY = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLVED = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def brute_force(puzzle, limit=10):
    """Every solution of a 4 x 4 puzzle, by trying all."""
    found = []

    def fill(grid, cell):
        if len(found) >= limit:
            return
        if cell == 16:
            found.append(grid.copy())
            return
        for digit in [grid[cell]] if puzzle[cell] else range(1, 5):
            r, c = divmod(cell, 4)
            others = [i for i in range(16) if i < cell or puzzle[i]]
            clash = any(
                i != cell
                and grid[i] == digit
                and (i // 4 == r or i % 4 == c or (i // 8 == r // 2 and i % 4 // 2 == c // 2))
                for i in others
            )
            if not clash:
                kept, grid[cell] = grid[cell], digit
                fill(grid, cell + 1)
                grid[cell] = kept

    fill(puzzle.copy(), 0)
    return found


@pytest.mark.parametrize(
    "text",
    [
        EASY,
        EASY.replace(".", "0"),
        EASY.replace(".", "_"),
        "\n".join(EASY[i : i + 9] for i in range(0, 81, 9)) + "\n",
        "\n------+-------+------\n".join(
            "\n".join(
                " | ".join(" ".join(EASY[r * 9 + b : r * 9 + b + 3]) for b in (0, 3, 6))
                for r in range(band, band + 3)
            )
            for band in (0, 3, 6)
        ),
        ",".join(EASY),
        EASY.replace(".", "-"),
    ],
    ids=["dots", "zeros", "underscores", "lines", "drawn", "commas", "dashes"],
)
def test_usual_forms(text):
    assert sudoku.to_text(sudoku.parse(text)) == EASY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0"),
        (EASY[:-1], "this text has 80"),
        (EASY + "1", "this text has 82"),
        ("a" + EASY[1:], "'a' at cell 1 is neither a digit 1 to 9 nor a blank"),
        ("5....6..........", "'5' at cell 1 is neither a digit 1 to 4"),
    ],
)
def test_unreadable(text, message):
    with pytest.raises(SaccadeError, match=message):
        sudoku.parse(text)


def test_a_row_of_dashes_is_blank_or_a_frame():
    rows = ["." * 9, *(EASY[i : i + 9] for i in range(9, 81, 9))]
    wanted = "".join(rows)
    assert sudoku.to_text(sudoku.parse("\n".join(rows).replace(".", "-"))) == wanted
    framed = ["| " + " | ".join(" ".join(row[b : b + 3]) for b in (0, 3, 6)) + " |" for row in rows]
    for bar in ("+-------+-------+-------+", "=" * 25):
        drawn = [bar, *framed[:3], bar, *framed[3:6], bar, *framed[6:], bar]
        assert sudoku.to_text(sudoku.parse("\n".join(drawn).replace(".", "-"))) == wanted


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (np.zeros(80, int), "this array has 80"),
        ([12] + [0] * 80, "12 at cell 1 is neither a digit 1 to 9"),
        ([0, -1] + [0] * 79, "-1 at cell 2"),
        (np.full((4, 4), 0.5), "0.5 at cell 1 is neither a digit 1 to 4"),
    ],
)
def test_arrays_that_are_no_sudoku(grid, message):
    with pytest.raises(SaccadeError, match=message):
        sudoku.check(grid)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("55" + EASY[2:], "the digit 5 is given twice, at row 1 column 1 and row 1 column 2"),
        (EASY[:80] + "5", "the digit 5 is given twice, at row 8 column 9 and row 9 column 9"),
        (SOLVED, "already solved"),
        ("." * 81, "several solutions: its 0 givens"),
        ("." + EASY[1:2] + "." + EASY[3:4] + "." * 77, "several solutions"),
        # Row 1 leaves only 9 for its last cell, column 9 has it.
        ("12345678." + "." * 8 + "9" + "." * 63, "has no solution"),
    ],
)
def test_improper_puzzles(text, message):
    with pytest.raises(SaccadeError, match=message):
        sudoku.check(sudoku.parse(text))


def test_the_solution():
    assert sudoku.to_text(sudoku.check(sudoku.parse(EASY))) == SOLVED


def test_solutions_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(25):
        puzzle = np.where(rng.random(16) < 0.35, sudoku.generate(rng, 2)[1], 0).astype(np.int8)
        if rng.random() < 0.3:
            puzzle[rng.integers(16)] = rng.integers(1, 5)  # perhaps unsolvable
        expected = {tuple(g) for g in brute_force(puzzle)} if sudoku.conflict(puzzle) is None else set()
        found = {tuple(g) for g in sudoku.solutions(puzzle, limit=10)}
        assert len(found) == min(len(expected), 10)
        assert found <= expected or len(expected) == 10


def test_solved_asks_for_rules_and_givens():
    puzzle, grid = sudoku.parse(EASY), sudoku.parse(SOLVED)
    other = sudoku.parse(SOLVED.translate(str.maketrans("12", "21")))  # keeps the rules, not the givens
    broken = grid.copy()
    broken[[0, 1]] = broken[[1, 0]]
    blank = grid.copy()
    blank[3] = 0
    answers = np.stack([grid, other, broken, blank])
    assert sudoku.solved(np.stack([puzzle] * 4), answers).tolist() == [True, False, False, False]
    assert sudoku.is_solution(puzzle, grid)


@pytest.mark.parametrize("box", [2, 3])
def test_made_puzzles_are_proper_and_differ(box):
    rng = np.random.default_rng(1)
    made = [sudoku.generate(rng, box, givens=30 if box == 3 else 0) for _ in range(4)]
    for puzzle, grid in made:
        np.testing.assert_array_equal(sudoku.check(puzzle), grid)
    assert len({sudoku.to_text(grid) for _, grid in made}) > 1


def test_shuffled_puzzles_keep_their_solution():
    rng = np.random.default_rng(2)
    puzzles = np.repeat(sudoku.parse(EASY)[None], 200, 0)
    grids = np.repeat(sudoku.parse(SOLVED)[None], 200, 0)
    moved, answers = sudoku.shuffle(rng, puzzles, grids)
    assert sudoku.solved(moved, answers).all()
    assert len({row.tobytes() for row in answers}) == 200
    assert ((moved > 0).sum(1) == 30).all()


def test_moves_are_undone():
    rng = np.random.default_rng(3)
    grids = np.repeat(sudoku.parse(SOLVED)[None], 50, 0)
    moves = sudoku.draw_moves(rng, grids)
    assert (moves.apply(grids) != grids).any(1).all()
    np.testing.assert_array_equal(moves.undo(moves.apply(grids)), grids)


@pytest.mark.parametrize("box", [2, 3])
def test_variants_are_proper_minimal_and_mostly_of_another_solution(box):
    rng = np.random.default_rng(0)
    puzzle, grid = sudoku.generate(rng, box)
    before = puzzle.copy()
    variants, found = zip(*[sudoku.vary(rng, puzzle) for _ in range(12)], strict=True)
    np.testing.assert_array_equal(puzzle, before)
    np.testing.assert_array_equal(found, [sudoku.check(variant) for variant in variants])  # or it raises
    assert sum((other != grid).any() for other in found) >= 8
    assert len({variant.tobytes() for variant in variants}) >= 10
    for cell in np.flatnonzero(variants[0]):
        fewer = variants[0].copy()
        fewer[cell] = 0
        assert len(sudoku.solutions(fewer)) == 2


def test_variants_of_many_are_those_of_each():
    rng = np.random.default_rng(0)
    puzzles = np.stack([sudoku.generate(rng, 2)[0] for _ in range(3)])
    found = np.stack(sudoku.vary_all(puzzles, 2, seed=5), axis=1)
    assert found.shape == (6, 2, 16)
    assert sudoku.solved(found[:, 0], found[:, 1]).all()
    np.testing.assert_array_equal(found, np.stack(sudoku.vary_all(puzzles, 2, seed=5), axis=1))
    assert (found != np.stack(sudoku.vary_all(puzzles, 2, seed=6), axis=1)).any()
    alone = np.random.default_rng((5, 1))
    np.testing.assert_array_equal(found[2:4], [np.stack(sudoku.vary(alone, puzzles[1])) for _ in range(2)])


def test_files(tmp_path):
    path = tmp_path / "puzzles.txt"
    path.write_text(f"{EASY}\n\n{EASY[:-2]}97\n")
    assert sudoku.read(path).shape == (2, 81)
    for content, message in (("", "holds no puzzle"), (f"{EASY}\n12\n", "line 2: a Sudoku has 81 cells")):
        path.write_text(content)
        with pytest.raises(SaccadeError, match=message):
            sudoku.read(path)
    path.write_text(EASY + "\n" + "." * 16)
    with pytest.raises(SaccadeError, match="mixes puzzles of different sizes"):
        sudoku.read(path)
    with pytest.raises(SaccadeError, match="cannot read puzzles"):
        sudoku.read(tmp_path / "none.txt")


def test_real_puzzles_are_proper(shared):
    for name in ("train", "val"):
        puzzles = sudoku.read(shared / "data" / "sudoku" / f"hardest_11plus_{name}.txt")
        assert puzzles.shape == (1000, 81)
        some = puzzles[::100]
        assert sudoku.solved(some, sudoku.check_all(some)).all()
