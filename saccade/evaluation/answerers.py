"""What a model must offer to be measured on a published data set, and how Saccade's own offer it.

An answerer is any object with the verbs that a rule needs. Each takes rows of a data set and the text that
goes with each, and returns a dict for each: `prediction`, and what else is to be written down.

    answer(rows, texts)    a text: vqa, exact, yes_no, letter
    judge(rows, texts)     "true" or "false", or a text that says so: statement
    caption(rows, texts)   a text: caption
    locate(rows, texts)    a box xyxy in [0, 1] of the picture, or None: grounding
    rank(rows, texts)      a score for each of row.candidates: dialogue
    describe(rows, texts)  a list of {"box", "score", "caption"}: dense_captions

`follows`: whether it is given the prompt of the harness, or the row's text alone.  `completes`: whether it
goes on with any text, so that a prompt may be given although it follows none; optional.  `settings`: plain
values, what its predictions depend on beside its weights.  `model`: its Keras model.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from saccade.data.image import choose_size
from saccade.data.interleaved import few_shot
from saccade.data.processor import stack
from saccade.data.readers import Row
from saccade.errors import SaccadeError, SaccadeWarning
from saccade.pipeline import check_learned
from saccade.recursion.halting import halting_threshold

_DOT = np.zeros((2, 2, 3), np.uint8)  # a picture, where the text alone is looked at


class Answerer(Protocol):
    """See the module; the verbs are found by name."""

    follows: bool
    settings: dict[str, Any]
    model: Any


class SteppingAnswerer:
    """A VLM-HRM: its closed set of answers, its statements, captions and boxes.

    A text with words that it has not learned is refused: the row's prediction is empty (its box None) and
    `refused` says why. Where they are taken for misspelt, `note` says what for.

    Args: pipeline: a Pipeline.  threshold: halting logit; None = the model's.
    """

    follows = False

    def __init__(self, pipeline, threshold: float | None = None):
        self.pipeline, self.model = pipeline, pipeline.model
        config = pipeline.model.config
        self.threshold = halting_threshold(config, threshold)
        halting = f"halts where the logit exceeds {self.threshold:g}, at most {config.halt_max_steps} steps"
        self.settings = {"decoding": halting, "threshold": self.threshold}

    def answer(self, rows: Sequence[Row], texts: Sequence[str]) -> list[dict]:
        return self._run("vqa", rows, texts)

    def judge(self, rows: Sequence[Row], texts: Sequence[str]) -> list[dict]:
        return self._run("statement", rows, texts)

    def caption(self, rows: Sequence[Row], texts: Sequence[str]) -> list[dict]:
        return self._run("caption", rows, None)

    def locate(self, rows: Sequence[Row], texts: Sequence[str]) -> list[dict]:
        return self._run("ground", rows, texts)

    def _run(self, task: str, rows, texts) -> list[dict]:
        check_learned(self.model, task)
        found: list[dict] = [{} for _ in rows]
        for canvas, group in self._canvases(rows, texts, found).items():
            # Filled up to the size of the batch: one program a canvas and length of text.
            filled = group + [group[-1]] * (len(rows) - len(group))
            batch = self._batch([placed for _, placed, _ in filled], [ids for *_, ids in filled])
            result = self.pipeline.reasoner.run(batch, task, self.threshold)
            for at, (index, (_, placement), _) in enumerate(group):
                found[index] |= self._read(task, result, at, placement)
            assert all(placed[0].shape[:2] == canvas for _, placed, _ in group)
        return found

    def _canvases(self, rows, texts, found: list[dict]) -> dict:
        """canvas -> [(index, (pixels, placement), ids)]; what is refused goes into `found`."""
        processor = self.pipeline.processor
        groups = defaultdict(list)
        for index, row in enumerate(rows):
            try:
                with warnings.catch_warnings(record=True) as noted:
                    warnings.simplefilter("always", SaccadeWarning)
                    ids = processor.encode(processor.check(texts[index]) if texts else "")
            except SaccadeError as error:
                found[index] = {"prediction": "", "refused": str(error)}
                continue
            if noted:
                found[index]["note"] = str(noted[-1].message)
            pixels = row.image
            canvas = choose_size(pixels.shape[:2], processor.config.image_sizes)
            groups[canvas].append((index, processor.place(pixels, canvas), ids))
        return groups

    def _batch(self, placed: list, ids: list) -> dict:
        tokens, padding_mask = self.pipeline.processor.pad(ids)
        images = stack([pixels for pixels, _ in placed]).astype(np.float32) / np.float32(255)
        return {"images": images, "tokens": tokens, "padding_mask": padding_mask}

    def _read(self, task: str, result: dict, at: int, placement) -> dict:
        steps = int(result["steps"][at])
        if task == "ground":
            box = [round(float(v), 6) for v in placement.to_image(result["box"][at])]
            return {"prediction": box, "steps": steps, "confidence": _rounded(result["confidence"][at])}
        if task == "caption":
            text = self.pipeline.processor.tokenizer.decode(result["tokens"][at].tolist())
            confidence = np.exp(result["log_probability"][at])
            return {"prediction": text, "steps": steps, "confidence": _rounded(confidence)}
        best = int(np.argmax(result["probabilities"][at]))
        text = self.pipeline.processor.decode_answer(best) if task == "vqa" else ("false", "true")[best]
        confidence = _rounded(result["probabilities"][at, best])
        return {"prediction": text, "steps": steps, "confidence": confidence}


class WritingAnswerer:
    """A model that writes, a ChatPipeline: everything that is a text, greedily.

    Args: pipeline: has `chat`.  max_tokens: of an answer.
    """

    follows = True

    def __init__(self, pipeline, max_tokens: int):
        self.pipeline, self.model = pipeline, pipeline.model
        self.max_tokens = max_tokens
        self.settings = {"decoding": f"greedy, at most {max_tokens} tokens", "max_tokens": max_tokens}

    def answer(self, rows: Sequence[Row], texts: Sequence[str]) -> list[dict]:
        images = [[row.image] for row in rows]
        replies = self.pipeline.chat(images, list(texts), max_new_tokens=self.max_tokens)
        return [{"prediction": r.text, "confidence": _rounded(r.confidence)} for r in replies]

    judge = caption = answer


class CompletingAnswerer(WritingAnswerer):
    """A Flamingo or BLIP-2, a FewShot: what it writes after image and text, greedily, without demonstrations.

    A text that is longer than its prompts may be is refused: the row's prediction is empty and `refused` says
    why.

    Args: pipeline: has `reply`.  max_tokens: of an answer.
    Raises: SaccadeError: a BLIP-2 of stage one, which writes nothing.
    """

    follows, completes = False, True

    def __init__(self, pipeline, max_tokens: int):
        check_learned(pipeline.model, "chat")
        super().__init__(pipeline, max_tokens)

    def answer(self, rows: Sequence[Row], texts: Sequence[str]) -> list[dict]:
        found: list[dict] = [{} for _ in rows]
        prompts = {}
        for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
            prompts[index] = few_shot((), row.image, text)
            try:
                self.pipeline.processor([few_shot((), _DOT, text)])
            except SaccadeError as error:
                found[index] = {"prediction": "", "refused": str(error)}
                del prompts[index]
        if prompts:
            # Filled up to the size of the batch: one program a length of text.
            filled = [*prompts.values(), *[next(iter(prompts.values()))] * (len(rows) - len(prompts))]
            replies = self.pipeline.reply(filled, max_new_tokens=self.max_tokens)
            for index, reply in zip(prompts, replies, strict=False):
                found[index] = {"prediction": reply.text, "confidence": _rounded(reply.confidence)}
        return found

    judge = caption = answer


def answerer_of(pipeline, max_tokens: int, threshold: float | None = None) -> Answerer:
    """The answerer of what `saccade.load` returns, or the object itself if it is one.

    Raises: SaccadeError: it is neither; a threshold for a model without steps, or NaN.
    """
    own = hasattr(pipeline, "follows")
    if not own and hasattr(pipeline, "reasoner"):
        return SteppingAnswerer(pipeline, threshold)
    if threshold is not None:
        raise SaccadeError("threshold is for models that reason in steps, this one does not; leave it out")
    if own:
        return pipeline
    if hasattr(pipeline, "reply"):
        return CompletingAnswerer(pipeline, max_tokens)
    if hasattr(pipeline, "chat"):
        return WritingAnswerer(pipeline, max_tokens)
    raise SaccadeError(f"a {type(pipeline).__name__} answers no questions; load a model that sees and reads")


def _rounded(value) -> float:
    return round(float(value), 4)
