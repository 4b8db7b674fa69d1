"""The scene world as task heads read it: features of a frozen VLM-HRM, and the labels of each task.

features = encode(pipeline, examples, asked="ground", steps=4)
rows = Rows({**features, **box_labels(pipeline, examples)})
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from keras import ops

from saccade import backend
from saccade.data.batching import Collate
from saccade.data.scenes.scene import Example
from saccade.data.text import BOS, EOS, PAD
from saccade.errors import SaccadeError
from saccade.heads.dense import region_labels
from saccade.heads.dialogue import flatten_history
from saccade.heads.vqa import ANSWER_TYPES, soft_targets
from saccade.models.vlm_hrm import for_task
from saccade.pipeline import Pipeline

MAX_TURNS = 5
MAX_REGIONS = 10
REGION_LENGTH = 8
CAPTION_LENGTH = 40  # of tokens with <bos> and <eos>; the longest of 3,000 captions has 36
TRAIN_CANDIDATES = 10
CHUNK = 250  # examples that are encoded at once


def encode(pipeline: Pipeline, examples: list[Example], asked: str = "vqa", steps: int = 0) -> dict:
    """What a frozen VLM-HRM makes of examples; a dialogue's text is all that was said.

    Args: asked: the task that it is told to reason for.  steps: of its reasoning; 0 = what it sees and reads.
    Returns: dict: `vision_features` float16 (B, N, D); `text_features` float16 (B, T, D) and `text_mask` bool
        (B, T); of dialogues also `turns` and `roles`, see flatten_history.
    """
    model, processor = pipeline.model, pipeline.processor
    length = processor.config.max_length
    collate = Collate(processor, "caption", text_length=length)

    def function(batch):
        x, mask = model.encode(for_task(batch, asked))
        layout = model.layout(batch)
        if steps:

            def body(carry, _):
                carry, outputs = model.step(carry, x, mask, layout, threshold=np.inf)
                return carry, outputs["memory"]

            x = ops.scan(body, model.initial_carry(x), length=steps)[1][-1]
        return ops.cast(x[:, layout.vision], "float16"), ops.cast(x[:, layout.text], "float16")

    compiled, parts, size = backend.compiled(function, model), [], min(CHUNK, len(examples))
    for start in range(0, len(examples), size):
        chunk = examples[start : start + size]
        padded = chunk + [chunk[-1]] * (size - len(chunk))
        batch = collate(padded)
        said = [SimpleNamespace(context=None, text=e.text, turns=e.turns) for e in padded]
        text = flatten_history(said, processor.tokenizer.encode, length - 1, MAX_TURNS)
        text = {name: np.pad(value, ((0, 0), (1, 0))) for name, value in text.items()}
        text["tokens"][:, 0], text["text_mask"][:, 0] = BOS, True
        read = {"images": batch["images"], "tokens": text["tokens"], "padding_mask": text["text_mask"]}
        vision, words = (ops.convert_to_numpy(t) for t in compiled(read))
        rows = {"vision_features": vision, "text_features": words, "text_mask": text["text_mask"]}
        if examples[0].task == "dialogue":
            rows |= {name: text[name] for name in ("turns", "roles")}
        parts.append({name: value[: len(chunk)] for name, value in rows.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Rows:
    """Arrays of equal length as a source of a Stream; item i is rows i * group and what follows."""

    arrays: dict[str, np.ndarray]
    group: int = 1

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) // self.group

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {name: value[i * self.group : (i + 1) * self.group] for name, value in self.arrays.items()}


def join(items: list[dict]) -> dict[str, np.ndarray]:
    """Items of Rows as a batch."""
    batch = {name: np.concatenate([item[name] for item in items]) for name in items[0]}
    halves = (name for name, value in batch.items() if value.dtype == np.float16)
    return {**batch, **{name: batch[name].astype(np.float32) for name in halves}}


def _answer_type(answer: str) -> int:
    kind = "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"
    return ANSWER_TYPES.index(kind)


def answer_labels(pipeline, examples):
    answers = list(pipeline.processor.config.answers)
    return {
        "answer_targets": soft_targets([[e.answer] * 3 for e in examples], answers),
        "answer_types": np.array([_answer_type(e.answer) for e in examples], np.int32),
    }


def _sentence(tokenizer, text: str, length: int) -> np.ndarray:
    ids = [BOS, *tokenizer.encode(text), EOS]
    if len(ids) > length:
        raise SaccadeError(f"{text!r} has {len(ids)} tokens with <bos> and <eos>, the limit is {length}")
    return np.array(ids + [PAD] * (length - len(ids)), np.int32)


def caption_labels(pipeline, examples):
    tokenizer = pipeline.processor.tokenizer
    return {"tokens": np.stack([_sentence(tokenizer, e.target, CAPTION_LENGTH) for e in examples])}


def on_canvas(pipeline: Pipeline, example: Example, boxes) -> np.ndarray:
    """Boxes float32 (K, 4), of the image, as boxes of the canvas that the model sees."""
    placement = pipeline.processor.place(example.image)[1]
    return np.stack([placement.to_canvas(box) for box in boxes]).astype(np.float32)


def box_labels(pipeline, examples):
    return {"box": np.concatenate([on_canvas(pipeline, e, [e.box]) for e in examples])}


def described(pipeline: Pipeline, example: Example) -> tuple[np.ndarray, list[str]]:
    """Every object of the scene: its box on the canvas, xyxy in [0, 1], and what it is."""
    scene = example.scene
    scale = np.array([scene.width_px, scene.height_px] * 2)
    boxes = on_canvas(pipeline, example, np.array([thing.box_px for thing in scene.objects]) / scale)
    return boxes, [f"{o.size} {o.color} {o.material} {o.shape}" for o in scene.objects]


def dense_labels(pipeline, examples):
    encode = pipeline.processor.tokenizer.encode
    rows = []
    for example in examples:
        boxes, captions = described(pipeline, example)
        rows.append(region_labels(boxes, [encode(c) for c in captions], MAX_REGIONS, REGION_LENGTH))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def candidate_labels(pipeline, examples, count: int = TRAIN_CANDIDATES):
    """The right answer and others of those there are, `count` in all, in an order of each example's own."""
    answers = list(pipeline.processor.config.answers)
    tokens = np.stack([_sentence(pipeline.processor.tokenizer, answer, 4) for answer in answers])
    rng = np.random.default_rng(len(examples))
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
