"""NLVR's human sentences to train on: each with any of its labelled pictures, drawn and varied on the fly.

source = Sentences("data/nlvr", seed=0)
source[7].text, source[7].answer
"""

import re
import zlib
from array import array
from pathlib import Path
from random import Random

import numpy as np

from saccade.data.scenes.nlvr import IMAGE_ORDERS, SIZES_PX, json_rows, permute_groups, scene_from_boxes
from saccade.data.scenes.render import render
from saccade.data.scenes.rewording import reword
from saccade.data.scenes.scene import Example, Scene
from saccade.data.scenes.symmetry import Symmetry, allowed, draw_symmetry
from saccade.data.text import words
from saccade.errors import SaccadeError

FILE = "train_scenes.jsonl.gz"
PARTS = ("train", "held_out", "all")
HELD_OUT = 20  # one sentence in so many


def normal_form(sentence: str) -> str:
    """Words alone, in lower case: two sentences of one form are the same sentence."""
    return " ".join(words(sentence))


def is_held_out(sentence: str) -> bool:
    """Whether a sentence is kept from training. Its words alone decide, so no twin is left there."""
    return zlib.crc32(normal_form(sentence).encode()) % HELD_OUT == 0


class Sentences:
    """Random access to 2**31 - 1 examples: any sentence, true or false, one of its pictures, all as likely.

    An example is a function of (file, options, seed, index). Of each, the order of the boxes and whatever
    else `symmetry.allowed` grants are drawn anew, the sentence is reworded, and the picture is drawn.

    Args:
        folder: holds train_scenes.jsonl.gz. The development split is never read.
        part: "train"; "held_out", one sentence in HELD_OUT, for validation; or "all".
        seed: any whole number from 0.
        towers: share of examples about towers; None = as the sentences have it. Two thirds of the published
            pictures show towers.
        symmetries: draw them; False leaves all but the order of the boxes as it is.
        rewording: see `reword`; 0 = never.
    Raises: SaccadeError: the file is missing or broken (names file and line); an unknown part.
    """

    def __init__(
        self,
        folder: str | Path,
        part: str = "train",
        seed: int = 0,
        towers: float | None = None,
        symmetries: bool = True,
        rewording: float = 0.1,
    ):
        if part not in PARTS:
            raise SaccadeError(f"unknown part {part!r}: use one of {', '.join(PARTS)}")
        if seed < 0:
            raise SaccadeError(f"seed={seed}: use 0 or more")
        if towers is not None and not 0 <= towers <= 1:
            raise SaccadeError(f"towers={towers}: a share is 0 to 1")
        self.part, self.seed, self.towers = part, seed, towers
        self.symmetries, self.rewording = symmetries, rewording
        self._read(Path(folder) / FILE)

    def _read(self, path: Path) -> None:
        """Scenes as one table of numbers: small to hand to other processes."""
        if not path.is_file():
            raise SaccadeError(f"{path}: no such file; point to the folder of the NLVR data")
        numbers, ends, known = array("B"), array("l", [0]), {}
        self.texts: list[str] = []
        members: list[tuple[list[int], list[int]]] = []
        for where, row in json_rows(path):
            try:
                text, label, boxes = row["sentence"], row["label"], row["boxes"]
                if not isinstance(text, str) or not isinstance(label, bool) or len(boxes) != 3:
                    raise ValueError('"sentence" must be text, "label" true or false, "boxes" three lists')
                if self.part != "all" and is_held_out(text) != (self.part == "held_out"):
                    continue
                for group, panel in enumerate(boxes):
                    for shape, color, size, x, y in panel:
                        numbers.extend((group, shape, color, size, x, y))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise SaccadeError(f"{where}: missing or broken field: {error}") from error
            if text not in known:
                known[text] = len(self.texts)
                self.texts.append(text)
                members.append(([], []))
            members[known[text]][label].append(len(ends) - 1)
            ends.append(len(numbers) // 6)
        self._table = np.array(numbers, np.uint8).reshape(-1, 6)
        self._ends = np.array(ends, np.int32)
        self._check(path)
        self._members = [tuple(np.array(side, np.int32) for side in pair) for pair in members]
        self._kinds, self._by_look = [], ([], [])
        for i, (text, pair) in enumerate(zip(self.texts, self._members, strict=True)):
            towers = all(self._is_tower(int(k)) for side in pair for k in side[:1])
            self._kinds.append(tuple(sorted(allowed(text, towers))))
            self._by_look[towers].append(i)
        if not self.texts:
            raise SaccadeError(f"{path}: no sentence of part {self.part!r}")

    def _check(self, path: Path) -> None:
        _, shape, color, size, x, y = self._table.T.astype(int)
        good = (shape < 3) & (color < 3) & np.isin(size, list(SIZES_PX)) & (np.maximum(x, y) + size <= 100)
        if not good.all():
            raise SaccadeError(f"{path}: no such object: {self._table[np.argmin(good), 1:].tolist()}")

    def _is_tower(self, k: int) -> bool:
        rows = self._table[self._ends[k] : self._ends[k + 1]]
        return bool(np.all((rows[:, 1] == 1) & (rows[:, 3] == 20) & (rows[:, 4] == 40)))

    def original(self, k: int) -> Scene:
        """Scene k of the part, as published."""
        panels: list[list] = [[], [], []]
        for group, *item in self._table[self._ends[k] : self._ends[k + 1]].tolist():
            panels[group].append(item)
        return scene_from_boxes(panels)

    @property
    def num_scenes(self) -> int:
        """Labelled scenes of the part."""
        return len(self._ends) - 1

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index}: a source has examples 0 to {len(self) - 1}")
        rng = Random(f"{self.part}-{self.seed}-{index}")
        i = self._draw_sentence(rng)
        label = rng.random() < 0.5
        label = label if len(self._members[i][label]) else not label
        scene = self.original(int(rng.choice(self._members[i][label])))
        symmetry = (
            draw_symmetry(rng, self._kinds[i]) if self.symmetries else Symmetry(rng.choice(IMAGE_ORDERS))
        )
        text = symmetry.text(self.texts[i])
        return _example(symmetry.scene(scene), reword(rng, text, self.rewording), label)

    def _draw_sentence(self, rng: Random) -> int:
        scattered, towers = self._by_look
        if self.towers is None or not (scattered and towers):
            return rng.randrange(len(self.texts))
        return rng.choice(towers if rng.random() < self.towers else scattered)

    def fixed(self, pictures: int = 8) -> list[tuple[str, Example]]:
        """(sentence, example): of each sentence some pictures, half of them true, as they are, to measure
        on."""
        found = []
        for text, pair in zip(self.texts, self._members, strict=True):
            for label, side in enumerate(pair):
                for n, k in enumerate(side[: pictures // 2]):
                    scene = permute_groups(self.original(int(k)), IMAGE_ORDERS[n % 6])
                    found.append((text, _example(scene, text, bool(label))))
        return found


def _example(scene: Scene, text: str, label: bool) -> Example:
    answer = "true" if label else "false"
    return Example("statement", render(scene), scene, text, answer, kind="nlvr")


def frequent_words(texts: list[str], least: int = 3) -> list[str]:
    """Words of letters that at least so many of the texts have, most frequent first."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in set(re.findall(r"[a-z]+", text.lower())):
            counts[word] = counts.get(word, 0) + 1
    return sorted((word for word, count in counts.items() if count >= least), key=lambda w: (-counts[w], w))
