"""The vision tower: a SigLIP-style ViT for any image the patch divides."""

from dataclasses import dataclass

import keras

from saccade.hub.convert import Rule
from saccade.layers.blocks import EncoderBlock, again
from saccade.layers.embeddings import PatchEmbedding


@dataclass(frozen=True, slots=True)
class ViTConfig:
    """`image_size` (height, width) sets the position table; other sizes interpolate it.

    The tower sees (pixel - pixel_mean) / pixel_std. `epsilon`: of every norm. `stem`, `centered`: see
    PatchEmbedding.
    """

    dim: int = 192
    depth: int = 4
    num_heads: int = 3
    mlp_dim: int = 768
    patch_size: int = 8
    image_size: tuple = (128, 128)
    stem: tuple = ()
    pixel_mean: float = 0.5
    pixel_std: float = 0.5
    epsilon: float = 1e-6
    centered: bool = False

    @classmethod
    def from_json(cls, record: dict) -> "ViTConfig":
        lists = {name: tuple(record[name]) for name in ("image_size", "stem")}
        return cls(**{**record, **lists})

    def grid(self, image_size) -> tuple[int, int]:
        """(rows, columns) of patches of an image of this size."""
        return image_size[0] // self.patch_size, image_size[1] // self.patch_size


# Names of SiglipVisionModel in transformers, under "vision_model." there.
WEIGHT_MAP = (
    Rule("patches/projection/kernel", "embeddings.patch_embedding.weight", "conv"),
    Rule("patches/projection/bias", "embeddings.patch_embedding.bias"),
    Rule("patches/positions", "embeddings.position_embedding.weight", "grid"),
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
    Rule("norm/gamma", "post_layernorm.weight"),
    Rule("norm/beta", "post_layernorm.bias"),
)


class ViT(keras.layers.Layer):
    """Patches, pre-LN blocks, a final LayerNorm; no CLS token, no pooling.

    Call: images: float (B, H, W, 3) in [0, 1].
    Returns: float (B, N, C), row-major patches.
    Source: SigLIP's vision tower, arXiv:2303.15343. Differs: an optional convolutional stem.
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
            dtype=policy,
            name="patches",
        )
        self.blocks = [
            EncoderBlock(
                config.dim, config.num_heads, config.mlp_dim, config.epsilon, dtype=policy, name=f"block_{i}"
            )
            for i in range(config.depth)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=config.epsilon, dtype=policy, name="norm")

    def build(self, input_shape=None):
        self.patches.build()
        for block in self.blocks:
            block.build()
        self.norm.build((None, None, self.config.dim))

    def call(self, images):
        x = self.patches((images - self.config.pixel_mean) / self.config.pixel_std)
        for block in self.blocks:
            x = again(block)(x) if self.remat else block(x)
        return self.norm(x)
