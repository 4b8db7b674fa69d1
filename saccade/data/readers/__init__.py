"""Published data sets, read from the files as they were published; nothing is fetched.

rows = open_rows("vqa_v2", "vqa", split="val2014")
rows[7].text, rows[7].image
"""

from collections.abc import Mapping
from pathlib import Path

from saccade.data.readers.coco import CocoCaptions
from saccade.data.readers.flickr30k import Flickr30k
from saccade.data.readers.gqa import Gqa
from saccade.data.readers.jsonl import Jsonl
from saccade.data.readers.mmstar import MMStar
from saccade.data.readers.nlvr import Nlvr
from saccade.data.readers.pope import Pope
from saccade.data.readers.refcoco import RefCoco, RefCocoG, RefCocoPlus
from saccade.data.readers.rows import Reader, Row, Rows
from saccade.data.readers.visdial import VisDial
from saccade.data.readers.visual_genome import VisualGenome
from saccade.data.readers.vqa import VqaV2
from saccade.data.rows import BAD, RowError, RowTally
from saccade.errors import SaccadeError

__all__ = ["BAD", "READERS", "Row", "RowError", "RowTally", "Rows", "open_rows"]

READERS: Mapping[str, type[Reader]] = {
    "vqa_v2": VqaV2,
    "coco_captions": CocoCaptions,
    "refcoco": RefCoco,
    "refcoco+": RefCocoPlus,
    "refcocog": RefCocoG,
    "flickr30k": Flickr30k,
    "visual_genome": VisualGenome,
    "visdial": VisDial,
    "nlvr": Nlvr,
    "gqa": Gqa,
    "pope": Pope,
    "mmstar": MMStar,
    "jsonl": Jsonl,
}


def open_rows(
    name: str,
    folder: str | Path,
    split: str | None = None,
    images: str | Path | None = None,
    max_bad: float = 0,
) -> Rows:
    """The rows of a data set: annotations are read now, pictures when asked for.

    Args:
        name: one of READERS; what files each needs is in its docstring and in docs/readers.md.
        folder: of the published files.  split: None = the usual one.
        images: the folder of the pictures; None = `folder`. No path leads out of it.
        max_bad: how many broken rows iteration skips: a number, or a share under 1. See RowTally.
    Raises: SaccadeError: an unknown name or split, a file missing or damaged as a whole, no rows.
    """
    if name not in READERS:
        raise SaccadeError(f"unknown data {name!r}; use one of {', '.join(READERS)}")
    splits = READERS[name].SPLITS
    split = split or (splits[0] if splits else "all")
    if splits and split not in splits:
        raise SaccadeError(f"unknown split {split!r} of {name}; use one of {', '.join(splits)}")
    folder = Path(folder)
    if not folder.exists():
        raise SaccadeError(f"{folder} does not exist; give the folder of the published files of {name}")
    rows = Rows(READERS[name](folder, Path(images or folder), split), max_bad)
    if not len(rows):
        raise SaccadeError(f"{folder} holds no rows of {name}, split {split!r}; is it the published file?")
    return rows
