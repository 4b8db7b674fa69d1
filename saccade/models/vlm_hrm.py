"""VLM-HRM: encode an image and a text once, then reason in as many steps as it takes."""

from dataclasses import dataclass, field, replace

import keras
from keras import ops

from saccade import backend
from saccade.fusion.projection import Projection
from saccade.fusion.resampler import FusionTokens
from saccade.heads.classify import Classifier
from saccade.heads.dual_encoder import DualEncoderHead
from saccade.heads.region import GroundingHead, ObjectHead
from saccade.heads.text import TextDecoder
from saccade.layers.blocks import CrossModalBlock, EncoderBlock
from saccade.layers.embeddings import TokenEmbedding, lookup
from saccade.layers.normalization import rms
from saccade.model import Model
from saccade.models.vit import ViT, ViTConfig
from saccade.recursion.core import BlockStack, RecursiveCore
from saccade.recursion.halting import should_halt

# The task token tells the core what is wanted. A rationale explains a `vqa` answer: same token, same states.
TASKS = ("vqa", "statement", "caption", "ground", "match")
WRITTEN = ("caption", "rationale")
SEGMENTS = ("task", "vision", "text", "fusion")


@dataclass(frozen=True, slots=True)
class VLMHRMConfig:
    """Everything a VLM-HRM is made of.

    dim, num_heads, mlp_dim: widths of the reasoning core (mlp_dim: SwiGLU's inner width).
    rotary, rotary_grid: see CrossModalBlock.
    depth: blocks in the net f.  shared: one net for both levels (TRM), or H and L nets (HRM).
    h_cycles, l_cycles, halt_max_steps, halt_threshold: see `saccade.recursion`.
    text_depth: contextual blocks of the text tower; 0 = embeddings only.
    shuffle: pixel-shuffle factor between tower and core.  fusion_tokens: F.
    decoder_depth: blocks of the writer, which shares the text embedding; 0 = no writer, so no captions and no
        rationales.
    embedding_dim: width of the retrieval space.
    attributes: classes of each attribute that vision tokens name on the way (shape, color, ...); () = none.
    referents: marks that each reasoned vision token may carry, "the text means what is here"; 0 = none.
    q_learning: a second halting output, q_continue.
    """

    vocab_size: int = 1024
    num_answers: int = 32
    vision: ViTConfig = field(
        default_factory=lambda: ViTConfig(
            dim=256, depth=3, num_heads=4, mlp_dim=640, patch_size=16, stem=(32, 64, 128, 192)
        )
    )
    dim: int = 256
    depth: int = 2
    num_heads: int = 4
    mlp_dim: int = 768
    cross: bool = True
    rotary: bool = True
    rotary_grid: tuple[int, int] | None = None
    shared: bool = True
    h_cycles: int = 1
    l_cycles: int = 1
    halt_max_steps: int = 8
    halt_threshold: float = 0.0
    text_depth: int = 1
    max_length: int = 96
    shuffle: int = 1
    fusion_tokens: int = 7  # with the task token a multiple of 8
    decoder_depth: int = 2
    embedding_dim: int = 128
    attributes: tuple = ()
    referents: int = 0
    q_learning: bool = False
    remat: bool = False

    @classmethod
    def from_json(cls, record: dict) -> "VLMHRMConfig":
        tower, grid = ViTConfig.from_json(record["vision"]), record.get("rotary_grid")
        fixed = {"vision": tower, "attributes": tuple(record["attributes"])}
        return cls(**{**record, **fixed, "rotary_grid": tuple(grid) if grid else None})


PRESETS = {
    "vlm_hrm_nano": VLMHRMConfig(
        vision=ViTConfig(
            dim=64,
            depth=1,
            num_heads=2,
            mlp_dim=128,
            patch_size=16,
            image_size=(64, 64),
            stem=(16, 24, 32, 64),
        ),
        dim=64,
        depth=1,
        num_heads=2,
        mlp_dim=128,
        halt_max_steps=4,
        fusion_tokens=2,
        decoder_depth=1,
        embedding_dim=32,
    ),
    "vlm_hrm_small": VLMHRMConfig(),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each segment of [task | vision | text | fusion] stands; `grid`: (rows, columns) of vision.

    `grids`: where those of one batch differ, ((rows of the batch, their grid), ...) in order; () = all alike.
    """

    grid: tuple[int, int]
    text_length: int
    grids: tuple[tuple[int, tuple[int, int]], ...] = ()

    @property
    def vision(self) -> slice:
        return slice(1, 1 + self.grid[0] * self.grid[1])

    @property
    def text(self) -> slice:
        return slice(self.vision.stop, self.vision.stop + self.text_length)


@keras.saving.register_keras_serializable(package="saccade")
class VLMHRM(Model):
    """Vision-language model with hierarchical recursive reasoning and adaptive computation.

        x, mask = model.encode(batch)                       # once per example
        carry   = model.initial_carry(x)
        carry, outputs = model.step(carry, x, mask, layout) # again, until carry["halted"]
        answer  = model.heads["vqa"](outputs["task"])

    Call: batch: dict of `images` float32 (B, H, W, 3) in [0, 1] (or uint8); `tokens` int32 (B, T);
        `padding_mask` bool (B, T), True = keep; `task` int32 (B,), index into TASKS.
    Returns: dict of one reasoning step: see `step`, plus `answer_logits` float32 (B, num_answers).
    Source: design of Saccade (VLM-HRM); recursion from TRM, arXiv:2510.04871, and HRM, arXiv:2506.21734.
    """

    Config = VLMHRMConfig
    tasks = ("vqa", "statement", "caption", "rationale", "ground", "match", "retrieve")

    def __init__(self, config: VLMHRMConfig, **kwargs):
        super().__init__(config, **kwargs)
        policy = self.dtype_policy
        c = config
        self.vision = ViT(c.vision, remat=c.remat, dtype=policy, name="vision")
        self.projection = Projection(c.vision.dim, c.dim, c.shuffle, dtype=policy, name="projection")
        self.text = TokenEmbedding(c.vocab_size, c.dim, c.max_length, dtype=policy, name="text")
        self.text_blocks = [
            EncoderBlock(c.dim, c.num_heads, 2 * c.dim, dtype=policy, name=f"text_block_{i}")
            for i in range(c.text_depth)
        ]
        self.fusion = FusionTokens(c.fusion_tokens, c.dim, c.num_heads, dtype=policy, name="fusion")
        low = self._net("net" if c.shared else "low")
        high = None if c.shared else self._net("high")
        self.core = RecursiveCore(low, high, c.h_cycles, c.l_cycles, dtype=policy, name="core")
        self.halting = Classifier(
            c.dim, 1 + c.q_learning, bias=-5.0, zero_kernel=True, dtype=policy, name="halting"
        )
        self.heads = {
            "vqa": Classifier(c.dim, c.num_answers, dtype=policy, name="vqa"),
            "statement": Classifier(c.dim, 2, dtype=policy, name="statement"),
            "match": Classifier(c.dim, 2, dtype=policy, name="match"),
            "ground": GroundingHead(c.dim, dtype=policy, name="ground"),
        }
        if c.decoder_depth:
            # It shares the reader's words: one table for what is read, written and scored.
            self.heads["write"] = TextDecoder(
                self.text, c.decoder_depth, c.num_heads, c.dim, dtype=policy, name="write"
            )
        else:
            self.tasks = tuple(task for task in self.tasks if task not in WRITTEN)
        self.heads["retrieve"] = DualEncoderHead(c.dim, c.embedding_dim, dtype=policy, name="retrieve")
        if c.attributes:
            self.heads["objects"] = ObjectHead(c.dim, c.attributes, dtype=policy, name="objects")
        if c.referents:
            self.heads["referents"] = Classifier(c.dim, c.referents, dtype=policy, name="referents")
        with backend.compiled_once():
            self.build()

    def _net(self, name: str) -> BlockStack:
        c = self.config
        blocks = [
            CrossModalBlock(
                c.dim,
                c.num_heads,
                c.mlp_dim,
                c.cross,
                c.rotary,
                c.rotary_grid,
                dtype=self.dtype_policy,
                name=f"block_{i}",
            )
            for i in range(c.depth)
        ]
        return BlockStack(blocks, remat=c.remat, dtype=self.dtype_policy, name=name)

    def build(self, input_shape=None):
        if self.built:
            return
        for part in (self.vision, self.projection, self.text, *self.text_blocks, self.fusion, self.core):
            part.build()
        for part in (self.halting, *self.heads.values()):
            part.build()
        normal = keras.initializers.TruncatedNormal(stddev=1.0)
        dim = self.config.dim
        self.task_table = self.add_weight((len(TASKS), dim), normal, name="task_table")
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        self.modality_table = self.add_weight((len(SEGMENTS), dim), small, name="modality_table")
        # Starting states are drawn once and never trained, as in TRM, but small: what was seen and asked must
        # outweigh them in the first step (docs/decisions/0006).
        self.initial_h = self.add_weight((dim,), small, trainable=False, name="initial_h")
        self.initial_l = self.add_weight((dim,), small, trainable=False, name="initial_l")
        self.built = True

    def layout(self, batch) -> Layout:
        """The layout that `encode` gives a batch: it depends on the shapes of images and tokens only."""
        rows, columns = self.config.vision.grid(batch["images"].shape[1:3])
        shuffle = self.config.shuffle
        return Layout((rows // shuffle, columns // shuffle), batch["tokens"].shape[1])

    def encode_images(self, images):
        """float (B, H, W, 3) in [0, 1], or bytes uint8 in 0..255 -> vision tokens float (B, N, D)."""
        grid = self.config.vision.grid(images.shape[1:3])
        return self._as("vision", rms(self.projection(self.vision(to_unit(images)), grid=grid)))

    def encode_text(self, tokens, padding_mask):
        """int32 (B, T) -> text tokens float (B, T, D), contextual when text_depth > 0."""
        x = self.text(tokens)
        keys_mask = ops.expand_dims(padding_mask, 1)
        for block in self.text_blocks:
            x = block(x, keys_mask)
        return self._as("text", rms(x))

    def _as(self, segment: str, x):
        """Add the embedding of a segment's modality."""
        return x + ops.cast(self.modality_table, x.dtype)[SEGMENTS.index(segment)]

    def encode(self, batch):
        """Embed a batch as one sequence [task | vision | text | fusion].

        Returns: x float (B, S, D); padding_mask bool (B, S), True = keep. Its vision and text tokens are
            those of `encode_images` and `encode_text`.
        """
        vision = self.encode_images(batch["images"])
        text = self.encode_text(batch["tokens"], batch["padding_mask"])
        fusion = self._as("fusion", self.fusion(vision, text, batch["padding_mask"]))
        task = ops.expand_dims(lookup(self.task_table, batch["task"], vision.dtype), 1)
        segments = (self._as("task", task), vision, text, fusion)
        keep = [ops.ones(ops.shape(s)[:2], dtype="bool") for s in segments]
        keep[2] = batch["padding_mask"]
        return ops.concatenate(segments, axis=1), ops.concatenate(keep, axis=1)

    def initial_carry(self, x) -> dict:
        """States before the first step of every row of x (B, S, D)."""
        rows = ops.shape(x)[0]
        return {
            "z_h": ops.broadcast_to(ops.cast(self.initial_h, x.dtype), ops.shape(x)),
            "z_l": ops.broadcast_to(ops.cast(self.initial_l, x.dtype), ops.shape(x)),
            "steps": ops.zeros((rows,), dtype="int32"),
            "halted": ops.zeros((rows,), dtype="bool"),
        }

    def step(self, carry, x, mask, layout: Layout, threshold=None, max_steps=None, return_scores=False):
        """Reason once more. Rows that had halted are still computed; the scheduler decides what to keep.

        Args:
            carry: from `initial_carry` or the last step.  x, mask: from `encode`.  layout: of the batch.
            threshold, max_steps: of halting; None = the config's.
        Returns: carry; outputs: `hidden` float (B, S, D), what was reasoned; `memory` float (B, S, D), what a
            writer reads, and its `padding_mask` bool (B, S); `task` float (B, D), its task token; `q_halt`
            float32 (B,); `q_continue` with q_learning; `scores` float32 (B, A, S, S) with return_scores.
        """
        z_h, z_l, *scores = self.core(
            carry["z_h"], carry["z_l"], x, mask, layout=layout, return_scores=return_scores
        )
        q = self.halting(z_h[:, 0])
        outputs = {
            "hidden": z_h,
            # Reasoning forgets where things are, and a writer says it (docs/decisions/0013).
            "memory": z_h + x,
            "padding_mask": mask,
            "task": z_h[:, 0],
            "q_halt": q[:, 0],
        }
        if self.config.q_learning:
            outputs["q_continue"] = q[:, 1]
        if scores:
            outputs["scores"] = scores[0]
        steps = carry["steps"] + 1
        threshold = self.config.halt_threshold if threshold is None else threshold
        max_steps = self.config.halt_max_steps if max_steps is None else max_steps
        new = {
            "z_h": ops.stop_gradient(z_h),
            "z_l": ops.stop_gradient(z_l),
            "steps": steps,
            "halted": should_halt(q[:, 0], steps, max_steps, threshold),
        }
        return new, outputs

    def call(self, batch):
        x, mask = self.encode(batch)
        _, outputs = self.step(self.initial_carry(x), x, mask, self.layout(batch))
        return {**outputs, "answer_logits": self.heads["vqa"](outputs["task"])}


def to_unit(images):
    """uint8 pixels (0..255) to float32 in [0, 1]; float images pass. Batches travel as bytes."""
    if keras.backend.standardize_dtype(images.dtype) != "uint8":
        return images
    return ops.cast(images, "float32") / 255.0


def for_task(batch: dict, task: str) -> dict:
    """What `VLMHRM.encode` reads of a batch whose rows all belong to one of TASKS."""
    ids = ops.full((batch["tokens"].shape[0],), TASKS.index(task), dtype="int32")
    return {**{name: batch[name] for name in ("images", "tokens", "padding_mask")}, "task": ids}


def preset(name: str, **changes) -> VLMHRMConfig:
    """A named configuration, with fields replaced."""
    return replace(PRESETS[name], **changes)
