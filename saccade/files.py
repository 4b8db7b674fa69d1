"""Writing that survives a crash, and reading that notices damage.

Everything Saccade saves goes through these functions: data reaches the disk before its final name exists, so
a reader sees the old content or the new content and never a mixture.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from saccade.errors import SaccadeError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The library's own table for reading lacks bfloat16.
_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def write_error(error: OSError, path: Path) -> SaccadeError:
    """The line a user reads when `path` could not be written."""
    if error.errno in _DISK_FULL:
        return SaccadeError(
            f"no space left to write {path}: free some disk space and run again; nothing was changed"
        )
    if error.errno in _REFUSED:
        return SaccadeError(f"not allowed to write {path}: choose a folder you may write to")
    return SaccadeError(f"could not write {path}: {error.strerror or error}")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Generator[Path]:
    """Fill a folder under a temporary name; it gets its real name only when complete and on disk.

    Args:
        path: the folder to create. An existing one of the same kind (it has a file of the same name, or
            nothing) is replaced as a whole.
    Yields: the temporary folder, beside `path`, to write into.
    Raises: SaccadeError: disk full, no permission, or `path` is a file or a folder of something else. The old
        content of `path` is then intact and no temporary folder is left.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    except OSError as error:
        raise write_error(error, path) from error
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            _fsync(entry)
        _fsync(temporary)
        temporary.chmod(0o777 & ~_umask())  # mkdtemp gives 0700, which would hide a shared checkpoint
        _replace_directory(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already after a successful rename


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _replace_directory(source: Path, target: Path) -> None:
    """Rename `source` to `target`. No folder can be renamed over a full one, so the old one steps aside."""
    if not target.exists():
        os.rename(source, target)
        return
    if not target.is_dir():
        raise SaccadeError(f"{target} is a file, and would be lost; give the name of a folder")
    there, written = ({entry.name for entry in folder.iterdir()} for folder in (target, source))
    if there and not there & written:
        raise SaccadeError(
            f"{target} holds other things (such as {min(there)}), which would be lost; give another folder"
        )
    aside = source.with_suffix(".old")
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except OSError:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def remove_partial(folder: str | os.PathLike) -> list[Path]:
    """Delete what a killed process left half-written in `folder`; returns what was removed."""
    leftovers = sorted(Path(folder).glob(".*.partial"))
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)
    return leftovers


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a small file whole or not at all. Raises: SaccadeError: disk full or no permission."""
    write_bytes(Path(path), [text.encode()])


def write_bytes(path: Path, chunks: list[bytes]) -> None:
    """Write a file whole or not at all. Raises: SaccadeError: disk full or no permission."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a safetensors file, whole or not at all.

    Args:
        path: the file. tensors: name -> array; bfloat16 survives. metadata: short strings for the header.
    Returns: the sha256 of the file, to hand to `load_tensors` later.
    Raises: SaccadeError: disk full or no permission.
    """
    # ascontiguousarray turns a scalar into a vector of one, hence the reshape.
    arrays = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in tensors.items()}
    content = safetensors.numpy.save(arrays, metadata=dict(metadata) if metadata else None)
    write_bytes(Path(path), [content])
    return hashlib.sha256(content).hexdigest()


def load_tensors(path: str | os.PathLike, sha256: str | None = None) -> dict[str, np.ndarray]:
    """Read a safetensors file, checking its hash where one is known.

    Raises: SaccadeError: missing, a folder, unreadable, truncated, or another content than `sha256` says.
    """
    path = Path(path)
    content = _read_bytes(path)
    if sha256 is not None:
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise SaccadeError(
                f"{path} is damaged: its sha256 starts with {found[:8]}, expected {sha256[:8]}; "
                "fetch or copy the file again"
            )
    try:
        entries = safetensors.deserialize(content)
    except (safetensors.SafetensorError, ValueError) as error:
        raise SaccadeError(
            f"{path} is not a complete safetensors file ({len(content)} bytes: {error}); copy the file again"
        ) from error
    return {name: _array(name, entry, path) for name, entry in entries}


def _array(name: str, entry: dict, path: Path) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise SaccadeError(
            f"{path} holds {name} as {entry['dtype']}; this version reads {', '.join(_DTYPES)}"
        )
    # frombuffer gives a read-only view of bytes
    return np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"]).copy()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SaccadeError(f"{path} does not exist; check the name") from error
    except IsADirectoryError as error:
        raise SaccadeError(f"{path} is a folder; a file was expected") from error
    except OSError as error:
        raise SaccadeError(f"could not read {path}: {error.strerror or error}") from error
