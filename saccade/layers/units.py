"""A mixer that knows which cells of a Sudoku share a row, a column or a box."""

from keras import ops

from saccade.layers.blocks import SwiGLU, product_scale, silu_product

# Axes of (B, band, row, stack, column, digit, U) over which the tokens of one row, column, box or cell lie.
OF_A_UNIT = ((3, 4), (1, 2), (2, 4), (5,))


class UnitMixer(SwiGLU):
    """SwiGLU with shared inner channels: a token hears the means over its row, its column, its box and all.

    silu(gate) up comes in parts of U channels. The first is averaged over each row, the second over each
    column, the third over each box, the last over all tokens; `down` then writes what was heard. Averages
    first and products after: 27 units and the board pass through `down`, not 81 cells. No place has weights
    of its own: rows, columns, bands and stacks in another order give the same states in that order.

    With `digits` a cell is that many tokens, one for each digit that it may hold. Rows, columns and boxes are
    then of one digit each, and a fourth part is averaged over the digits of each cell: the four kinds of rule
    that "exactly one" holds for. No digit has weights of its own either.

    Args:
        dim: D.  unit_dim: U.
        box: 3 for 9 x 9 boards, 2 for 4 x 4.  digits: tokens of a cell, 1 or box^2.
        gated_norm, initializer: see SwiGLU.
    Call: x: float (B, P + box^4 * digits, D), P >= 0 prefix tokens, then the board row by row, the digits of
        a cell together. A prefix token hears the mean over all tokens only.
    Returns: float, shape and dtype of x.
    Source: messages along the constraints, Recurrent Relational Networks, arXiv:1711.08028, equation 2; here
        one for each unit and not for each pair of cells.
    """

    def __init__(self, dim: int, unit_dim: int, box: int, digits: int = 1, **kwargs):
        self.of_a_unit = OF_A_UNIT if digits > 1 else OF_A_UNIT[:-1]
        super().__init__(dim, (len(self.of_a_unit) + 1) * unit_dim, **kwargs)
        self.unit_dim = unit_dim
        self.box = box
        self.digits = digits

    def call(self, x):
        pairs, axis = self._pairs(x)
        told = silu_product(pairs, axis)
        if self.gated_norm:  # before the average: every token has a scale of its own
            told = ops.cast(ops.cast(told, "float32") * product_scale(pairs, axis), told.dtype)
        return self._hear(told)

    def _hear(self, told):
        """told (B, P + tokens, parts * U) -> what each token hears (B, P + tokens, D)."""
        n, tokens = self.box, self.box**4 * self.digits
        prefix = told.shape[1] - tokens
        board = ops.reshape(told[:, prefix:], (-1, n, n, n, n, self.digits, self.mlp_dim))
        kernels = ops.split(ops.cast(self.down.kernel, told.dtype), len(self.of_a_unit) + 1, axis=0)
        heard = 0.0
        for i, axes in enumerate(self.of_a_unit):
            own = board[..., i * self.unit_dim : (i + 1) * self.unit_dim]
            heard = heard + ops.matmul(ops.mean(own, axis=axes, keepdims=True), kernels[i])
        heard = ops.pad(ops.reshape(heard, (-1, tokens, self.dim)), ((0, 0), (prefix, 0), (0, 0)))
        all_told = ops.mean(told[..., -self.unit_dim :], axis=1, keepdims=True)
        return heard + ops.matmul(all_told, kernels[-1])
