"""The entry: what is analysed, and which files become of it."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saccade.analysis.charts import charts, overview_chart
from saccade.analysis.html import to_html
from saccade.analysis.marks import Figure, framed, to_image, to_svg
from saccade.analysis.record import Report
from saccade.analysis.sheets import sheet
from saccade.errors import SaccadeError
from saccade.evaluation import environment
from saccade.evaluation.run import LEARNED
from saccade.files import write_bytes, write_text
from saccade.pipeline import check_learned

DATA = ("scenes", "nlvr", "sudoku", "maze")
FORMATS = ("html", "json", "svg", "png")
NUM, NUM_PUZZLES = 500, 24
TASKS = ("vqa", "statement", "panels", "match", "ground")
_UNSAID = ("vqa", "panels", "match", "ground")


def analyse(
    model,
    data: str | None = None,
    tasks: tuple[str, ...] | None = None,
    num: int | None = None,
    seed: int = 99,
    split: str = "test",
    batch_size: int | None = None,
    threshold: float | None = None,
    folder: str | Path | None = None,
    orders: int = 1,
    file: str | Path | None = None,
    progress: bool = True,
    name: str | None = None,
    command: str = "",
    **options,
) -> Report:
    """Look into a model that reasons in steps: accuracy, halting, calibration, examples, mistakes.

    Args:
        model: from `saccade.load`: a Pipeline, or a PuzzleModel.
        data: "scenes" or "nlvr", "sudoku" or "maze"; None = what the model is for.
        tasks: of TASKS, one part of the report each; None = the first of vqa, panels, match, ground that the
            model has learned, for nlvr "statement". Puzzles have none.
        num: examples of each task; None = 500, for nlvr and a `file` all, for made puzzles 24.
        seed, split, **options: of the scene source (see `evaluate`); `seed` also of made puzzles.
        batch_size: rows that reason at once; None = 50, puzzles 8.
        threshold: halting logit; None = the model's.
        folder, orders: of nlvr, as `evaluate`.  file: of puzzles: a Sudoku a line, or mazes as an npz.
        progress: a bar on standard error, if that is a terminal.
        name, command: what the report calls the model, and says made it.
    Returns: a Report. `write` makes files of it.
    Raises: SaccadeError: a model without reasoning steps, an unknown name, no data.
    """
    puzzles = _is_puzzle_model(model)
    kind = model.kind if puzzles else "scenes"
    data = data or kind
    tasks = _check(model, data, kind, tasks, num, batch_size, folder, file, orders)
    origin: dict[str, Any]
    if puzzles:
        from saccade.analysis.boards import collect_boards, puzzle_data

        count = num or (None if file else NUM_PUZZLES)
        parts = (
            collect_boards(
                model, puzzle_data(model, file, count, seed), threshold, batch_size or 8, progress
            ),
        )
        origin = {"file": str(file)} if file else {"seed": seed}
    else:
        from saccade.analysis.collect import collect_images

        given = (seed, split, batch_size or 50, threshold, folder, orders, progress, options)
        count = num or (None if data == "nlvr" else NUM)
        parts = tuple(collect_images(model, data, task, count, *given) for task in tasks)
        origin = {"split": "dev", "orders": orders} if data == "nlvr" else {"split": split, "seed": seed}
        origin |= {"options": options} if options else {}
    about = {"model": name or type(model.model).__name__, "data": data, **origin, "command": command}
    about |= {"made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "versions": environment(model.model)}
    return Report(about, parts)


def write(report: Report, out: str | Path, formats: tuple[str, ...] = ("html",)) -> list[Path]:
    """Write `out` (HTML), and beside it NAME.json and NAME_figures/*.svg and *.png.

    Returns: what was written.
    Raises: SaccadeError: an unknown format, `out` is no name of an HTML file, the disk is full.
    """
    out = check_out(out, formats)
    written = []
    if "json" in formats:
        path = out.with_suffix(".json")
        write_text(path, json.dumps(report.to_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        written.append(path)
    for kind in ("svg", "png"):
        for figure in figures(report) if kind in formats else ():
            path = out.with_name(f"{out.stem}_figures") / f"{figure.name}.{kind}"
            write_bytes(path, [_content(figure, kind)])
            written.append(path)
    if "html" in formats:
        write_text(out, to_html(report))
        written.append(out)
    return written


def figures(report: Report) -> list[Figure]:
    """Every figure of a report as it stands in a file of its own; names begin with the task."""
    found = [framed(overview_chart(report.parts), "tasks")]
    for part in report.parts:
        found += [framed(figure, f"{part.task}-{figure.name}") for figure in charts(part)]
        for i, case in enumerate(part.cases, 1):
            name = f"{part.task}-example-{i:02}"
            found.append(framed(sheet(case, name, heading=True), name, heading=False))
    return found


def check_out(out: str | Path, formats: tuple[str, ...]) -> Path:
    """Refuse what could not be written, before the work. Raises: SaccadeError."""
    out = Path(out)
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise SaccadeError(f"unknown format {', '.join(unknown)!r}: use some of {', '.join(FORMATS)}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise SaccadeError(f"{out} does not end in .html; the other formats are named after it")
    if out.is_dir():
        raise SaccadeError(f"{out} is a directory; give the name of a file in it")
    return out


def _content(figure: Figure, kind: str) -> bytes:
    if kind == "svg":
        return to_svg(figure, alone=True).encode()
    stream = io.BytesIO()
    to_image(figure).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _is_puzzle_model(model) -> bool:
    if hasattr(model, "solver"):
        return True
    if not hasattr(model, "reasoner"):
        kind = type(getattr(model, "model", model)).__name__
        raise SaccadeError(f"a {kind} has no reasoning steps to analyse; give a VLM-HRM, a TRM or an HRM")
    return False


def _first_learned(learned) -> str:
    return next((task for task in _UNSAID if LEARNED.get(task, task) in learned), _UNSAID[0])


def _check(model, data, kind, tasks, num, batch_size, folder, file, orders) -> tuple[str, ...]:
    """The tasks. Raises: SaccadeError."""
    if data not in DATA:
        raise SaccadeError(f"unknown data {data!r}: use one of {', '.join(DATA)}")
    own = ("scenes", "nlvr") if kind == "scenes" else (kind,)
    if data not in own:
        raise SaccadeError(f"this is a model of {kind}, not of {data}; use data {' or '.join(own)}")
    for what, value in (("num", num), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise SaccadeError(f"{what} is {value}: use 1 or more")
    if data != "nlvr" and (folder is not None or orders != 1):
        what = f"folder {folder}" if folder is not None else f"orders {orders}"
        raise SaccadeError(f"{what} is of nlvr, the data is {data}; leave it out, or use data nlvr")
    if kind != "scenes":
        if tasks:
            raise SaccadeError(f"task {tasks[0]!r}: a model of {kind} has one task; leave it out")
        return ()
    if file is not None:
        raise SaccadeError(f"{file} is given as a file of puzzles, the data is {data}; leave file out")
    tasks = tuple(tasks or (("statement",) if data == "nlvr" else (_first_learned(model.model.tasks),)))
    for task in tasks:
        if task not in TASKS:
            raise SaccadeError(
                f"task {task!r} cannot be analysed step by step: use one of {', '.join(TASKS)}"
            )
        check_learned(model.model, LEARNED.get(task, task))
    if data == "nlvr" and tasks != ("statement",):
        raise SaccadeError(f"task {tasks[0]!r}: nlvr has statements only; use task statement")
    if data == "nlvr" and folder is None:
        raise SaccadeError("nlvr needs the folder that holds dev.jsonl and dev_images.zip: give folder")
    if not 1 <= orders <= 6:
        raise SaccadeError(f"orders is {orders}: an nlvr example has 1 to 6 permutations")
    return tasks
