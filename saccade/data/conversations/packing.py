"""Conversations -> sequences of one length, several in each, and the account of what was left out.

A batch is made from a window of consecutive rows and from nothing else, so what it holds is a pure function
of its number. What found no room in its window is counted; in the next epoch it stands in another.
"""

import bisect
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.data.chat_processor import IGNORED, ChatProcessor, check_images, fit
from saccade.data.conversations.rows import Conversation, Rows
from saccade.data.rows import BAD, RowError, RowTally
from saccade.errors import SaccadeError

SAMPLE = 128  # rows that `Packer.measured` looks at


class Tolerant:
    """A source whose bad and filtered rows are items too, as the RowError that they raise."""

    def __init__(self, source: Rows):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    @property
    def blocks(self) -> list[int] | None:
        return getattr(self.source, "blocks", None)

    def __getitem__(self, index: int) -> Conversation | RowError:
        try:
            return self.source[index]
        except RowError as error:
            return error


@dataclass(frozen=True)
class Encoded:
    """A conversation's tokens, image places and targets, (S,) each, and its tiles (n, side, side, 3).

    cut: the prompt was too long.
    """

    tokens: np.ndarray
    image_mask: np.ndarray
    targets: np.ndarray
    tiles: np.ndarray
    cut: bool


@dataclass(frozen=True)
class Packer:
    """Make one batch from a window of rows; a Stream's collate. Picklable, for loader processes.

    Args:
        processor: of the model.
        sequences: B.
        rows: conversations that a batch is made from, see `measured`.
        length: S; a conversation may be that long, if the processor's limit allows it.
        tiles: T, places for tiles in each sequence.
        pack: several conversations a sequence; False: row i is sequence i, and rows = sequences.
    Call:
        items: `rows` of Conversation or RowError.
    Returns: dict: tokens int32 (B, S), padding last; image_mask bool (B, S); targets int32 (B, S), -100 where
        nothing is learnt; images (B, T, side, side, 3), each sequence's tiles in reading order, then blank
        ones; with `pack`, segments int32 (B, S): 1, 2, ... for each sequence's conversations, 0 = padding;
        account: text, for a Tally to take out.
    Raises: SaccadeError: sizes that do not go together.
    """

    processor: ChatProcessor
    sequences: int
    rows: int
    length: int
    tiles: int = 1
    pack: bool = True

    def __post_init__(self):
        least = min(self.sequences, self.rows, self.length)
        if least < 1 or self.tiles < 0:
            raise SaccadeError(
                f"a batch of {self.sequences} sequences of {self.length} tokens and {self.tiles} tiles from "
                f"{self.rows} rows cannot be; give each at least 1"
            )
        if not self.pack and self.rows != self.sequences:
            raise SaccadeError(
                f"without packing each row is a sequence, but rows is {self.rows} and sequences "
                f"{self.sequences}; make them equal"
            )

    @classmethod
    def measured(
        cls,
        processor: ChatProcessor,
        source: Rows,
        sequences: int,
        length: int | None = None,
        tiles: int | None = None,
        pack: bool = True,
        fill: float = 0.95,
    ) -> "Packer":
        """Choose rows and tiles by a look at some rows of the source, the same ones each time.

        Args:
            length: None = the processor's limit.
            tiles: None = as many as go with a full sequence, an eighth more, and enough for any row seen.
            fill: tokens of a window's rows over those of its sequences, on average. More fills sequences
                better and leaves out more rows; more sequences make both better.
        Raises: SaccadeError: none of the rows looked at can be used.
        """
        length = length or processor.limit
        count = len(source)
        probe = cls(processor, sequences, sequences, length, tiles=length, pack=False)
        if not count:
            raise SaccadeError("there are no conversations: the files are empty; check the paths")
        sizes, tolerant, last = [], Tolerant(source), None
        spread = range(min(SAMPLE, count))
        in_order = getattr(source, "in_order", False)
        for at in spread:
            try:
                row = probe.encode(tolerant[at if in_order else at * count // len(spread)])
                sizes.append((len(row.tokens), len(row.tiles)))
            except RowError as error:
                last = error
        if not sizes:
            raise SaccadeError(f"none of {len(spread)} rows looked at can be learnt from; the last: {last}")
        used, pictured = np.sum(sizes, axis=0)
        if tiles is None:
            most = max(count for _, count in sizes)
            tiles = max(most, int(np.ceil(pictured / used * length * 9 / 8))) if pack else most
        each = used / len(spread)  # rows that are skipped count as empty
        rows = max(1, round(fill * sequences * length / each)) if pack else sequences
        return cls(processor, sequences, rows, length, tiles, pack)

    def __call__(self, items: Sequence[Conversation | RowError]) -> dict[str, Any]:
        account: dict[str, Any] = {"rows": len(items), "causes": Counter(), "bad": [], "cut": 0}
        rows: list[Encoded | None] = []
        for item in items:
            try:
                rows.append(self.encode(item))
            except RowError as error:
                rows.append(None)
                account["causes"][error.cause] += 1
                account["bad"] += [str(error)] if error.cause in BAD else []
        sizes = [(len(row.tokens), len(row.tiles)) if row else (0, 0) for row in rows]
        places = assign(sizes, (self.length, self.tiles), self.sequences) if self.pack else range(len(rows))
        batch = self._blank()
        used = np.zeros((self.sequences, 3), int)  # tokens, tiles, conversations
        for row, place in zip(rows, places, strict=True):
            if row is None:
                continue
            if place is None:
                account["causes"]["room"] += 1
                continue
            self._put(batch, place, used[place], row)
            account["cut"] += row.cut
        account |= {"used": int(used[:, 0].sum()), "tokens": batch["tokens"].size}
        if not self.pack:
            del batch["segments"]
        return {**batch, "account": json.dumps(account)}

    def _put(self, batch: dict[str, np.ndarray], place: int, used: np.ndarray, row: Encoded) -> None:
        """Write a row behind what its sequence holds, and add it to `used`."""
        span = slice(used[0], used[0] + len(row.tokens))
        for name in ("tokens", "image_mask", "targets"):
            batch[name][place, span] = getattr(row, name)
        batch["segments"][place, span] = used[2] + 1
        batch["images"][place, used[1] : used[1] + len(row.tiles)] = row.tiles
        used += len(row.tokens), len(row.tiles), 1

    def encode(self, item: Conversation | RowError) -> Encoded:
        """One row alone. Raises: RowError: it is bad, filtered, or longer than a sequence."""
        if isinstance(item, RowError):
            raise item
        p, limit = self.processor, min(self.length, self.processor.limit)
        grids, cuts = _try("image", item, lambda: p.see(item.images))
        row = _try("text", item, lambda: p.write(item.messages, grids, train=True))
        fitted = _try("length", item, lambda: fit(row, limit))
        tiles = np.concatenate([p.blank_tiles(0), *cuts])
        if len(tiles) > self.tiles:
            raise RowError("length", f"{item.where}: {len(tiles)} tiles, a sequence has {self.tiles}")
        image_mask = np.array(fitted.image, bool)
        check_images({"image_mask": image_mask, "images": tiles}, p.config.image_tokens)
        tokens = np.array(fitted.ids, np.int32)
        return Encoded(tokens, image_mask, fitted.targets(), tiles, len(fitted.ids) < len(row.ids))

    def _blank(self) -> dict[str, np.ndarray]:
        shape = (self.sequences, self.length)
        return {
            "images": self.processor.blank_tiles(self.sequences, self.tiles),
            "tokens": np.full(shape, self.processor.tokenizer.eos_id, np.int32),
            "image_mask": np.zeros(shape, bool),
            "targets": np.full(shape, IGNORED, np.int32),
            "segments": np.zeros(shape, np.int32),
        }


def _try(cause: str, item: Conversation, work):
    try:
        return work()
    except SaccadeError as error:
        raise RowError(cause, f"{item.where}: {error}") from None


def assign(sizes: Sequence[tuple[int, int]], capacity: tuple[int, int], bins: int) -> list[int | None]:
    """Which bin each row goes to: the most first rows that all find room; the rest in none.

    Leaving out whatever does not fit would fill bins better, and leave out the short rows.

    Args: sizes: (tokens, tiles) of each.  capacity: of every bin.
    """
    totals = np.cumsum(np.array(sizes, int).reshape(-1, 2), axis=0)
    most = int((totals <= np.array(capacity) * bins).all(1).sum())
    for count in range(most, 0, -1):
        places = knapsack(sizes[:count], capacity, bins)
        if places is not None:
            return [*places, *[None] * (len(sizes) - count)]
    return [None] * len(sizes)


def knapsack(sizes: Sequence[tuple[int, int]], capacity: tuple[int, int], bins: int) -> list[int] | None:
    """Greedy: the longest first, each into the fullest bin that has room; None = one finds none."""
    free = [(*capacity, b) for b in range(bins)]  # sorted, the fullest first
    places = [0] * len(sizes)
    for at in sorted(range(len(sizes)), key=lambda at: sizes[at], reverse=True):
        tokens, tiles = sizes[at]
        first = bisect.bisect_left(free, (tokens,))
        found = next((i for i in range(first, bins) if tiles <= free[i][1]), None)
        if found is None:
            return None
        room, more, places[at] = free.pop(found)
        bisect.insort(free, (room - tokens, more - tiles, places[at]))
    return places


class Tally(RowTally):
    """What became of the rows that a stream has read so far, in this process. See RowTally."""

    def __init__(self, max_bad: float = 0.01):
        super().__init__(max_bad)
        self.cut = self.used = self.tokens = 0

    def take(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """The batch without its account. Raises: SaccadeError: too many bad rows so far."""
        account = json.loads(batch["account"])
        self.cut += account["cut"]
        self.used += account["used"]
        self.tokens += account["tokens"]
        self.add(account["rows"], account["causes"], account["bad"])
        return {key: value for key, value in batch.items() if key != "account"}

    def __str__(self) -> str:
        learnt = self.rows - self.causes.total()
        share = 100 * self.used / max(self.tokens, 1)
        text = f"{self.rows} rows read, {learnt} learnt from, {share:.1f}% of tokens used{self.reasons}"
        return text + (f"; prompts cut: {self.cut}" if self.cut else "")
