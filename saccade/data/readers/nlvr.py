"""NLVR (Suhr et al. 2017): sentences that are true or false of pictures of three boxes."""

import zipfile
from pathlib import Path
from typing import ClassVar

from saccade.data.readers.fields import checked, field, ident, ident_or_none
from saccade.data.readers.files import find, json_lines
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError
from saccade.data.scenes.nlvr import IMAGE_ORDERS, permute_groups, scene_from_structured
from saccade.data.scenes.scene import Scene
from saccade.errors import SaccadeError


class Nlvr:
    """dev.jsonl and dev_images.zip: the development split, six pictures an example.

    A row is a picture, its id EXAMPLE-K: the boxes of the example in IMAGE_ORDERS[K]. The answer is "true" or
    "false", the group the sentence's, `scene` what the picture shows.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("dev",)

    def __init__(self, folder: Path, images: Path, split: str):
        self.split = split
        path = find(folder, "dev.jsonl")
        self.archive = find(images, "dev_images.zip")
        self._open = _archive(self.archive)
        self.records = [
            record for index, entry in json_lines(path) for record in _records(str(path), index, entry)
        ]

    def __getstate__(self):
        return {**self.__dict__, "_open": None}  # another process opens the archive itself

    def row(self, record: Record) -> Row:
        entry, k = record.value
        example = ident(entry, "id")
        return Row(
            id=f"{example}-{k}",
            picture=self._picture(checked(entry["images"][k], f"images[{k}]", str), f"images[{k}]"),
            text=field(entry, "sentence", str),
            answers=("true" if field(entry, "label", bool) else "false",),
            scene=_scene(entry, k),
            group=example.split("-")[0],
            split=self.split,
            where=record.where,
        )

    def _picture(self, name: str, key: str) -> bytes:
        self._open = self._open or _archive(self.archive)
        try:
            return self._open.read(name)
        except KeyError:
            raise RowError("image", f"{key}: {name} is not in {self.archive}") from None
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise RowError("image", f"{key}: {name}: {error}") from None


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise SaccadeError(f"{path} cannot be read: {error}; get the file again") from None


def _records(file: str, index: int, entry) -> list[Record]:
    """One for each picture of an example, (example, number of the picture)."""
    if isinstance(entry, RowError):
        return [Record(file, index, None, entry)]
    try:
        count = len(field(entry, "images", list))
        if not 1 <= count <= len(IMAGE_ORDERS):
            raise RowError("image", f"images: {count} of them; an example has 1 to {len(IMAGE_ORDERS)}")
    except RowError as error:
        return [Record(file, index, None, error)]
    id = ident_or_none(entry, "id")
    return [Record(file, index, id and f"{id}-{k}", (entry, k)) for k in range(count)]


def _scene(entry, k: int) -> Scene:
    first, second, third = IMAGE_ORDERS[k]
    try:
        scene = scene_from_structured(field(entry, "structured_rep", list))
        return permute_groups(scene, (first, second, third))
    except RowError:
        raise
    except SaccadeError as error:
        raise RowError("type", f"structured_rep: {error}") from None
