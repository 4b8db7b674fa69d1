"""A figure is a list of marks; it becomes SVG text or pixels. One list, so both show the same.

Figures are drawn for the width of a phone (`WIDTH` units) and scale from there. Colors are roles: SVG gives
each role a class, which the style sheet fills for light, dark and paper.
"""

import base64
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw

from saccade.draw import load_font, shortened, wrap
from saccade.errors import printable

WIDTH = 360
# Role -> (light, dark). Text has a contrast of at least 4.5 on `paper`; `right` and `wrong` differ for
# every kind of color vision, and words say which is which.
ROLES = {
    "paper": ("#ffffff", "#15171c"),
    "ink": ("#1c1e26", "#eceef2"),
    "faint": ("#5a6070", "#a9afbd"),
    "rule": ("#d5d9e2", "#3a3f4b"),
    "soft": ("#eef1f6", "#232731"),
    "right": ("#0a5fa8", "#6cb2f0"),
    "wrong": ("#b4400c", "#f2935c"),
    "third": ("#6b3fa0", "#c3a1ea"),
    "fourth": ("#1d7445", "#6cc795"),
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_OVERSAMPLING = 2
_MARGIN = 14
# Fonts of browsers run wider than Pillow's: what is measured with one leaves room for the other.
_WIDER = 1.12


@dataclass(frozen=True, slots=True)
class Area:
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Rect(Area):
    fill: str | None
    stroke: str | None = None
    line: float = 1.0
    radius: float = 0.0
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    points: tuple[tuple[float, float], ...]
    stroke: str
    line: float = 1.5
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    radius: float
    fill: str


@dataclass(frozen=True, slots=True)
class Text:
    x: float
    y: float  # of the baseline
    text: str
    size: float = 12
    anchor: str = "start"
    fill: str = "ink"
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Picture(Area):
    pixels: np.ndarray  # uint8 (H, W, 3)


Mark = Rect | Line | Dot | Text | Picture


@dataclass
class Figure:
    """name: of its file.  title: above it, and what a screen reader says.  marks: later ones on top."""

    name: str
    title: str
    height: float = 0
    width: float = WIDTH
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        self.marks += marks

    def text(self, x, y, text, size=12, anchor="start", fill="ink", bold=False, room=None) -> None:
        """A line of text, shortened to `room` units where that is given."""
        text = printable(str(text))
        if room is not None:
            text = shortened(text, load_font(round(size)), room / _WIDER)
        self.add(Text(x, y, text, size, anchor, fill, bold))


def shift(marks: Iterable[Mark], right: float, down: float) -> list[Mark]:
    """The same marks elsewhere."""
    return [
        replace(mark, points=tuple((x + right, y + down) for x, y in mark.points))
        if isinstance(mark, Line)
        else replace(mark, x=mark.x + right, y=mark.y + down)
        for mark in marks
    ]


def framed(figure: Figure, name: str, heading: bool = True) -> Figure:
    """The figure for a file of its own: with a margin, and with its title where `heading` says so."""
    lines = wrap(figure.title, load_font(14), WIDTH / _WIDER) if heading else []
    top = _MARGIN + 19 * len(lines) + (8 if lines else 0)
    whole = Figure(name, figure.title, figure.height + top + _MARGIN, figure.width + 2 * _MARGIN)
    for number, line in enumerate(lines, 1):
        whole.text(_MARGIN, _MARGIN + 19 * number - 5, line, 14, bold=True)
    whole.add(*shift(figure.marks, _MARGIN, top))
    return whole


def text_width(text: str, size: float) -> float:
    """Units that a line of text takes, with room for a browser's wider font."""
    return load_font(round(size)).getlength(text) * _WIDER


def style(scope: str = "") -> str:
    """The style sheet of the roles: light, dark where the reader prefers it, and light again on paper."""

    def rules(which: int) -> str:
        return "".join(
            f"{scope}.f-{role}{{fill:{c[which]}}}{scope}.s-{role}{{stroke:{c[which]}}}"
            for role, c in ROLES.items()
        )

    shared = f"{scope}text{{font-family:{_FONT};stroke:none}}{scope}.no{{fill:none}}"
    return f"{shared}{rules(0)}@media screen and (prefers-color-scheme:dark){{{rules(1)}}}"


def to_svg(figure: Figure, alone: bool = False) -> str:
    """SVG text; `alone` gives it its own style sheet and background. Nothing in it points outside."""
    width, height = figure.width, _number(figure.height)
    title = html.escape(printable(figure.title))
    space = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
    parts = [f'<svg{space} viewBox="0 0 {_number(width)} {height}" role="img" aria-label="{title}">']
    if alone:
        parts.append(f"<title>{title}</title><style>{style()}</style>")
        parts.append(f'<rect class="f-paper" width="{_number(width)}" height="{height}"/>')
    parts += [_svg(mark) for mark in figure.marks]
    return "".join(parts) + "</svg>"


def to_image(figure: Figure, scale: int = 2) -> Image.Image:
    """The same in pixels, light."""
    factor = scale * _OVERSAMPLING
    size = round(figure.width * factor), round(figure.height * factor)
    sheet = Image.new("RGB", size, ROLES["paper"][0])
    pen = ImageDraw.Draw(sheet, "RGBA")
    for mark in figure.marks:
        _draw(sheet, pen, mark, factor)
    return sheet.reduce(_OVERSAMPLING)


def data_uri(pixels: np.ndarray) -> str:
    """uint8 (H, W, 3) as an address that holds the picture itself: JPEG, or PNG where that is smaller."""
    found = []
    for name, options in (("JPEG", {"quality": 82}), ("PNG", {"optimize": True})):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, name, **options)
        found.append((len(stream.getvalue()), name.lower(), stream.getvalue()))
    _, kind, content = min(found)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _paint(letter: str, role: str | None) -> tuple[str, str]:
    """(class, attribute). A role is a class, and its light color for what reads no style sheet."""
    name = {"f": "fill", "s": "stroke"}[letter]
    if role is None:
        return ("no", ' fill="none"') if letter == "f" else ("", "")
    if role in ROLES:
        return f"{letter}-{role}", f' {name}="{ROLES[role][0]}"'
    return "", f' {name}="{html.escape(role)}"'


def _sides(mark: Area) -> str:
    return " ".join(f'{name}="{_number(getattr(mark, name))}"' for name in ("x", "y", "width", "height"))


def _svg(mark: Mark) -> str:
    n = _number
    if isinstance(mark, Picture):
        return f'<image {_sides(mark)} preserveAspectRatio="none" href="{data_uri(mark.pixels)}"/>'
    if isinstance(mark, Text):
        name, color = _paint("f", mark.fill)
        anchor = "" if mark.anchor == "start" else f' text-anchor="{mark.anchor}"'
        weight = ' font-weight="700"' if mark.bold else ""
        place = f'x="{n(mark.x)}" y="{n(mark.y)}" font-size="{n(mark.size)}"'
        return f'<text class="{name}"{color} {place}{anchor}{weight}>{html.escape(mark.text)}</text>'
    if isinstance(mark, Dot):
        name, color = _paint("f", mark.fill)
        return f'<circle class="{name}"{color} cx="{n(mark.x)}" cy="{n(mark.y)}" r="{n(mark.radius)}"/>'
    if isinstance(mark, Line):
        name, color = _paint("s", mark.stroke)
        points = " ".join(f"{n(x)},{n(y)}" for x, y in mark.points)
        dashes = ' stroke-dasharray="4 3"' if mark.dashed else ""
        return (
            f'<polyline class="no {name}" fill="none"{color} points="{points}" stroke-width="{n(mark.line)}"'
            f' stroke-linejoin="round"{dashes}/>'
        )
    fill, edge = _paint("f", mark.fill), _paint("s", mark.stroke)
    extra = f' rx="{n(mark.radius)}"' if mark.radius else ""
    extra += f' stroke-width="{n(mark.line)}"' if mark.stroke else ""
    extra += f' fill-opacity="{n(mark.opacity)}"' if mark.opacity < 1 else ""
    names = " ".join(filter(None, (fill[0], edge[0])))
    return f'<rect class="{names}"{fill[1]}{edge[1]} {_sides(mark)}{extra}/>'


def _color(role: str | None, opacity: float = 1.0) -> tuple[int, int, int, int] | None:
    if role is None:
        return None
    text = ROLES[role][0] if role in ROLES else role
    red, green, blue = (int(text[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue, round(255 * opacity)


def _draw(sheet: Image.Image, pen, mark: Mark, k: int) -> None:
    if isinstance(mark, Picture):
        size = max(1, round(mark.width * k)), max(1, round(mark.height * k))
        enlarged = Image.fromarray(mark.pixels).resize(size, Image.Resampling.BICUBIC)
        sheet.paste(enlarged, (round(mark.x * k), round(mark.y * k)))
    elif isinstance(mark, Text):
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[mark.anchor]
        stroke = {"stroke_width": max(1, k // 4), "stroke_fill": _color(mark.fill)} if mark.bold else {}
        font = load_font(round(mark.size * k))
        pen.text((mark.x * k, mark.y * k), mark.text, _color(mark.fill), font=font, anchor=anchor, **stroke)
    elif isinstance(mark, Dot):
        x, y, r = mark.x * k, mark.y * k, mark.radius * k
        pen.ellipse((x - r, y - r, x + r, y + r), fill=_color(mark.fill))
    elif isinstance(mark, Line):
        for start, end in _dashes(mark) if mark.dashed else zip(mark.points, mark.points[1:], strict=False):
            ends = [(x * k, y * k) for x, y in (start, end)]
            pen.line(ends, fill=_color(mark.stroke), width=max(1, round(mark.line * k)))
    else:
        x0, y0 = mark.x * k, mark.y * k
        box = (x0, y0, max(x0, (mark.x + mark.width) * k - 1), max(y0, (mark.y + mark.height) * k - 1))
        edge = {"outline": _color(mark.stroke), "width": max(1, round(mark.line * k))} if mark.stroke else {}
        radius = min(mark.radius, mark.width / 2, mark.height / 2) * k
        pen.rounded_rectangle(box, radius, fill=_color(mark.fill, mark.opacity), **edge)


def _dashes(mark: Line, on: float = 4, off: float = 3):
    """Pieces of a dashed line, as SVG's stroke-dasharray cuts it."""
    place = 0.0  # in the pattern
    for (x0, y0), (x1, y1) in zip(mark.points, mark.points[1:], strict=False):
        length, at = float(np.hypot(x1 - x0, y1 - y0)), 0.0
        while at < length - 1e-6:
            inside = place < on - 1e-6
            step = min((on if inside else on + off) - place, length - at)
            if inside:
                a, b = at / length, (at + step) / length
                yield (x0 + (x1 - x0) * a, y0 + (y1 - y0) * a), (x0 + (x1 - x0) * b, y0 + (y1 - y0) * b)
            at, place = at + step, place + step
            if place >= on + off - 1e-6:
                place = 0.0
