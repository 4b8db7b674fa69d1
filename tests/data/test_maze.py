from collections import deque

import numpy as np
import pytest

from saccade.data.puzzles import maze
from saccade.errors import SaccadeError

SMALL = "S.#.\n..#.\n#...\n...G"


def shortest(cells, start_kind=maze.START, goal_kind=maze.GOAL) -> int:
    """Length of a shortest path by plain breadth-first search; -1 for none."""
    side = round(len(cells) ** 0.5)
    start, goal = (int(np.flatnonzero(cells == kind)[0]) for kind in (start_kind, goal_kind))
    seen, queue = {start: 0}, deque([start])
    while queue:
        c = queue.popleft()
        r, k = divmod(c, side)
        for a, b in ((r + 1, k), (r - 1, k), (r, k + 1), (r, k - 1)):
            n = a * side + b
            if 0 <= a < side and 0 <= b < side and cells[n] != maze.WALL and n not in seen:
                seen[n] = seen[c] + 1
                queue.append(n)
    return seen.get(goal, -1)


def test_reading_and_showing():
    cells = maze.parse(SMALL)
    assert maze.to_text(cells) == SMALL
    assert maze.to_text(maze.check(cells)) == "S.#.\n**#.\n#*..\n.**G"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the maze is empty"),
        ("S.\n.G.", "row 1 of the maze has 2 cells, the widest 3"),
        ("S.G\n...", "is 2 x 3; make it square"),
        ("S.\n.X", "'X' at row 2 column 2"),
        ("..\n.G", "0 cells S"),
        ("SS\n.G", "2 cells S"),
        ("S.\n..", "0 cells G"),
    ],
)
def test_unreadable(text, message):
    with pytest.raises(SaccadeError, match=message):
        maze.parse(text)


def test_no_way():
    with pytest.raises(SaccadeError, match="no way from start to goal"):
        maze.check(maze.parse("S#.\n##.\n..G"))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([2] * 4, "0 cells S"),
        ([3, 3, 4, 2], "2 cells S"),
        ([3, 9, 4, 2], "cells 1 to 4, found 9"),
        ([2] * 15, "has 15 cells; make it square"),
        ([], "has 0 cells"),
    ],
)
def test_arrays_that_are_no_maze(cells, message):
    with pytest.raises(SaccadeError, match=message):
        maze.check(np.array(cells))


def test_labels_are_shortest_paths():
    mazes, labels = maze.generate_many(np.random.default_rng(0), 12, 9)
    assert maze.solved(mazes, labels).all()
    for cells, answer in zip(mazes, labels, strict=True):
        assert (answer == maze.PATH).sum() == shortest(cells) - 1


def test_varied_mazes():
    mazes, labels = maze.generate_many(np.random.default_rng(0), 90, 9, varied=True)
    np.testing.assert_array_equal(maze.label(mazes), labels)  # the ways are those of the board
    again, _ = maze.generate_many(np.random.default_rng(0), 90, 9, varied=True)
    np.testing.assert_array_equal(again, mazes)
    inside = (mazes != maze.WALL).reshape(90, 9, 9)
    extents = np.array([np.ptp(np.nonzero(grid), axis=1).max() + 1 for grid in inside])
    ways = (labels == maze.PATH).sum(1) + 1
    assert extents[0::3].min() >= 7  # as `generate` makes them
    for smaller in (inside[1::3], inside[2::3]):
        assert smaller.any(0).all()  # each place of the board is open in some
    assert set(extents[1::3]) | set(extents[2::3]) >= {5, 6, 7, 8, 9}
    assert (ways[2::3] >= maze.WINDING * extents[2::3]).all()
    assert np.mean(ways[1::3] >= maze.WINDING * extents[1::3]) < 0.2


def test_no_maze_has_such_a_way(monkeypatch):
    monkeypatch.setattr(maze, "TRIES", 50)
    with pytest.raises(
        SaccadeError, match=r"none of 50 random mazes of side 4 has a way of 5 sides; lower least"
    ):
        maze.generate(np.random.default_rng(0), 4, least=5)


def test_a_board_smaller_than_the_smallest_side():
    mazes, labels = maze.generate_many(np.random.default_rng(0), 3, 4, varied=True)
    assert maze.solved(mazes, labels).all()


def test_what_is_no_solution():
    cells = maze.parse(SMALL)
    right = maze.check(cells)
    assert maze.solved(cells[None], right[None])[0]
    through_wall, gap, moved, detour, other = (right.copy() for _ in range(5))
    through_wall[2] = maze.PATH
    gap[np.flatnonzero(right == maze.PATH)[1]] = maze.OPEN
    moved[0] = maze.OPEN
    detour[12] = maze.PATH
    other[[9, 10, 13, 14]] = maze.PATH, maze.PATH, maze.OPEN, maze.PATH  # also shortest
    answers = np.stack([through_wall, gap, moved, detour, other])
    assert maze.solved(np.stack([cells] * 5), answers).tolist() == [False, False, False, False, True]


def test_two_halves_of_two_paths_are_no_path():
    """As many cells as a path has, all on shortest paths, but not joined."""
    cells = maze.parse("S..\n.#.\n..G")
    torn = cells.copy()
    torn[[1, 3, 7]] = maze.PATH
    assert not maze.solved(cells[None], torn[None])[0]


def test_mirrors_are_eight_and_undone():
    cells, label = maze.generate(np.random.default_rng(3), 8)
    images = maze.mirrors(cells[None])[0]
    assert len({image.tobytes() for image in images}) == 8
    again = maze.label(images)
    assert maze.solved(images, again).all()
    np.testing.assert_array_equal(images[0], cells)
    np.testing.assert_array_equal(again[0], label)
    many = np.repeat(cells[None], 40, 0)
    moves = maze.draw_moves(np.random.default_rng(0), many)
    assert len({row.tobytes() for row in moves.apply(many)}) == 8
    np.testing.assert_array_equal(moves.undo(moves.apply(many)), many)


def test_files(tmp_path):
    inputs, labels = maze.generate_many(np.random.default_rng(0), 3, 7)
    np.savez(tmp_path / "m.npz", inputs=inputs, labels=labels)
    np.testing.assert_array_equal(maze.load(tmp_path / "m.npz")[1], labels)
    np.savez(tmp_path / "one.npz", inputs=inputs)
    np.savez(tmp_path / "shape.npz", inputs=inputs, labels=labels[:, :5])
    np.savez(tmp_path / "kind.npz", inputs=inputs + 3, labels=labels)
    np.savez(tmp_path / "none_at_all.npz", inputs=inputs[:0], labels=labels[:0])
    np.savez(tmp_path / "shares.npz", inputs=inputs + 0.5, labels=labels)
    np.savez(tmp_path / "start.npz", inputs=np.where(inputs == maze.START, maze.OPEN, inputs), labels=labels)
    np.save(tmp_path / "array.npz", inputs)
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "m.npz").read_bytes()[:200])
    (tmp_path / "empty.npz").touch()
    for name, message in (
        ("none_at_all", "N at least 1"),
        ("shares", "must hold cells 1 to 4"),
        ("start", r"inputs 1 has 0 cells S \(3\)"),
        ("array", "cannot read mazes"),
        ("cut", "cannot read mazes"),
        ("empty", "cannot read mazes"),
        ("one", "cannot read mazes"),
        ("shape", "both must be"),
        ("kind", "must hold cells 1 to 4"),
    ):
        with pytest.raises(SaccadeError, match=message):
            maze.load(tmp_path / f"{name}.npz")
    with pytest.raises(SaccadeError, match="cannot read mazes"):
        maze.load(tmp_path / "none.npz")


def test_the_rule_gives_the_published_labels(shared):
    inputs, labels = maze.load(shared / "data" / "maze" / "maze_30x30_hard_train.npz")
    np.testing.assert_array_equal(maze.label(inputs), labels)
    assert maze.solved(inputs, labels).all()
