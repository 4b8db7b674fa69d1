"""CNN + LSTM captioners: Show and Tell, and Show, Attend and Tell."""

import sys
from dataclasses import dataclass

import keras
from keras import ops

from saccade import backend
from saccade.errors import SaccadeError
from saccade.heads.recurrent import AttendingWriter, LSTMWriter
from saccade.heads.region import ObjectHead
from saccade.layers.embeddings import PatchEmbedding
from saccade.model import Model, choose
from saccade.models.vlm_hrm import to_unit


@dataclass(frozen=True, slots=True)
class CaptionerConfig:
    """Everything a captioner is made of.

    dim: width of the LSTM's state.  word_dim: of a word.  max_length: most tokens written.
    vision_dim, depth: width of a cell, residual convolution blocks after the stem.  patch_size, stem: see
        PatchEmbedding; a cell is one patch.
    image_size: (height, width) in pixels; multiples of patch_size.
    backbone: a name in `keras.applications` that replaces stem and blocks, "" = none. It starts at random and
        is frozen or not by the run's `parts`; load weights into `model.encoder.network`.
    cell_dim, image_dim, each_word, gated: of Show and Tell, see LSTMWriter.
    attributes: classes of each attribute that cells name in training (shape, color, ...); () = none.
    """

    vocab_size: int = 1024
    dim: int = 384
    word_dim: int = 256
    max_length: int = 64
    vision_dim: int = 256
    depth: int = 3
    patch_size: int = 16
    stem: tuple = (32, 64, 128, 192)
    image_size: tuple = (128, 128)
    backbone: str = ""
    cell_dim: int = 1024
    image_dim: int = 1024
    each_word: bool = False
    gated: bool = False
    attributes: tuple = ()

    @classmethod
    def from_json(cls, record: dict) -> "CaptionerConfig":
        lists = {name: tuple(record[name]) for name in ("stem", "image_size", "attributes")}
        return cls(**{**record, **lists})


PRESETS = {
    # The image beside every word and at the output: as the first word alone, captions stay on a plateau
    # (docs/log.md).
    "show_and_tell_scenes": CaptionerConfig(dim=768, word_dim=512, each_word=True, gated=True),
    "show_attend_tell_scenes": CaptionerConfig(),
}


@dataclass(frozen=True, slots=True)
class Cells:
    """Where the cells stand in what `encode` gives: alone. `grid`: (rows, columns)."""

    grid: tuple[int, int]

    @property
    def vision(self) -> slice:
        return slice(0, self.grid[0] * self.grid[1])


class ConvBlock(keras.layers.Layer):
    """x + conv(gelu(conv(norm(x)))), 3 x 3: a cell sees its neighbours.  x: float (B, H, W, C)."""

    def __init__(self, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        policy = self.dtype_policy
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name="norm")
        self.inner = keras.layers.Conv2D(
            dim, 3, padding="same", activation="gelu", dtype=policy, name="inner"
        )
        self.outer = keras.layers.Conv2D(dim, 3, padding="same", dtype=policy, name="outer")

    def build(self, input_shape=None):
        for part in (self.norm, self.inner, self.outer):
            part.build((None, None, None, self.dim))

    def call(self, x):
        return x + self.outer(self.inner(self.norm(x)))


class ConvEncoder(keras.layers.Layer):
    """The conv stem of the ViT, then residual convolutions instead of attention.

    Call: images: float (B, H, W, 3) in [0, 1].
    Returns: float (B, N, C), row-major cells.
    """

    def __init__(self, config: CaptionerConfig, **kwargs):
        super().__init__(**kwargs)
        policy, c = self.dtype_policy, config
        self.dim = c.vision_dim
        self.grid = c.image_size[0] // c.patch_size, c.image_size[1] // c.patch_size
        self.patches = PatchEmbedding(
            c.vision_dim, c.patch_size, self.grid, c.stem, centered=bool(c.stem), dtype=policy, name="patches"
        )
        self.blocks = [ConvBlock(c.vision_dim, dtype=policy, name=f"block_{i}") for i in range(c.depth)]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name="norm")

    def build(self, input_shape=None):
        for part in (self.patches, *self.blocks):
            part.build()
        self.norm.build((None, None, self.dim))

    def call(self, images, training=None):
        x = ops.reshape(self.patches((images - 0.5) / 0.5), (-1, *self.grid, self.dim))
        for block in self.blocks:
            x = block(x)
        return self.norm(ops.reshape(x, (-1, self.grid[0] * self.grid[1], self.dim)))


class Backbone(keras.layers.Layer):
    """A CNN of keras.applications without its top; pixels as it expects them.

    Call, returns: as ConvEncoder; N and C are the network's.
    Raises: SaccadeError: no such network, or it cannot take images of this size.
    """

    def __init__(self, config: CaptionerConfig, **kwargs):
        super().__init__(**kwargs)
        make = getattr(keras.applications, config.backbone, None)
        if not (callable(make) and config.backbone[:1].isupper()):
            known = [name for name in dir(keras.applications) if name[:1].isupper()]
            raise SaccadeError(f"keras.applications has no {config.backbone!r}; it has {', '.join(known)}")
        self._make, self._shape = make, (*config.image_size, 3)
        self._preprocess = sys.modules[make.__module__].preprocess_input

    def build(self, input_shape=None):
        if self.built:
            return
        try:
            self.network = self._make(include_top=False, weights=None, input_shape=self._shape)
        except ValueError as error:
            raise SaccadeError(f"{self._make.__name__} refuses images of {self._shape}: {error}") from error
        # Keras counts the names of nameless layers and of dropout's seeds through the whole process; a file
        # needs the same ones every time.
        for number, layer in enumerate(self.network.layers):
            for variable in layer.variables:
                kind = type(layer).__name__.lower()
                variable._path = f"{self.path}/{number:03d}_{kind}/{variable.name}"
        _, rows, columns, self.dim = self.network.output_shape
        self.grid = rows, columns

    def call(self, images, training=None):
        x = self._preprocess(images * 255.0)
        x = self.network(x, training=training)
        return ops.reshape(x, (-1, self.grid[0] * self.grid[1], self.dim))


class Captioner(Model):
    """An image encoder and a recurrent writer.

        cells  = model.encode(images)
        logits = model.heads["write"](tokens, cells)            # training: a whole text at once
        logits, cache = model.prefill(images, room=63)          # writing: see saccade.generate
        logits, cache = model.step(tokens, cache)

    Call: batch: dict of `images` float32 (B, H, W, 3) in [0, 1] (or uint8); `decoder_tokens` int32 (B, T),
        <bos> first.
    Returns: dict: `logits` float32 (B, T, V), logits[:, t] predicts token t + 1; `attention` float32
        (B, T, N), what each word looked at, of a model that looks again.
    Raises: SaccadeError: images of another size (states both).
    """

    Config = CaptionerConfig
    tasks = ("caption",)

    def __init__(self, config: CaptionerConfig, **kwargs):
        super().__init__(config, **kwargs)
        c, policy = config, self.dtype_policy
        sides = zip(c.image_size, ("high", "wide"), strict=True)
        bad = [f"{side} px {word}" for side, word in sides if side % c.patch_size]
        if bad and not c.backbone:
            raise SaccadeError(
                f"images {bad[0]} are no multiple of patch_size {c.patch_size}; change image_size"
            )
        kind = Backbone if c.backbone else ConvEncoder
        self.encoder = kind(c, dtype=policy, name="encoder")
        with backend.compiled_once():
            self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        c, policy = self.config, self.dtype_policy
        self.encoder.build()
        self.heads = {"write": self._writer()}
        if c.attributes:
            self.heads["objects"] = ObjectHead(self.encoder.dim, c.attributes, dtype=policy, name="objects")
        for head in self.heads.values():
            head.build()
        self.built = True

    def _writer(self):
        raise NotImplementedError("use ShowAndTell or ShowAttendTell")

    @property
    def layout(self) -> Cells:
        return Cells(self.encoder.grid)

    @property
    def max_new_tokens(self) -> int:
        return self.config.max_length

    def encode(self, images, training=None):
        """float (B, H, W, 3) in [0, 1], or bytes uint8 in 0..255 -> cells float (B, N, C)."""
        if tuple(images.shape[1:3]) != tuple(self.config.image_size):
            raise SaccadeError(
                f"images are {tuple(images.shape[1:3])} px, this captioner was made for "
                f"{tuple(self.config.image_size)}; resize them"
            )
        return self.encoder(to_unit(images), training=training)

    def call(self, batch, training=None):
        cells = self.encode(batch["images"], training)
        logits, scores = self.heads["write"](batch["decoder_tokens"], cells, return_scores=True)
        return {"logits": logits, **({} if scores is None else {"attention": scores[:, 0]})}

    def prefill(self, images, room: int):
        """Look at the images and read BOS: logits float32 (B, V) of the first token; the cache."""
        return self.heads["write"].prefill(self.encode(images), None, room)

    def step(self, tokens, cache):
        """Read tokens int32 (B, T); returns logits float32 (B, T, V) and the cache."""
        return self.heads["write"].step(tokens, cache)


@keras.saving.register_keras_serializable(package="saccade")
class ShowAndTell(Captioner):
    """CNN + LSTM: the image is the first word. See Captioner.

    Source: Show and Tell, arXiv:1411.4555.
    """

    def _writer(self):
        c = self.config
        sizes = c.vocab_size, c.dim, c.word_dim, self.encoder.dim, c.max_length
        kinds = {"cell_dim": c.cell_dim, "image_dim": c.image_dim, "each_word": c.each_word}
        return LSTMWriter(*sizes, **kinds, gated=c.gated, name="write")


@keras.saving.register_keras_serializable(package="saccade")
class ShowAttendTell(Captioner):
    """CNN cells + LSTM with soft attention: every word looks again. See Captioner.

    Source: Show, Attend and Tell, arXiv:1502.03044.
    """

    def _writer(self):
        c = self.config
        sizes = c.vocab_size, c.dim, c.word_dim, self.encoder.dim, c.max_length
        return AttendingWriter(*sizes, name="write")


KINDS = {"show_and_tell": ShowAndTell, "show_attend_tell": ShowAttendTell}


def preset(name: str, **changes) -> CaptionerConfig:
    """A named configuration, with fields replaced."""
    return choose(PRESETS, name, changes)
