"""Values of a row, checked: a RowError starts with the key that is wrong."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from saccade.data.readers.rows import Box
from saccade.data.rows import RowError

_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON may hold one alone, UTF-8 not
_WORDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _word(value: Any) -> str:
    return _WORDS.get(type(value), type(value).__name__)


def field(record: Any, key: str, kind: type, at: str = "") -> Any:
    """record[key], which must be a `kind`; a text must not be empty, a number must be finite.

    Args: at: where in the row the record lies, "answers[3].".
    Raises: RowError: missing, of another type, or empty.
    """
    if not isinstance(record, Mapping):
        raise RowError("type", f"{at.rstrip('.') or 'the row'}: {_word(record)}, not an object")
    if record.get(key) is None:
        there = ", ".join(name for name in record if isinstance(name, str))[:100]
        raise RowError("missing", f"{at}{key}: missing; there are {there or 'no keys'}")
    return checked(record[key], f"{at}{key}", kind)


def checked(value: Any, key: str, kind: type) -> Any:
    """The value, which must be a `kind`. Raises: RowError: as `field`."""
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise RowError("type", f"{key}: {_word(value)}, not {_WORDS[kind]}")
    if isinstance(value, int) and abs(value) >= 2**63:  # Python would not print it, or turn it into a float
        raise RowError("type", f"{key}: a number of {value.bit_length()} bits")
    if kind is str and not value.strip():
        raise RowError("text", f"{key}: empty")
    if kind is str and _SURROGATE.search(value):
        raise RowError("unreadable", f"{key}: {value[:60]!r} has half a character, which is no Unicode")
    if kind is float and not math.isfinite(value):
        raise RowError("type", f"{key}: {value}, not a finite number")
    return value


def optional(record: Mapping, key: str, kind: type, default: Any, at: str = "") -> Any:
    """record[key], or the default where it is missing or null. Raises: RowError: as `checked`."""
    return default if record.get(key) is None else checked(record[key], f"{at}{key}", kind)


def ident(record: Any, key: str, at: str = "") -> str:
    """An id, a whole number or a text, as text. Raises: RowError: missing or neither."""
    if isinstance(record, Mapping) and isinstance(record.get(key), str):
        return field(record, key, str, at)
    return str(field(record, key, int, at))


def ident_or_none(record: Any, key: str) -> str | None:
    """An id, or None where `ident` raises."""
    try:
        return ident(record, key)
    except RowError:
        return None


def texts(values: Sequence, key: str, cause: str = "answers") -> tuple[str, ...]:
    """A list of texts that is not empty. Raises: RowError."""
    if not values:
        raise RowError(cause, f"{key}: an empty list")
    return tuple(checked(value, f"{key}[{i}]", str) for i, value in enumerate(values))


def one_of(value: str, known: Sequence[str], key: str) -> str:
    """The value, which must be known. Raises: RowError."""
    if value not in known:
        raise RowError("unknown", f"{key}: {value[:60]!r}, not one of {', '.join(known)}")
    return value


def box_from_px(xywh: Sequence, size: tuple[int, int], key: str, spill_px: float = 1) -> Box:
    """(x, y, width, height) in pixels -> xyxy in [0, 1].

    Args:
        size: (height, width) of the picture, pixels.
        spill_px: how far it may reach over an edge, where it is cut (annotations are rounded).
    Raises: RowError: no four numbers, no area, or it reaches further than that.
    """
    if len(xywh) != 4:
        raise RowError("box", f"{key}: {len(xywh)} numbers, not 4")
    x, y, width, height = (float(checked(v, f"{key}[{i}]", float)) for i, v in enumerate(xywh))
    if width <= 0 or height <= 0:
        raise RowError("box", f"{key}: {width:g} x {height:g} pixels; both must be above 0")
    over = max(-x, -y, x + width - size[1], y + height - size[0])
    box = (
        max(x, 0) / size[1],
        max(y, 0) / size[0],
        min(x + width, size[1]) / size[1],
        min(y + height, size[0]) / size[0],
    )
    if over > spill_px or box[0] >= box[2] or box[1] >= box[3]:
        raise RowError(
            "box",
            f"{key}: x {x:g} to {x + width:g}, y {y:g} to {y + height:g} leaves a picture of {size[1]} x "
            f"{size[0]} pixels",
        )
    return box


def box_of(xyxy: Any, key: str) -> Box:
    """A box that is xyxy in [0, 1] already. Raises: RowError: it is not."""
    values = checked(xyxy, key, list)
    if len(values) != 4:
        raise RowError("box", f"{key}: {len(values)} numbers, not 4")
    x0, y0, x1, y1 = (float(checked(v, f"{key}[{i}]", float)) for i, v in enumerate(values))
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise RowError(
            "box", f"{key}: {x0:g} {y0:g} {x1:g} {y1:g} must be x0 < x1, y0 < y1, all within [0, 1]"
        )
    return x0, y0, x1, y1


def size_of(record: Any, at: str) -> tuple[int, int]:
    """(height, width) that a record of a picture states, pixels. Raises: RowError: missing or below 1."""
    height, width = (field(record, key, int, at) for key in ("height", "width"))
    if min(height, width) < 1:
        raise RowError("box", f"{at}height, width: {height} x {width} pixels is no picture")
    return height, width
