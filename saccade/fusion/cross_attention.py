"""One modality reading another: through a gate that starts closed, both ways, on three levels."""

import keras
from keras import ops

from saccade.layers.attention import Attention
from saccade.layers.attention_kinds import make_attention
from saccade.layers.mlp import SwiGLU
from saccade.layers.normalization import RMSNorm


class GatedCrossAttention(keras.layers.Layer):
    """Let text read image tokens through gates that start closed.

    y = x + tanh(a) Attention(norm(x), memory); y = y + tanh(b) SwiGLU(norm(y)). At the start a = b = 0, so
    that the result is x, exactly.

    Args:
        dim: D.  num_heads: must divide dim.  mlp_dim: SwiGLU's inner width.  memory_dim: C of the memory.
        epsilon: of both norms.
    Call:
        x: float (B, T, D).
        memory: float (B, M, C), or the pair (keys, values) that `project_memory` made of it; None = there is
            none, and nothing is read.
        attention_mask: bool, broadcastable to (B, T, M), True = may attend; what may attend nothing reads
            zeros. None = all.
    Returns: float (B, T, D), dtype of x.
    Source: Flamingo, section 2.2 (GATED XATTN-DENSE), arXiv:2204.14198; equal to Idefics' layer in
        transformers (tests/oracle), whose norms and feed-forward net are Llama's.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, memory_dim: int, epsilon: float = 1e-5, **kwargs
    ):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.memory_dim = memory_dim
        self.attention_norm = RMSNorm(dim, epsilon, dtype=policy, name="attention_norm")
        self.attention = Attention(dim, num_heads, dtype=policy, name="attention")
        self.mlp_norm = RMSNorm(dim, epsilon, dtype=policy, name="mlp_norm")
        self.mlp = SwiGLU(dim, mlp_dim, dtype=policy, name="mlp")

    def build(self, input_shape=None):
        for part in (self.attention_norm, self.mlp_norm, self.mlp):
            part.build()
        self.attention.build(memory_dim=self.memory_dim)
        gates = ("attention_gate", "mlp_gate")
        self.attention_gate, self.mlp_gate = (
            self.add_weight(shape=(), initializer="zeros", name=name) for name in gates
        )

    def project_memory(self, memory):
        """Keys and values of float (B, M, C), to read it many times."""
        return self.attention.project_memory(memory)

    def call(self, x, memory=None, attention_mask=None):
        if memory is not None:
            read = self.attention(self.attention_norm(x), memory, attention_mask)
            x = x + _opening(self.attention_gate, x) * read
        return x + _opening(self.mlp_gate, x) * self.mlp(self.mlp_norm(x))


def _opening(gate, x):
    return ops.cast(ops.tanh(ops.convert_to_tensor(gate)), x.dtype)


class Reader(keras.layers.Layer):
    """x + Attention(norm(x), norm(memory)).

    Args: dim: D.  num_heads: must divide dim.  attention: see make_attention.
    Call: x: float (B, T, D).  memory: float (B, M, D).  readable: bool (B, M), True = may be read.
    Returns: float (B, T, D), dtype of x; with `return_scores`, also float32 (B, A, T, M).
    """

    def __init__(self, dim: int, num_heads: int, attention="multi_head", **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.norm = RMSNorm(dim, dtype=policy, name="norm")
        self.memory_norm = RMSNorm(dim, dtype=policy, name="memory_norm")
        self.attention = make_attention(attention, dim, num_heads, dtype=policy, name="attention")

    def build(self, input_shape=None):
        for part in (self.norm, self.memory_norm, self.attention):
            part.build()

    def call(self, x, memory, readable, return_scores=False):
        keys = ops.expand_dims(readable, 1)
        read = self.attention(
            self.norm(x), self.memory_norm(memory), attention_mask=keys, return_scores=return_scores
        )
        if return_scores:
            return x + read[0], read[1]
        return x + read


class CrossModalAttention(keras.layers.Layer):
    """Vision reads text and text reads vision, both as they were, each with projections of its own.

    v + Attention(norm(v), norm(t)); t + Attention(norm(t), norm(v)). A row without a token to read is left
    as it is.

    Args: dim: D.  num_heads: must divide dim.  attention: see make_attention.
    Call:
        vision: float (B, N, D).  text: float (B, T, D).
        vision_mask: bool (B, N).  text_mask: bool (B, T). True = keep.
    Returns: vision (B, N, D), text (B, T, D); with `return_scores`, also what vision read of the text,
        float32 (B, A, N, T), and text of the vision, (B, A, T, N).
    Source: LXMERT, section 2.1, arXiv:1908.07490 (cross-attention sublayer), norms before instead of after.
    """

    def __init__(self, dim: int, num_heads: int, attention="multi_head", **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.read_text = Reader(dim, num_heads, attention, dtype=policy, name="read_text")
        self.read_vision = Reader(dim, num_heads, attention, dtype=policy, name="read_vision")

    def build(self, input_shape=None):
        self.read_text.build()
        self.read_vision.build()

    def call(self, vision, text, vision_mask, text_mask, return_scores=False):
        seen = self.read_text(vision, text, text_mask, return_scores=return_scores)
        said = self.read_vision(text, vision, vision_mask, return_scores=return_scores)
        return (seen[0], said[0], seen[1], said[1]) if return_scores else (seen, said)


class HierarchicalCrossModalFusion(keras.layers.Layer):
    """Both modalities meet as tokens, as groups of tokens, and as a whole; every token weighs the three.

    Words: v1, t1 = CrossModalAttention(v, t). Phrases: means of `vision_group` and `text_group` neighbours
    of v1 and t1 through a CrossModalAttention. Sentence: the mean of all of v1 (t1) reads the phrases of the
    other side. The result is the sum over levels of g_l * level_l, what a group or the whole has become
    standing for each of its tokens, g = softmax over levels of W [v1; phrase; whole], channel by channel.
    Means leave padding out, and a group of padding is no group.

    Args: dim: D.  num_heads: must divide dim.  attention: see make_attention.
    Call: as CrossModalAttention.
    Returns: vision (B, N, D), text (B, T, D).
    Source: design of Saccade, after the word, phrase and question levels of Hierarchical Question-Image
        Co-Attention, section 3, arXiv:1606.00061.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        attention="multi_head",
        vision_group: int = 4,
        text_group: int = 3,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.dim = dim
        self.groups = {"vision": vision_group, "text": text_group}
        policy = self.dtype_policy
        self.words = CrossModalAttention(dim, num_heads, attention, dtype=policy, name="words")
        self.phrases = CrossModalAttention(dim, num_heads, attention, dtype=policy, name="phrases")
        self.whole = {
            side: Reader(dim, num_heads, attention, dtype=policy, name=f"whole_{side}")
            for side in self.groups
        }
        self.gates = {
            side: keras.layers.Dense(3 * dim, dtype=policy, name=f"gates_{side}") for side in self.groups
        }

    def build(self, input_shape=None):
        for part in (self.words, self.phrases, *self.whole.values()):
            part.build()
        for gate in self.gates.values():
            gate.build((None, None, 3 * self.dim))

    def call(self, vision, text, vision_mask, text_mask):
        masks = {"vision": vision_mask, "text": text_mask}
        words = dict(zip(masks, self.words(vision, text, vision_mask, text_mask), strict=True))
        group = {side: group_of(words[side].shape[1], self.groups[side]) for side in masks}
        pooled = {
            side: group_means(
                words[side], masks[side], group[side], -(-words[side].shape[1] // self.groups[side])
            )
            for side in masks
        }
        kept = {side: pooled[side][1] for side in masks}
        phrases = dict(
            zip(
                masks,
                self.phrases(pooled["vision"][0], pooled["text"][0], kept["vision"], kept["text"]),
                strict=True,
            )
        )
        results = []
        for side, other in (("vision", "text"), ("text", "vision")):
            x = words[side]
            mean, _ = group_means(x, masks[side], ops.zeros_like(group[side]), 1)
            whole = self.whole[side](mean, phrases[other], kept[other])
            spread = ops.take(phrases[side], group[side], axis=1)
            results.append(self._weighed(side, (x, spread, ops.broadcast_to(whole, ops.shape(x)))))
        return tuple(results)

    def _weighed(self, side: str, levels):
        logits = ops.split(self.gates[side](ops.concatenate(levels, axis=-1)), 3, axis=-1)
        gates = ops.softmax(ops.stack(logits, axis=0), axis=0)
        return ops.sum(gates * ops.stack(levels, axis=0), axis=0)


def group_of(length: int, size: int):
    """int32 (N,): which group of `size` neighbours each of N tokens belongs to."""
    return ops.arange(length, dtype="int32") // size


def group_means(x, mask, group, count: int):
    """The mean of each group's tokens, padding left out.

    Args: x: float (B, N, D).  mask: bool (B, N), True = keep.  group: int32 (N,), below `count`, G.
    Returns: float (B, G, D), zeros where a group keeps none; bool (B, G), which do.
    """
    belongs = ops.equal(ops.expand_dims(group, 1), ops.arange(count, dtype="int32"))
    weights = ops.cast(ops.logical_and(ops.expand_dims(mask, -1), belongs), "float32")
    number = ops.sum(weights, axis=1)
    total = ops.einsum("bng,bnd->bgd", weights, ops.cast(x, "float32"))
    return ops.cast(total / ops.maximum(ops.expand_dims(number, -1), 1.0), x.dtype), number > 0
