"""What the heads that write share: one memory of image and text, one decoder that reads it, their tokens."""

import keras
import numpy as np
from keras import ops

from saccade.data.text import BOS, EOS, PAD
from saccade.errors import SaccadeError
from saccade.fusion.multimodal import MultiModalFusion, project_tokens
from saccade.heads.task import EncoderStack, TaskHead, VLMTaskConfig, check_features, check_range
from saccade.heads.text import TextDecoder
from saccade.layers.embeddings import TokenEmbedding
from saccade.layers.normalization import rms


class Memory(keras.layers.Layer):
    """What a writer reads: image and text fused, or the image alone where no text is given; at unit scale.

    The image alone is projected by the fusion's own projection of images, so that one head serves both.

    Args: config: of the head; without `text_dim` it has no fusion and reads images only.
    Call: batch: as of TaskHead; `text_features` may be left out.
    Returns: memory float (B, S, dim); mask bool (B, S), True = keep.
    """

    def __init__(self, config: VLMTaskConfig, **kwargs):
        super().__init__(**kwargs)
        self.config, policy = config, self.dtype_policy
        c = config
        if c.text_dim is None:
            self.projection = keras.layers.Dense(c.dim, dtype=policy, name="projection")
        else:
            self.fusion = MultiModalFusion(
                c.fusion, c.dim, c.vision_dim, c.text_dim, c.num_heads, dtype=policy, name="fusion"
            )
        self.deep = EncoderStack(c, dtype=policy, name="deep")

    def build(self, input_shape=None):
        if self.config.text_dim is None:
            self.projection.build((None, None, self.config.vision_dim))
        else:
            self.fusion.build()
        self.deep.build()

    def call(self, batch):
        vision, vision_mask = batch["vision_features"], batch.get("vision_mask")
        text = batch.get("text_features")
        if text is not None:
            memory, mask = self.fusion(
                vision, text, vision_mask=vision_mask, text_mask=batch.get("text_mask")
            )
        else:
            alone = self.projection if self.config.text_dim is None else self.fusion.vision_projection
            memory, mask = project_tokens(vision, vision_mask, alone)
        return rms(self.deep(memory, mask)), mask


class WritingHead(TaskHead):
    """A TaskHead that writes: a decoder for `saccade.generate`.

        tokens, log_probability = Writer(head).generate(head.prompt(batch), GenerationConfig(...))

    Subclasses make further layers, then call `self.compile_once()`.

    Texts are int32 (..., T): BOS, words, EOS, then PAD (those of saccade.data.text), T of 2 to `max_length`.
    """

    FEATURES = ("vision_features", "vision_mask", "text_features", "text_mask")

    def __init__(self, config: VLMTaskConfig, **kwargs):
        super().__init__(config, **kwargs)
        c, policy = config, self.dtype_policy
        self.memory = Memory(c, dtype=policy, name="memory")
        self.embedding = TokenEmbedding(c.vocab_size, c.dim, c.max_length, dtype=policy, name="embedding")
        self.decoder = TextDecoder(
            self.embedding, c.decoder_depth, c.num_heads, 2 * c.dim, dtype=policy, name="decoder"
        )

    def build(self, input_shape=None):
        for layer in (self.memory, self.embedding, self.decoder):
            layer.build()
        self.built = True

    def check_features(self, batch: dict) -> None:
        """Raise SaccadeError, one line, unless this head can write about the batch."""
        check_features(batch, self.config)

    def read(self, batch):
        """The memory of a batch, float (B, S, dim), and its mask, bool (B, S)."""
        return self.memory(batch)

    def prompt(self, batch: dict) -> tuple:
        """What `prefill` reads of a batch, checked: its features, no labels. Raises: as a call."""
        self.check_features(batch)
        return ({name: batch[name] for name in self.FEATURES if batch.get(name) is not None},)

    @property
    def max_new_tokens(self) -> int:
        return self.decoder.max_new_tokens

    def prefill(self, batch, room: int):
        """See `saccade.generate`; batch: the features, of `prompt`."""
        return self.decoder.prefill(*self.read(batch), room)

    def step(self, tokens, cache):
        return self.decoder.step(tokens, cache)


def texts(tokens, tokenizer) -> list[str]:
    """Strings of int (B, T): up to the first EOS, BOS and PAD left out. tokenizer: has `decode(ids)`."""
    rows = np.asarray(ops.convert_to_numpy(tokens)).tolist()
    ended = [row[: row.index(EOS)] if EOS in row else row for row in rows]
    return [tokenizer.decode([token for token in row if token not in (BOS, PAD)]) for row in ended]


def check_tokens(batch: dict, name: str, shape: str, config: VLMTaskConfig) -> None:
    """Raise SaccadeError, one line, unless batch[name] holds texts; values are looked at in NumPy only.

    Args: shape: what is expected, such as "B, T".
    """
    tokens, rows = batch[name], batch["vision_features"].shape[0]
    found = tuple(tokens.shape)
    if len(found) != len(shape.split(",")) or found[0] != rows:
        raise SaccadeError(f"{name} are {found}; give ({shape}), B = {rows} as in vision_features")
    if "int" not in keras.backend.standardize_dtype(tokens.dtype):
        raise SaccadeError(f"{name} are {tokens.dtype}; give whole numbers, int32")
    if not 2 <= found[-1] <= config.max_length:
        raise SaccadeError(
            f"{name} have {found[-1]} tokens, not 2 to {config.max_length}; shorten, or set max_length"
        )
    check_range(name, tokens, config.vocab_size, "vocab_size")
    if isinstance(tokens, np.ndarray):
        first = tokens[..., 0]
        wrong = first[(first != BOS) & (tokens != PAD).any(-1)]
        if wrong.size:
            raise SaccadeError(f"a text of {name} starts with {wrong[0]}; put BOS, {BOS}, before it")
