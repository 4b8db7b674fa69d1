"""TRM and HRM: small nets that solve a puzzle by refining two states, again and again."""

from dataclasses import dataclass, replace

import keras
from keras import ops

from saccade import backend
from saccade.heads.classify import Classifier
from saccade.layers.embeddings import lookup
from saccade.layers.reasoning import (
    BOARD_MIXERS,
    FFNS,
    MIXERS,
    NORM_POSITIONS,
    NORM_TYPES,
    ReasoningBlock,
    inner_width,
)
from saccade.model import Model, choose
from saccade.recursion.core import BlockStack, RecursiveCore
from saccade.recursion.halting import should_halt

POSITIONS = ("rope", "learned", "none")
GIVEN = ("blank", "this digit", "another digit")  # what a cell says to the token of one of its digits


@dataclass(frozen=True, slots=True)
class TRMConfig:
    """Everything a TRM or HRM is made of.

    vocab_size: V, kinds of cells, the same for question and answer.  seq_len: L, cells of a puzzle.
    num_puzzles: rows of the puzzle embedding, 0 = none.  prefix_tokens: P, tokens before the cells, which the
        puzzle embedding fills; the first token is what the halting head reads, so P = 0 makes that a cell.
    dim, num_heads, expansion: widths; SwiGLU's inner width is expansion * dim * 2/3, up to a multiple of
        `multiple`.
    mixer: `attention`, `mlp_t`, or for Sudoku `units`: cells hear their row, column and box; `candidates`: so
        does each digit of each cell, a token of its own (see UnitMixer). For square boards `neighbours`:
        cells hear those beside them (see NeighbourMixer).
    positions: of attention, `rope` (rope_theta), `learned` or `none`.
    l_layers: blocks of the net f.  h_layers: 0 shares f between both levels (TRM), else H's own net (HRM).
    h_cycles, l_cycles, one_step: see RecursiveCore.
    norm_type, norm_position, ffn: see ReasoningBlock.
    learned_init: train the states' first values, which are fixed random vectors otherwise.
    num_chains: K, first values of z_l to choose from; see `saccade.train.puzzles.WinnerTakesAll`.
    halt_max_steps, halt_threshold: see `saccade.recursion.halting`.
    q_learning: a second halting output, q_continue; a row then halts when q_halt exceeds it.
    head_bias: a bias on the output logits.
    flash: the device's fused attention kernel; None = where device and length allow it (see Attention).
    remat, unroll: see BlockStack and RecursiveCore.
    """

    vocab_size: int = 10
    seq_len: int = 81
    num_puzzles: int = 1
    prefix_tokens: int = 16
    dim: int = 512
    num_heads: int = 8
    expansion: float = 4.0
    multiple: int = 256
    mixer: str = "attention"
    positions: str = "rope"
    rope_theta: float = 1e4
    l_layers: int = 2
    h_layers: int = 0
    h_cycles: int = 3
    l_cycles: int = 6
    one_step: bool = False
    norm_type: str = "rms"
    norm_position: str = "post"
    ffn: str = "swiglu"
    learned_init: bool = False
    num_chains: int = 1
    halt_max_steps: int = 16
    halt_threshold: float = 0.0
    q_learning: bool = False
    head_bias: bool = False
    flash: bool | None = None
    remat: bool = False
    unroll: bool = False

    def __post_init__(self):
        for name, choices in (
            ("mixer", MIXERS),
            ("positions", POSITIONS),
            ("norm_type", NORM_TYPES),
            ("norm_position", NORM_POSITIONS),
            ("ffn", FFNS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}")
        if self.num_puzzles and not self.prefix_tokens:
            raise ValueError(
                f"num_puzzles={self.num_puzzles} needs a prefix for the puzzle embedding; set prefix_tokens "
                "to at least 1, or num_puzzles=0"
            )
        if self.mixer in BOARD_MIXERS and self.ffn == "gelu":
            raise ValueError(f"mixer={self.mixer!r} has no ffn='gelu'; use swiglu or gated_norm")
        if self.mixer in ("units", "candidates") and self.box**4 != self.seq_len:
            raise ValueError(f"mixer={self.mixer!r} needs a Sudoku, 16 or 81 cells; seq_len={self.seq_len}")
        if self.mixer == "neighbours" and self.side**2 != self.seq_len:
            raise ValueError(f"mixer='neighbours' needs a square board; seq_len={self.seq_len}")
        if self.mixer == "candidates" and self.vocab_size != self.digits + 1:
            raise ValueError(
                f"mixer='candidates' has {self.digits} digits and the blank; vocab_size={self.vocab_size} "
                f"must be {self.digits + 1}"
            )
        if self.num_chains > 1 and self.q_learning:
            raise ValueError(
                f"num_chains={self.num_chains} does not go with q_learning; use one or the other"
            )
        if self.num_chains < 1:
            raise ValueError(f"num_chains={self.num_chains} must be at least 1")

    @property
    def length(self) -> int:
        """S: prefix and cells, or all digits of all cells."""
        return self.prefix_tokens + self.seq_len * self.digits

    @property
    def digits(self) -> int:
        """Tokens of a cell: one for each digit with `candidates`, else 1."""
        return self.box**2 if self.mixer == "candidates" else 1

    @property
    def box(self) -> int:
        """Side of a Sudoku's boxes."""
        return round(self.seq_len**0.25)

    @property
    def side(self) -> int:
        """Cells in a row of the board."""
        return round(self.seq_len**0.5)

    @property
    def any_side(self) -> bool:
        """Whether no place has weights of its own, so that boards of other sides can be solved too."""
        return self.mixer == "neighbours"

    @property
    def unit_dim(self) -> int:
        """Channels of each relation that a mixer of boards hears."""
        return self.dim // 2

    @classmethod
    def from_json(cls, record: dict) -> "TRMConfig":
        return cls(**record)


_TINY = {"dim": 64, "num_heads": 4, "multiple": 32, "prefix_tokens": 1, "h_cycles": 2, "l_cycles": 2}
PRESETS = {
    "trm_sudoku": TRMConfig(mixer="mlp_t"),
    "trm_sudoku_attention": TRMConfig(),
    # Speed is Confidence (arXiv:2601.19085): more cycles, gated norm, one prefix token.
    "trm_sudoku_fast": TRMConfig(
        mixer="mlp_t", prefix_tokens=1, h_cycles=6, l_cycles=9, ffn="gated_norm", head_bias=True
    ),
    # A token for each digit of each cell (docs/decisions/0016): what ships as trm_sudoku.
    "trm_sudoku_candidates": TRMConfig(
        mixer="candidates", prefix_tokens=1, dim=32, multiple=32, ffn="gated_norm", head_bias=True
    ),
    "trm_maze": TRMConfig(vocab_size=6, seq_len=900, l_cycles=4),
    "trm_maze_neighbours": TRMConfig(
        vocab_size=6,
        seq_len=900,
        mixer="neighbours",
        prefix_tokens=1,
        dim=32,
        multiple=32,
        h_cycles=2,
        l_cycles=4,
        ffn="gated_norm",
        head_bias=True,
    ),
    "trm_arc": TRMConfig(vocab_size=12, seq_len=900, num_puzzles=1, l_cycles=4),
    "hrm_sudoku": TRMConfig(l_layers=4, h_layers=4, h_cycles=2, l_cycles=2, one_step=True, q_learning=True),
    "trm_sudoku_4x4": TRMConfig(vocab_size=5, seq_len=16, mixer="mlp_t", **_TINY),
}


def preset(name: str, **changes) -> TRMConfig:
    """A named configuration, with fields replaced. Raises: SaccadeError: no such name or field."""
    return choose(PRESETS, name, changes)


@keras.saving.register_keras_serializable(package="saccade")
class TRM(Model):
    """Tiny Recursive Model: one small net refines a latent state and an answer.

        x, mask = model.encode(batch)                       # once per puzzle
        carry   = model.initial_carry(x)
        carry, outputs = model.step(carry, x, mask)         # again, until carry["halted"]
        answer  = argmax(outputs["logits"])

    Call: batch: dict of `tokens` int32 (B, L), the cells, and with num_puzzles `puzzle` int32 (B,), which row
        of the puzzle embedding.
    Returns: outputs of one step from the first states, see `step`.
    Source: TRM, arXiv:2510.04871. Differs: the state is kept at length P + L with any P, 0 included.
    """

    Config = TRMConfig
    tasks = ("puzzle",)

    def __init__(self, config: TRMConfig, **kwargs):
        super().__init__(config, **kwargs)
        policy = self.dtype_policy
        c = config
        low = self._net("net" if not c.h_layers else "low", c.l_layers)
        high = self._net("high", c.h_layers) if c.h_layers else None
        self.core = RecursiveCore(
            low,
            high,
            c.h_cycles,
            c.l_cycles,
            c.one_step,
            c.unroll,
            dtype=policy,
            name="core",
        )
        self.halting = Classifier(
            c.dim, 1 + c.q_learning, bias=-5.0, zero_kernel=True, dtype=policy, name="halting"
        )
        self.output_head = keras.layers.Dense(
            c.vocab_size if c.digits == 1 else 1,
            use_bias=c.head_bias,
            kernel_initializer="lecun_normal",
            dtype=policy,
            name="output_head",
        )
        with backend.compiled_once():
            self.build()

    def _net(self, name: str, depth: int) -> BlockStack:
        c = self.config
        blocks = [
            ReasoningBlock(
                c.dim,
                inner_width(c.dim, c.expansion, c.multiple),
                mixer=c.mixer,
                num_heads=c.num_heads,
                rope_theta=c.rope_theta if c.positions == "rope" else None,
                flash=c.flash,
                seq_len=c.length,
                seq_mlp_dim=inner_width(c.length, c.expansion, c.multiple),
                unit_dim=c.unit_dim,
                box=c.box,
                digits=c.digits,
                side=c.side,
                ffn=c.ffn,
                norm_type=c.norm_type,
                norm_position=c.norm_position,
                dtype=self.dtype_policy,
                name=f"block_{i}",
            )
            for i in range(depth)
        ]
        return BlockStack(blocks, remat=c.remat, dtype=self.dtype_policy, name=name)

    def build(self, input_shape=None):
        if self.built:
            return
        c = self.config
        self.core.build()
        self.halting.build()
        self.output_head.build((None, c.dim))
        small = keras.initializers.TruncatedNormal(stddev=c.dim**-0.5)
        kinds = c.vocab_size if c.digits == 1 else len(GIVEN)
        self.token_table = self.add_weight((kinds, c.dim), small, name="token_table")
        if c.num_puzzles:
            self.puzzle_table = self.add_weight((c.num_puzzles, c.dim), "zeros", name="puzzle_table")
        if c.mixer == "attention" and c.positions == "learned":
            self.position_table = self.add_weight((c.length, c.dim), small, name="position_table")
        unit = keras.initializers.TruncatedNormal(stddev=1.0)
        learn = c.learned_init
        self.initial_h = self.add_weight((c.dim,), unit, trainable=learn, name="initial_h")
        self.initial_l = self.add_weight((c.num_chains, c.dim), unit, trainable=learn, name="initial_l")
        self.built = True

    def resized(self, seq_len: int) -> "TRM":
        """The same weights for boards of another size. Raises: ValueError: not `any_side`, or no square."""
        if not self.config.any_side:
            raise ValueError(f"mixer={self.config.mixer!r} has weights for {self.config.seq_len} cells only")
        return self.changed(seq_len=seq_len)

    def changed(self, **fields) -> "TRM":
        """The same weights with other settings, such as more cycles. Raises: ValueError: they do not fit."""
        other = type(self)(replace(self.config, **fields), dtype=self.dtype_policy, name=self.name)
        other.copy_from(self)
        return other

    def copy_from(self, other: "TRM") -> None:
        """Take another's weights. Raises: ValueError: of other shapes."""
        for own, theirs in zip(self.variables, other.variables, strict=True):
            own.assign(theirs.value)

    def layout(self, batch) -> None:
        """Nothing: prefix and length are the config's."""

    def encode(self, batch):
        """sqrt(D) * [puzzle embedding, zeros up to P tokens; token embeddings (; + positions, / sqrt(2))].

        Returns: x float (B, S, D); padding_mask bool (B, S), all True: a puzzle has no padding.
        """
        c = self.config
        x = lookup(self.token_table, self._kinds(batch["tokens"]), self.compute_dtype)
        if c.prefix_tokens:
            rows = ops.shape(x)[0]
            if c.num_puzzles:
                first = ops.take(self.puzzle_table, batch["puzzle"], axis=0)
                first = ops.cast(ops.expand_dims(first, 1), x.dtype)
            else:
                first = ops.zeros((rows, 1, c.dim), dtype=x.dtype)
            prefix = ops.pad(first, ((0, 0), (0, c.prefix_tokens - 1), (0, 0)))
            x = ops.concatenate([prefix, x], axis=1)
        if c.mixer == "attention" and c.positions == "learned":
            x = (x + self.position_table) * 0.5**0.5
        x = ops.cast(x * c.dim**0.5, self.compute_dtype)
        return x, ops.ones(ops.shape(x)[:2], dtype="bool")

    def _kinds(self, tokens):
        """Rows of the token table: int32 (B, L), or (B, L * digits) of GIVEN."""
        digits = self.config.digits
        if digits == 1:
            return tokens
        given = ops.expand_dims(tokens, -1)
        kinds = ops.where(given == ops.arange(1, digits + 1, dtype="int32"), 1, 2)
        return ops.reshape(ops.where(given == 0, 0, kinds), (-1, tokens.shape[1] * digits))

    def _logits(self, states):
        """(B, L, V) from the states after the prefix; with `candidates` a blank, never an answer, has 0."""
        logits = ops.cast(self.output_head(states), "float32")
        digits = self.config.digits
        if digits == 1:
            return logits
        return ops.pad(ops.reshape(logits, (-1, self.config.seq_len, digits)), ((0, 0), (0, 0), (1, 0)))

    def initial_carry(self, x, chain=0) -> dict:
        """States before the first step of every row of x (B, S, D).

        Args: chain: int or int32 (B,), which of the num_chains first values of z_l.
        """
        rows = ops.shape(x)[0]
        low = ops.take(ops.cast(self.initial_l, x.dtype), ops.broadcast_to(chain, (rows,)), axis=0)
        return {
            "z_h": ops.broadcast_to(ops.cast(self.initial_h, x.dtype), ops.shape(x)),
            "z_l": ops.broadcast_to(ops.expand_dims(low, 1), ops.shape(x)),
            "steps": ops.zeros((rows,), dtype="int32"),
            "halted": ops.zeros((rows,), dtype="bool"),
        }

    def step(self, carry, x, mask=None, layout=None, threshold=None, max_steps=None):
        """Reason once more. Rows that had halted are still computed; the scheduler decides what to keep.

        Args:
            carry: from `initial_carry` or the last step.  x: from `encode`.  mask, layout: not used.
            threshold, max_steps: of halting; None = the config's.
        Returns: carry; outputs: `logits` float32 (B, L, V); `q_halt` float32 (B,), and `halting` (B,), what
            is compared with the threshold: q_halt, or with q_learning q_halt - `q_continue`.
        """
        c = self.config
        z_h, z_l = self._reason(carry["z_h"], carry["z_l"], x)
        q = self.halting(z_h[:, 0])
        logits = self._logits(z_h[:, c.prefix_tokens :])
        outputs = {"logits": logits, "q_halt": q[:, 0], "halting": q[:, 0]}
        if c.q_learning:
            outputs |= {"q_continue": q[:, 1], "halting": q[:, 0] - q[:, 1]}
        steps = carry["steps"] + 1
        threshold = c.halt_threshold if threshold is None else threshold
        max_steps = c.halt_max_steps if max_steps is None else max_steps
        new = {
            "z_h": ops.stop_gradient(z_h),
            "z_l": ops.stop_gradient(z_l),
            "steps": steps,
            "halted": should_halt(outputs["halting"], steps, max_steps, threshold),
        }
        return new, outputs

    def _reason(self, z_h, z_l, x):
        if self.config.mixer != "mlp_t":
            return self.core(z_h, z_l, x)
        # Blocks of mlp_t work on (S, B, D), see ReasoningBlock; moved once per step, not once per product.
        first = [backend.in_order(ops.transpose(t, (1, 0, 2))) for t in (z_h, z_l, x)]
        return tuple(ops.transpose(backend.in_order(t), (1, 0, 2)) for t in self.core(*first))

    def call(self, batch):
        x, mask = self.encode(batch)
        return self.step(self.initial_carry(x), x, mask)[1]


@keras.saving.register_keras_serializable(package="saccade")
class HRM(TRM):
    """Hierarchical Reasoning Model: nets of their own for both levels, gradient through the last call only.

    The class checks that its config is one (h_layers > 0, one_step, q_learning); everything else is TRM's.
    Source: HRM, arXiv:2506.21734.
    """

    def __init__(self, config: TRMConfig = PRESETS["hrm_sudoku"], **kwargs):
        if not (config.h_layers and config.one_step and config.q_learning):
            raise ValueError(
                f"h_layers={config.h_layers}, one_step={config.one_step}, q_learning={config.q_learning} "
                "is no HRM; start from preset('hrm_sudoku')"
            )
        super().__init__(config, **kwargs)
