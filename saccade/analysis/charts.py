"""The charts of a report: numbers in, figures out."""

import math
from collections.abc import Sequence

import numpy as np

from saccade.analysis.marks import WIDTH, Dot, Figure, Line, Rect, shift, text_width
from saccade.analysis.record import Bin, Breakdown, Confusion, Part

LEFT, RIGHT, TOP, BOTTOM = 48, 20, 30, 38  # of the frame of a chart with axes
_HEIGHT = 230


class Axes:
    """A frame with ticks; `x` and `y` turn values into places.

    Args: limits: (x0, x1, y0, y1).  names: of the axes; that of y stands above the frame.
    """

    def __init__(self, figure: Figure, limits, names: tuple[str, str], height: float = _HEIGHT):
        self.figure, (self.x0, self.x1, self.y0, self.y1) = figure, limits
        figure.height = height
        self.bottom = height - BOTTOM
        figure.text(4, TOP - 12, names[1], 12, fill="faint")
        figure.text(WIDTH - RIGHT, height - 4, names[0], 12, "end", "faint")

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - RIGHT - LEFT)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.y0) / (self.y1 - self.y0) * (self.bottom - TOP)

    def ticks(self, xs: Sequence[float], ys: Sequence[float], x_text=str, y_text=str) -> None:
        for value in ys:
            y = self.y(value)
            self.figure.add(Line(((LEFT, y), (WIDTH - RIGHT, y)), "rule", 1))
            self.figure.text(LEFT - 5, y + 4, y_text(value), 11, "end", "faint")
        for value in xs:
            self.figure.text(self.x(value), self.bottom + 15, x_text(value), 11, "middle", "faint")

    def line(self, points, color: str, dashed: bool = False, dots: bool = False) -> None:
        places = tuple((self.x(x), self.y(y)) for x, y in points)
        self.figure.add(Line(places, color, 2, dashed))
        if dots:
            self.figure.add(*(Dot(x, y, 3, color) for x, y in places))


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    span = max(high - low, 1e-9)
    unit = 10 ** math.floor(math.log10(span / most))
    step = next(unit * f for f in (1, 2, 5, 10) if span / (unit * f) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, last + 1)]


def legend(figure: Figure, y: float, entries: Sequence[tuple[str, str]], x: float = LEFT) -> None:
    """(color, text) side by side."""
    for color, text in entries:
        figure.add(Rect(x, y - 9, 10, 10, color, radius=2))
        figure.text(x + 14, y, text, 11)
        x += 14 + text_width(text, 11) + 14


def halting_chart(part: Part) -> Figure:
    """Accuracy against mean steps as the threshold moves, beside stopping everything at one step."""
    most = len(part.accuracy_by_step)
    fixed = list(enumerate(part.accuracy_by_step, 1))
    moving = [(row["mean_steps"], row["accuracy"]) for row in part.curve]
    values = [y for _, y in [*fixed, *moving]]
    ys = nice_ticks(max(0.0, min(values) - 0.01), min(1.0, max(values) + 0.01))
    figure = Figure("halting", f"{part.task}: accuracy against mean steps, as the halting threshold moves")
    axes = Axes(figure, (1, max(most, 2), ys[0], ys[-1]), ("mean steps", "accuracy"), _HEIGHT + 24)
    step = max(1, round(most / 8))
    digits = 0 if ys[1] - ys[0] > 0.0099 else 1
    axes.ticks(range(1, most + 1, step), ys, str, lambda value: f"{100 * value:.{digits}f}%")
    axes.line(fixed, "wrong", dashed=True, dots=True)
    axes.line(moving, "right")
    x, y = axes.x(part.operating["mean_steps"]), axes.y(part.operating["accuracy"])
    figure.add(Dot(x, y, 7, "paper"), Dot(x, y, 5.5, "right"))
    shift_down(figure, 38)
    legend(figure, 12, (("right", "model halts"), ("wrong", "all rows stop at one step")), 4)
    figure.add(Dot(9, 27, 5.5, "right"))
    in_use = f"{100 * part.operating['accuracy']:.1f}% in {part.operating['mean_steps']:.2f} steps"
    figure.text(18, 31, f"threshold in use: {in_use}", 12, bold=True)
    return figure


def shift_down(figure: Figure, by: float) -> None:
    """Make room above what is drawn."""
    figure.marks = shift(figure.marks, 0, by)
    figure.height += by


def steps_chart(part: Part) -> Figure:
    """How many examples halted at each step, right and wrong ones stacked."""
    wrong, right = part.histogram
    total = wrong + right
    most = len(total)
    ys = nice_ticks(0, 1.12 * max(1, int(total.max())), 4)
    figure = Figure("steps", f"{part.task}: examples by the step at which they halted")
    axes = Axes(figure, (0.5, most + 0.5, 0, ys[-1]), ("step of halting", "examples"))
    step = max(1, round(most / 12))
    axes.ticks(range(1, most + 1, step), ys, str, lambda value: f"{value:g}")
    wide = (WIDTH - LEFT - RIGHT) / most * 0.72
    for i in range(most):
        left, top = axes.x(i + 1) - wide / 2, axes.y(total[i])
        middle = axes.y(right[i])
        if right[i]:
            figure.add(Rect(left, middle, wide, axes.bottom - middle, "right"))
        if wrong[i]:
            figure.add(Rect(left, top, wide, middle - top, "wrong"))
        if total[i] and most <= 16:
            figure.text(axes.x(i + 1), top - 4, int(total[i]), 11, "middle")
    shift_down(figure, 14)
    legend(figure, 12, (("right", f"right ({right.sum()})"), ("wrong", f"wrong ({wrong.sum()})")), 4)
    return figure


def effort_chart(part: Part) -> Figure:
    """Steps against difficulty: a row is a level, shaded by the share of its examples that halted there."""
    rows, most = part.effort.shape
    rho = part.operating["spearman"]
    said = "not defined" if rho is None else f"{rho:+.2f}"
    figure = Figure("effort", f"{part.task}: steps against {part.difficulty}")
    wide_label = 12 + max(text_width(label, 12) for label in part.levels)
    left = min(max(wide_label, 34), 120)
    cell, high, top = (WIDTH - left - 8) / most, 26, 40
    figure.text(0, 12, f"Spearman {said}", 12, bold=True)
    figure.text(WIDTH - 8, 12, f"rows: {part.difficulty}", 11, "end", "faint")
    for step in range(1, most + 1):
        if most <= 12 or step % 2:
            figure.text(left + (step - 0.5) * cell, 32, step, 11, "middle", "faint")
    for row in range(rows):
        y, total = top + row * high, max(1, int(part.effort[row].sum()))
        figure.text(left - 6, y + 17, part.levels[row], 12, "end", room=left - 4)
        for step in range(most):
            count = int(part.effort[row, step])
            share = count / total
            figure.add(Rect(left + step * cell, y, cell - 1.5, high - 2, "soft"))
            if count:
                figure.add(
                    Rect(left + step * cell, y, cell - 1.5, high - 2, "right", opacity=0.12 + 0.88 * share)
                )
                color = "paper" if share > 0.45 else "ink"
                figure.text(
                    left + (step + 0.5) * cell - 0.75, y + 16, count, 11 if cell > 24 else 9, "middle", color
                )
    figure.height = top + rows * high + 22
    figure.text(left, figure.height - 6, "step of halting; shade: share of the row", 11, fill="faint")
    return figure


def reliability_chart(part: Part) -> Figure:
    """Accuracy against confidence, in bins; the area of a dot is the number of answers."""
    error = part.scores["calibration_error"]
    figure = Figure(
        "calibration", f"{part.task}: accuracy against confidence, calibration error {100 * error:.1f} points"
    )
    axes = Axes(figure, (0, 1, 0, 1), ("confidence", "accuracy"), 270)
    quarters = (0, 0.25, 0.5, 0.75, 1)
    axes.ticks(quarters, quarters, percent, percent)
    axes.line(((0, 0), (1, 1)), "faint", dashed=True)
    most = max((b.num for b in part.bins), default=1)
    for b in sorted(part.bins, key=lambda b: -b.num):
        figure.add(*_reliability_marks(axes, b, most))
    figure.text(axes.x(0.03), axes.y(0.93), f"ECE {100 * error:.1f} points", 12, bold=True)
    figure.text(axes.x(0.03), axes.y(0.86), "bars: from the diagonal to the bin", 11, fill="faint")
    return figure


def _reliability_marks(axes: Axes, b: Bin, most: int):
    x, y, even = axes.x(b.confidence), axes.y(b.accuracy), axes.y(b.confidence)
    yield Line(((x, even), (x, y)), "wrong", 2)
    yield Dot(x, y, 3 + 8 * math.sqrt(b.num / most), "right")


def breakdown_chart(given: Breakdown, task: str) -> Figure:
    """Accuracy of each group with its 95 % interval, its size and its mean steps."""
    figure = Figure(given.name, f"{task}: {given.title[0].lower()}{given.title[1:]}")
    label = min(118.0, 10 + max(text_width(group.label, 12) for group in given.groups))
    bar, right = label + 4, WIDTH - 138
    for x, text in ((right + 58, "accuracy"), (right + 98, "n"), (WIDTH - 2, "steps")):
        figure.text(x, 12, text, 11, "end", "faint")
    for row, group in enumerate(given.groups):
        y = 20 + row * 24
        figure.text(label, y + 14, group.label, 12, "end", room=label)
        figure.add(Rect(bar, y + 3, right - bar, 14, "soft", radius=2))
        figure.add(Rect(bar, y + 3, (right - bar) * group.accuracy, 14, "right", radius=2))
        low, high = (bar + (right - bar) * share for share in (group.low, group.high))
        figure.add(
            Line(((low, y + 10), (high, y + 10)), "paper", 4),
            Line(((low, y + 10), (high, y + 10)), "ink", 1.5),
        )
        for x, text in (
            (right + 58, f"{100 * group.accuracy:.1f}%"),
            (right + 98, str(group.num)),
            (WIDTH - 2, f"{group.mean_steps:.2f}"),
        ):
            figure.text(x, y + 14, text, 12, "end")
    figure.height = 20 + len(given.groups) * 24 + 18
    figure.text(bar, figure.height - 4, "line: 95% interval", 11, fill="faint")
    return figure


def confusion_chart(found: Sequence[Confusion], task: str) -> Figure:
    """The pairs that were confused most, as bars."""
    figure = Figure("confusions", f"{task}: answers confused most often")
    label, most = 168, max(pair.count for pair in found)
    figure.text(label, 12, "right answer, said", 11, "end", "faint")
    for row, pair in enumerate(found):
        y = 20 + row * 24
        figure.text(label, y + 14, f"{pair.truth}, said {pair.answer}", 12, "end", room=label)
        wide = (WIDTH - label - 44) * pair.count / most
        figure.add(Rect(label + 8, y + 3, wide, 14, "wrong", radius=2))
        figure.text(label + 14 + wide, y + 14, pair.count, 12)
    figure.height = 24 + len(found) * 24
    return figure


def overview_chart(parts: Sequence[Part]) -> Figure:
    """The steps of each task, one strip a task: the share of its examples that halted at each step."""
    figure = Figure("tasks", "Steps by task: share of the examples that halted at each step")
    most = max(part.histogram.shape[1] for part in parts)
    left = 10 + max(text_width(part.task, 12) for part in parts)
    cell = (WIDTH - left - 62) / most
    figure.text(WIDTH - 2, 12, "mean", 11, "end", "faint")
    for step in range(1, most + 1):
        figure.text(left + (step - 0.5) * cell, 12, step, 11, "middle", "faint")
    for row, part in enumerate(parts):
        base = 20 + (row + 1) * 44 - 8
        figure.text(left - 6, base - 8, part.task, 12, "end")
        counts = part.histogram.sum(axis=0)
        figure.add(Line(((left, base), (WIDTH - 56, base)), "rule", 1))
        for step, count in enumerate(counts):
            high = 34 * count / counts.max()
            if count:
                figure.add(Rect(left + step * cell + 1, base - high, cell - 2, high, "right"))
        figure.text(WIDTH - 2, base - 8, f"{part.operating['mean_steps']:.2f}", 12, "end")
    figure.height = 20 + len(parts) * 44 + 4
    return figure


def charts(part: Part) -> list[Figure]:
    """All charts of one task, most important first."""
    found = [halting_chart(part), steps_chart(part), reliability_chart(part), effort_chart(part)]
    found += [breakdown_chart(given, part.task) for given in part.breakdowns]
    return found + ([confusion_chart(part.confusions, part.task)] if part.confusions else [])


def settle_colors(count: int) -> list[str]:
    """Colors of steps 1 to `count`, light to dark (viridis reversed): the order is seen without color too."""
    anchors = np.array([(253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84)], float)
    places = np.linspace(0, len(anchors) - 1, max(count, 2))[:count]
    channels = [np.interp(places, np.arange(len(anchors)), channel) for channel in anchors.T]
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.round(np.stack(channels, 1)).astype(int)]
