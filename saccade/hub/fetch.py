"""Names of the hub to local directories, through huggingface_hub: cached, pinned, offline.

Only data is fetched: safetensors, JSON and templates. Nothing that could run is, and nothing runs.
"""

import fnmatch
import hashlib
import logging
import re
from pathlib import Path

from saccade.errors import SaccadeError

CONFIGS = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_name(name: str) -> bool:
    """Whether a text could name a model of the hub: owner/name or owner/name@revision."""
    return _NAME.fullmatch(name) is not None


def fetch(
    name: str,
    revision: str | None = None,
    weights: bool = True,
    offline: bool = False,
    cache: str | Path | None = None,
) -> Path:
    """The local directory of a model, downloaded once and then kept.

    A connection that breaks is taken up again after the last 10 MiB that came, in the same run or a later
    one. HF_HUB_OFFLINE=1 is the same as offline.

    Args:
        name: owner/name, or owner/name@revision.  revision: a branch, tag or commit; None = the newest.
        weights: False = configuration and tokenizer only.  offline: never ask the network.
        cache: the folder to keep downloads in; None = that of huggingface_hub.
    Raises: SaccadeError: no such model or revision, no access, no network and nothing kept; a file whose
        content is not what the hub says (sha256); the extra [hub] is not installed.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise SaccadeError(f"{name!r} is no name of the hub; names are owner/name or owner/name@revision")
    name, revision = found["name"], revision or found["revision"]
    patterns = [*CONFIGS, *(WEIGHTS if weights else ())]
    folder = Path(_download(name, revision, patterns, offline, cache))
    for file in folder.glob("*.safetensors"):
        _check(file)
    return folder


def _download(name: str, revision: str | None, patterns: list[str], offline: bool, cache) -> str:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise SaccadeError(
            f"{name} is not a directory here, and names of the hub need: pip install 'saccade[hub]'"
        ) from error
    which = f"{name}@{revision}" if revision else name
    try:
        if WEIGHTS[0] in patterns and not (offline or _is_offline()):
            _go_on(name, revision, cache)
        return snapshot_download(
            name, revision=revision, allow_patterns=patterns, local_files_only=offline, cache_dir=cache
        )
    except errors.GatedRepoError as error:
        raise SaccadeError(
            f"{name} asks for its licence to be accepted: do so on the hub, then log in"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SaccadeError(f"{name} has no revision {revision!r} on the hub; check the name") from error
    except errors.RepositoryNotFoundError as error:
        raise SaccadeError(
            f"there is no model {name!r} on the hub, or it is private; check the name"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise SaccadeError(
            f"{which} is not among the downloads kept here and the hub cannot be asked; connect, or give a "
            "directory"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SaccadeError(f"{which} could not be fetched: {reason}; try again, what came is kept") from error


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _go_on(name: str, revision: str | None, cache) -> None:
    """Put large weights where `snapshot_download` looks for them, going on with what an earlier run got.

    huggingface_hub goes on within a run only: what it has of a file it throws away when the run ends.
    """
    from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    try:
        info = HfApi().model_info(name, revision=revision)
        names = [sibling.rfilename for sibling in info.siblings or ()]
        urls = [
            hf_hub_url(name, file, revision=info.sha)
            for file in names
            if any(fnmatch.fnmatch(file, pattern) for pattern in WEIGHTS)
        ]
        files = [(url, get_hf_file_metadata(url)) for url in urls]
    except Exception as error:  # every transport has errors of its own; `snapshot_download` knows them all
        logging.getLogger("saccade").info("%s: %s", name, error)
        return
    home, folder = Path(cache or constants.HF_HUB_CACHE), repo_folder_name(repo_id=name, repo_type="model")
    for url, found in files:
        blob = home / folder / "blobs" / (found.etag or "")
        lock = home / ".locks" / folder / f"{blob.name}.lock"  # huggingface_hub's own
        if not _SHA256.fullmatch(blob.name):
            continue  # small files are named otherwise, and soon here again
        for parent in (blob.parent, lock.parent):
            parent.mkdir(parents=True, exist_ok=True)
        part = blob.with_name(f"{blob.name}.part")
        with WeakFileLock(lock):
            if not blob.exists():
                _append(http_get, url, part, found.size, build_hf_headers())
                part.replace(blob)


def _append(http_get, url: str, part: Path, size: int | None, headers: dict) -> None:
    with part.open("ab") as stream:
        try:
            http_get(url, stream, headers=headers, resume_size=stream.tell(), expected_size=size)
        except Exception as error:  # as above
            reason = " ".join(str(error).split())[:200]
            raise SaccadeError(f"{url} broke off: {reason}; try again, what came is kept") from error


def _check(file: Path) -> None:
    """The hub keeps a large file under its sha256: what is on the disk must still have it."""
    expected = file.resolve().name
    if not _SHA256.fullmatch(expected):
        return
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise SaccadeError(
            f"{file} is damaged: its sha256 starts with {found[:8]}, expected {expected[:8]}; delete it "
            f"({file.resolve()}) and run again"
        )
