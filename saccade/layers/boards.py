"""Mixers that know a board: which cells of a Sudoku share a unit, which cells of a maze lie side by side."""

from abc import abstractmethod

from keras import ops

from saccade.layers.mlp import SwiGLU, product_scale, silu_product

# Axes of (B, band, row, stack, column, digit, U) over which the tokens of one row, column, box or cell lie.
OF_A_UNIT = ((3, 4), (1, 2), (2, 4), (5,))
# Padding of (B, row, column, U) before, which cuts as much behind: what lies above, below, left and right.
NEIGHBOURS = (((1, 0), (0, 0)), ((0, 1), (0, 0)), ((0, 0), (1, 0)), ((0, 0), (0, 1)))


class BoardMixer(SwiGLU):
    """SwiGLU with shared inner channels: a token hears parts of what others say, and the mean over all.

    silu(gate) up comes in parts of U channels, one for each relation that a board has; `down` writes what was
    heard by all of them. The last part is averaged over all tokens, and alone reaches prefix tokens.

    Args:
        dim: D.  unit_dim: U.  parts: relations, and one for all.  tokens: of the board.
        gated_norm, initializer: see SwiGLU.
    Call: x: float (B, P + tokens, D), P >= 0 prefix tokens, then the board row by row.
    Returns: float, shape and dtype of x.
    """

    def __init__(self, dim: int, unit_dim: int, parts: int, tokens: int, **kwargs):
        super().__init__(dim, parts * unit_dim, **kwargs)
        self.unit_dim = unit_dim
        self.parts = parts
        self.tokens = tokens

    def call(self, x):
        pairs, axis = self._pairs(x)
        told = silu_product(pairs, axis)
        if self.gated_norm:  # before it is heard: every token has a scale of its own
            told = ops.cast(ops.cast(told, "float32") * product_scale(pairs, axis), told.dtype)
        *said, to_all = ops.split(told, self.parts, axis=-1)
        *kernels, by_all = ops.split(ops.cast(self.down.kernel, told.dtype), self.parts, axis=0)
        prefix = told.shape[1] - self.tokens
        heard = self._hear([part[:, prefix:] for part in said], kernels)
        heard = ops.pad(ops.reshape(heard, (-1, self.tokens, self.dim)), ((0, 0), (prefix, 0), (0, 0)))
        return heard + ops.matmul(ops.mean(to_all, axis=1, keepdims=True), by_all)

    @abstractmethod
    def _hear(self, said: list, kernels: list):
        """Each relation's (B, tokens, U) and its rows of `down` (U, D) -> what the board hears, (..., D)."""


class UnitMixer(BoardMixer):
    """A token hears the means over its row, its column, its box and all.

    Averages first and products after: 27 units and the board pass through `down`, not 81 cells. No place has
    weights of its own: rows, columns, bands and stacks in another order give the same states in that order.

    With `digits` a cell is that many tokens, one for each digit that it may hold. Rows, columns and boxes are
    then of one digit each, and a fourth part is averaged over the digits of each cell: the four kinds of rule
    that "exactly one" holds for. No digit has weights of its own either.

    Args:
        box: 3 for 9 x 9 boards, 2 for 4 x 4.  digits: tokens of a cell, 1 or box^2; they stand together.
        dim, unit_dim, gated_norm, initializer: see BoardMixer.
    Source: messages along the constraints, Recurrent Relational Networks, arXiv:1711.08028, equation 2; here
        one for each unit and not for each pair of cells.
    """

    def __init__(self, dim: int, unit_dim: int, box: int, digits: int = 1, **kwargs):
        self.of_a_unit = OF_A_UNIT if digits > 1 else OF_A_UNIT[:-1]
        super().__init__(dim, unit_dim, len(self.of_a_unit) + 1, box**4 * digits, **kwargs)
        self.box = box
        self.digits = digits

    def _hear(self, said, kernels):
        n, heard = self.box, 0.0
        for own, kernel, axes in zip(said, kernels, self.of_a_unit, strict=True):
            board = ops.reshape(own, (-1, n, n, n, n, self.digits, self.unit_dim))
            heard = heard + ops.matmul(ops.mean(board, axis=axes, keepdims=True), kernel)
        return heard


class NeighbourMixer(BoardMixer):
    """A token hears the cells above, below, left and right of it, each by weights of its own, and all.

    What lies outside says nothing. Places have no weights, so a net that learnt on one side's boards runs on
    others; a direction has.

    Args: side: of the board.  dim, unit_dim, gated_norm, initializer: see BoardMixer.
    Source: a cellular automaton's neighbourhood (von Neumann's) with the messages of UnitMixer.
    """

    def __init__(self, dim: int, unit_dim: int, side: int, **kwargs):
        super().__init__(dim, unit_dim, len(NEIGHBOURS) + 1, side**2, **kwargs)
        self.side = side

    def _hear(self, said, kernels):
        side, heard = self.side, []
        for own, (rows, columns) in zip(said, NEIGHBOURS, strict=True):
            board = ops.pad(
                ops.reshape(own, (-1, side, side, self.unit_dim)), ((0, 0), rows, columns, (0, 0))
            )
            heard.append(board[:, rows[1] :, columns[1] :][:, :side, :side])
        return ops.matmul(ops.concatenate(heard, axis=-1), ops.concatenate(kernels, axis=0))
