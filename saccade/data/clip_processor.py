"""Images and texts -> what CLIP and SigLIP read."""

import json
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from saccade.data.chat import ChatTokenizer, SavedProcessor
from saccade.data.image import letterbox, read_image
from saccade.data.text import check_text
from saccade.errors import SaccadeError

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
FITS = ("crop", "stretch", "letterbox")


@dataclass(frozen=True, slots=True)
class CLIPProcessorConfig:
    """What a CLIP's processor is made of.

    Args:
        image_size: pixels a side of what the tower sees.
        fit: "crop" scales the shorter side to it and cuts the middle out (CLIP), "stretch" makes the whole
            image square (SigLIP), both bicubic; "letterbox" keeps all of it on gray, bilinear (scenes).
        max_length: tokens of every text, filled up.
        bos, eos, pad: special tokens; bos None = none (SigLIP).
        mask: whether the model is told what is filled up; published models read it.
        canonical: texts lose capitals and ASCII punctuation, as SigLIP's did in training.
    """

    image_size: int = 224
    fit: str = "crop"
    max_length: int = 77
    bos: str | None = "<|startoftext|>"
    eos: str = "<|endoftext|>"
    pad: str = "<|endoftext|>"
    mask: bool = False
    canonical: bool = False

    def __post_init__(self):
        if self.fit not in FITS:
            raise SaccadeError(f"fit is {self.fit!r}; use one of {', '.join(FITS)}")


class CLIPProcessor(SavedProcessor):
    """Images and texts -> arrays. Holds no weights; the model itself normalises pixels.

    Args: tokenizer: of the hub; its own rules say what becomes of capitals.  config.
    Raises: SaccadeError: the tokenizer lacks a special token of the config.
    """

    FILE, CONFIG = "processor.json", CLIPProcessorConfig

    def __init__(self, tokenizer: ChatTokenizer, config: CLIPProcessorConfig):
        super().__init__(tokenizer, config)
        self._bos = [] if config.bos is None else [tokenizer.id_of(config.bos)]
        self._eos, self._pad = tokenizer.id_of(config.eos), tokenizer.id_of(config.pad)

    def see(self, images: Iterable) -> np.ndarray:
        """Pictures as `read_image` takes them -> uint8 (B, side, side, 3).

        Raises: SaccadeError: there is none, or one that cannot be read.
        """
        side, fit = self.config.image_size, self.config.fit
        pixels = [fitted(read_image(image), side, fit) for image in images]
        if not pixels:
            raise SaccadeError("there are no images; give at least one")
        return np.stack(pixels)

    def read(self, texts: Sequence[str], truncate: bool = False) -> dict[str, np.ndarray]:
        """Texts -> tokens int32 (C, max_length), and with `mask` padding_mask bool, True = keep.

        Args: truncate: cut what is too long, the end token is kept.
        Raises: SaccadeError: there is no text, one is empty, or too long without `truncate` (says both).
        """
        if isinstance(texts, str) or not len(texts):
            raise SaccadeError("there are no texts; give a list of at least one")
        limit = self.config.max_length
        tokens = np.full((len(texts), limit), self._pad, np.int32)
        mask = np.zeros((len(texts), limit), bool)
        for row, text in enumerate(texts):
            ids = self.encode(text)
            if len(ids) > limit:
                if not truncate:
                    raise SaccadeError(
                        f"the text {str(text)[:40]!r} has {len(ids)} tokens, the limit is {limit}; shorten it"
                    )
                ids = [*ids[: limit - 1], self._eos]
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return {"tokens": tokens, **({"padding_mask": mask} if self.config.mask else {})}

    def encode(self, text: str) -> list[int]:
        """One text -> ids, special tokens around it; those written out in it are left out."""
        plain = self.tokenizer.plain(check_text(text))
        if self.config.canonical:
            plain = check_text(plain.lower().translate(_NO_PUNCTUATION))
        return [*self._bos, *self.tokenizer.encode(plain).ids, self._eos]

    def __call__(self, images: Sequence, texts: Sequence[str], truncate: bool = False) -> dict:
        """A batch for CLIP: `images`, `tokens`, and with `mask` `padding_mask`."""
        return {"images": self.see(images), **self.read(texts, truncate)}


def fitted(image: np.ndarray, side: int, fit: str) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 (side, side, 3), see CLIPProcessorConfig."""
    if fit == "letterbox":
        return letterbox(image, (side, side))[0]
    height, width = image.shape[:2]
    if fit == "stretch":
        size = side, side
    elif height < width:
        size = side, int(side * width / height)
    else:
        size = int(side * height / width), side
    picture = Image.fromarray(image)
    if size != (height, width):
        picture = picture.resize(size[::-1], Image.Resampling.BICUBIC)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(picture)[top : top + side, left : left + side]


def check_labels(labels: Sequence[str], template: str = "{}") -> list[str]:
    """The labels, cleaned. Raises: SaccadeError: none, an empty one, one twice, a template without {}."""
    if template.count("{}") != 1:
        raise SaccadeError(f"the template {template!r} has no single {{}}; write one where the label goes")
    if isinstance(labels, str) or not len(labels):
        raise SaccadeError("there are no labels; give a list of what the image may show")
    for number, label in enumerate(labels, 1):
        if isinstance(label, str) and not label.strip():
            raise SaccadeError(f"label {number} of {len(labels)} is empty; write what the image may show")
    cleaned = [check_text(label) for label in labels]
    twice = next((label for label in cleaned if cleaned.count(label) > 1), None)
    if twice is not None:
        raise SaccadeError(f"the label {twice!r} is there twice; give each once")
    return cleaned


def published_config(folder: Path, siglip: bool, image_size: int, max_length: int) -> CLIPProcessorConfig:
    """The processor of a directory of transformers, from its tokenizer_config.json.

    Raises: SaccadeError: the image processor beside it, where there is one, does something else.
    """
    check_images(folder, siglip, image_size)
    said = read_json(folder / "tokenizer_config.json")
    eos = token(said, "eos_token") or ("</s>" if siglip else "<|endoftext|>")
    return CLIPProcessorConfig(
        image_size=image_size,
        fit="stretch" if siglip else "crop",
        max_length=max_length,
        bos=None if siglip else token(said, "bos_token") or "<|startoftext|>",
        eos=eos,
        pad=token(said, "pad_token") or eos,
        canonical=siglip,
    )


def image_record(folder: Path) -> dict:
    """What a directory of transformers says about images, {} if nothing."""
    nested = read_json(folder / "processor_config.json").get("image_processor")
    return nested if isinstance(nested, dict) else read_json(folder / "preprocessor_config.json")


def published_pixels(folder: Path) -> tuple | None:
    """(mean, std) of the channels, None where the directory says nothing.

    Raises: SaccadeError: they are no three numbers each, or std is not positive.
    """
    record = image_record(folder)
    if "image_mean" not in record and "image_std" not in record:
        return None
    found = []
    for name in ("image_mean", "image_std"):
        value = record.get(name)
        numbers = isinstance(value, list) and all(isinstance(x, float | int) for x in value)
        if not numbers or len(value) != 3 or (name == "image_std" and min(value) <= 0):
            raise SaccadeError(
                f"{folder}: {name} is {value!r}; three numbers are meant, of image_std positive ones"
            )
        found.append(tuple(value))
    return found[0], found[1]


def check_images(folder: Path, whole: bool, side: int) -> None:
    """Raises: SaccadeError: the image processor of a directory does not make the `whole` image square
    (SigLIP, BLIP-2) or else cut a square out of its middle (CLIP)."""
    record, square = image_record(folder), {"height": side, "width": side}
    meant: dict = {"resample": (3,), "do_resize": (True,), "do_rescale": (True,), "do_normalize": (True,)}
    if whole:
        meant |= {"size": (square,), "do_center_crop": (False, None)}
    else:
        meant |= {"size": ({"shortest_edge": side}, side), "crop_size": (square, side)}
        meant |= {"do_center_crop": (True,)}
    for key, values in meant.items():
        if key in record and record[key] not in values:
            raise SaccadeError(
                f"{folder}: the image processor's {key} is {record[key]!r}; this version does {values[0]!r} "
                "only"
            )


def token(record: dict, name: str) -> str | None:
    """A special token of a tokenizer_config.json, which may be a text or a record."""
    said = record.get(name)
    said = said.get("content") if isinstance(said, dict) else said
    return said if isinstance(said, str) else None


def read_json(path: Path) -> dict:
    """A JSON object, {} where there is no file. Raises: SaccadeError: something else is there."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SaccadeError(f"{path} cannot be read: {error}; get the file again") from None
    if not isinstance(record, dict):
        raise SaccadeError(f"{path} holds no JSON object; get the file again")
    return record
