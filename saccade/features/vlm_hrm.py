"""The frozen VLM-HRM as an encoder: what it sees and reads, or what its reasoning makes of both."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from keras import ops

from saccade.data.processor import Processor, stack
from saccade.data.text import BOS
from saccade.errors import SaccadeError
from saccade.features.encoders import Features, Side, compiled, said
from saccade.features.stored import pack
from saccade.heads.dialogue import flatten_history
from saccade.models.vlm_hrm import TASKS, for_task


def from_saccade(
    model="vlm_hrm_scenes",
    image_size: tuple[int, int] | None = None,
    steps: int = 0,
    asked: str = "vqa",
    max_turns: int | None = None,
    text_length: int | None = None,
) -> Features:
    """Vision tokens (B, P, D) and text tokens (B, T, D) of a VLM-HRM, with padding of the text.

    Args:
        model: a Pipeline, or what `saccade.load` takes.
        image_size: (height, width) of the canvas for every picture; None = the processor's first.
        steps: of its reasoning; 0 = what it reads before it reasons. After some, each patch and word knows of
            what is asked; the tokens are those that its own writer reads, and picture and text are one: see
            Features.with_text.
        asked: the task that it reasons for, of saccade.models.vlm_hrm.TASKS; without steps it says nothing.
        max_turns: of dialogues: the text is then all that was said in the rows, with `turns` and `roles`, see
            flatten_history. None = rows are no dialogues.
        text_length: T of every batch; None = that of the longest text, rounded up. A row without a text, or
            the text None, is <bos> alone.
    Raises: SaccadeError: another kind of model, a canvas that it was not trained on, an unknown task.
    """
    from saccade.pipeline import Pipeline, load

    pipeline = load(model) if isinstance(model, (str, Path)) else model
    if not isinstance(pipeline, Pipeline):
        raise SaccadeError(f"a {type(pipeline).__name__} is no VLM-HRM; use from_keras or from_arrays")
    if asked not in TASKS or steps < 0:
        raise SaccadeError(f"steps={steps}, asked={asked!r}: at least 0 steps for one of {', '.join(TASKS)}")
    model, processor = pipeline.model, pipeline.processor
    sizes = processor.config.image_sizes
    size = tuple(image_size or sizes[0])
    if size not in sizes:
        raise SaccadeError(f"image_size is {size}; this model has {', '.join(map(str, sizes))}")
    rows, columns = model.config.vision.grid(size)
    shuffle, dim = model.config.shuffle, model.config.dim
    see, read = compiled(model.encode_images, model), compiled(model.encode_text, model)
    vision = Side(
        dim,
        _Pictures(processor, size),
        lambda arrays: see(arrays["images"]),
        (rows // shuffle, columns // shuffle),
    )
    texts = _Texts(processor, max_turns, text_length)
    text = Side(dim, texts, lambda arrays: read(arrays["tokens"], arrays["text_mask"]))
    return Features(vision, text, _reasoning(model, asked, steps) if steps else None)


def _reasoning(model, asked: str, steps: int):
    """What both sides prepared -> features of both after some steps of reasoning."""

    def reason(images, tokens, mask):
        batch = for_task({"images": images, "tokens": tokens, "padding_mask": mask}, asked)
        x, keep = model.encode(batch)
        layout = model.layout(batch)

        def body(carry, _):
            carry, outputs = model.step(carry, x, keep, layout, threshold=np.inf)
            return carry, outputs["memory"]

        memory = ops.scan(body, model.initial_carry(x), length=steps)[1][-1]
        return {"vision_features": memory[:, layout.vision], "text_features": memory[:, layout.text]}

    call = compiled(reason, model)
    return lambda arrays: call(arrays["images"], arrays["tokens"], arrays["text_mask"])


@dataclass(frozen=True)
class _Pictures:
    """Pictures onto one canvas: images uint8 (B, H, W, 3), and where they lie there."""

    processor: Processor
    size: tuple[int, int]

    def __call__(self, images: list) -> dict[str, np.ndarray]:
        placed = [self.processor.place(image, self.size) for image in images]
        places = np.array([pack(place) for _, place in placed])
        return {"images": stack(canvas for canvas, _ in placed), "placements": places}


@dataclass(frozen=True)
class _Texts:
    """Texts, or rows that have one, as tokens int32 (B, T) and `text_mask` bool (B, T)."""

    processor: Processor
    max_turns: int | None
    length: int | None

    def __call__(self, texts: list) -> dict[str, np.ndarray]:
        if self.max_turns is not None:
            return self._dialogues(texts, self.max_turns)
        rows = [self._encode(text) for text in texts]
        return dict(zip(("tokens", "text_mask"), self.processor.pad(rows, self.length), strict=True))

    def _encode(self, text) -> list[int]:
        if text is None or not (isinstance(text, str) or text.text):
            return [BOS]
        return self.processor.encode(self.processor.check(said(text)), self.length)

    def _dialogues(self, rows: list, max_turns: int) -> dict[str, np.ndarray]:
        """<bos>, and all that was said; what a row does not have was not said."""
        processor = self.processor
        length = self.length or processor.config.max_length
        lines = [
            SimpleNamespace(
                text=said(row), turns=getattr(row, "turns", ()), context=getattr(row, "context", None)
            )
            for row in rows
        ]

        def encode(text: str) -> list[int]:
            return processor.tokenizer.encode(processor.check(text))

        found = flatten_history(lines, encode, length - 1, max_turns)
        found = {name: np.pad(value, ((0, 0), (1, 0))) for name, value in found.items()}
        found["tokens"][:, 0], found["text_mask"][:, 0] = BOS, True
        multiple = processor.config.length_multiple
        longest = int(found["text_mask"].sum(1).max())
        kept = self.length or -(-longest // multiple) * multiple
        return {name: value[:, :kept] for name, value in found.items()}
