"""Figures of single examples: what each step looked at and answered, and boards cell by cell."""

import numpy as np
from PIL import Image

from saccade.analysis.charts import Axes, legend, settle_colors, shift_down
from saccade.analysis.marks import WIDTH, Figure, Line, Picture, Rect, text_width
from saccade.analysis.record import Board, Case
from saccade.data.puzzles import maze
from saccade.draw import heat_overlay, load_font, wrap

_PATHS = ("right", "wrong", "third")
_GAP = 6
_WRONG = "#b4400c"  # on the colors of steps, which are the same in the dark
_MOST_PX = 400  # of a picture's side: the report stays small


def case_sheet(case: Case, name: str, heading: bool = False) -> Figure:
    """The image, then each step's look and answer up to halting, then the paths of answers and of halting.

    Args: heading: also write question, answer and truth, for a figure that stands alone.
    """
    card = case.card
    figure = Figure(name, f"{card.text} Right: {card.truth}; answered: {card.answer} in {card.steps} steps.")
    top = _heading(figure, card) if heading else 0
    image = thumbnail(card.image)
    height, width = image.shape[:2]
    columns = 1 if is_wide(image) else 3
    wide = (WIDTH - _GAP * (columns - 1)) / columns
    high = wide * height / width
    tiles = [(image, "image", "")]
    for step, (answer, grid) in enumerate(zip(case.answers, case.attention, strict=True)):
        tiles.append((heat_overlay(image, grid), f"{step + 1}", answer))
    for index, (pixels, number, answer) in enumerate(tiles):
        x, y = (index % columns) * (wide + _GAP), top + index // columns * (high + 24)
        figure.add(Picture(x, y, wide, high, pixels))
        if case.boxes is not None:
            if case.true_box is not None:
                figure.add(
                    _box(case.true_box, x, y, wide, high, "#ffffff", 4),
                    _box(case.true_box, x, y, wide, high, "right"),
                )
            if index:
                figure.add(_box(case.boxes[index - 1], x, y, wide, high, "#ffffff", 4))
                figure.add(_box(case.boxes[index - 1], x, y, wide, high, "wrong"))
        figure.text(x + 1, y + high + 14, number, 12, fill="faint")
        if not index:
            figure.text(x + wide, y + high + 14, "halting:", 11, "end", "faint")
        else:
            halt = f"{case.halting[index - 1]:.2f}"
            space = wide - text_width(number, 12) - text_width(halt, 11) - 10
            figure.text(x + 8 + text_width(number, 12), y + high + 14, answer, 12, bold=True, room=space)
            figure.text(x + wide, y + high + 14, halt, 11, "end", "faint")
    figure.height = top + -(-len(tiles) // columns) * (high + 24)
    if case.boxes is not None:
        legend(figure, figure.height + 12, (("right", "true box"), ("wrong", "box of this step")), 0)
        figure.height += 18
    series = [(path.label, list(enumerate(path.values.tolist(), 1))) for path in case.paths]
    return _below(figure, progress_chart(case.halting, card.steps, series))


def _heading(figure: Figure, card) -> float:
    lines = wrap(card.text, load_font(14), WIDTH / 1.12)
    for number, line in enumerate(lines):
        figure.text(0, 16 + 18 * number, line, 14, bold=True)
    y = 16 + 18 * len(lines)
    figure.text(
        0,
        y,
        f"answer: {card.answer}   right: {card.truth}   steps: {card.steps}",
        12,
        fill="faint",
        room=WIDTH,
    )
    return y + 10


def _box(box, x, y, wide, high, color, line=2.0) -> Rect:
    x0, y0, x1, y1 = (float(side) for side in box)
    return Rect(x + x0 * wide, y + y0 * high, (x1 - x0) * wide, (y1 - y0) * high, None, color, line)


def progress_chart(halting: np.ndarray, halted: int, series) -> Figure:
    """Shares over all steps, and the halting value; a line marks the step of halting.

    Args: halting: float (K,).  halted: that step.  series: (label, [(step, share), ...]) of each.
    """
    most = len(halting)
    figure = Figure("progress", "")
    axes = Axes(figure, (1, max(most, 2), 0, 1), ("step", ""), 150)
    axes.ticks(
        range(1, most + 1, max(1, round(most / 8))), (0, 0.5, 1), str, lambda value: f"{100 * value:.0f}%"
    )
    x = axes.x(halted)
    figure.add(Line(((x, axes.y(0)), (x, axes.y(1) - 4)), "ink", 1))
    figure.text(x, axes.y(1) - 8, "halts", 11, "middle", "faint")
    axes.line(list(enumerate(halting.tolist(), 1)), "fourth", dashed=True)
    entries = []
    for (label, points), color in zip(series, _PATHS, strict=False):
        axes.line(points, color, dots=True)
        entries.append((color, label))
    legend(figure, figure.height + 10, [*entries, ("fourth", "halting (dashed)")], 6)
    figure.height += 16
    return figure


def _below(figure: Figure, other: Figure) -> Figure:
    by = figure.height
    shift_down(other, by)
    figure.add(*other.marks)
    figure.height = other.height
    return figure


def board_sheet(board: Board, name: str, heading: bool = False) -> Figure:
    """The board, each found cell in the color of the step at which it settled; wrong cells are crossed."""
    figure = Figure(
        name,
        f"{board.card.text}: {board.card.answer} in {board.card.steps} steps; cells by settling step",
    )
    top = 24 if heading else 0
    if heading:
        figure.text(0, 16, f"{board.card.text}, {board.card.answer}", 14, bold=True, room=WIDTH)
    side = len(board.given)
    cell = WIDTH / side
    colors = settle_colors(board.card.steps)
    for row in range(side):
        for column in range(side):
            place = column * cell, top + row * cell, cell
            (_digit if board.kind == "sudoku" else _tile)(figure, board, row, column, place, colors)
    if board.kind == "sudoku":
        box = round(side**0.5)
        for i in range(0, side + 1, box):
            at = min(max(i * cell, 0.75), WIDTH - 0.75)
            figure.add(
                Line(((at, top), (at, top + WIDTH)), "ink", 1.5),
                Line(((0, top + at), (WIDTH, top + at)), "ink", 1.5),
            )
    figure.height = top + WIDTH
    _steps_legend(figure, colors)
    return _below(figure, _changes(board))


def _digit(figure: Figure, board: Board, row: int, column: int, place, colors) -> None:
    x, y, cell = place
    given = bool(board.given[row, column])
    step = int(board.settled[row, column])
    fill = "soft" if given else colors[step - 1]
    figure.add(Rect(x, y, cell, cell, fill, "rule", 0.75))
    ink = "ink" if given else _readable(fill)
    size = cell * 0.5
    figure.text(
        x + cell / 2,
        y + cell / 2 + size * 0.36,
        int(board.answer[row, column]),
        size,
        "middle",
        ink,
        bold=given,
    )
    if not given:
        figure.text(x + cell - 3, y + cell - 4, step, max(cell * 0.22, 8), "end", ink)
    if board.answer[row, column] != board.truth[row, column]:
        figure.add(Rect(x + 2.5, y + 2.5, cell - 5, cell - 5, None, "#ffffff", 4))
        figure.add(Rect(x + 2.5, y + 2.5, cell - 5, cell - 5, None, _WRONG, 2))
        figure.add(*_cross(x + cell * 0.06, y + cell * 0.06, cell * 0.34))


def _tile(figure: Figure, board: Board, row: int, column: int, place, colors) -> None:
    x, y, cell = place
    kind = int(board.given[row, column])
    on_path = int(board.answer[row, column]) == maze.PATH
    fill = (
        colors[int(board.settled[row, column]) - 1] if on_path else "faint" if kind == maze.WALL else "soft"
    )
    figure.add(Rect(x, y, cell, cell, fill))
    if kind in (maze.START, maze.GOAL):
        figure.text(x + cell / 2, y + cell * 0.85, "SG"[kind == maze.GOAL], cell * 0.95, "middle", bold=True)
    if board.answer[row, column] != board.truth[row, column]:
        figure.add(*_cross(x, y, cell))


def _cross(x: float, y: float, cell: float):
    low, high = cell * 0.12, cell * 0.88
    for color, line in (("#ffffff", 4), (_WRONG, 2)):
        yield Line(((x + low, y + low), (x + high, y + high)), color, line)
        yield Line(((x + low, y + high), (x + high, y + low)), color, line)


def _readable(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#1c1e26" if 0.299 * red + 0.587 * green + 0.114 * blue > 105 else "#ffffff"


def _steps_legend(figure: Figure, colors: list[str]) -> None:
    y = figure.height + 8
    figure.text(0, y + 11, "settled at step", 11, fill="faint")
    left = text_width("settled at step", 11) + 8
    wide = min(24.0, (WIDTH - left) / len(colors))
    for step, color in enumerate(colors, 1):
        figure.add(Rect(left + (step - 1) * wide, y, wide - 1, 15, color))
        figure.text(left + (step - 0.5) * wide, y + 11, step, 10, "middle", _readable(color))
    figure.height = y + 22


def _changes(board: Board) -> Figure:
    """Cells that changed from step to step, and the halting value."""
    open_cells = max(1, int((board.given == 0).sum() if board.kind == "sudoku" else board.given.size))
    shares = [min(1.0, float(value) / open_cells) for value in board.changed]
    series = [("cells that changed", list(enumerate(shares, 2)))]
    return progress_chart(board.halting, board.card.steps, series)


def is_wide(image: np.ndarray) -> bool:
    """Whether a picture needs the whole width of a phone, as NLVR's three boxes do."""
    return image.shape[1] > 2 * image.shape[0]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """The image, made smaller where a side is longer than `_MOST_PX`."""
    if max(image.shape[:2]) <= _MOST_PX:
        return image
    picture = Image.fromarray(image)
    picture.thumbnail((_MOST_PX, _MOST_PX))
    return np.asarray(picture)


def sheet(case: Case | Board, name: str, heading: bool = False) -> Figure:
    """The figure of one example."""
    return (board_sheet if isinstance(case, Board) else case_sheet)(case, name, heading)
