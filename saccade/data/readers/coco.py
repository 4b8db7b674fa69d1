"""COCO captions (Chen et al. 2015), and where COCO's pictures are."""

from pathlib import Path
from typing import ClassVar

from saccade.data.readers.fields import field, ident
from saccade.data.readers.files import Pictures, find, orphan, part, read_json, records
from saccade.data.readers.karpathy import Karpathy
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError

YEARS = ("train2014", "val2014", "test2014", "test2015", "train2017", "val2017", "test2017")


def coco_pictures(images: Path) -> Pictures:
    """COCO's pictures: in the folders of the archives, in the same below `images`, or loose."""
    return Pictures(images, *YEARS, *(f"images/{year}" for year in YEARS), "images")


def coco_name(split: str, image_id: int) -> str:
    """COCO_val2014_000000000042.jpg."""
    return f"COCO_{split.replace('-dev', '')}_{image_id:012d}.jpg"


class CocoCaptions:
    """captions_SPLIT.json, beside the pictures or in annotations/; a row is a picture with its captions.

    Splits train, val, test and restval are Karpathy's, from dataset_coco.json. A caption of no picture is a
    broken row.
    """

    SPLITS: ClassVar[tuple[str, ...]] = ("val2014", "train2014", "val2017", "train2017", *Karpathy.SPLITS)

    def __init__(self, folder: Path, images: Path, split: str):
        self.split, self.pictures = split, coco_pictures(images)
        self.karpathy = None
        if split in Karpathy.SPLITS:
            self.karpathy = Karpathy(find(folder, "dataset_coco.json"), split, "cocoid", self.pictures)
            self.records = self.karpathy.records
            return
        name = f"captions_{split}.json"
        path = find(folder, name, f"annotations/{name}")
        data = read_json(path, dict)
        self.records = records(path, part(data, "images", path), "id")
        known = {record.id for record in self.records}
        self.captions: dict[str, list[Record]] = {}
        for record in records(f"{path}, annotations", part(data, "annotations", path), "image_id"):
            if record.id is None or record.id not in known:
                self.records.append(orphan(record, "image_id"))
            else:
                self.captions.setdefault(record.id, []).append(record)

    def row(self, record: Record) -> Row:
        if self.karpathy is not None:
            return self.karpathy.row(record)
        id = ident(record.value, "id")
        captions = self.captions.get(id, [])
        if not captions:
            raise RowError("answers", f"id: no caption has the image_id {id}")
        return Row(
            id=id,
            picture=self.pictures.find("file_name", field(record.value, "file_name", str)),
            answers=tuple(field(c.value, "caption", str, f"annotations[{c.index}].") for c in captions),
            group=id,
            split=self.split,
            where=record.where,
        )
