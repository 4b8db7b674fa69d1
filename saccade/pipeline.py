"""A model, its processor and the verbs a user knows: ask, explain, caption, ground, match."""

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from saccade.errors import SaccadeError

BUNDLED = Path(__file__).parent / "bundled"

_QUESTION = re.compile(
    r"^(how|what|which|who|where|when|why|is|are|do|does|did|can|could|has|have|was|were)\b", re.IGNORECASE
)


class Result:
    """What a verb returns."""

    def to_json(self) -> dict:
        """Plain values for `json.dumps`."""
        return _plain(asdict(self))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return np.round(value.astype(float), 4).tolist()
    return round(value, 4) if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class Answer(Result):
    """`confidence`: probability of `text` among all answers.  `steps`: reasoning steps taken."""

    text: str
    confidence: float
    steps: int
    task: str


@dataclass(frozen=True, slots=True)
class Step(Result):
    """One reasoning step. `halting`: the model's probability that its answer is right now.
    `attention`: float32 (h, w) over the image, sums to 1."""

    answer: str
    confidence: float
    halting: float
    attention: np.ndarray


@dataclass(frozen=True, slots=True)
class Explanation(Result):
    """The answer, every step up to it, and the rationale (questions only)."""

    answer: Answer
    steps: tuple[Step, ...]
    rationale: str


@dataclass(frozen=True, slots=True)
class Caption(Result):
    """`confidence`: geometric mean of the tokens' probabilities."""

    text: str
    steps: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Grounding(Result):
    """`box_px`: (x0, y0, x1, y1) in pixels of the image."""

    box_px: tuple[float, float, float, float]
    confidence: float
    steps: int


@dataclass(frozen=True, slots=True)
class Match(Result):
    """`probability` that the text is true of the image (fused); `similarity`: cosine of the dual encoder."""

    probability: float
    similarity: float
    steps: int


def check_learned(model, task: str) -> None:
    """Raises: SaccadeError: the checkpoint was never trained for the task, whatever heads it has."""
    if task not in model.tasks:
        known = ", ".join(model.tasks)
        raise SaccadeError(f"this checkpoint has not learned {task!r}, only {known}; use another model")


class Pipeline:
    """What `saccade.load` returns. Images are paths, bytes, Pillow images or arrays.

    Args:
        model: a VLMHRM.  processor: the Processor it was trained with.
    """

    def __init__(self, model, processor):
        from saccade.reason import Reasoner

        self.model = model
        self.processor = processor
        self.reasoner = Reasoner(model)

    def save(self, folder, dtype: str | None = None) -> None:
        """Write model and processor to one directory, all or nothing. `dtype`: as `Model.save`."""
        from saccade.files import atomic_directory

        with atomic_directory(Path(folder)) as partial:
            self.model.write(partial, dtype)
            self.processor.save(partial)

    def ask(self, image, text: str, task: str = "auto", max_steps=None, threshold=None) -> Answer:
        """Answer a question, or judge a statement.

        Args:
            task: "vqa", "statement", or "auto": a text that ends in "?" or starts like a question is one.
            max_steps: 1..halt_max_steps.  threshold: halting logit to exceed; higher thinks longer.
        """
        task = self._learned(choose_task(text, task))
        batch = self.processor([image], [text])
        result = self.reasoner.run(batch, task, threshold, self._steps(max_steps))
        return self._answer(result["probabilities"][0], int(result["steps"][0]), task)

    def explain(self, image, text: str, task: str = "auto", max_steps=None, threshold=None) -> Explanation:
        """The same answer with every step that led to it: read out, not made up.

        The rationale is empty for a statement, and for a checkpoint that has not learned to write one.
        """
        task = self._learned(choose_task(text, task))
        batch = self.processor([image], [text])
        write = task == "vqa" and "rationale" in self.model.tasks
        trace = self.reasoner.explain(batch, threshold, self._steps(max_steps), task=task, write=write)
        placement = self.processor.place(image)[1]
        steps = []
        for i in range(int(trace["steps"][0])):
            answer = self._answer(trace["probabilities"][i, 0], i + 1, task)
            halting = _sigmoid(float(trace["q_halt"][i, 0]))
            attention = crop_attention(trace["attention"][i, 0], placement)
            steps.append(Step(answer.text, answer.confidence, halting, attention))
        rationale = self.processor.tokenizer.decode(trace["tokens"][0].tolist()) if write else ""
        return Explanation(answer, tuple(steps), rationale)

    def caption(self, image) -> Caption:
        """Describe the image in a sentence or two."""
        self._learned("caption")
        result = self.reasoner.run(self.processor([image]), "caption")
        text = self.processor.tokenizer.decode(result["tokens"][0].tolist())
        return Caption(text, int(result["steps"][0]), float(np.exp(result["log_probability"][0])))

    def ground(self, image, phrase: str) -> Grounding:
        """Find the one thing a phrase means."""
        self._learned("ground")
        result = self.reasoner.run(self.processor([image], [phrase]), "ground")
        placement = self.processor.place(image)[1]
        box = placement.to_image_px(result["box"][0])
        return Grounding(box, float(result["confidence"][0]), int(result["steps"][0]))

    def match(self, image, text: str) -> Match:
        """How well a description fits."""
        self._learned("match")
        batch = self.processor([image], [text])
        result = self.reasoner.run(batch, "match")
        vectors = self.reasoner.embed(batch)
        similarity = float(vectors["images"][0] @ vectors["texts"][0])
        return Match(float(result["probabilities"][0, 1]), similarity, int(result["steps"][0]))

    def _answer(self, probabilities, steps: int, task: str) -> Answer:
        best = int(np.argmax(probabilities))
        text = self.processor.decode_answer(best) if task == "vqa" else ("false", "true")[best]
        return Answer(text, float(probabilities[best]), steps, task)

    def _learned(self, task: str) -> str:
        check_learned(self.model, task)
        return task

    def _steps(self, max_steps):
        limit = self.model.config.halt_max_steps
        if max_steps is not None and not 1 <= max_steps <= limit:
            raise SaccadeError(f"max_steps is {max_steps}; the model takes 1 to {limit}")
        return max_steps


def choose_task(text: str, task: str = "auto") -> str:
    """ "vqa" for a question, "statement" for a statement; a given task is checked."""
    if task == "auto":
        text = text.strip()
        return "vqa" if text.endswith("?") or _QUESTION.match(text) else "statement"
    if task not in ("vqa", "statement"):
        raise SaccadeError(f"task {task!r} cannot be asked; use auto, vqa or statement")
    return task


def crop_attention(attention: np.ndarray, placement) -> np.ndarray:
    """The part of a canvas-wide map (h, w) that covers the image, same size, sum 1."""
    from PIL import Image

    rows, columns = attention.shape
    height, width = placement.canvas_size
    box = (
        placement.left_px / width * columns,
        placement.top_px / height * rows,
        (placement.left_px + placement.width_px) / width * columns,
        (placement.top_px + placement.height_px) / height * rows,
    )
    picture = Image.fromarray(attention.astype(np.float32))
    cropped = np.asarray(picture.resize((columns, rows), Image.Resampling.BOX, box=box))
    return cropped / max(float(cropped.sum()), 1e-9)


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


@dataclass(frozen=True, slots=True)
class ModelInfo(Result):
    """A model that ships with the package."""

    name: str
    kind: str
    parameters: int
    bytes: int
    tasks: tuple[str, ...]
    path: str


def available() -> list[ModelInfo]:
    """The bundled models, by name."""
    from safetensors import safe_open

    from saccade.model import CONFIG, WEIGHTS, read_config

    found = []
    for folder in sorted(path.parent for path in BUNDLED.glob(f"*/{CONFIG}")):
        record = read_config(folder)
        with safe_open(folder / WEIGHTS, framework="numpy") as tensors:
            parameters = sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        size = sum(file.stat().st_size for file in folder.iterdir())
        tasks = tuple(record.get("tasks", ()))
        found.append(ModelInfo(folder.name, record["model"], parameters, size, tasks, str(folder)))
    return found


@dataclass(frozen=True, slots=True)
class PresetInfo(Result):
    """An architecture that can be built and trained; it has no weights yet."""

    name: str
    kind: str
    parameters: int


def presets() -> list[PresetInfo]:
    """All architectures, smallest first; parameters are counted."""
    from saccade.models import blip2, captioners, clip, flamingo, nano_vlm, trm, vlm_hrm

    kinds = (
        (nano_vlm.NanoVLM, nano_vlm.PRESETS),
        (clip.CLIP, clip.PRESETS),
        (flamingo.Flamingo, flamingo.PRESETS),
        (blip2.BLIP2, blip2.PRESETS),
        (vlm_hrm.VLMHRM, vlm_hrm.PRESETS),
    )
    rows = [(name, model, config) for model, table in kinds for name, config in table.items()]
    for kind, model in captioners.KINDS.items():
        rows.append((f"{kind}_scenes", model, captioners.PRESETS[f"{kind}_scenes"]))
    for name, config in trm.PRESETS.items():
        rows.append((name, trm.HRM if config.h_layers else trm.TRM, config))
    found = [PresetInfo(name, model.__name__, model.count_parameters(config)) for name, model, config in rows]
    return sorted(found, key=lambda info: info.parameters)


def find_model(name_or_folder: str | Path) -> Path:
    """The directory of a bundled model, the one given, or that of a name of the hub (owner/name[@revision]).

    Raises: SaccadeError: there is none; see also `saccade.hub.fetch`.
    """
    folder = Path(name_or_folder)
    if not folder.is_dir():
        from saccade.hub.fetch import fetch, is_name

        if is_name(str(name_or_folder)) and not folder.exists() and not folder.parent.is_dir():
            return fetch(str(name_or_folder))
        folder = BUNDLED / str(name_or_folder)
        if not re.fullmatch(r"[\w.-]+", str(name_or_folder)) or not folder.is_dir():
            names = ", ".join(sorted(p.parent.name for p in BUNDLED.glob("*/config.json")))
            raise SaccadeError(
                f"no model or directory is called {str(name_or_folder)!r}; bundled models: {names}; of one "
                "that you have trained, give the directory"
            )
    return folder


def load(name_or_folder: str | Path = "vlm_hrm_scenes"):
    """A bundled model by name, a directory (a recipe's, nanoVLM's, CLIP's, SigLIP's, BLIP-2's), or a hub's.

    Returns: a Pipeline for a VLM-HRM, a ChatPipeline for a NanoVLM, a CaptionPipeline for a captioner, a
        CLIPPipeline for a CLIP or SigLIP, a FewShot for a Flamingo or BLIP2, a PuzzleModel for a TRM or HRM.
    Raises: SaccadeError: no such model or directory; altered or unreadable files.
    """
    from saccade import backend
    from saccade.hub.nano_vlm import is_published
    from saccade.model import read_config

    folder = find_model(name_or_folder)
    backend.enable_compilation_cache()
    record = read_config(folder)
    if record.get("model") in ("TRM", "HRM"):
        from saccade.puzzles import read_puzzle_model

        return read_puzzle_model(folder)
    if record.get("model") in ("ShowAndTell", "ShowAttendTell"):
        from saccade import captioning

        return captioning.read(folder, record)
    if record.get("model") == "NanoVLM" or is_published(record):
        from saccade import chat

        return chat.read(folder)
    if record.get("model") == "CLIP" or record.get("model_type") in ("clip", "siglip"):
        from saccade import clip

        return clip.read(folder)
    if record.get("model") in ("Flamingo", "BLIP2") or record.get("model_type") == "blip-2":
        from saccade.few_shot import FewShot

        return FewShot.load(folder)
    kind = record.get("model") or record.get("model_type")
    if kind != "VLMHRM":
        raise SaccadeError(
            f"{folder / 'config.json'} describes a {kind!r}, which answers nothing; give a nanoVLM, CLIP, "
            "SigLIP, BLIP-2 or what `save` wrote"
        )
    from saccade.data.processor import Processor
    from saccade.models.vlm_hrm import VLMHRM

    return Pipeline(VLMHRM.load(folder), Processor.load(folder))
