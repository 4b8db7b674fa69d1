"""The vision tower: the ViT of SigLIP or CLIP, for any image the patch divides."""

from dataclasses import dataclass

import keras
from keras import ops

from saccade.hub.convert import Rule
from saccade.layers.blocks import EncoderBlock, again
from saccade.layers.embeddings import PatchEmbedding


@dataclass(frozen=True, slots=True)
class ViTConfig:
    """`image_size` (height, width) sets the position table; other sizes interpolate it (`interpolation`).

    The tower sees (pixel - pixel_mean) / pixel_std, each a number or one for each channel. `epsilon`: of
    every norm. `stem`, `centered`: see PatchEmbedding. What SigLIP has not and CLIP has: `cls`, a learned
    token before the patches; `pre_norm`, a norm before the first block; no `patch_bias`; another
    `activation`.
    """

    dim: int = 192
    depth: int = 4
    num_heads: int = 3
    mlp_dim: int = 768
    patch_size: int = 8
    image_size: tuple = (128, 128)
    stem: tuple = ()
    pixel_mean: float | tuple = 0.5
    pixel_std: float | tuple = 0.5
    epsilon: float = 1e-6
    centered: bool = False
    cls: bool = False
    pre_norm: bool = False
    patch_bias: bool = True
    activation: str = "gelu_pytorch_tanh"
    interpolation: str = "bilinear"

    @classmethod
    def from_json(cls, record: dict) -> "ViTConfig":
        lists = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
        # What every tower was ever saved with; a record without it is something else's.
        required = {name: tuple(record[name]) for name in ("image_size", "stem")}
        return cls(**{**record, **lists, **required})

    @property
    def plain(self) -> bool:
        """Whether the tower is SigLIP's, stem and pixels aside."""
        return (self.cls, self.pre_norm, self.patch_bias, self.activation) == (
            False, False, True, "gelu_pytorch_tanh"
        )  # fmt: skip

    def grid(self, image_size) -> tuple[int, int]:
        """(rows, columns) of patches of an image of this size."""
        return image_size[0] // self.patch_size, image_size[1] // self.patch_size


# Names of a layer of either tower of SiglipModel and CLIPModel in transformers, under "vision_model." and
# "text_model." there.
ENCODER_BLOCK = (
    Rule("block_{}/attention_norm/gamma", "encoder.layers.{}.layer_norm1.weight"),
    Rule("block_{}/attention_norm/beta", "encoder.layers.{}.layer_norm1.bias"),
    Rule("block_{}/attention/query/kernel", "encoder.layers.{}.self_attn.q_proj.weight", "linear"),
    Rule("block_{}/attention/query/bias", "encoder.layers.{}.self_attn.q_proj.bias"),
    Rule(
        "block_{}/attention/key_value/kernel",
        ("encoder.layers.{}.self_attn.k_proj.weight", "encoder.layers.{}.self_attn.v_proj.weight"),
        "linear",
    ),
    Rule(
        "block_{}/attention/key_value/bias",
        ("encoder.layers.{}.self_attn.k_proj.bias", "encoder.layers.{}.self_attn.v_proj.bias"),
    ),
    Rule("block_{}/attention/output/kernel", "encoder.layers.{}.self_attn.out_proj.weight", "linear"),
    Rule("block_{}/attention/output/bias", "encoder.layers.{}.self_attn.out_proj.bias"),
    Rule("block_{}/mlp_norm/gamma", "encoder.layers.{}.layer_norm2.weight"),
    Rule("block_{}/mlp_norm/beta", "encoder.layers.{}.layer_norm2.bias"),
    Rule("block_{}/mlp/up/kernel", "encoder.layers.{}.mlp.fc1.weight", "linear"),
    Rule("block_{}/mlp/up/bias", "encoder.layers.{}.mlp.fc1.bias"),
    Rule("block_{}/mlp/down/kernel", "encoder.layers.{}.mlp.fc2.weight", "linear"),
    Rule("block_{}/mlp/down/bias", "encoder.layers.{}.mlp.fc2.bias"),
)
FIRST_AND_LAST = (
    Rule("patches/projection/kernel", "embeddings.patch_embedding.weight", "conv"),
    Rule("norm/gamma", "post_layernorm.weight"),
    Rule("norm/beta", "post_layernorm.bias"),
)
# SiglipVisionModel, and what CLIPVisionModel has instead of the two rules after its blocks'.
WEIGHT_MAP = (
    *FIRST_AND_LAST,
    *ENCODER_BLOCK,
    Rule("patches/projection/bias", "embeddings.patch_embedding.bias"),
    Rule("patches/positions", "embeddings.position_embedding.weight", "grid"),
)
CLIP_WEIGHT_MAP = (
    *FIRST_AND_LAST,
    *ENCODER_BLOCK,
    Rule("cls", "embeddings.class_embedding"),
    Rule(("cls_position", "patches/positions"), "embeddings.position_embedding.weight", "grid"),
    Rule("pre_norm/gamma", "pre_layrnorm.weight"),  # so written there
    Rule("pre_norm/beta", "pre_layrnorm.bias"),
)


class ViT(keras.layers.Layer):
    """Patches, pre-LN blocks, a final LayerNorm; no pooling.

    Call: images: float (B, H, W, 3) in [0, 1].
    Returns: float (B, N, C), row-major patches; with `cls` its token before them, (B, 1 + N, C).
    Source: SigLIP's vision tower, arXiv:2303.15343; with the options of ViTConfig that of CLIP,
        arXiv:2103.00020. Differs: an optional convolutional stem; CLIP norms only what it pools.
    """

    def __init__(self, config: ViTConfig, remat: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.remat = remat
        policy = self.dtype_policy
        self.patches = PatchEmbedding(
            config.dim,
            config.patch_size,
            config.grid(config.image_size),
            config.stem,
            config.centered,
            config.patch_bias,
            config.interpolation,
            dtype=policy,
            name="patches",
        )
        self.blocks = [
            EncoderBlock(
                config.dim,
                config.num_heads,
                config.mlp_dim,
                config.epsilon,
                config.activation,
                dtype=policy,
                name=f"block_{i}",
            )
            for i in range(config.depth)
        ]
        norms = ("norm", "pre_norm") if config.pre_norm else ("norm",)
        self.norm, *self.pre_norm = (
            keras.layers.LayerNormalization(epsilon=config.epsilon, dtype=policy, name=name) for name in norms
        )

    def build(self, input_shape=None):
        self.patches.build()
        for part in self.blocks:
            part.build()
        for norm in (self.norm, *self.pre_norm):
            norm.build((None, None, self.config.dim))
        if self.config.cls:
            normal = keras.initializers.TruncatedNormal(stddev=0.02)
            self.cls = self.add_weight(shape=(self.config.dim,), initializer=normal, name="cls")
            self.cls_position = self.add_weight(
                shape=(1, self.config.dim), initializer=normal, name="cls_position"
            )

    def call(self, images):
        x = self.patches((images - self._pixels("pixel_mean")) / self._pixels("pixel_std"))
        if self.config.cls:
            first = ops.cast(ops.convert_to_tensor(self.cls) + self.cls_position, x.dtype)
            first = ops.broadcast_to(ops.expand_dims(first, 0), (ops.shape(x)[0], 1, self.config.dim))
            x = ops.concatenate([first, x], axis=1)
        for norm in self.pre_norm:
            x = norm(x)
        for block in self.blocks:
            x = again(block)(x) if self.remat else block(x)
        return self.norm(x)

    def _pixels(self, name: str):
        value = getattr(self.config, name)
        return ops.convert_to_tensor(list(value), self.compute_dtype) if isinstance(value, tuple) else value
