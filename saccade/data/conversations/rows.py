"""One row of a data set -> one conversation: the formats of The Cauldron and FineVision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from saccade.data.chat import check_messages
from saccade.data.rows import RowError, inside
from saccade.errors import SaccadeError, printable

RATINGS = ("relevance", "image_correspondence", "visual_dependency", "formatting")


class Rows(Protocol):
    """Where conversations come from. `rows[i]` may raise RowError."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> "Conversation": ...


@dataclass(frozen=True, slots=True)
class Conversation:
    """Pictures, as `read_image` takes them, and messages {"role", "content"} about them.

    where: the file and row it comes from, for errors.
    """

    images: tuple
    messages: tuple[dict, ...]
    where: str = "a conversation"


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Which turns of a row are kept.

    A row is a dict: `images`, a list of pictures, of paths or of {"bytes", "path"} (or `image`, a single
    one); `texts`, a list of turns {"user", "assistant"}, or `messages`, a list of {"role", "content"}.
    Ratings, one number or null for each turn, are in `relevance_ratings` etc.; where such a list is missing,
    the smallest, `relevance_min`, stands for all. A turn without a rating is kept.

    Args:
        relevance_min, image_correspondence_min, visual_dependency_min, formatting_min: least rating of a
            turn of `texts`; None = any.
        max_turns: keep the first turns only (1 for v0.1 checkpoints); None = all.
    """

    relevance_min: float | None = None
    image_correspondence_min: float | None = None
    visual_dependency_min: float | None = None
    formatting_min: float | None = None
    max_turns: int | None = None

    def __post_init__(self):
        if self.max_turns is not None and self.max_turns < 1:
            raise SaccadeError(f"max_turns is {self.max_turns}, a conversation needs 1; raise it")

    @property
    def limits(self) -> dict[str, float]:
        limits = {name: getattr(self, f"{name}_min") for name in RATINGS}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @property
    def columns(self) -> set[str]:
        """Keys that are read."""
        rated = {f"{name}_{kind}" for name in self.limits for kind in ("ratings", "min")}
        return {"images", "image", "texts", "messages"} | rated

    def conversation(self, row: Any, where: str, folder: Path | None = None) -> Conversation:
        """Read one row.

        Args: where: for errors.  folder: what paths of images are relative to, and never leave.
        Raises: RowError: it cannot be used, or no turn is kept; says where and why.
        """
        try:
            if not isinstance(row, Mapping):
                raise RowError("type", f"the row is a {type(row).__name__}, not a dict of keys")
            messages = self._messages(row)
            return Conversation(tuple(pictures(row, folder)), tuple(messages), where)
        except RowError as error:
            raise RowError(error.cause, f"{where}: {error}") from None

    def _messages(self, row: Mapping) -> list[dict]:
        if row.get("texts") is None and row.get("messages") is not None:
            return self._first(given_messages(row["messages"]))
        turns = _list(_get(row, "texts"), "texts")
        if not turns:
            raise RowError("text", "texts is empty")
        kept = [turn for at, turn in enumerate(turns) if self._passes(row, at, len(turns))]
        if not kept:
            raise RowError("rating", "no turn reaches the rating limits")
        return self._first([message for turn in kept for message in _turn(turn)])

    def _first(self, messages: list[dict]) -> list[dict]:
        """Up to and with the answer of the last turn that is wanted."""
        answers = [at for at, m in enumerate(messages, 1) if m["role"] == "assistant"]
        last = answers[: self.max_turns][-1] if answers else 0
        return messages[:last]

    def _passes(self, row: Mapping, at: int, turns: int) -> bool:
        for name, limit in self.limits.items():
            key = f"{name}_ratings"
            ratings = row.get(key)
            if ratings is None:
                key = f"{name}_min"
                ratings = [row.get(key)] * turns
            if len(_list(ratings, key)) != turns:
                raise RowError("type", f"{key} has {len(ratings)} values for {turns} turns")
            if ratings[at] is not None and _number(ratings[at], key) < limit:
                return False
        return True


def _get(row: Mapping, key: str):
    if row.get(key) is None:
        raise RowError("missing", f"there is no `{key}`; it has {printable(', '.join(map(str, row)))[:100]}")
    return row[key]


def _list(value, key: str) -> Sequence:
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise RowError("type", f"{key} is a {type(value).__name__}, not a list")
    return value if isinstance(value, (list, tuple)) else value.tolist()


def _number(value, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise RowError("type", f"{key} holds a {type(value).__name__}, not a number")
    return float(value)


def _turn(turn) -> list[dict]:
    if not isinstance(turn, Mapping):
        raise RowError("type", f"a turn is a {type(turn).__name__}, not a dict")
    messages = []
    for role in ("user", "assistant"):
        text = _get(turn, role)
        if not isinstance(text, str):
            raise RowError("type", f"what the {role} says is a {type(text).__name__}, not a text")
        if not text.strip():
            raise RowError("text", f"the {role} says nothing")
        messages.append({"role": role, "content": text.strip()})
    return messages


def given_messages(messages) -> list[dict]:
    """A list of messages, checked. Raises: RowError: an unknown role, no text, nobody asks or answers."""
    try:
        checked = check_messages(_list(messages, "messages"))
    except RowError:
        raise
    except SaccadeError as error:
        raise RowError("type" if messages else "text", str(error)) from None
    answers = [m for m in checked if m["role"] == "assistant"]
    if not answers or not all(m["content"].strip() for m in answers):
        raise RowError("text", "the assistant says nothing")
    return checked


def pictures(row: Mapping, folder: Path | None) -> list:
    """The pictures of a row: bytes, arrays and Pillow images as they are, paths within the folder."""
    if "images" not in row and "image" not in row:
        raise RowError("missing", "there is no `images`; write an empty list for none")
    if row.get("images") is not None:
        return [picture(one, folder) for one in _list(row["images"], "images")]
    return [] if row.get("image") is None else [picture(row["image"], folder)]


def picture(value, folder: Path | None):
    """One picture of a row. Raises: RowError: it is none, or a path that leaves the folder."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, (bytes, bytearray, np.ndarray, Image.Image)):
        return value
    if not isinstance(value, str):
        raise RowError("image", f"an image is a {type(value).__name__}; give bytes, or a path as text")
    return inside(value, folder)
