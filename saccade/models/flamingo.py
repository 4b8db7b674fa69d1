"""Flamingo: a language model that looks, between its blocks, at the images that stand in its text."""

from dataclasses import dataclass, field

import keras
from keras import ops

from saccade import backend
from saccade.fusion.cross_attention import GatedCrossAttention
from saccade.fusion.resampler import PerceiverResampler
from saccade.layers.blocks import again
from saccade.model import Model, choose
from saccade.models.llama import Llama, LlamaConfig
from saccade.models.vit import ViT, ViTConfig
from saccade.models.vlm_hrm import to_unit


@dataclass(frozen=True, slots=True)
class FlamingoConfig:
    """`num_latents`: M, tokens that an image becomes.  `resampler_depth`, `resampler_heads`: see
    PerceiverResampler.  `cross_every`: n, a gated block stands ahead of blocks 0, n, 2n, ... of the decoder.
    `remat`: recompute activations in the backward pass."""

    vision: ViTConfig = field(default_factory=ViTConfig)
    language: LlamaConfig = field(default_factory=LlamaConfig)
    num_latents: int = 64
    resampler_depth: int = 6
    resampler_heads: int = 8
    cross_every: int = 4
    remat: bool = False

    @classmethod
    def from_json(cls, record: dict) -> "FlamingoConfig":
        tower = ViTConfig.from_json(record["vision"])
        return cls(**{**record, "vision": tower, "language": LlamaConfig(**record["language"])})


PRESETS = {
    # over the tower of the bundled VLM-HRM, see recipes/flamingo_scenes.py
    "flamingo_scenes": FlamingoConfig(
        language=LlamaConfig(1026, 256, 6, 8, 4, 768, 256, 10_000.0),
        num_latents=16,
        resampler_depth=2,
        resampler_heads=8,
        cross_every=2,
    ),
    # the manner of OpenFlamingo (arXiv:2308.01390) over SmolLM2-135M and SigLIP base
    "flamingo_smollm2_135m": FlamingoConfig(
        ViTConfig(768, 12, 12, 3072, 16, (224, 224)), LlamaConfig(49154), cross_every=5
    ),
}


def preset(name: str, **changes) -> FlamingoConfig:
    """A named configuration, with fields replaced."""
    return choose(PRESETS, name, changes)


@keras.saving.register_keras_serializable(package="saccade")
class Flamingo(Model):
    """A decoder with gated cross-attention to the images of an interleaved text.

        soft   = model.encode_images(images)              # (B, K, M, C): ViT, then Perceiver resampler
        seen   = cumsum(image_mask)                       # how many images stand up to each token
        x      = model.language.embed(tokens)
        hidden = model.language(x, before=look)           # look(i, x): gated block i reads image seen - 1

    A token reads the latest image at or before it and no other; a token ahead of every image reads nothing
    (zeros). Earlier images reach it through the decoder's own attention. With closed gates, as at the
    start, logits equal the plain decoder's exactly.

    Call: batch: dict of `images`, float in [0, 1] or uint8 (B, K, H, W, 3), each row's in reading order, of
        which it may use the first only (K = 0, or no such key: text alone); `tokens` int32 (B, S);
        `image_mask` bool (B, S), True where an image stands, one token each; `padding_mask` bool (B, S),
        True = keep, None = padding stands last. `saccade.data.interleaved` makes it, and refuses rows whose
        images and places differ.
    Returns: logits float32 (B, S, V); logits[:, t] predicts token t + 1.
    Source: Flamingo, sections 2.1 to 2.3, arXiv:2204.14198; OpenFlamingo, arXiv:2308.01390. Differs: blocks
        as in Idefics (norms and feed-forward net are Llama's), single images, no time embedding.
    """

    Config = FlamingoConfig
    tasks = ("chat",)

    def __init__(self, config: FlamingoConfig, **kwargs):
        super().__init__(config, **kwargs)
        policy, c = self.dtype_policy, config
        if c.cross_every < 1:
            raise ValueError(f"cross_every is {c.cross_every}, it must be at least 1; 1 looks in every block")
        self.vision = ViT(c.vision, remat=c.remat, dtype=policy, name="vision")
        self.resampler = PerceiverResampler(
            c.num_latents,
            c.vision.dim,
            c.resampler_heads,
            c.resampler_depth,
            published=True,
            dtype=policy,
            name="resampler",
        )
        self.language = Llama(c.language, remat=c.remat, dtype=policy, name="language")
        l = c.language  # noqa: E741
        self.cross = {
            i: GatedCrossAttention(
                l.dim, l.num_heads, l.mlp_dim, c.vision.dim, l.epsilon, dtype=policy, name=f"cross_{i}"
            )
            for i in range(0, l.depth, c.cross_every)
        }
        with backend.compiled_once():
            self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        for part in (self.vision, self.resampler, self.language, *self.cross.values()):
            part.build()
        self.built = True

    def encode_images(self, images):
        """(B, K, H, W, 3), float in [0, 1] or uint8 -> image tokens float (B, K, M, C)."""
        patches = self.vision(to_unit(ops.reshape(images, (-1, *images.shape[2:]))))
        return ops.reshape(self.resampler(patches), (*images.shape[:2], self.config.num_latents, -1))

    def read(self, batch):
        """What the decoder makes of a batch: float (B, S, D); `language.unembed` makes logits of it."""
        memories, seen = self._media(batch)
        x = self.language.embed(batch["tokens"])
        return self.language(x, batch.get("padding_mask"), before=self._look(memories, seen))

    def call(self, batch):
        return self.language.unembed(self.read(batch))

    def prefill(self, batch, room: int):
        """Read a batch whose padding stands first; see Llama.prefill."""
        memories, seen = self._media(batch)
        x, look = self.language.embed(batch["tokens"]), self._look(memories, seen)
        logits, cache = self.language.prefill(x, batch["padding_mask"], room, before=look)
        return logits, {**cache, "media": memories, "seen": seen[:, -1]}

    def step(self, tokens, cache):
        """Read tokens int32 (B, T) more, all of which read the last image; see Llama.step."""
        look = self._look(cache["media"], ops.expand_dims(cache["seen"], 1))
        return self.language.step(tokens, cache, before=look)

    def _media(self, batch):
        """The images' keys and values for each gated block ([] without images); images so far (B, S)."""
        seen = ops.cumsum(ops.cast(batch["image_mask"], "int32"), axis=1)
        images = batch.get("images")
        if images is None or images.shape[1] == 0:
            return [], seen
        soft = self.encode_images(images)
        soft = ops.reshape(soft, (soft.shape[0], -1, soft.shape[-1]))
        return [block.project_memory(soft) for block in self.cross.values()], seen

    def _look(self, memories, seen):
        """before(i, x) of the decoder, for tokens that have `seen`, int32 (B, T), images."""
        mask, of_block = None, dict.fromkeys(self.cross)
        if memories:
            of_block = dict(zip(self.cross, memories, strict=True))
            image = ops.arange(memories[0][0].shape[1], dtype="int32") // self.config.num_latents
            mask = ops.equal(ops.expand_dims(seen, -1) - 1, image)  # (B, T, K M)

        def look(i, x):
            if i not in self.cross:
                return x
            block = self.cross[i]
            return (again(block) if self.config.remat else block)(x, of_block[i], mask)

        return look


OpenFlamingo = Flamingo  # the same path: Flamingo over open decoders, with presets of its own
