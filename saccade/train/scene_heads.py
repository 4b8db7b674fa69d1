"""The scene world as task heads read it: features of a frozen VLM-HRM, and the labels of each task.

chunks = Chunks(Source("ground", split="train"), 20_000, pipeline.processor, box_labels)
rows = Rows(encode(pipeline, chunks, asked="ground", steps=4, workers=8))
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace

import numpy as np
from keras import ops

from saccade import backend
from saccade.data.batching import Collate
from saccade.data.processor import Processor
from saccade.data.scenes import Source
from saccade.data.scenes.scene import Example
from saccade.data.text import BOS, EOS, PAD
from saccade.errors import SaccadeError
from saccade.heads.dense import region_labels
from saccade.heads.dialogue import flatten_history
from saccade.heads.vqa import ANSWER_TYPES, soft_targets
from saccade.models.vlm_hrm import for_task
from saccade.pipeline import Pipeline
from saccade.progress import track
from saccade.train.stream import Stream

MAX_TURNS = 5
MAX_REGIONS = 10
REGION_LENGTH = 8
CAPTION_LENGTH = 40  # of tokens with <bos> and <eos>; the longest of 3,000 captions has 36
TRAIN_CANDIDATES = 10
CHUNK = 250  # examples that are drawn, and encoded, at once; even, so that twins stay together


def draw(source: Source, start: int, count: int) -> list[Example]:
    """Examples `start`, ... of the scene world; of `retrieve` each is followed by its twin."""
    if source.task != "retrieve":
        return [source[i] for i in range(start, start + count)]
    pairs = [source[i] for i in range(start // 2, (start + count) // 2)]
    return [one for example in pairs for one in (example, example.pair) if one is not None]


@dataclass(frozen=True)
class Chunks:
    """The first `count` examples of a source as arrays, CHUNK at a time. Pickles: workers draw and label.

    Args:
        source: what to draw from.  count: of examples; of `retrieve` an odd one counts for nothing.
        processor: of the frozen model.
        labels: (processor, examples, start) -> labels of examples `start`, ...; None = there are none.
    Item: what the frozen model reads: images uint8 (B, H, W, 3), tokens int32 (B, T), padding_mask bool
        (B, T); and what goes with its features: `text_mask`, the same mask; of dialogues `turns` and `roles`,
        see flatten_history; the labels. B = CHUNK but for the last.
    """

    source: Source
    count: int
    processor: Processor
    labels: Callable[..., dict[str, np.ndarray]] | None = None

    @property
    def rows(self) -> int:
        return self.count - self.count % 2 if self.source.task == "retrieve" else self.count

    def __len__(self) -> int:
        return -(-self.rows // CHUNK)

    def __getitem__(self, i: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        start = i * CHUNK
        examples = draw(self.source, start, min(CHUNK, self.rows - start))
        read, rows = inputs(self.processor, examples)
        return read, {**rows, **self.labels(self.processor, examples, start)} if self.labels else rows

    def read(self, workers: int = 0) -> Iterator[tuple[dict, dict]]:
        """Every item in order, the same for any number of worker processes."""
        batches = Stream(self, _only, None, CHUNK, workers=workers, shuffle=False, items=1).batches()
        try:
            yield from islice(batches, len(self))
        finally:
            close = getattr(batches, "close", None)  # ends the workers now, not when it is collected
            if close is not None:
                close()


def _only(items: list):
    return items[0]


def inputs(processor: Processor, examples: Sequence[Example]) -> tuple[dict, dict]:
    """What the frozen model reads of examples, and what goes with its features: see Chunks.

    The text of a dialogue is all that was said.
    """
    length = processor.config.max_length
    said = [SimpleNamespace(context=None, text=e.text, turns=e.turns) for e in examples]
    text = flatten_history(said, processor.tokenizer.encode, length - 1, MAX_TURNS)
    text = {name: np.pad(value, ((0, 0), (1, 0))) for name, value in text.items()}
    text["tokens"][:, 0], text["text_mask"][:, 0] = BOS, True
    images = Collate(processor, "caption", text_length=length)(examples)["images"]
    kept = ("text_mask", "turns", "roles") if examples[0].task == "dialogue" else ("text_mask",)
    read = {"images": images, "tokens": text["tokens"], "padding_mask": text["text_mask"]}
    return read, {name: text[name] for name in kept}


def encode(
    pipeline: Pipeline,
    chunks: Chunks,
    asked: str = "vqa",
    steps: int = 0,
    text: bool = True,
    workers: int = 0,
) -> dict[str, np.ndarray]:
    """What a frozen VLM-HRM makes of examples, with their labels; only features are kept in memory.

    Args:
        asked: the task that it is told to reason for.
        steps: of its reasoning; 0 = what it sees and reads.
        text: False = for a head that reads images only.
        workers: processes that draw; the result is the same for any number.
    Returns: dict: `vision_features` float16 (N, P, D); `text_features` float16 (N, T, D) and `text_mask` bool
        (N, T) if `text`; what else the chunks hold.
    """
    found: dict[str, np.ndarray] = {}
    encoded = _encoded(pipeline, chunks.read(workers), asked, steps, text)
    start = 0
    for rows in track(encoded, len(chunks), "encoding"):
        for name, value in rows.items():
            if name not in found:
                found[name] = np.empty((chunks.rows, *value.shape[1:]), value.dtype)
            found[name][start : start + len(value)] = value
        start += len(rows["vision_features"])
    return found


def _encoded(pipeline, chunks: Iterable[tuple], asked: str, steps: int, text: bool) -> Iterator[dict]:
    """Features and what goes with them, chunk by chunk; while one is copied the next is computed."""
    function, waiting, size = _reader(pipeline.model, asked, steps, text), None, 0
    for read, rows in chunks:
        count = len(read["images"])
        size = size or count
        spare = (0, size - count)  # one shape: one program
        filled = {n: np.pad(a, [spare, *[(0, 0)] * (a.ndim - 1)], "edge") for n, a in read.items()}
        features = function(filled)
        for value in features.values():
            backend.start_host_copy(value)
        if waiting:
            yield _on_host(*waiting)
        if not text:
            del rows["text_mask"]
        waiting = features, rows, count
    if waiting:
        yield _on_host(*waiting)


def _on_host(features: dict, rows: dict, count: int) -> dict[str, np.ndarray]:
    return {**{name: ops.convert_to_numpy(value)[:count] for name, value in features.items()}, **rows}


def _reader(model, asked: str, steps: int, text: bool) -> Callable[[dict], dict]:
    """A batch -> its features, compiled."""

    def function(batch):
        x, mask = model.encode(for_task(batch, asked))
        layout = model.layout(batch)
        if steps:

            def body(carry, _):
                carry, outputs = model.step(carry, x, mask, layout, threshold=np.inf)
                return carry, outputs["memory"]

            x = ops.scan(body, model.initial_carry(x), length=steps)[1][-1]
        sides = {"vision_features": layout.vision, "text_features": layout.text}
        kept = sides if text else ("vision_features",)
        return {name: ops.cast(x[:, sides[name]], "float16") for name in kept}

    return backend.compiled(function, model)


@dataclass(frozen=True)
class Rows:
    """Arrays of equal length as a source of a Stream, and how a batch is gathered from them.

    Item i is the number i. Call: numbers, B of them -> the batch of their rows: i * group and those that
        follow. Features stay float16, which heads cast to what they compute in.
    """

    arrays: dict[str, np.ndarray]
    group: int = 1

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) // self.group

    def __getitem__(self, i: int) -> int:
        return i

    def __call__(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        rows = (np.asarray(numbers)[:, None] * self.group + np.arange(self.group)).reshape(-1)
        return {name: value[rows] for name, value in self.arrays.items()}

    @property
    def num_bytes(self) -> int:
        return sum(value.nbytes for value in self.arrays.values())


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
