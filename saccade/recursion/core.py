"""H/L cycles: two states that refine each other, with gradient through the last cycle only."""

from functools import partial

import keras
from keras import ops

from saccade import backend


class BlockStack(keras.layers.Layer):
    """Blocks one after another: the net f of a recursion.

    Args:
        blocks: layers called as block(z, padding_mask, layout=layout).
        remat: recompute each block in the backward pass instead of keeping its activations.
    Call:
        z: float (B, S, D).  padding_mask: bool (B, S), True = keep; None = all.
        layout: what the model's blocks need to know of the sequence, static; None where they need nothing.
        return_scores: also return the last block's attention scores.
        plus: shape of z, added to the result, which spares a pass over it; None = nothing.
    """

    def __init__(self, blocks: list, remat: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.blocks = blocks
        self.remat = remat

    def build(self, input_shape=None):
        for block in self.blocks:
            block.build()

    def call(self, z, padding_mask=None, layout=None, return_scores=False, plus=None):
        scores = None
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            block = partial(block, padding_mask=padding_mask, layout=layout, plus=plus if last else None)
            if return_scores and last:
                z, scores = block(z, return_scores=True)
            else:
                z = keras.remat(block)(z) if self.remat else block(z)
        return (z, scores) if return_scores else z


class RecursiveCore(keras.layers.Layer):
    """One reasoning step.

        repeat h_cycles times:  repeat l_cycles times: z_l = f_l(z_l + z_h + x);  z_h = f_h(z_h + z_l)

    No gradient flows through the first h_cycles - 1 cycles; all of it through the last, or with `one_step`
    through its last f_l and its f_h only.

    Args:
        low: f_l, a BlockStack.
        high: f_h; None shares f_l (TRM), a net of its own is HRM.
        h_cycles, l_cycles, one_step: see above.
        unroll: repeat the cycles without gradient in the graph instead of looping over them.
    Call:
        z_h, z_l, x: float (B, S, D).
        padding_mask, layout: passed to the nets.
        return_scores: also return the attention scores of the last f_h.
    Returns: z_h, z_l[, scores float32 (B, A, S, S)].
    Source: TRM, arXiv:2510.04871, figure 3; HRM, arXiv:2506.21734.
    """

    def __init__(
        self,
        low,
        high=None,
        h_cycles: int = 1,
        l_cycles: int = 2,
        one_step: bool = False,
        unroll: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if h_cycles < 1 or l_cycles < 1:
            raise ValueError(f"h_cycles={h_cycles} and l_cycles={l_cycles} must be at least 1")
        self.low = low
        self.high = high
        self.h_cycles = h_cycles
        self.l_cycles = l_cycles
        self.one_step = one_step
        self.unroll = unroll

    def build(self, input_shape=None):
        self.low.build()
        if self.high is not None:
            self.high.build()

    def call(self, z_h, z_l, x, padding_mask=None, layout=None, return_scores=False):
        low = partial(self.low, padding_mask=padding_mask, layout=layout)
        high = partial(self.high or self.low, padding_mask=padding_mask, layout=layout)

        def refine(z_h, z_l, x, one_step=False):
            given = z_h + x
            if one_step:
                for _ in range(self.l_cycles - 1):
                    z_l = low(z_l + given)
                return low(ops.stop_gradient(z_l) + given)
            state = z_l + given
            for _ in range(self.l_cycles - 1):
                state = low(state, plus=given)
            return low(state)

        def settle(z_h, z_l, x):
            """All cycles but the last."""

            def cycle(_, state):
                z_h, z_l = state
                z_l = refine(z_h, z_l, x)
                return high(z_h + z_l), z_l

            if not self.unroll:
                # A loop, not an unrolled graph: it compiles once, and keeps nothing for the backward pass.
                return ops.fori_loop(0, self.h_cycles - 1, cycle, (z_h, z_l))
            state = (z_h, z_l)
            for i in range(self.h_cycles - 1):
                state = cycle(i, state)
            return state

        if self.h_cycles > 1:
            z_h, z_l = backend.without_gradient(settle, z_h, z_l, x)
        z_l = refine(z_h, z_l, x, self.one_step)
        if return_scores:
            z_h, scores = high(z_h + z_l, return_scores=True)
            return z_h, z_l, scores
        return high(z_h + z_l), z_l
