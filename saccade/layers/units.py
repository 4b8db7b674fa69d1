"""A mixer that knows which cells of a Sudoku share a row, a column or a box."""

from keras import ops

from saccade.layers.blocks import SwiGLU, product_scale, silu_product

KINDS = 4  # row, column, box, the whole board
# Axes of (B, band, row, stack, column, U) over which the cells of one row, column or box lie.
OF_A_UNIT = ((3, 4), (1, 2), (2, 4))


class UnitMixer(SwiGLU):
    """SwiGLU with shared inner channels: a cell hears the means over its row, its column, its box and all.

    The first quarter of silu(gate) up is averaged over each row, the second over each column, the third over
    each box, the last over all tokens; `down` then writes what was heard. Averages first and products after:
    27 units and the board pass through `down`, not 81 cells. No place has weights of its own: rows, columns,
    bands and stacks in another order give the same states in that order.

    Args:
        dim: D.  unit_dim: channels of each kind; mlp_dim is four of them.
        box: 3 for 9 x 9 boards, 2 for 4 x 4.
        gated_norm, initializer: see SwiGLU.
    Call: x: float (B, P + box^4, D), P >= 0 prefix tokens, then the board row by row. A prefix token hears
        the mean over all tokens only.
    Returns: float, shape and dtype of x.
    Source: messages along the constraints, Recurrent Relational Networks, arXiv:1711.08028, equation 2; here
        one for each unit and not for each pair of cells.
    """

    def __init__(self, dim: int, unit_dim: int, box: int, **kwargs):
        super().__init__(dim, KINDS * unit_dim, **kwargs)
        self.unit_dim = unit_dim
        self.box = box

    def call(self, x):
        pairs, axis = self._pairs(x)
        told = silu_product(pairs, axis)
        if self.gated_norm:  # before the average: every cell has a scale of its own
            told = ops.cast(ops.cast(told, "float32") * product_scale(pairs, axis), told.dtype)
        return self._hear(told)

    def _hear(self, told):
        """told (B, P + box^4, 4 U) -> what each token hears (B, P + box^4, D)."""
        n, cells = self.box, self.box**4
        prefix = told.shape[1] - cells
        board = ops.reshape(told[:, prefix:], (-1, n, n, n, n, self.mlp_dim))  # band, row, stack, column
        *kinds, everything = ops.split(ops.cast(self.down.kernel, told.dtype), KINDS, axis=0)
        heard = 0.0
        for i, (kernel, axes) in enumerate(zip(kinds, OF_A_UNIT, strict=True)):
            own = board[..., i * self.unit_dim : (i + 1) * self.unit_dim]
            heard = heard + ops.matmul(ops.mean(own, axis=axes, keepdims=True), kernel)
        heard = ops.pad(ops.reshape(heard, (-1, cells, self.dim)), ((0, 0), (prefix, 0), (0, 0)))
        all_told = ops.mean(told[..., -self.unit_dim :], axis=1, keepdims=True)
        return heard + ops.matmul(all_told, everything)
