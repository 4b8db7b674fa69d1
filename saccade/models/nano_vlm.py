"""nanoVLM: a SigLIP tower, pixel shuffle with one linear map, and a Llama decoder that reads both."""

from dataclasses import dataclass, field

import keras

from saccade import backend
from saccade.fusion.projection import Projection
from saccade.hub.convert import Rule
from saccade.model import choose
from saccade.models.llama import Llama, LlamaConfig
from saccade.models.spliced import SplicedDecoder
from saccade.models.vit import ViT, ViTConfig
from saccade.models.vlm_hrm import to_unit


def _tower(dim: int, depth: int, num_heads: int, image_size: int) -> ViTConfig:
    """SigLIP's. nanoVLM feeds it pixels in [0, 1], without SigLIP's normalisation."""
    return ViTConfig(
        dim, depth, num_heads, 4 * dim, 16, (image_size, image_size), pixel_mean=0.0, pixel_std=1.0,
        interpolation="bicubic",
    )  # fmt: skip


def _siglip_base(image_size: int) -> ViTConfig:
    return _tower(768, 12, 12, image_size)


@dataclass(frozen=True, slots=True)
class NanoVLMConfig:
    """`shuffle`: r of the pixel shuffle.  `remat`: recompute activations in the backward pass."""

    vision: ViTConfig = field(default_factory=lambda: _siglip_base(224))
    language: LlamaConfig = field(default_factory=LlamaConfig)
    shuffle: int = 2
    remat: bool = False

    @property
    def image_tokens(self) -> int:
        """M, tokens that one image (or tile) becomes."""
        rows, columns = self.vision.grid(self.vision.image_size)
        return rows * columns // self.shuffle**2

    @classmethod
    def from_json(cls, record: dict) -> "NanoVLMConfig":
        tower = ViTConfig.from_json(record["vision"])
        return cls(**{**record, "vision": tower, "language": LlamaConfig(**record["language"])})


def _smollm2(vocab_size: int, large: bool = False) -> LlamaConfig:
    """The shape of SmolLM2-135M, or of 360M."""
    return LlamaConfig(vocab_size, 960, 32, 15, 5, 2560) if large else LlamaConfig(vocab_size)


def _guide(dim: int, depth: int) -> NanoVLMConfig:
    heads = dim // 64
    vision = _tower(dim, depth, heads, 224)
    return NanoVLMConfig(vision, LlamaConfig(32000, dim, depth, heads, heads, 4 * dim))


# Names in a published checkpoint: of the tower under "vision_encoder.", of the decoder under "decoder.".
VISION_MAP = (
    Rule("patches/projection/kernel", "patch_embedding.conv.weight", "conv"),
    Rule("patches/projection/bias", "patch_embedding.conv.bias"),
    Rule("patches/positions", "patch_embedding.position_embedding", "grid_row"),
    Rule("block_{}/attention_norm/gamma", "blocks.{}.ln1.weight"),
    Rule("block_{}/attention_norm/beta", "blocks.{}.ln1.bias"),
    Rule(
        ("block_{}/attention/query/kernel", "block_{}/attention/key_value/kernel"),
        "blocks.{}.attn.qkv_proj.weight",
        "linear",
    ),
    Rule(
        ("block_{}/attention/query/bias", "block_{}/attention/key_value/bias"), "blocks.{}.attn.qkv_proj.bias"
    ),
    Rule("block_{}/attention/output/kernel", "blocks.{}.attn.out_proj.weight", "linear"),
    Rule("block_{}/attention/output/bias", "blocks.{}.attn.out_proj.bias"),
    Rule("block_{}/mlp_norm/gamma", "blocks.{}.ln2.weight"),
    Rule("block_{}/mlp_norm/beta", "blocks.{}.ln2.bias"),
    Rule("block_{}/mlp/up/kernel", "blocks.{}.mlp.fc1.weight", "linear"),
    Rule("block_{}/mlp/up/bias", "blocks.{}.mlp.fc1.bias"),
    Rule("block_{}/mlp/down/kernel", "blocks.{}.mlp.fc2.weight", "linear"),
    Rule("block_{}/mlp/down/bias", "blocks.{}.mlp.fc2.bias"),
    Rule("norm/gamma", "layer_norm.weight"),
    Rule("norm/beta", "layer_norm.bias"),
)
LANGUAGE_MAP = (
    Rule("block_{}/attention_norm/scale", "blocks.{}.norm1.weight"),
    Rule("block_{}/attention/query/kernel", "blocks.{}.attn.q_proj.weight", "linear"),
    Rule(
        "block_{}/attention/key_value/kernel",
        ("blocks.{}.attn.k_proj.weight", "blocks.{}.attn.v_proj.weight"),
        "linear",
    ),
    Rule("block_{}/attention/output/kernel", "blocks.{}.attn.out_proj.weight", "linear"),
    Rule("block_{}/mlp_norm/scale", "blocks.{}.norm2.weight"),
    Rule(
        "block_{}/mlp/gate_up/kernel",
        ("blocks.{}.mlp.gate_proj.weight", "blocks.{}.mlp.up_proj.weight"),
        "linear",
    ),
    Rule("block_{}/mlp/down/kernel", "blocks.{}.mlp.down_proj.weight", "linear"),
    Rule("norm/scale", "norm.weight"),
)
PROJECTION_MAP = (Rule("linear/kernel", "proj.weight", "linear"),)

# 8k: 49152 words of SmolLM2, the image, the global image and 64 places of tiles.
PRESETS = {
    "nano_vlm_mini": _guide(384, 6),
    "nano_vlm_base": _guide(512, 8),
    "nano_vlm_222m": NanoVLMConfig(_siglip_base(224), _smollm2(49152)),
    "nano_vlm_450m": NanoVLMConfig(_siglip_base(256), _smollm2(49153, large=True)),
    "nano_vlm_230m_8k": NanoVLMConfig(_siglip_base(512), _smollm2(49218), shuffle=4),
    "nano_vlm_460m_8k": NanoVLMConfig(_siglip_base(512), _smollm2(49218, large=True), shuffle=4),
}


def preset(name: str, **changes) -> NanoVLMConfig:
    """A named configuration, with fields replaced. Raises: SaccadeError: no such name or field."""
    return choose(PRESETS, name, changes)


@keras.saving.register_keras_serializable(package="saccade")
class NanoVLM(SplicedDecoder):
    """A decoder that reads image tokens as if they were words.

        patch  = model.vision(images)                    # (N, P, C)
        soft   = model.projection(patch)                 # (N, M, D)
        x      = splice(model.language.embed(tokens), soft, image_mask)
        hidden = model.language(x, padding_mask)

    Call: batch: dict of `images`, float in [0, 1] or uint8, the images (tiles) of all rows in reading order
        (N, H, W, 3), or those of each row (B, T, H, W, 3), of which it may have places for the first only;
        `tokens` int32 (B, S); `image_mask` bool (B, S), True where an image token stands (its token is not
        read); `padding_mask` bool (B, S), True = keep, or `segments` int32 (B, S) of rows packed in one (see
        Llama, also for neither). `saccade.data.chat_processor` and `saccade.data.conversations` make it.
    Returns: logits float32 (B, S, V); logits[:, t] predicts token t + 1.
    Source: nanoVLM, github.com/huggingface/nanoVLM. Differs: positions count kept tokens only, so that a
        row's answer does not depend on its padding; RoPE is not rescaled beyond the training length.
    """

    Config = NanoVLMConfig
    tasks = ("chat",)

    def __init__(self, config: NanoVLMConfig, **kwargs):
        super().__init__(config, **kwargs)
        policy = self.dtype_policy
        c = config
        self.vision = ViT(c.vision, remat=c.remat, dtype=policy, name="vision")
        self.projection = Projection(c.vision.dim, c.language.dim, c.shuffle, dtype=policy, name="projection")
        self.language = Llama(c.language, remat=c.remat, dtype=policy, name="language")
        with backend.compiled_once():
            self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        for part in (self.vision, self.projection, self.language):
            part.build()
        self.built = True

    def encode_images(self, images):
        """(N, H, W, 3), float in [0, 1] or uint8 -> image tokens float (N, M, D)."""
        grid = self.config.vision.grid(images.shape[1:3])
        return self.projection(self.vision(to_unit(images)), grid=grid)
