"""RefCOCO, RefCOCO+ (Yu et al. 2016) and RefCOCOg (Mao et al. 2016): expressions for objects of COCO."""

from pathlib import Path
from typing import ClassVar

from saccade.data.readers.coco import coco_pictures
from saccade.data.readers.fields import box_from_px, field, ident, one_of, size_of
from saccade.data.readers.files import Table, find, part, read_json
from saccade.data.readers.plain_pickle import read_plain_pickle
from saccade.data.readers.rows import Record, Row
from saccade.data.rows import RowError


class RefCoco:
    """refs(unc).p and instances.json, in the folder or in refcoco/; pictures of COCO's train2014.

    A row is an expression (sentence), its group the reference that it describes. The pickle is read by
    `read_plain_pickle`.
    """

    NAME, REFS = "refcoco", "refs(unc).p"
    SPLITS: ClassVar[tuple[str, ...]] = ("val", "testA", "testB", "train")

    def __init__(self, folder: Path, images: Path, split: str):
        self.split, self.pictures = split, coco_pictures(images)
        path = find(folder, f"{self.NAME}/{self.REFS}", self.REFS)
        instances = find(path.parent, "instances.json")
        data = read_json(instances, dict)
        self.images = Table(instances, "images", part(data, "images", instances), "id")
        self.objects = Table(instances, "annotations", part(data, "annotations", instances), "id")
        self.records = [
            record
            for index, ref in enumerate(read_plain_pickle(path, list))
            for record in self._records(str(path), index, ref)
        ]

    def _records(self, file: str, index: int, ref) -> list[Record]:
        """One for each sentence of a reference, (reference, number of the sentence)."""
        try:
            # What names no known split may belong to this one: it stays, and is broken.
            if one_of(field(ref, "split", str), self.SPLITS, "split") != self.split:
                return []
            sentences = field(ref, "sentences", list)
            if not sentences:
                raise RowError("text", "sentences: an empty list")
            ids = [ident(s, "sent_id", f"sentences[{k}].") for k, s in enumerate(sentences)]
            return [Record(file, index, id, (ref, k)) for k, id in enumerate(ids)]
        except RowError as error:
            return [Record(file, index, None, error)]

    def row(self, record: Record) -> Row:
        ref, k = record.value
        sentence, at = ref["sentences"][k], f"sentences[{k}]."
        found = self.objects.get(ident(ref, "ann_id"), "ann_id")
        picture = self.images.get(ident(ref, "image_id"), "image_id")
        if ident(found, "image_id", "annotation.") != ident(ref, "image_id"):
            raise RowError("unknown", f"ann_id: {ref['ann_id']} is an object of another picture")
        box = box_from_px(
            field(found, "bbox", list, "annotation."), size_of(picture, "image."), "annotation.bbox"
        )
        return Row(
            id=ident(sentence, "sent_id", at),
            picture=self.pictures.find("image.file_name", field(picture, "file_name", str, "image.")),
            text=field(sentence, "sent", str, at),
            boxes=(box,),
            group=ident(ref, "ref_id"),
            split=self.split,
            where=record.where,
        )


class RefCocoPlus(RefCoco):
    """As RefCoco, in refcoco+/: expressions without words of place."""

    NAME = "refcoco+"


class RefCocoG(RefCoco):
    """As RefCoco, in refcocog/ and with refs(umd).p, the split that is compared on: longer expressions."""

    NAME, REFS = "refcocog", "refs(umd).p"
    SPLITS: ClassVar[tuple[str, ...]] = ("val", "test", "train")
