"""Pickles of data only: `pickle.load` runs whatever a file says, this refuses all but plain values."""

import io
import pickle
from pathlib import Path
from typing import Any

from saccade.data.readers.files import expect, read_bytes
from saccade.errors import SaccadeError, printable


class _Plain(pickle.Unpickler):
    """Lists, tuples, dicts, texts, numbers, booleans and None need no names; whatever does is refused."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it asks for {printable(f'{module}.{name}')[:60]}")


def read_plain_pickle(path: Path, kind: type) -> Any:
    """A pickle of lists, tuples, dicts, texts and numbers, written by Python 2 or 3.

    Args: kind: list or dict.
    Raises: SaccadeError: it cannot be read, is damaged, holds anything else (which is not run), or is no
        `kind`.
    """
    data = io.BytesIO(read_bytes(path))
    try:
        # Texts of Python 2 are bytes; one that is not UTF-8 keeps its bytes as escapes.
        value = _Plain(data, encoding="utf-8", errors="backslashreplace").load()
    except Exception as error:  # a damaged pickle raises a dozen types
        raise SaccadeError(
            f"{path} is no pickle of plain lists, dicts, texts and numbers, and nothing of it was run: "
            f"{printable(str(error) or type(error).__name__)[:100]}; get the file again"
        ) from None
    return expect(value, kind, str(path))
