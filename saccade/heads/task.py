"""The one contract of the task heads: features and masks of any encoder in, a dict of tensors out."""

from dataclasses import dataclass
from enum import StrEnum

import keras
import numpy as np
from keras import ops

from saccade import backend
from saccade.errors import SaccadeError
from saccade.fusion.multimodal import STRATEGIES, MultiModalFusion, misfit
from saccade.layers.blocks import EncoderBlock
from saccade.layers.pooling import AttentionPooling
from saccade.model import Model


class VLMTaskType(StrEnum):
    """The tasks that have a head."""

    VQA = "vqa"
    GROUNDING = "grounding"
    MATCHING = "matching"
    DENSE_CAPTIONING = "dense_captioning"
    CAPTIONING = "captioning"
    DIALOGUE = "dialogue"


# What a task needs beside the widths.
_NEEDS = {
    VLMTaskType.VQA: ("num_answers",),
    VLMTaskType.GROUNDING: ("grid",),
    VLMTaskType.MATCHING: ("embedding_dim",),
    VLMTaskType.DENSE_CAPTIONING: ("grid", "vocab_size", "max_length", "decoder_depth"),
    VLMTaskType.CAPTIONING: ("vocab_size", "max_length", "decoder_depth"),
    VLMTaskType.DIALOGUE: ("vocab_size", "max_length", "decoder_depth", "max_turns"),
}

_LEAST = {"vocab_size": 4, "max_length": 2}  # three specials and a word; BOS and a word
_WITHOUT_TEXT = (VLMTaskType.DENSE_CAPTIONING,)
_TEXT_OPTIONAL = (VLMTaskType.CAPTIONING,)
_MAY_BE_DEEP = (VLMTaskType.VQA, VLMTaskType.MATCHING, VLMTaskType.CAPTIONING, VLMTaskType.DIALOGUE)
_WITHOUT_PATCHES = ("concat", "q_former", "perceiver")  # their result tells no patch of the text
_DUAL_HEADS = 8  # DualEncoderHead's pooling


@dataclass(frozen=True)
class VLMTaskConfig:
    """One head.

    Args:
        task: a VLMTaskType or its value.
        vision_dim, text_dim: C and D, widths of the features; dense_captioning reads no text, captioning with
            text_dim=None neither.
        dim: width inside.  num_heads: of every attention and pooling; must divide dim.
        fusion: of saccade.fusion.multimodal.STRATEGIES.  fusion_depth: encoder blocks over what it fused, of
            vqa, matching, captioning and dialogue: for features that were not read together, such as those
            of two encoders.
        num_answers: K of vqa.  embedding_dim: E of matching.
        grid: (rows, columns) of the patches of grounding and dense_captioning.
        vocab_size, max_length, decoder_depth: of what writes: V, longest text with BOS and EOS, blocks.
        max_turns: rounds of a dialogue, the present one counted.
    Raises: SaccadeError: no such task or fusion, a size below 1, something the task needs is not given.
    """

    task: VLMTaskType
    vision_dim: int
    text_dim: int | None = None
    dim: int = 256
    num_heads: int = 4
    fusion: str = "attention"
    fusion_depth: int = 0
    num_answers: int | None = None
    grid: tuple[int, int] | None = None
    embedding_dim: int | None = None
    vocab_size: int | None = None
    max_length: int | None = None
    decoder_depth: int = 2
    max_turns: int | None = None

    def __post_init__(self):
        names = [task.value for task in VLMTaskType]
        if self.task not in names:
            raise SaccadeError(f"no task {self.task!r}; choose one of {', '.join(names)}")
        object.__setattr__(self, "task", VLMTaskType(self.task))
        if self.fusion not in STRATEGIES:
            raise SaccadeError(f"no fusion {self.fusion!r}; choose one of {', '.join(STRATEGIES)}")
        for name in (*(f"{side}_dim" for side in self.sides), "dim", "num_heads", *_NEEDS[self.task]):
            value = getattr(self, name)
            if name == "text_dim" and value is None and self.task in _TEXT_OPTIONAL:
                continue
            least = _LEAST.get(name, 1)
            sizes = value if name == "grid" else (value,)
            if name == "grid" and (not isinstance(value, tuple | list) or len(value) != 2):
                raise SaccadeError(f"grid of {self.task.value} is {value}; give (rows, columns)")
            if not all(isinstance(size, int) and size >= least for size in sizes):
                raise SaccadeError(f"{name} of {self.task.value} is {value!r}; give at least {least}, whole")
        if self.fusion_depth < 0:
            raise SaccadeError(f"fusion_depth of {self.task.value} is {self.fusion_depth}; give at least 0")
        if self.fusion_depth and self.task not in _MAY_BE_DEEP:
            deep = ", ".join(_MAY_BE_DEEP)
            raise SaccadeError(f"{self.task.value} has no fusion_depth, it is of {deep}; leave it 0")
        if self.dim % self.num_heads:
            raise SaccadeError(f"num_heads={self.num_heads} does not divide dim={self.dim}; choose a divisor")
        if self.task == VLMTaskType.GROUNDING and self.fusion in _WITHOUT_PATCHES:
            fit = ", ".join(name for name in STRATEGIES if name not in _WITHOUT_PATCHES)
            raise SaccadeError(f"fusion {self.fusion!r} tells no patch of the text; choose one of {fit}")
        if self.task == VLMTaskType.MATCHING and self.dim % _DUAL_HEADS:
            raise SaccadeError(f"dim of matching is {self.dim}; give a multiple of {_DUAL_HEADS}")

    @property
    def sides(self) -> dict[str, int | None]:
        """What the head reads: the width of each side's features."""
        text = {} if self.task in _WITHOUT_TEXT else {"text": self.text_dim}
        return {"vision": self.vision_dim, **text}

    @classmethod
    def from_json(cls, record: dict) -> "VLMTaskConfig":
        grid = record.get("grid")
        return cls(**{**record, "grid": None if grid is None else tuple(grid)})


class TaskHead(Model):
    """Checks the features of a batch. Subclasses make their layers before they call `self.build()`.

    Call: batch: dict of `vision_features` float (B, N, C) or (B, C); `text_features` float (B, T, D) or
        (B, D); `vision_mask` bool (B, N) and `text_mask` bool (B, T), True = keep, may be left out = all.
    Returns: dict of tensors; `decode` of the head turns them into answers.
    Raises: SaccadeError: features missing, of another rank, width or number of rows; a mask of another shape;
        labels, where there are any, of another shape. Values are looked at only in NumPy arrays: inside a
        compiled step, as the Trainer's, they cannot be; call `head.check(batch)` before.
    """

    Config = VLMTaskConfig

    def __call__(self, batch, *args, **kwargs):
        # Before Keras, which would wrap the one line in a page.
        self.check(batch)
        return super().__call__(batch, *args, **kwargs)

    def check(self, batch: dict) -> None:
        """Raise SaccadeError, one line, unless this head can read the batch."""
        check_features(batch, self.config)

    def compile_once(self) -> None:
        """Build every layer; where it helps, their random values are drawn by one program."""
        with backend.compiled_once():
            self.build()


class EncoderStack(keras.layers.Layer):
    """`config.fusion_depth` encoder blocks over fused tokens; none leaves them as they are.

    Args: config: of the head.
    Call: x: float (B, S, dim).  mask: bool (B, S), True = keep.
    Returns: float (B, S, dim).
    """

    def __init__(self, config: VLMTaskConfig, **kwargs):
        super().__init__(**kwargs)
        c, policy = config, self.dtype_policy
        self.blocks = [
            EncoderBlock(c.dim, c.num_heads, 2 * c.dim, dtype=policy, name=f"block_{i}")
            for i in range(c.fusion_depth)
        ]

    def build(self, input_shape=None):
        for block in self.blocks:
            block.build()

    def call(self, x, mask):
        keys_mask = ops.expand_dims(mask, 1)
        for block in self.blocks:
            x = block(x, keys_mask)
        return x


class FusedPool(keras.layers.Layer):
    """Fuse image and text, then pool what is kept into one vector.

    Args: config: of the head.
    Call: batch: as of TaskHead.
    Returns: float (B, dim); a row without anything to read gives zeros, or what the queries of the
        fusion say of nothing.
    """

    def __init__(self, config: VLMTaskConfig, **kwargs):
        super().__init__(**kwargs)
        c, policy = config, self.dtype_policy
        self.fusion = MultiModalFusion(
            c.fusion, c.dim, c.vision_dim, c.text_dim, c.num_heads, dtype=policy, name="fusion"
        )
        self.deep = EncoderStack(c, dtype=policy, name="deep")
        self.pool = AttentionPooling(c.dim, c.num_heads, dtype=policy, name="pool")

    def build(self, input_shape=None):
        for layer in (self.fusion, self.deep, self.pool):
            layer.build()

    def call(self, batch):
        fused, mask = self.fusion(
            batch["vision_features"],
            batch["text_features"],
            vision_mask=batch.get("vision_mask"),
            text_mask=batch.get("text_mask"),
        )
        return self.pool(self.deep(fused, mask), mask)


def check_features(batch: dict, config: VLMTaskConfig) -> None:
    """Raise SaccadeError, one line, unless the features fit the configuration and their masks."""
    if not isinstance(batch, dict):
        raise SaccadeError(f"the batch is a {type(batch).__name__}; give a dict with vision_features")
    rows = {}
    for side, width in config.sides.items():
        name = f"{side}_features"
        if side == "text" and config.task in _TEXT_OPTIONAL and batch.get(name) is None:
            continue
        if batch.get(name) is None:
            raise SaccadeError(f"the batch has no {name!r}; it has {', '.join(sorted(batch)) or 'nothing'}")
        if width is None:
            raise SaccadeError(
                f"the batch has {name}, this head reads images only; leave them out, or set text_dim"
            )
        if problem := misfit(name, batch[name], batch.get(f"{side}_mask"), width):
            raise SaccadeError(problem)
        rows[name] = batch[name].shape[0]
    if len(set(rows.values())) > 1:
        raise SaccadeError(f"the features are of different numbers of rows, {rows}; pair them one to one")


def check_label(batch: dict, name: str, shape: tuple) -> bool:
    """Whether the batch has this label. Raises: SaccadeError: it has another shape."""
    if batch.get(name) is None:
        return False
    found = tuple(np.shape(batch[name]))
    if found != shape:
        raise SaccadeError(f"{name} is {found}, not {shape}; give one for each row")
    return True


def check_range(name: str, values, limit: int, limit_name: str) -> None:
    """Raise SaccadeError unless all are in [0, limit). Looks at NumPy arrays only: others may be traced."""
    if not isinstance(values, np.ndarray) or not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= limit:
        worst = low if low < 0 else high
        raise SaccadeError(f"{name} holds {worst}; give 0 to {limit - 1}, {limit_name} is {limit}")
