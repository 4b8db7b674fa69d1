"""Conversations in every format, written by the tests themselves."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3)).astype(np.uint8)


def png(seed: int, *size: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(seed, *size)).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int = 7) -> list[dict]:
    """As The Cauldron and FineVision have them: none to two images, one to three turns, ratings."""
    found = []
    for i in range(count):
        turns = 1 + i % 3
        texts = [{"user": f"{i} what? " + "so " * t, "assistant": f"{i} that é {t}"} for t in range(turns)]
        images = [{"bytes": png(10 * i + k), "path": None} for k in range((i + 1) % 3)]
        ratings = [[5, 1, None][(i + t) % 3] for t in range(turns)]
        found.append({"images": images, "texts": texts, "relevance_ratings": ratings, "source": "made"})
    return found


def write_jsonl(path: Path, given: list[dict]) -> Path:
    """Images go beside it, into img/; there is an empty line, and none at the end."""
    (path.parent / "img").mkdir(parents=True, exist_ok=True)
    lines = []
    for i, row in enumerate(given):
        names = []
        for k, image in enumerate(row["images"]):
            names.append(f"img/{path.stem}_{i}_{k}.png")
            (path.parent / names[-1]).write_bytes(image["bytes"])
        lines.append(json.dumps({**row, "images": names}, ensure_ascii=i % 2 == 0))
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def write_tar(path: Path, given: list[dict]) -> Path:
    members = {}
    for i, row in enumerate(given):
        many = len(row["images"]) > 1
        for k, image in enumerate(row["images"]):
            members[f"part/{i:04}.{k}.png" if many else f"part/{i:04}.PNG"] = image["bytes"]
        rest = {key: value for key, value in row.items() if key != "images"}
        members[f"part/{i:04}.json"] = json.dumps(rest).encode()
    return add_members(path, members)


def add_members(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_parquet(path: Path, given: list[dict], group: int = 3, **options) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(given), path, row_group_size=group, **options)
    return path
