"""Transformer blocks: encoder, decoders and the cross-modal block of VLM-HRM."""

import keras
import numpy as np
from keras import ops

from saccade.layers.attention import Attention
from saccade.layers.cache import place
from saccade.layers.mlp import MLP, SwiGLU
from saccade.layers.normalization import RMSNorm, normalized, rms
from saccade.layers.rotary import grid_table


def again(block):
    """The block, its activations computed again in the backward pass instead of kept.

    JAX remembers a trace by the function it traced, and with it the weights of that time: hence a new
    function for each call.
    """
    return keras.remat(lambda *args: block(*args))


class EncoderBlock(keras.layers.Layer):
    """Pre-LN self-attention and MLP, with biases: the block of CLIP's and SigLIP's towers.

    Call:
        x: float (B, N, D).
        attention_mask: bool (B, N, N) or broadcastable, True = may attend; None = all.
        causal: see Attention.
    Returns: float (B, N, D), dtype of x.
    Source: SigLIP, arXiv:2303.15343; the block is ViT's, arXiv:2010.11929, equations 2 and 3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        epsilon: float = 1e-6,
        activation: str = "gelu_pytorch_tanh",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.dim = dim
        policy = self.dtype_policy
        self.attention_norm = keras.layers.LayerNormalization(
            epsilon=epsilon, dtype=policy, name="attention_norm"
        )
        self.attention = Attention(dim, num_heads, use_bias=True, flash=None, dtype=policy, name="attention")
        self.mlp_norm = keras.layers.LayerNormalization(epsilon=epsilon, dtype=policy, name="mlp_norm")
        self.mlp = MLP(dim, mlp_dim, activation=activation, dtype=policy, name="mlp")

    def build(self, input_shape=None):
        for norm in (self.attention_norm, self.mlp_norm):
            norm.build((None, None, self.dim))
        self.attention.build()
        self.mlp.build()

    def call(self, x, attention_mask=None, causal=False):
        normed, x = normalized(self.attention_norm, x)
        x = x + self.attention(normed, attention_mask=attention_mask, causal=causal)
        normed, x = normalized(self.mlp_norm, x)
        return x + self.mlp(normed)


class DecoderBlock(keras.layers.Layer):
    """Pre-norm causal self-attention, cross-attention to a memory, SwiGLU.

    Call:
        x: float (B, T, D).
        self_memory: the pair (keys, values) x attends, each (B, M, A, E); `self_keys_values` makes it.
        memory: the pair (keys, values) of the memory, from `cross_keys_values`.
        self_mask: bool (B, T, M), True = may attend.
        memory_mask: bool (B, 1, S), True = may attend.
        return_scores: also return what of the memory each token looked at.
    Returns: float (B, T, D), dtype of x; with `return_scores`, also float32 (B, A, T, S).
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        policy = self.dtype_policy
        self.self_norm = RMSNorm(dim, dtype=policy, name="self_norm")
        self.self_attention = Attention(dim, num_heads, dtype=policy, name="self_attention")
        self.cross_norm = RMSNorm(dim, dtype=policy, name="cross_norm")
        self.cross_attention = Attention(dim, num_heads, dtype=policy, name="cross_attention")
        self.mlp_norm = RMSNorm(dim, dtype=policy, name="mlp_norm")
        self.mlp = SwiGLU(dim, mlp_dim, dtype=policy, name="mlp")

    def build(self, input_shape=None):
        for part in (self.self_norm, self.cross_norm, self.mlp_norm, self.mlp):
            part.build()
        self.self_attention.build()
        self.cross_attention.build()

    def self_keys_values(self, x):
        return self.self_attention.project_memory(self.self_norm(x))

    def cross_keys_values(self, memory):
        return self.cross_attention.project_memory(memory)

    def call(self, x, self_memory, memory, self_mask, memory_mask, return_scores=False):
        # A token sees itself, so nothing is empty.
        x = x + self.self_attention(self.self_norm(x), self_memory, self_mask, never_empty=True)
        read = self.cross_attention(self.cross_norm(x), memory, memory_mask, return_scores=return_scores)
        read, scores = read if return_scores else (read, None)
        x = x + read
        x = x + self.mlp(self.mlp_norm(x))
        return (x, scores) if return_scores else x


class CausalBlock(keras.layers.Layer):
    """Pre-norm causal self-attention, then a feed-forward net: Llama's block, by its options OPT's.

    Args:
        dim, num_heads, num_kv_heads, mlp_dim: widths.  rope_theta: see Attention.  epsilon: of both norms.
        activation: None = RMS norms, SwiGLU and no bias; a name = LayerNorms, an MLP with it, and biases.
    Call:
        x: float (B, T, D).
        attention_mask: bool (B, T, M), True = may attend; None = each token itself and those before.
        positions: int32 (B, T), of x; None = 0, 1, ...
        cache: the pair (keys, values), each (B, M, G, E), of what was read before; None = x alone (M = T).
            With one, the mask must let every token attend itself.
        slot: int32 () or (B,), with a cache: where x[:, 0] goes in it.
    Returns: float (B, T, D), dtype of x; the pair (keys, values), the cache with x in it.
    Source: Llama, arXiv:2302.13971, section 2.2; grouped heads as in Llama 2, arXiv:2307.09288.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_kv_heads: int,
        mlp_dim: int,
        rope_theta: float | None = 1e4,
        epsilon: float = 1e-5,
        activation: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        policy, self.dim = self.dtype_policy, dim

        def norm(name):
            if activation is None:
                return RMSNorm(dim, epsilon, dtype=policy, name=name)
            return keras.layers.LayerNormalization(epsilon=epsilon, dtype=policy, name=name)

        self.attention_norm = norm("attention_norm")
        self.attention = Attention(
            dim,
            num_heads,
            use_bias=activation is not None,
            num_kv_heads=num_kv_heads,
            rope_theta=rope_theta,
            flash=None,
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=policy,
            name="attention",
        )
        self.mlp_norm = norm("mlp_norm")
        net, options = (SwiGLU, {}) if activation is None else (MLP, {"activation": activation})
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.mlp = net(dim, mlp_dim, initializer=normal, dtype=policy, name="mlp", **options)

    def build(self, input_shape=None):
        for part in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            part.build((None, None, self.dim))

    def call(self, x, attention_mask=None, positions=None, cache=None, slot=None):
        normed, x = normalized(self.attention_norm, x)
        memory = self.attention.project_memory(normed, positions)  # in training nobody reads it: XLA drops it
        if cache is not None:
            memory = tuple(place(old, new, slot) for old, new in zip(cache, memory, strict=True))
        by_kernel = cache is None and self.attention.fits_kernel(normed, attention_mask, positions)
        mixed = self.attention(
            normed,
            None if by_kernel else memory,
            attention_mask,
            positions=positions,
            causal=attention_mask is None,
            never_empty=cache is not None,
        )
        normed, x = normalized(self.mlp_norm, x + mixed)
        return x + self.mlp(normed), memory


class CrossModalBlock(keras.layers.Layer):
    """Let every token read all, then vision read text and text read vision, then think.

    Post-norm, as in TRM: h = rms(h + sub(h)), which keeps a recursion's state at unit scale.
    The two cross-attentions act on their own segment only, each with its own residual; task and
    fusion tokens pass them by. `cross=False` leaves them out. Attention is qk-normalised: the state's common
    part (start vectors, positions) would otherwise drown what differs between examples
    (docs/decisions/0006).

    Args:
        dim, num_heads, mlp_dim: widths; SwiGLU's inner width is mlp_dim.
        rotary: the self-attention turns vision tokens by their row and column, so that it sees how far left
            or right of each other they stand (docs/decisions/0013).
        rotary_grid: (rows, columns): vision of as many tokens turns as if it stood on this grid, in reading
            order; None = always on its own.
    Call:
        z: float (B, S, D).
        padding_mask: bool (B, S), True = keep.
        layout: has `grid`, (rows, columns) of vision, and `vision` and `text`, slices of S (static); and
            `grids`, ((rows of the batch, their grid), ...) where they differ, else ().
        return_scores: also return what the self-attention looked at.
        plus: float (B, S, D), added to the result; None = nothing.
    Returns: float (B, S, D), dtype of z; with `return_scores`, also float32 (B, A, S, S).
    Source: TRM block, arXiv:2510.04871; two-way cross-attention as in LXMERT, section 2, arXiv:1908.07490.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        cross: bool = True,
        rotary: bool = False,
        rotary_grid: tuple[int, int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.dim = dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.cross = cross
        self.rotary = rotary
        self.rotary_grid = rotary_grid
        policy = self.dtype_policy
        self.self_attention = Attention(dim, num_heads, qk_norm=True, dtype=policy, name="self_attention")
        self.mlp = SwiGLU(dim, mlp_dim, dtype=policy, name="mlp")
        if cross:
            self.vision_reads_text = Attention(
                dim, num_heads, qk_norm=True, dtype=policy, name="vision_reads_text"
            )
            self.text_reads_vision = Attention(
                dim, num_heads, qk_norm=True, dtype=policy, name="text_reads_vision"
            )

    def build(self, input_shape=None):
        self.self_attention.build()
        self.mlp.build()
        if self.cross:
            self.vision_reads_text.build()
            self.text_reads_vision.build()

    def call(self, z, padding_mask, layout, return_scores=False, plus=None):
        keys_mask = ops.expand_dims(padding_mask, 1)
        places = self._places(z.shape[1], layout) if self.rotary else None
        mixed = self.self_attention(
            z, attention_mask=keys_mask, positions=places, return_scores=return_scores
        )
        mixed, scores = mixed if return_scores else (mixed, None)
        z = rms(z + mixed)
        if self.cross:
            z = self._cross(z, keys_mask, layout.vision, layout.text)
        z = rms(z + self.mlp(z))
        z = z if plus is None else z + plus
        return (z, scores) if return_scores else z

    def _places(self, length: int, layout):
        """Cosines and sines of all places: vision turns, what has no place in the image does not."""
        around = ((layout.vision.start, length - layout.vision.stop), (0, 0))

        def table(grid):
            given = self.rotary_grid
            grid = given if given and given[0] * given[1] == grid[0] * grid[1] else grid
            cos, sin = grid_table(*grid, self.self_attention.head_dim)
            return np.pad(cos, around, constant_values=1.0), np.pad(sin, around)

        if not layout.grids:
            return table(layout.grid)
        rows = [
            [ops.broadcast_to(part, (count, *part.shape)) for part in table(grid)]
            for count, grid in layout.grids
        ]
        return tuple(ops.concatenate(parts, axis=0) for parts in zip(*rows, strict=True))

    def _cross(self, z, keys_mask, vision, text):
        seen, said = z[:, vision], z[:, text]
        # Both directions read the same state: neither sees the other's update.
        new_seen = rms(seen + self.vision_reads_text(seen, said, keys_mask[:, :, text]))
        new_said = rms(said + self.text_reads_vision(said, seen, keys_mask[:, :, vision]))
        parts = [z[:, : vision.start], new_seen, z[:, vision.stop : text.start], new_said, z[:, text.stop :]]
        return ops.concatenate([part for part in parts if part.shape[1] != 0], axis=1)
