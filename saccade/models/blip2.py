"""BLIP-2: a frozen tower, a Q-Former that learns to look, and a language model that reads its queries."""

from dataclasses import dataclass, field

import keras
from keras import ops

from saccade import backend
from saccade.heads.dual_encoder import clamped_scale, unit
from saccade.model import choose
from saccade.models.llama import Llama, LlamaConfig
from saccade.models.opt import OPT, OPTConfig
from saccade.models.qformer import QFormer, QFormerConfig
from saccade.models.spliced import SplicedDecoder
from saccade.models.vit import ViT, ViTConfig
from saccade.models.vlm_hrm import to_unit


@dataclass(frozen=True, slots=True)
class BLIP2Config:
    """`language`: an OPT or a Llama that reads the queries; None = stage one alone.  `embedding_dim`: E of
    the space of images and texts; None = stage two alone (then `qformer.text` is False)."""

    vision: ViTConfig = field(default_factory=ViTConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    language: OPTConfig | LlamaConfig | None = field(default_factory=OPTConfig)
    embedding_dim: int | None = 256

    @property
    def image_tokens(self) -> int:
        """Q, tokens that one image becomes."""
        return self.qformer.num_queries

    @classmethod
    def from_json(cls, record: dict) -> "BLIP2Config":
        language = record["language"]
        if language is not None:
            language = (LlamaConfig if "rope_theta" in language else OPTConfig)(**language)
        parts = {
            "vision": ViTConfig.from_json(record["vision"]),
            "qformer": QFormerConfig(**record["qformer"]),
            "language": language,
        }
        return cls(**{**record, **parts})


PRESETS = {
    # over the tower of the bundled VLM-HRM, see recipes/blip2_scenes.py
    "blip2_scenes": BLIP2Config(
        qformer=QFormerConfig(1024, 256, 4, 8, 768, num_queries=16, max_length=64),
        language=LlamaConfig(1026, 256, 4, 8, 4, 768, 256, 10_000.0),
        embedding_dim=128,
    ),
}


def preset(name: str, **changes) -> BLIP2Config:
    """A named configuration, with fields replaced."""
    return choose(PRESETS, name, changes)


@keras.saving.register_keras_serializable(package="saccade")
class BLIP2(SplicedDecoder):
    """Stage one teaches the Q-Former to see what texts say; stage two lets a language model read it.

        vision  = model.vision(images)                             # (B, N, C), frozen
        images  = model.image_vectors(vision)                      # (B, Q, E)   ITC
        texts   = model.text_vectors(tokens, padding_mask)         # (B, E)
        logits  = model.match(vision, tokens, padding_mask)        # (B, 2)      ITM
        written = model.caption_logits(vision, tokens, padding_mask)  # (B, T, V) ITG

        soft    = model.encode_images(images)                      # (N, Q, D)   stage two
        x       = splice(model.language.embed(tokens), soft, image_mask)
        hidden  = model.language(x, padding_mask)

    Call: batch: as of NanoVLM; an image takes Q places of `image_mask`.
    Returns: logits float32 (B, S, V); logits[:, t] predicts token t + 1.
    Raises: ValueError: neither a language model nor an embedding_dim; stage one without texts.
    Source: BLIP-2, arXiv:2301.12597; equal to Blip2ForConditionalGeneration (with OPT) and
        Blip2ForImageTextRetrieval in transformers (tests/oracle). Differs: ITG's output matrix is the text
        embedding without a further layer before it.
    """

    Config = BLIP2Config
    tasks = ("chat", "retrieve", "match", "caption")

    def __init__(self, config: BLIP2Config, **kwargs):
        super().__init__(config, **kwargs)
        policy, c = self.dtype_policy, config
        if c.language is None and c.embedding_dim is None:
            raise ValueError("language and embedding_dim are None: nothing to learn; give one of them")
        if (c.embedding_dim is not None) != c.qformer.text:
            raise ValueError(
                f"embedding_dim={c.embedding_dim} and qformer.text={c.qformer.text} exclude each other; "
                "stage one needs both, stage two alone neither"
            )
        self.vision = ViT(c.vision, dtype=policy, name="vision")
        self.qformer = QFormer(c.qformer, c.vision.dim, dtype=policy, name="qformer")
        self.parts = {}
        if c.language is not None:
            decoder = Llama if isinstance(c.language, LlamaConfig) else OPT
            self.language = decoder(c.language, dtype=policy, name="language")
            self.parts["projection"] = keras.layers.Dense(c.language.dim, dtype=policy, name="projection")
        if c.embedding_dim is not None:
            for name, width in (("image_head", c.embedding_dim), ("text_head", c.embedding_dim), ("itm", 2)):
                self.parts[name] = keras.layers.Dense(width, dtype="float32", name=name)
        self.tasks = (*(("chat",) if c.language else ()), *(("retrieve", "match") if c.embedding_dim else ()))
        with backend.compiled_once():
            self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        for part in (self.vision, self.qformer, *([self.language] if self.config.language else [])):
            part.build()
        for part in self.parts.values():
            part.build((None, None, self.config.qformer.dim))
        if self.config.embedding_dim is not None:
            initial = keras.initializers.Constant(2.659)  # log(1 / 0.07)
            self.logit_scale = self.add_weight(
                shape=(), initializer=initial, dtype="float32", autocast=False, name="logit_scale"
            )
        self.built = True

    def encode_images(self, images):
        """(N, H, W, 3), float in [0, 1] or uint8 -> what the language model reads: float (N, Q, D)."""
        return self.parts["projection"](self.qformer.look(self.see(images)))

    def see(self, images):
        """The tower's features of images, float in [0, 1] or uint8: float (N, patches, C)."""
        return self.vision(to_unit(images))

    def image_vectors(self, vision):
        """Features (B, N, C) -> unit vectors, one for each query: float32 (B, Q, E)."""
        return unit(self.parts["image_head"](self.qformer.look(vision)))

    def text_vectors(self, tokens, padding_mask=None):
        """tokens int32 (B, T), of which the first speaks for the text -> unit vectors float32 (B, E)."""
        return unit(self.parts["text_head"](self.qformer.read(tokens, padding_mask)[:, 0]))

    def similarity(self, images, texts):
        """Cosine of each text (C, E) with the best query of each image (B, Q, E): float32 (B, C)."""
        return ops.max(ops.einsum("bqe,ce->bqc", images, texts), axis=1)

    @property
    def temperature(self):
        """What multiplies similarities in training: exp(logit_scale), at most 100."""
        return clamped_scale(self.logit_scale)

    def match(self, vision, tokens, padding_mask=None):
        """Logits (other, match) of each pair, the mean over the queries: float32 (B, 2)."""
        queries, _ = self.qformer.both(vision, tokens, padding_mask)
        return ops.mean(self.parts["itm"](queries), axis=1)

    def caption_logits(self, vision, tokens, padding_mask=None):
        """Logits of the text's next token, float32 (B, T, V), the image reached through the queries alone."""
        _, text = self.qformer.both(vision, tokens, padding_mask, causal=True)
        return self.qformer.embedding.unembed(text)
