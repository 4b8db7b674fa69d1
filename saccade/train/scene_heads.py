"""The scene world as task heads read it: examples as rows, the labels of each task, and how a head is scored.

examples = Drawn(Source("ground", split="train"), 20_000)
labels = partial(box_labels, pipeline.processor)
features = from_saccade(pipeline, steps=4, asked="ground").encode_all(examples, labels=labels, workers=8)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from saccade import backend
from saccade.data.processor import Processor
from saccade.data.readers import Row
from saccade.data.scenes import Source
from saccade.data.scenes.captions import caption_is_true
from saccade.data.scenes.scene import Example
from saccade.data.text import BOS, EOS, PAD
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.evaluation.heads import evaluate_head, predictions
from saccade.features import FeatureSet
from saccade.generate import Writer
from saccade.heads.dense import region_labels
from saccade.heads.vqa import ANSWER_TYPES, soft_targets
from saccade.heads.writing import texts
from saccade.train.stream import Stream

MAX_TURNS = 5
MAX_REGIONS = 10
REGION_LENGTH = 8
CAPTION_LENGTH = 40  # of tokens with <bos> and <eos>; the longest of 3,000 captions has 36
TRAIN_CANDIDATES = 10
CHUNK = 250  # examples that are drawn, encoded and scored at once
GALLERY = 1_000  # images among which a text finds its own


class Drawn:
    """The first `count` examples of a source; of `retrieve` each is followed by its twin, none is alone."""

    def __init__(self, source: Source, count: int):
        self.source, self.count = source, count
        self.twins = source.task == "retrieve"
        self._last: tuple[int, list[Example]] = (-1, [])

    def __len__(self) -> int:
        return self.count - self.count % 2 if self.twins else self.count

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(f"example {i}: there are {len(self)}")
        if not self.twins:
            return self.source[i]
        if self._last[0] != i // 2:  # a pair is drawn once
            example = self.source[i // 2]
            self._last = i // 2, [one for one in (example, example.pair) if one is not None]
        return self._last[1][i % 2]


@dataclass(frozen=True)
class Prepared:
    """A task's data: `train` to learn from, `group` rows together; `rows` and `features` held out."""

    train: FeatureSet
    rows: list[Row]
    features: FeatureSet
    group: int = 1

    def stream(self, objective, batch: int) -> Stream:
        numbers = range(len(self.train) // self.group)
        return Stream(numbers, self.gather, objective, batch, items=batch // self.group)

    def gather(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """A batch; features stay float16, which heads cast to what they compute in."""
        return self.train[np.add.outer(np.asarray(numbers) * self.group, np.arange(self.group)).ravel()]


# -- labels: (processor, examples, number of the first) -> arrays


def _answer_type(answer: str) -> int:
    kind = "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"
    return ANSWER_TYPES.index(kind)


def answer_labels(processor, examples, start=0):
    answers = list(processor.config.answers)
    return {
        "answer_targets": soft_targets([[e.answer] * 3 for e in examples], answers),
        "answer_types": np.array([_answer_type(e.answer) for e in examples], np.int32),
    }


def _sentence(tokenizer, text: str, length: int) -> np.ndarray:
    ids = [BOS, *tokenizer.encode(text), EOS]
    if len(ids) > length:
        raise SaccadeError(f"{text!r} has {len(ids)} tokens with <bos> and <eos>, the limit is {length}")
    return np.array(ids + [PAD] * (length - len(ids)), np.int32)


def caption_labels(processor, examples, start=0):
    return {"tokens": np.stack([_sentence(processor.tokenizer, e.target, CAPTION_LENGTH) for e in examples])}


def on_canvas(processor: Processor, example: Example, boxes) -> np.ndarray:
    """Boxes float32 (K, 4), of the image, as boxes of the canvas that the model sees."""
    placement = processor.place(example.image)[1]
    return np.stack([placement.to_canvas(box) for box in boxes]).astype(np.float32)


def box_labels(processor, examples, start=0):
    return {"box": np.concatenate([on_canvas(processor, e, [e.box]) for e in examples])}


def described(processor: Processor, example: Example) -> tuple[np.ndarray, list[str]]:
    """Every object of the scene: its box on the canvas, xyxy in [0, 1], and what it is."""
    scene = example.scene
    scale = np.array([scene.width_px, scene.height_px] * 2)
    boxes = on_canvas(processor, example, np.array([thing.box_px for thing in scene.objects]) / scale)
    return boxes, [f"{o.size} {o.color} {o.material} {o.shape}" for o in scene.objects]


def dense_labels(processor, examples, start=0):
    encode = processor.tokenizer.encode
    rows = []
    for example in examples:
        boxes, captions = described(processor, example)
        rows.append(region_labels(boxes, [encode(c) for c in captions], MAX_REGIONS, REGION_LENGTH))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def candidate_labels(processor, examples, start=0, count: int = TRAIN_CANDIDATES):
    """The right answer and others of those there are, `count` in all, in an order of each example's own.

    start: number of the first example, from which the order is drawn: each chunk has another.
    """
    answers = list(processor.config.answers)
    tokens = np.stack([_sentence(processor.tokenizer, answer, 4) for answer in answers])
    rng = np.random.default_rng(start)
    right = np.array([answers.index(e.answer) for e in examples])
    place = rng.integers(count, size=len(examples))
    chosen = []
    for one, at in zip(right, place, strict=True):
        others = rng.permutation(np.delete(np.arange(len(answers)), one))[: count - 1]
        chosen.append(np.insert(others, at, one))
    return {
        "candidates": tokens[np.stack(chosen)],
        "answer_index": place.astype(np.int32),
        "response": tokens[right],
    }


def all_candidates(processor, examples, start=0):
    """Those of held-out dialogues: every answer that there is."""
    return candidate_labels(processor, examples, start, len(processor.config.answers))


# -- scores


def held_out(task: str, processor: Processor, examples: Drawn, features: FeatureSet) -> list[Row]:
    """What the rule of a task compares with. Boxes of dense captions are of the canvas."""
    rows = []
    for i, example in enumerate(examples):
        answers, boxes = (example.answer,), (example.box,) if example.box else ()
        if task == "dense_captioning":
            found, captions = described(processor, example)
            answers, boxes = tuple(captions), tuple(map(tuple, found.tolist()))
        index = int(features.arrays["answer_index"][i]) if task == "dialogue" else None
        rows.append(
            Row(
                id=str(i),
                picture=b"",
                text=example.text,
                answers=answers,
                boxes=boxes,
                answer_index=index,
                scene=example.scene,
                kind=example.kind,
                where=f"example {i}",
            )
        )
    return rows


def score(head, processor: Processor, features: FeatureSet, rows: Sequence[Row]) -> dict[str, float]:
    """Scores of held-out examples by the rule of the head's task; of captions the share that is all true."""
    task = str(head.config.task)
    if task == "captioning":
        return _true_captions(head, processor, features, rows)
    options = {}
    if task == "vqa":
        options = {"answers": processor.config.answers, "rule": "exact"}
    elif task == "matching":
        features, rows = FeatureSet(features[:GALLERY]), rows[:GALLERY]
    elif task == "dense_captioning":
        options = {"predict": _regions(head, processor)}
    found = evaluate_head(head, features, rows, batch_size=CHUNK, progress=False, **options)
    return {name: value for name, value in found.items() if isinstance(value, float)}


def _true_captions(head, processor, features, rows) -> dict[str, float]:
    writer, settings = Writer(head), GenerationConfig(max_new_tokens=head.max_new_tokens)

    def write(batch):
        return texts(writer.generate(head.prompt(batch), settings)[0], processor.tokenizer)

    said = predictions(head, features, predict=write, batch_size=CHUNK, progress=False)
    right = [caption_is_true(text, row.scene) for text, row in zip(said, rows, strict=True)]
    return {"all_true": float(np.mean(right)), "distinct": len(set(said)) / len(said)}


def _regions(head, processor) -> Callable[[dict], list]:
    call, decode = backend.compiled(head, head), processor.tokenizer.decode

    def find(batch):
        found = head.decode(call(batch), threshold=0.05)
        return [[{**r, "caption": decode(r["caption"])} for r in regions] for regions in found]

    return find
