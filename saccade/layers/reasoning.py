"""The block of TRM and HRM: mix the sequence, then the channels, normalise after each."""

import keras

from saccade import kernels
from saccade.layers.attention import Attention
from saccade.layers.boards import NeighbourMixer, UnitMixer
from saccade.layers.mlp import MLP, SwiGLU
from saccade.layers.normalization import rms, standardize

MIXERS = ("attention", "mlp_t", "units", "candidates", "neighbours")
BOARD_MIXERS = MIXERS[2:]  # those that know a board
NORM_TYPES = ("rms", "layer")
NORM_POSITIONS = ("post", "pre")
FFNS = ("swiglu", "gated_norm", "gelu")
_NORMS = {"rms": rms, "layer": standardize}


class ReasoningBlock(keras.layers.Layer):
    """h = norm(h + mix(h)); h = norm(h + ffn(h)), or pre-norm h = h + mix(norm(h)), the same for ffn.

    With `mlp_t` the mixer is a feed-forward net along the sequence axis, and its norm too is taken along that
    axis, as in the published code. States then carry the sequence first, (S, B, D): every product is one
    plain matrix product, with nothing transposed.

    Args:
        dim: D.  mlp_dim: inner width of the channel net.
        mixer: `attention` (non-causal, no biases), `mlp_t`, `units` or `candidates` (see UnitMixer), or
            `neighbours` (see NeighbourMixer).
        num_heads, rope_theta, flash: of the attention; see Attention.
        seq_len, seq_mlp_dim: S and the inner width of the sequence net.
        unit_dim, box, digits, side: of the mixers that know a board.
        ffn: `swiglu`, `gated_norm` (see SwiGLU) or `gelu`; used for both nets, but the mixers that know a
            board have no `gelu`.
        norm_type: `rms` or `layer`, neither with learned parameters.  norm_position: `post` or `pre`.
        epsilon: of the norms.
    Call:
        z: float (B, S, D); (S, B, D) with mlp_t.
        padding_mask, layout: unused; a puzzle has no padding.
        return_scores: also return what the attention looked at.
        plus: shape of z, added to the result; None = nothing.
    Returns: float, shape and dtype of z[, scores float32 (B, A, S, S)].
    Source: TRM, arXiv:2510.04871, section 4; HRM, arXiv:2506.21734.
    """

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        mixer: str = "attention",
        num_heads: int = 8,
        rope_theta: float | None = 1e4,
        flash: bool | None = None,
        seq_len: int = 0,
        seq_mlp_dim: int = 0,
        unit_dim: int = 0,
        box: int = 0,
        digits: int = 1,
        side: int = 0,
        ffn: str = "swiglu",
        norm_type: str = "rms",
        norm_position: str = "post",
        epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.norm = _NORMS[norm_type]
        self.norm_position = norm_position
        self.epsilon = epsilon
        self.mix_axis = 0 if mixer == "mlp_t" else -1
        self.mixed_at_once = (mixer, ffn, norm_type, norm_position) == ("mlp_t", "swiglu", "rms", "post")
        normal = keras.initializers.LecunNormal  # truncated; an instance a kernel, else they start equal
        policy = self.dtype_policy
        if mixer == "mlp_t":
            self.mixer = _net(ffn, seq_len, seq_mlp_dim, axis=0, dtype=policy, name="mlp_t")
        elif mixer in BOARD_MIXERS:
            options = {"gated_norm": ffn == "gated_norm", "initializer": normal, "dtype": policy}
            if mixer == "neighbours":
                self.mixer = NeighbourMixer(dim, unit_dim, side, name="neighbours", **options)
            else:
                self.mixer = UnitMixer(dim, unit_dim, box, digits, name="units", **options)
        else:
            self.mixer = Attention(
                dim,
                num_heads,
                rope_theta=rope_theta,
                flash=flash,
                initializer=normal,
                dtype=policy,
                name="attention",
            )
        self.mlp = _net(ffn, dim, mlp_dim, dtype=policy, name="mlp")

    def build(self, input_shape=None):
        self.mixer.build()
        self.mlp.build()

    def call(self, z, padding_mask=None, layout=None, return_scores=False, plus=None):
        scores = []

        def mix_with_scores(z):
            mixed, found = self.mixer(z, return_scores=True)
            scores.append(found)
            return mixed

        mix = mix_with_scores if return_scores else self.mixer
        if self.mixed_at_once and kernels.mixer_fits(z, self.mixer.mlp_dim):
            z = rest = kernels.mixed(z, self.mixer.gate_up.kernel, self.mixer.down.kernel, self.epsilon)
        else:
            z, rest = self._sublayer(z, z, mix, self.mix_axis, copies=2)
        (z,) = self._sublayer(z, rest, self.mlp, -1, copies=1, plus=plus)
        return (z, *scores) if return_scores else z

    def _sublayer(self, z, rest, net, axis: int, copies: int, plus=None) -> tuple:
        """The next state, once for each that reads it: z and rest are the same, for branch and residual."""
        if self.norm_position == "pre":
            new = (rest + net(self.norm(z, self.epsilon, axis)),) * copies
        elif not (self.norm is rms and axis == -1 and kernels.norm_fits(rest)):
            new = (self.norm(rest + net(z), self.epsilon, axis),) * copies
        elif isinstance(net, Attention | SwiGLU) and net.norm_fits(z):
            return net.normed(z, rest, self.epsilon, copies, plus)
        else:
            new = kernels.post_norm(rest, net(z), self.epsilon, copies)
        return new if plus is None else tuple(part + plus for part in new)


def _net(ffn: str, dim: int, mlp_dim: int, **kwargs):
    normal = keras.initializers.LecunNormal
    if ffn == "gelu":
        return MLP(dim, mlp_dim, initializer=normal, **kwargs)
    return SwiGLU(dim, mlp_dim, gated_norm=ffn == "gated_norm", initializer=normal, **kwargs)


def inner_width(dim: int, expansion: float, multiple: int = 256) -> int:
    """Width of a gated net: expansion * dim * 2/3, rounded, then up to a multiple."""
    return -(-round(expansion * dim * 2 / 3) // multiple) * multiple
