"""CLIP and SigLIP: an image tower and a text tower whose vectors are compared."""

import functools
from dataclasses import dataclass, field

import keras
from keras import ops

from saccade import backend
from saccade.heads.dual_encoder import clamped_scale, unit
from saccade.hub.convert import Rule
from saccade.layers.blocks import EncoderBlock, again
from saccade.layers.embeddings import TokenEmbedding
from saccade.layers.pooling import ProbePooling
from saccade.model import Model, choose
from saccade.models.vit import ENCODER_BLOCK, ViT, ViTConfig
from saccade.models.vlm_hrm import to_unit

POOLS = ("highest", "eos", "last")
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The text tower; the defaults are those of CLIP base.

    Args:
        causal: tokens read what stands before them only.
        pool: the token that stands for the text: "highest", the first of the highest id, which is how
            OpenAI's code finds the end; "eos", the first of `eos_id`; "last", the last that is kept.
        head_bias: of the projection.
    """

    vocab_size: int = 49408
    dim: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_dim: int = 2048
    max_length: int = 77
    epsilon: float = 1e-5
    activation: str = "quick_gelu"
    causal: bool = True
    pool: str = "highest"
    eos_id: int = 49407
    head_bias: bool = False


def _clip_vision(dim: int, depth: int, num_heads: int, patch_size: int, image_size: int) -> ViTConfig:
    return ViTConfig(
        dim, depth, num_heads, 4 * dim, patch_size, (image_size, image_size), (), OPENAI_MEAN, OPENAI_STD,
        epsilon=1e-5, cls=True, pre_norm=True, patch_bias=False, activation="quick_gelu",
        interpolation="bicubic",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CLIPConfig:
    """Two towers; the defaults are CLIP ViT-B/32.

    Args:
        vision: with `cls` that token stands for the image, else a learned probe reads the patches (SigLIP).
        embedding_dim: E; None = the width of the vision tower, which is then not projected (SigLIP).
        logit_bias: logits get a learned bias and the scale no ceiling (SigLIP).
        remat: recompute activations in the backward pass.
    """

    vision: ViTConfig = field(default_factory=lambda: _clip_vision(768, 12, 12, 32, 224))
    text: TextConfig = field(default_factory=TextConfig)
    embedding_dim: int | None = 512
    logit_bias: bool = False
    remat: bool = False

    @property
    def width(self) -> int:
        """E, of the space that both towers share."""
        return self.vision.dim if self.embedding_dim is None else self.embedding_dim

    @classmethod
    def from_json(cls, record: dict) -> "CLIPConfig":
        vision, text = ViTConfig.from_json(record["vision"]), TextConfig(**record["text"])
        return cls(**{**record, "vision": vision, "text": text})


def siglip_text(dim: int, depth: int, num_heads: int, mlp_dim: int, vocab_size: int = 32000) -> TextConfig:
    """SigLIP's text tower: every token reads all, and the last of 64 stands for the text."""
    return TextConfig(
        vocab_size, dim, depth, num_heads, mlp_dim, 64, 1e-6, "gelu_pytorch_tanh", causal=False, pool="last",
        head_bias=True,
    )  # fmt: skip


PRESETS = {
    # For pictures of the scene world; recipes/clip_scenes.py trains them, the first to be quick.
    "clip_scenes_nano": CLIPConfig(
        ViTConfig(64, 1, 2, 128, 16, (64, 64), stem=(16, 32), centered=True),
        TextConfig(
            1024, 64, 1, 2, 128, 80, 1e-6, "gelu_pytorch_tanh", causal=False, pool="last", head_bias=True
        ),
        embedding_dim=32,
    ),
    "clip_scenes": CLIPConfig(
        ViTConfig(192, 6, 6, 768, 8, (128, 128), stem=(32, 64), centered=True),
        TextConfig(
            1024, 192, 4, 6, 768, 80, 1e-6, "gelu_pytorch_tanh", causal=False, pool="last", head_bias=True
        ),
        embedding_dim=256,
    ),
    "clip_vit_base_patch32": CLIPConfig(),
    "clip_vit_base_patch16": CLIPConfig(_clip_vision(768, 12, 12, 16, 224)),
    "clip_vit_large_patch14": CLIPConfig(
        _clip_vision(1024, 24, 16, 14, 224), TextConfig(dim=768, num_heads=12, mlp_dim=3072), 768
    ),
    "siglip_base_patch16_224": CLIPConfig(
        ViTConfig(768, 12, 12, 3072, 16, (224, 224), interpolation="bicubic"),
        siglip_text(768, 12, 12, 3072),
        None,
        logit_bias=True,
    ),
}


def preset(name: str, **changes) -> CLIPConfig:
    """A named configuration, with fields replaced."""
    return choose(PRESETS, name, changes)


# Names of both models' text tower in transformers, under "text_model." there.
TEXT_MAP = (
    Rule("embedding/table", "embeddings.token_embedding.weight"),
    Rule("embedding/positions", "embeddings.position_embedding.weight"),
    *ENCODER_BLOCK,
    Rule("norm/gamma", "final_layer_norm.weight"),
    Rule("norm/beta", "final_layer_norm.bias"),
)
# What stands outside the towers, in CLIPModel and in SiglipModel.
CLIP_MAP = (
    Rule("image_projection/kernel", "visual_projection.weight", "linear"),
    Rule("text_projection/kernel", "text_projection.weight", "linear"),
    Rule("logit_scale", "logit_scale"),
)
_HEAD = "vision_model.head."
SIGLIP_MAP = (
    Rule("image_pool/probe", f"{_HEAD}probe"),
    Rule(
        ("image_pool/attention/query/kernel", "image_pool/attention/key_value/kernel"),
        f"{_HEAD}attention.in_proj_weight",
        "linear",
    ),
    Rule(
        ("image_pool/attention/query/bias", "image_pool/attention/key_value/bias"),
        f"{_HEAD}attention.in_proj_bias",
    ),
    Rule("image_pool/attention/output/kernel", f"{_HEAD}attention.out_proj.weight", "linear"),
    Rule("image_pool/attention/output/bias", f"{_HEAD}attention.out_proj.bias"),
    Rule("image_pool/norm/gamma", f"{_HEAD}layernorm.weight"),
    Rule("image_pool/norm/beta", f"{_HEAD}layernorm.bias"),
    Rule("image_pool/mlp/up/kernel", f"{_HEAD}mlp.fc1.weight", "linear"),
    Rule("image_pool/mlp/up/bias", f"{_HEAD}mlp.fc1.bias"),
    Rule("image_pool/mlp/down/kernel", f"{_HEAD}mlp.fc2.weight", "linear"),
    Rule("image_pool/mlp/down/bias", f"{_HEAD}mlp.fc2.bias"),
    Rule("text_projection/kernel", "text_model.head.weight", "linear"),
    Rule("text_projection/bias", "text_model.head.bias"),
    Rule("logit_scale", "logit_scale", "number"),
    Rule("logit_bias", "logit_bias", "number"),
)


class TextTower(keras.layers.Layer):
    """Words and positions, pre-LN blocks, a final LayerNorm, and the one token that stands for the text.

    Call:
        tokens: int32 (B, T), T <= max_length.
        padding_mask: bool (B, T), True = keep; None = all, also what a tokenizer filled up with, which is how
            SigLIP was trained. A row without any token gives something finite.
    Returns: float (B, D).
    Raises: ValueError: an unknown `pool`; T exceeds max_length.
    """

    def __init__(self, config: TextConfig, remat: bool = False, **kwargs):
        super().__init__(**kwargs)
        if config.pool not in POOLS:
            raise ValueError(f"pool is {config.pool!r}; use one of {', '.join(POOLS)}")
        self.config = config
        self.remat = remat
        c, policy = config, self.dtype_policy
        self.embedding = TokenEmbedding(
            c.vocab_size, c.dim, c.max_length, scaled=False, dtype=policy, name="embedding"
        )
        self.blocks = [
            EncoderBlock(
                c.dim, c.num_heads, c.mlp_dim, c.epsilon, c.activation, dtype=policy, name=f"block_{i}"
            )
            for i in range(c.depth)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=c.epsilon, dtype=policy, name="norm")

    def build(self, input_shape=None):
        self.embedding.build()
        for block in self.blocks:
            block.build()
        self.norm.build((None, None, self.config.dim))

    def call(self, tokens, padding_mask=None):
        x = self.embedding(tokens)
        mask = None if padding_mask is None else ops.expand_dims(padding_mask, 1)
        for block in self.blocks:
            read = functools.partial(block, causal=self.config.causal)
            x = (again(read) if self.remat else read)(x, mask)
        chosen = ops.one_hot(self._end(tokens, padding_mask), tokens.shape[1], dtype=x.dtype)
        return ops.einsum("bt,btd->bd", chosen, self.norm(x))

    def _end(self, tokens, padding_mask):
        """int32 (B,): where the token stands that is pooled."""
        rank = {
            "highest": lambda: tokens,
            "eos": lambda: ops.cast(ops.equal(tokens, self.config.eos_id), "int32"),
            "last": lambda: ops.broadcast_to(ops.arange(tokens.shape[1], dtype="int32"), tokens.shape),
        }[self.config.pool]()
        if padding_mask is not None:
            rank = ops.where(padding_mask, rank, -1)
        return ops.argmax(rank, axis=1)


@keras.saving.register_keras_serializable(package="saccade")
class CLIP(Model):
    """Images and texts as unit vectors in one space; CLIP, and with its options SigLIP.

    Call: batch: dict of `images` (B, H, W, 3), float in [0, 1] or uint8; `tokens` int32 (C, T); optionally
        `padding_mask` bool (C, T), see TextTower. `saccade.data.clip_processor` makes it.
    Returns: dict: image_embeddings float32 (B, E), text_embeddings float32 (C, E), of unit length; logits
        float32 (B, C).
    Source: CLIP, arXiv:2103.00020; SigLIP, arXiv:2303.15343. Equal to CLIPModel and SiglipModel in
        transformers (tests/oracle). Differs: the scale of a CLIP is clamped at 100, there in training only.
    """

    Config = CLIPConfig
    tasks = ("classify", "retrieve")

    def __init__(self, config: CLIPConfig, **kwargs):
        super().__init__(config, **kwargs)
        c, policy = config, self.dtype_policy
        self.vision = ViT(c.vision, c.remat, dtype=policy, name="vision")
        self.text = TextTower(c.text, c.remat, dtype=policy, name="text")
        self.image_pool = self.image_projection = None
        if not c.vision.cls:
            v = c.vision
            self.image_pool = ProbePooling(
                v.dim, v.num_heads, v.mlp_dim, v.epsilon, v.activation, dtype=policy, name="image_pool"
            )
        if c.embedding_dim is not None:
            self.image_projection = keras.layers.Dense(
                c.width, use_bias=False, dtype="float32", name="image_projection"
            )
        self.text_projection = keras.layers.Dense(
            c.width, use_bias=c.text.head_bias, dtype="float32", name="text_projection"
        )
        with backend.compiled_once():
            self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        c = self.config
        for part in (self.vision, self.text, self.image_pool):
            if part is not None:
                part.build()
        if self.image_projection is not None:
            self.image_projection.build((None, c.vision.dim))
        self.text_projection.build((None, c.text.dim))
        # log(1 / 0.07) in CLIP; log 10 and -10 in SigLIP
        starts = {"logit_scale": 2.302585 if c.logit_bias else 2.659260}
        starts |= {"logit_bias": -10.0} if c.logit_bias else {}
        for name, value in starts.items():
            # Not read in half precision: logits are float32, and -10 would be known to 0.03 only.
            weight = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(value),
                dtype="float32",
                autocast=False,
                name=name,
            )
            setattr(self, name, weight)
        self.built = True

    def embed_images(self, images):
        """(B, H, W, 3), float in [0, 1] or uint8 -> float32 (B, E), unit length."""
        seen = self.vision(to_unit(images))
        vector = seen[:, 0] if self.image_pool is None else self.image_pool(seen)
        return unit(vector if self.image_projection is None else self.image_projection(vector))

    def embed_texts(self, tokens, padding_mask=None):
        """int32 (B, T) -> float32 (B, E), unit length."""
        return unit(self.text_projection(self.text(tokens, padding_mask)))

    def scale(self):
        """float32 scalar that multiplies cosines: exp(logit_scale), at most 100 without a logit_bias."""
        if self.config.logit_bias:
            return ops.exp(ops.convert_to_tensor(self.logit_scale))
        return clamped_scale(self.logit_scale)

    def bias(self):
        """float32 scalar that is added to logits: 0 without `logit_bias`."""
        return ops.convert_to_tensor(self.logit_bias if self.config.logit_bias else 0.0, "float32")

    def logits(self, images, texts):
        """float32 (B, C) of unit vectors (B, E) and (C, E)."""
        return self.scale() * ops.matmul(images, ops.transpose(texts)) + self.bias()

    def call(self, batch):
        images = self.embed_images(batch["images"])
        texts = self.embed_texts(batch["tokens"], batch.get("padding_mask"))
        return {
            "image_embeddings": images,
            "text_embeddings": texts,
            "logits": self.logits(images, texts),
        }
