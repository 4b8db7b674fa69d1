"""Images and conversations -> what NanoVLM reads, and what it should have said."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from saccade.data.chat import CHATML, ChatTokenizer, SavedProcessor, Template, check_messages
from saccade.data.image import read_image
from saccade.data.tiles import choose_grid, cut, stretch
from saccade.errors import SaccadeError, SaccadeWarning

IGNORED = -100  # a target that counts nothing
_MOST_TILES_A_SIDE = 8  # places that published tokenizers have words for


@dataclass(frozen=True, slots=True)
class ChatConfig:
    """What a NanoVLM's processor is made of.

    Args:
        image_size: pixels a side of what the tower sees.  image_tokens: M, tokens of one image or tile.
        max_length: most tokens of a sequence, those of images included.
        template: Jinja chat template; "" = the prompt of v0.1, one question with one image before it.
        extra_tokens: (name, token) pairs that the vocabulary gets, as `vlm_extra_tokens`: `image_token`,
            and for tiles `global_image_token`, `r1c1`, `r1c2`, ...
        max_side: most pixels of an image's longer side when it is cut into tiles.
        fill: scale images up to max_side (with reference_tiles only).
        max_tiles: budget of an image, each tile costing `image_tokens`; None = as max_side allows.
        reference_tiles: cut as the published code does, which scales up, instead of never.
        length_multiple: sequences are padded to a multiple of it, so that few shapes compile.
    """

    image_size: int = 512
    image_tokens: int = 64
    max_length: int = 8192
    template: str = CHATML
    extra_tokens: tuple[tuple[str, str], ...] = (("image_token", "<|image|>"),)
    max_side: int = 512
    fill: bool = False
    max_tiles: int | None = None
    reference_tiles: bool = False
    length_multiple: int = 32

    @property
    def tiled(self) -> bool:
        return "global_image_token" in dict(self.extra_tokens)


class Row(NamedTuple):
    """The tokens of one conversation. image: is an image's. answer: is learnt. removable: may be cut."""

    ids: list[int]
    image: list[bool]
    answer: list[bool]
    removable: list[bool]

    def targets(self) -> np.ndarray:
        """int32 (S,): the token that follows where it is learnt, else IGNORED."""
        following = np.where(self.answer[1:], self.ids[1:], IGNORED)
        return np.append(following, IGNORED).astype(np.int32)


class ChatProcessor(SavedProcessor):
    """Images and conversations -> a batch of arrays. Holds no weights.

    Call:
        images: for each row its list of pictures, as `read_image` takes them, in order.
        conversations: for each row messages {"role", "content"}, or the user's text alone.
        train: every message of the assistant is learnt, and the last is one; adds `targets`. Else the
            assistant is to speak.
        room: tokens to leave free after the prompt.
    Returns: dict: images (N, H, W, 3), uint8, or float32 in [0, 1] with reference_tiles, the tiles of all
        rows in order; tokens int32 (B, S), padding_mask, image_mask bool (B, S), padding first; with train,
        targets int32 (B, S): the token that follows where it is an answer's, or its end, else -100.
    Raises: SaccadeError: a picture or conversation that cannot be used; images, template and answers alone
        exceed max_length; v0.1 asked for more than one question and one image.
    Warns: SaccadeWarning: a prompt was cut to fit, from its beginning; answers never are.
    """

    FILE, CONFIG = "processor.json", ChatConfig

    def __init__(self, tokenizer: ChatTokenizer, config: ChatConfig):
        super().__init__(tokenizer, config)
        tokenizer.add(token for _, token in config.extra_tokens)
        self._tokens = dict(config.extra_tokens)
        self._template = Template(config.template) if config.template else None
        if self._template and "image_token" not in self._tokens:
            raise SaccadeError("extra_tokens has no image_token, which a chat template needs; add one")
        most = self._most_side // config.image_size if config.tiled else 1
        for place in (f"r{at // most + 1}c{at % most + 1}" for at in range(most**2) if most > 1):
            if place not in self._tokens:
                raise SaccadeError(
                    f"max_side {config.max_side} makes {most} x {most} tiles of {config.image_size} px, but "
                    f"extra_tokens has no {place}; add it, or lower max_side"
                )
        self._image_id = tokenizer.id_of(self._tokens["image_token"]) if self._template else None

    def __call__(
        self,
        images: Sequence[Sequence],
        conversations: Sequence,
        train: bool = False,
        room: int = 0,
    ) -> dict[str, np.ndarray]:
        if len(images) != len(conversations):
            raise SaccadeError(
                f"{len(images)} lists of images and {len(conversations)} conversations; give one list each"
            )
        limit = self.limit - room
        rows, tiles = [], []
        for pictures, conversation in zip(images, conversations, strict=True):
            grids, cuts = self.see(pictures)
            row = self.write(conversation, grids, train)
            rows.append(fit(row, limit))
            cut = len(row.ids) - len(rows[-1].ids)
            if cut:
                warnings.warn(
                    f"the prompt was cut by {cut} tokens, from its beginning, to fit the {limit} that the "
                    "model takes",
                    SaccadeWarning,
                    stacklevel=2,
                )
            tiles += cuts
        return self._batch(rows, tiles, limit, train)

    @property
    def limit(self) -> int:
        """Most tokens of a sequence; v0.1 counts those of the text only."""
        return self.config.max_length + (0 if self._template else self.config.image_tokens)

    @property
    def _most_side(self) -> int:
        """Most pixels of the longer side of an image in tiles."""
        return min(self.config.max_side, _MOST_TILES_A_SIDE * self.config.image_size)

    def see(self, pictures: Sequence) -> tuple[list, list]:
        """A row's pictures: the grid of each, and its tiles, (n, side, side, 3).

        Raises: SaccadeError: one cannot be read.
        """
        c, grids, cuts = self.config, [], []
        if not isinstance(pictures, (list, tuple)):
            raise SaccadeError(f"a row's images are a {type(pictures).__name__}; give a list, empty for none")
        for picture in pictures:
            pixels = read_image(picture)
            if not c.tiled:
                grids.append((1, 1))
                cuts.append(stretch(pixels, c.image_size)[None])
                continue
            size = (pixels.shape[0], pixels.shape[1])
            options = c.max_tiles, c.reference_tiles, c.fill
            grid = choose_grid(size, c.image_size, self._most_side, *options)
            grids.append(grid)
            cuts.append(cut(pixels, c.image_size, grid, c.reference_tiles))
        return grids, cuts

    def image_text(self, grids: Sequence[tuple[int, int]]) -> str:
        """The words that stand for a row's images: each tile's place and its image tokens."""
        seen, text = self._tokens["image_token"] * self.config.image_tokens, ""
        for index, (rows, columns) in enumerate(grids):
            text += f"<image: {index}>" if len(grids) > 1 else ""
            text += self._tokens.get("global_image_token", "") + seen
            if (rows, columns) != (1, 1):
                for row in range(1, rows + 1):
                    for column in range(1, columns + 1):
                        text += self._tokens[f"r{row}c{column}"] + seen
        return text

    def write(self, conversation: str | Sequence[dict], grids: Sequence, train: bool) -> Row:
        """The tokens of a row, however many; `fit` cuts them. `grids`: of its pictures, from `see`.

        Raises: SaccadeError: see the class.
        """
        messages = check_messages(conversation)
        if train and messages[-1]["role"] != "assistant":
            raise SaccadeError("the last message is not the assistant's; give the answer to learn")
        messages = [{**m, "content": self.tokenizer.plain(m["content"])} for m in messages]
        if self._template is None:
            return self._question(messages, grids, train)
        first = next(i for i, m in enumerate(messages) if m["role"] == "user")
        before = self.image_text(grids)
        messages[first]["content"] = before + messages[first]["content"]
        spans, text = [], ""
        for piece in self._template.pieces(messages, add_generation_prompt=not train):
            if isinstance(piece, str):
                text += piece
                continue
            start = len(text) + (len(before) if piece == first else 0)
            text += messages[piece]["content"]
            spans.append((start, len(text), messages[piece]["role"] == "assistant"))
        ids, answer, removable = self._mark(text, spans)
        return Row(ids, [i == self._image_id for i in ids], answer, removable)

    def _question(self, messages: list[dict], grids: Sequence, train: bool) -> Row:
        """v0.1: the image's tokens, `Question: ... Answer:`, the answer."""
        roles = [m["role"] for m in messages]
        if roles != ["user", "assistant"][: len(roles)] or len(grids) > 1 or (len(roles) == 2) != train:
            raise SaccadeError(
                f"this checkpoint takes one question and at most one image, not {', '.join(roles)} with "
                f"{len(grids)} images; use a later one (with a chat template)"
            )
        said = [m["content"] for m in messages]
        text = f"Question: {said[0]} Answer:"
        spans = [(len("Question: "), len("Question: ") + len(said[0]), False)]
        if train:
            spans.append((len(text), len(text) + len(said[1]), True))
            text += said[1] + self.tokenizer.eos
        ids, answer, removable = self._mark(text, spans)
        count = len(grids) * self.config.image_tokens
        none = [False] * count
        return Row(
            [self.tokenizer.eos_id] * count + ids,
            [True] * count + [False] * len(ids),
            none + answer,
            none + removable,
        )

    def _mark(self, text: str, spans: list) -> tuple[list[int], list[bool], list[bool]]:
        """Ids; which are of an answer or its end; which may be cut (what others say)."""
        ids, offsets = self.tokenizer.encode(text)
        answer, removable = [False] * len(ids), [False] * len(ids)
        for start, end, learned in spans:
            for at, (low, high) in enumerate(offsets):
                inside = start <= low and high <= end and low < high
                ends = low == end and ids[at] == self.tokenizer.eos_id
                if learned and (inside or ends):
                    answer[at] = True
                elif inside:
                    removable[at] = True
        return ids, answer, removable

    def _batch(self, rows: list[Row], tiles: list, limit: int, train: bool) -> dict[str, np.ndarray]:
        c = self.config
        longest = max((len(row.ids) for row in rows), default=0)
        length = max(longest, min(-(-longest // c.length_multiple) * c.length_multiple, limit))
        shape = (len(rows), length)
        tokens = np.full(shape, self.tokenizer.eos_id, np.int32)
        padding_mask, image_mask = np.zeros(shape, bool), np.zeros(shape, bool)
        targets = np.full(shape, IGNORED, np.int32)
        for at, row in enumerate(rows):
            kept = slice(length - len(row.ids), length)
            tokens[at, kept], padding_mask[at, kept], image_mask[at, kept] = row.ids, True, row.image
            targets[at, kept] = row.targets()
        batch = {
            "images": np.concatenate([self.blank_tiles(0), *tiles]),
            "tokens": tokens,
            "padding_mask": padding_mask,
            "image_mask": image_mask,
        }
        check_images(batch, c.image_tokens)
        return batch | ({"targets": targets} if train else {})

    def blank_tiles(self, *shape: int) -> np.ndarray:
        """Zeros (*shape, side, side, 3), of the type of tiles."""
        c = self.config
        kind = np.float32 if c.tiled and c.reference_tiles else np.uint8
        return np.zeros((*shape, c.image_size, c.image_size, 3), kind)


def fit(row: Row, limit: int) -> Row:
    """The row, the beginning of what may be cut taken out until `limit` tokens are left.

    Raises: SaccadeError: what must stay exceeds the limit.
    """
    excess = len(row.ids) - limit
    if excess <= 0:
        return row
    places = [at for at, may in enumerate(row.removable) if may]
    if len(places) < excess:
        raise SaccadeError(
            f"{len(row.ids)} tokens exceed the limit of {limit}, {sum(row.image)} of them of images and "
            f"only {len(places)} of the question; give fewer or smaller images (max_tiles) or a shorter "
            "answer"
        )
    gone = set(places[:excess])
    parts: list[Any] = [[v for at, v in enumerate(part) if at not in gone] for part in row]
    return Row(*parts)


def check_images(batch: dict[str, Any], image_tokens: int) -> None:
    """Raise SaccadeError unless the places for image tokens are as many as the images have."""
    places, count = int(np.sum(batch["image_mask"])), batch["images"].shape[0]
    if places != count * image_tokens:
        raise SaccadeError(
            f"the text keeps {places} places for image tokens, but {count} images of {image_tokens} tokens "
            f"need {count * image_tokens}; give the images that belong to the text"
        )


def published_config(record: dict, image_tokens: int) -> ChatConfig:
    """The processor that a flat config.json of nanoVLM describes, of either age.

    Args: image_tokens: M of the model.
    Raises: SaccadeError: it says another number of image tokens, or a value that cannot be meant.
    """
    said = record.get("mp_image_token_length", image_tokens)
    if said != image_tokens:
        raise SaccadeError(
            f"config.json says mp_image_token_length {said}, but the model makes {image_tokens} tokens of an "
            "image; use the config.json that belongs to the weights"
        )
    extra = record.get("vlm_extra_tokens") or {}
    template = record.get("lm_chat_template", CHATML) if extra else ""
    side: Any = record.get("vit_img_size")
    length, most = record.get("lm_max_length", 8192), record.get("max_img_size", side)
    numbers = {"vit_img_size": side, "lm_max_length": length, "max_img_size": most}
    bad = {key: n for key, n in numbers.items() if type(n) is not int or n <= 0}
    if not isinstance(template, str):
        bad["lm_chat_template"] = template
    if not isinstance(extra, dict) or not all(isinstance(token, str) for token in extra.values()):
        bad["vlm_extra_tokens"] = extra
    if bad:
        key, value = next(iter(bad.items()))
        raise SaccadeError(f"config.json: {key} is {value!r}, which cannot be meant; get the file again")
    return ChatConfig(
        image_size=side,
        image_tokens=image_tokens,
        max_length=length,
        template=template,
        extra_tokens=tuple(extra.items()),
        max_side=most,
        fill=bool(record.get("resize_to_max_side_len", False)),
    )


def published_keys(config: ChatConfig) -> dict:
    """The keys of a flat config.json that follow from a processor: the way back of `published_config`."""
    keys: dict[str, Any] = {"lm_max_length": config.max_length}
    if config.template:
        keys |= {
            "lm_chat_template": config.template,
            "mp_image_token_length": config.image_tokens,
            "vlm_extra_tokens": dict(config.extra_tokens),
        }
    if config.tiled:
        keys |= {"max_img_size": config.max_side, "resize_to_max_side_len": config.fill}
    return keys
