"""How results and errors look, for people and for programs."""

import json
import sys
import warnings
from typing import Any, TextIO

import typer

from saccade.errors import SaccadeWarning, printable

_JSON_KEY = "saccade.json"
_BLOCKS = " ▏▎▍▌▋▊▉█"


def _remember_json(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[_JSON_KEY] = value  # shared with the parent, which prints the errors
    return value


JsonOption: Any = typer.Option(
    False, "--json", callback=_remember_json, is_eager=True, help="Print one JSON object instead of text."
)
ModelOption: Any = typer.Option(
    "vlm_hrm_scenes",
    "--model",
    "-m",
    help="A bundled model's name (see `saccade list`), a directory, or a hub name, owner/name[@revision].",
)


def wants_json(ctx) -> bool:
    """Whether the command that runs was given --json."""
    return bool(ctx.meta.get(_JSON_KEY, False))


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=1, default=_plain))


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_error(message: str, as_json: bool) -> None:
    """The line for people on stderr; with --json also {"error": line} on stdout, which stays parseable."""
    line = printable(" ".join(message.split()))
    print(f"error: {line}", file=sys.stderr)
    if as_json:
        print_json({"error": line})


def tell_warnings() -> None:
    """Print what Saccade warns of as one line for people; other warnings stay as they are."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, SaccadeWarning):
            print(f"note: {printable(' '.join(str(message).split()))}", file=sys.stderr)
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show  # ty: ignore[invalid-assignment]  # functions are types of their own to it


def say(text: str, style: str | None = None) -> None:
    """One line on standard output, colored on a terminal, never wrapped or read as markup."""
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False).print(Text(text, style=style or ""), soft_wrap=True)


def bar(share: float, width: int = 12) -> str:
    """A share in [0, 1] as a bar of exactly `width` characters, in eighths where the encoding has them."""
    share = min(max(share, 0.0), 1.0)
    encoding = sys.stdout.encoding or "ascii"
    try:
        _BLOCKS.encode(encoding)
    except UnicodeEncodeError:
        return ("#" * round(share * width)).ljust(width, ".")
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
