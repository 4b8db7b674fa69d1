"""Visual Genome (Krishna et al. 2017): phrases for regions."""

from pathlib import Path
from typing import ClassVar

from saccade.data.readers.fields import box_from_px, field, ident, size_of
from saccade.data.readers.files import Pictures, Table, find, read_json, records
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError


class VisualGenome:
    """region_descriptions.json and image_data.json; pictures in VG_100K/, VG_100K_2/ or loose, as 1.jpg.

    A row is a picture: phrase k, answers[k], is of boxes[k]. Regions that reach over an edge are cut there.
    There are no official splits.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("all",)

    def __init__(self, folder: Path, images: Path, split: str):
        self.split = split
        self.pictures = Pictures(images, "VG_100K", "VG_100K_2", "images")
        path = find(folder, "image_data.json")
        self.images = Table(path, "", read_json(path, list), "image_id")
        path = find(folder, "region_descriptions.json")
        self.records = records(path, read_json(path, list), "id")

    def row(self, record: Record) -> Row:
        id = ident(record.value, "id")
        size = size_of(self.images.get(id, "id"), "image.")
        regions = field(record.value, "regions", list)
        if not regions:
            raise RowError("answers", "regions: an empty list")
        phrases, boxes = [], []
        for k, region in enumerate(regions):
            at = f"regions[{k}]."
            phrases.append(field(region, "phrase", str, at))
            xywh = [field(region, key, float, at) for key in ("x", "y", "width", "height")]
            boxes.append(box_from_px(xywh, size, at.rstrip("."), spill_px=float("inf")))
        return Row(
            id=id,
            picture=self.pictures.find("id", f"{id}.jpg"),
            answers=tuple(phrases),
            boxes=tuple(boxes),
            group=id,
            split=self.split,
            where=record.where,
        )
