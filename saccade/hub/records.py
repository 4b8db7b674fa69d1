"""Values out of the config.json of a stranger, each checked before it is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saccade.errors import SaccadeError

_LARGEST = 10_000_000  # no width, length or vocabulary is larger; a depth is far smaller


@dataclass(frozen=True, slots=True)
class Record:
    """A parsed config.json and where it came from.

    Methods raise SaccadeError for a key that is missing and has no default, or whose value cannot be meant.
    """

    values: Mapping[str, Any]
    source: str

    def get(self, key: str, default=None):
        """Any value, unchecked."""
        return self.values.get(key, default)

    def count(self, key: str, default: int | None = None, most: int = _LARGEST) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise SaccadeError(f"{self.source}: {key} is {value!r}; a whole number from 1 to {most} is meant")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise SaccadeError(f"{self.source}: {key} is {value!r}; a positive number is meant")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise SaccadeError(f"{self.source}: {key} is {value!r}; true or false is meant")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise SaccadeError(f"{self.source}: {key} is {value!r}; a text is meant")
        return value

    def only(self, key: str, *meant) -> None:
        """Raise unless the value, where there is one, is among those that Saccade computes."""
        value = self.values.get(key, meant[0])
        if not any(value == one for one in meant):
            raise SaccadeError(f"{self.source}: {key} is {value!r}; this version computes {meant[0]!r} only")

    def _value(self, key: str, default):
        value = self.values.get(key, default)
        if value is None:
            raise SaccadeError(f"{self.source} has no {key}; get the file again")
        return value
