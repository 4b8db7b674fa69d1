"""A report as one HTML page that needs nothing else. Whatever comes from data or model is escaped."""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from saccade.analysis.charts import charts, overview_chart
from saccade.analysis.marks import Figure, data_uri, style, to_svg
from saccade.analysis.record import Board, Part, Report
from saccade.analysis.sheets import is_wide, sheet, thumbnail
from saccade.errors import printable

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_ABOUT = ("model", "data", "split", "seed", "orders", "options", "file", "command", "made")


def to_html(report: Report) -> str:
    """The page. Its figures are SVG inside it, its pictures data addresses; it loads and runs nothing."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    helpers: dict[str, Any] = {
        "pct": lambda share: f"{100 * share:.1f}%",
        "uri": lambda image: data_uri(thumbnail(image)),
        "tiles": _tiles,
        "small": lambda cards: not any(card.image is not None and is_wide(card.image) for card in cards),
        "charts": lambda part: [_shown(figure) for figure in charts(part)],
        "boards": lambda part: any(isinstance(case, Board) for case in part.cases),
        "sheet": lambda case, number: Markup(to_svg(sheet(case, f"example-{number}"))),
    }
    environment.globals |= helpers
    about = {key: _words(report.about[key]) for key in _ABOUT if report.about.get(key) not in (None, {}, "")}
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{_words(report.about['model'])} on {report.about['data']}",
        figure_style=Markup(style("svg ")),
        about=about | {"versions": " ".join(f"{k} {v}" for k, v in report.about["versions"].items())},
        parts=report.parts,
        overview=_shown(overview_chart(report.parts)),
    )


def _shown(figure: Figure) -> dict:
    return {"title": figure.title, "svg": Markup(to_svg(figure))}


def _words(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return printable(str(value))


def _tiles(part: Part):
    """(label, value) of the scores at the head of a task."""
    scores, most = part.scores, part.scores["max_steps"]
    yield "accuracy, model halts", f"{100 * scores['accuracy']:.1f}%"
    yield f"accuracy, all {most} steps", f"{100 * scores['accuracy_all_steps']:.1f}%"
    yield f"mean steps of {most}", f"{scores['mean_steps']:.2f}"
    yield "calibration error (ECE), points", f"{100 * scores['calibration_error']:.1f}"
    rho = part.operating["spearman"]
    yield f"Spearman, steps with {part.difficulty}", "–" if rho is None else f"{rho:+.2f}"
    if "consistency" in scores:
        yield "consistency (sentences right on all pictures)", f"{100 * scores['consistency']:.1f}%"
    if "mean_iou" in scores:
        yield "mean IoU", f"{scores['mean_iou']:.3f}"
