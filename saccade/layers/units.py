"""A mixer that knows which cells of a Sudoku share a row, a column or a box."""

from keras import ops

from saccade.layers.blocks import SwiGLU, product_scale, silu_product

KINDS = 4  # row, column, box, the whole board


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
        rows, columns, boxes, everything = ops.split(told, KINDS, axis=-1)
        kernels = ops.split(ops.cast(self.down.kernel, told.dtype), KINDS, axis=0)

        def average(values, axes):
            board = ops.reshape(
                values[:, prefix:], (-1, n, n, n, n, self.unit_dim)
            )  # band, row, stack, column
            return ops.mean(board, axis=axes, keepdims=True)

        heard = sum(
            ops.matmul(average(values, axes), kernel)
            for values, axes, kernel in zip(
                (rows, columns, boxes), ((3, 4), (1, 2), (2, 4)), kernels[:3], strict=True
            )
        )
        board = ops.reshape(heard, (-1, cells, self.dim))
        whole = ops.matmul(ops.mean(everything, axis=1, keepdims=True), kernels[3])
        return ops.pad(board, ((0, 0), (prefix, 0), (0, 0))) + whole
