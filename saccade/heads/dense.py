"""Dense captioning: boxes of what is in the image, a caption of each."""

import keras
import numpy as np
from keras import ops

from saccade.data.text import BOS, EOS, PAD
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.fusion.multimodal import project_tokens
from saccade.generate import Writer
from saccade.heads.grounding import check_boxes
from saccade.heads.region import GroundingHead, check_grid
from saccade.heads.task import TaskHead, VLMTaskConfig, check_range
from saccade.heads.text import TextDecoder
from saccade.layers.blocks import EncoderBlock
from saccade.layers.embeddings import TokenEmbedding
from saccade.layers.normalization import rms
from saccade.losses import to_xyxy
from saccade.metrics.region import suppress

_MLP_RATIO = 4


@keras.saving.register_keras_serializable(package="saccade")
class DenseCaptioningHead(TaskHead):
    """Every patch, told of the others, proposes a region and scores it; a writer describes the chosen ones.

    The patches are the R = N region queries of the set matching. A caption is written from two vectors, what
    the region's patch holds and where its box is, and only for regions that a truth was matched to
    (`describe`) or that `decode` keeps.

    Call: batch: `vision_features` float (B, N, C), row-major, N of `config.grid`; `vision_mask` as of
        TaskHead. It reads no text. Labels, where given, are checked: see `region_labels`.
    Returns: dict: `boxes` float32 (B, N, 4) cxcywh in [0, 1]; `score_logits` float32 (B, N), that an object
        is there, -1e9 where a patch is padded; `regions` float32 (B, N, dim), what the writer reads.
    Raises: SaccadeError: features without the patches of the grid; labels of another shape, more of them than
        patches, longer than max_length.
    Source: DETR, section 3.1, arXiv:2005.12872 (matching); DenseCap, arXiv:1511.07571 (the task). Differs:
        the patches stand for DETR's learned queries and start near what they have to find.
    """

    def __init__(self, config: VLMTaskConfig, **kwargs):
        super().__init__(config, **kwargs)
        c, policy = config, self.dtype_policy
        self.projection = keras.layers.Dense(c.dim, dtype=policy, name="projection")
        self.mixer = EncoderBlock(c.dim, c.num_heads, _MLP_RATIO * c.dim, dtype=policy, name="mixer")
        self.region = GroundingHead(c.dim, dtype=policy, name="region")
        self.place = keras.layers.Dense(c.dim, dtype=policy, name="place")
        self.words = TokenEmbedding(c.vocab_size, c.dim, c.max_length, dtype=policy, name="words")
        self.writer = TextDecoder(
            self.words, c.decoder_depth, c.num_heads, _MLP_RATIO * c.dim, dtype=policy, name="writer"
        )
        self._compiled = Writer(self)
        self.compile_once()

    def build(self, input_shape=None):
        self.projection.build((None, None, self.config.vision_dim))
        self.place.build((None, None, 4))
        for layer in (self.mixer, self.region, self.words, self.writer):
            layer.build()
        rows, columns = self.config.grid
        initial = keras.initializers.TruncatedNormal(stddev=0.02)
        self.positions = self.add_weight((rows * columns, self.config.dim), initial, name="positions")
        self.built = True

    def check(self, batch):
        super().check(batch)
        check_grid(batch["vision_features"], self.config.grid)
        _check_labels(batch, self.config)

    def call(self, batch):
        mask = batch.get("vision_mask")
        x, kept = project_tokens(batch["vision_features"], mask, self.projection)
        attended = None if mask is None else ops.expand_dims(kept, 1)
        x = self.mixer(x + ops.cast(self.positions, x.dtype), attention_mask=attended)
        outputs = self.region(x, grid=self.config.grid)
        if mask is not None:
            outputs["score_logits"] = ops.where(kept, outputs["score_logits"], -1e9)
        return {**outputs, "regions": ops.cast(rms(x), "float32")}

    # -- the writer

    def describe(self, outputs: dict, index, tokens):
        """Score a caption for each of M regions of every row.

        Args: outputs: of a call.  index: int32 (B, M), the regions; negative = any, its result means nothing.
            tokens: int32 (B, M, T), starting with BOS.
        Returns: logits float32 (B, M, T, V); logits[:, :, t] predicts token t + 1.
        """
        index = ops.expand_dims(ops.maximum(index, 0), -1)
        regions, boxes = (
            ops.reshape(ops.take_along_axis(outputs[name], index, axis=1), (-1, outputs[name].shape[-1]))
            for name in ("regions", "boxes")
        )
        logits = self.writer(ops.reshape(tokens, (-1, tokens.shape[-1])), *self._memory(regions, boxes))
        return ops.reshape(logits, (*tokens.shape, logits.shape[-1]))

    def _memory(self, regions, boxes):
        """(K, dim) and (K, 4) -> what the writer reads: float (K, 2, dim), and that all of it counts."""
        regions, boxes = ops.cast(regions, self.compute_dtype), ops.stop_gradient(boxes)
        memory = ops.stack([regions, self.place(boxes)], axis=1)
        return memory, ops.ones(memory.shape[:2], "bool")

    @property
    def max_new_tokens(self) -> int:
        return self.writer.max_new_tokens

    def prefill(self, regions, boxes, room: int):
        """Begin a caption for each of `regions` (K, dim) in `boxes` (K, 4) cxcywh; see saccade.generate."""
        return self.writer.prefill(*self._memory(regions, boxes), room)

    def step(self, tokens, cache):
        return self.writer.step(tokens, cache)

    # -- answers

    def decode(
        self,
        outputs: dict,
        threshold: float = 0.5,
        overlap: float = 0.5,
        settings: GenerationConfig | None = None,
    ) -> list[list[dict]]:
        """For each image its regions, surest first; captions are written for these only.

        Args:
            threshold: least score, in [0, 1].  overlap: IoU above which the less sure of two is dropped.
            settings: how to write; None = greedy, up to `config.max_length` tokens.
        Returns: a list for each image of dicts: `box` float32 (4,) xyxy in [0, 1]; `score` float; `caption`
            list of token ids, without <bos>, <eos> and padding.
        """
        settings = settings or GenerationConfig(max_new_tokens=self.max_new_tokens)
        corners = np.clip(ops.convert_to_numpy(to_xyxy(outputs["boxes"])), 0.0, 1.0)
        scores = ops.convert_to_numpy(ops.sigmoid(outputs["score_logits"]))
        kept = []
        for row, (boxes, sure) in enumerate(zip(corners, scores, strict=True)):
            candidates = np.flatnonzero(sure >= threshold)
            stays = candidates[suppress(boxes[candidates], sure[candidates], overlap)]
            kept += [(row, int(index)) for index in stays]
        result: list[list[dict]] = [[] for _ in corners]
        for (row, index), caption in zip(kept, self._captions(outputs, kept, settings), strict=True):
            region = {"box": corners[row, index], "score": float(scores[row, index]), "caption": caption}
            result[row].append(region)
        return result

    def _captions(self, outputs: dict, kept: list[tuple[int, int]], settings) -> list[list[int]]:
        if not kept:
            return []
        # As many rows as a power of two: a new number of regions seldom needs a new program.
        rows = np.array(kept + kept[:1] * ((1 << (len(kept) - 1).bit_length()) - len(kept)))
        regions, boxes = (
            ops.convert_to_numpy(outputs[name])[rows[:, 0], rows[:, 1]] for name in ("regions", "boxes")
        )
        tokens, _ = self._compiled.generate((regions, boxes), settings)
        ends = (*settings.ends, settings.pad_token_id)
        return [_until(row, ends) for row in tokens[: len(kept)].tolist()]


def _until(tokens: list[int], ends: tuple) -> list[int]:
    stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]


def region_labels(boxes, captions: list[list[int]], regions: int, length: int) -> dict[str, np.ndarray]:
    """The labels of one image, padded, for `HeadLoss`.

    Args:
        boxes: float (K, 4) xyxy in [0, 1].  captions: token ids of each, without <bos> and <eos>.
        regions: M, most regions an image.  length: T, most tokens with <bos> and <eos>.
    Returns: dict: `region_boxes` float32 (M, 4); `region_mask` bool (M,), True = a region; `region_tokens`
        int32 (M, T), <bos> first, <eos> last, then padding.
    Raises: SaccadeError: a box outside [0, 1] or inverted; not a caption for each box; too many or too long.
    """
    boxes = check_boxes(np.asarray(boxes, np.float32).reshape(-1, 4))
    if len(boxes) != len(captions):
        raise SaccadeError(f"{len(boxes)} boxes and {len(captions)} captions; give one of each a region")
    if len(boxes) > regions:
        raise SaccadeError(f"{len(boxes)} regions exceed the {regions} there is room for; raise `regions`")
    labels = {
        "region_boxes": np.zeros((regions, 4), np.float32),
        "region_mask": np.arange(regions) < len(boxes),
        "region_tokens": np.full((regions, length), PAD, np.int32),
    }
    labels["region_boxes"][: len(boxes)] = boxes
    for row, caption in enumerate(captions):
        tokens = [BOS, *caption, EOS]
        if len(tokens) > length:
            raise SaccadeError(
                f"caption {row} has {len(tokens)} tokens with <bos> and <eos>, at most {length} fit; "
                "shorten it or raise `length`"
            )
        labels["region_tokens"][row, : len(tokens)] = tokens
    return labels


def _check_labels(batch: dict, config: VLMTaskConfig) -> None:
    """Raise SaccadeError, one line, unless the labels that are there fit the head."""
    names = ("region_boxes", "region_mask", "region_tokens")
    given = [name for name in names if name in batch]
    if not given:
        return
    if len(given) < len(names):
        raise SaccadeError(f"the batch has {', '.join(given)} of {', '.join(names)}; see region_labels")
    rows, patches = batch["vision_features"].shape[:2]
    regions = batch["region_boxes"].shape[1] if len(batch["region_boxes"].shape) == 3 else -1
    length = batch["region_tokens"].shape[-1]
    wanted = {
        "region_boxes": (rows, regions, 4),
        "region_mask": (rows, regions),
        "region_tokens": (rows, regions, length),
    }
    for name, shape in wanted.items():
        if tuple(batch[name].shape) != shape:
            raise SaccadeError(f"{name} are {tuple(batch[name].shape)}, not {shape}; see region_labels")
    if regions > patches:
        raise SaccadeError(
            f"{regions} true regions exceed the {patches} patches that propose one; give fewer"
        )
    if length > config.max_length:
        raise SaccadeError(
            f"region_tokens are {length} long, max_length is {config.max_length}; shorten or raise it"
        )
    check_range("region_tokens", batch["region_tokens"], config.vocab_size, "vocab_size")
    boxes, mask = batch["region_boxes"], batch["region_mask"]
    if isinstance(boxes, np.ndarray) and isinstance(mask, np.ndarray):
        check_boxes(boxes[mask.astype(bool)])
